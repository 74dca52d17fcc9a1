"""Weights files: a checkpoint read into a state dict, a state dict written as a checkpoint."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from regnet_backbones.errors import UserError
from regnet_backbones.files import write_whole
from regnet_backbones.weights.entries import as_tensors, listing
from regnet_backbones.weights.nesting import nest, unwrap
from regnet_backbones.weights.unpickling import EXPORT_HINT, StandIn, read_content

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".torch", ".pyth")
SUFFIXES = (".safetensors", ".pkl", *TORCH_SUFFIXES)


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds.

    Attributes:
        state: the network's state dict, on the CPU.
        nesting: the key(s) under which it lay, joined with "."; empty if it lay bare,
            "classy_state_dict" for all of ClassyVision's forms.
        extras: the other top-level entries (optimizer, iteration, ...).
    """

    state: dict[str, torch.Tensor]
    nesting: str
    extras: dict[str, object]

    @property
    def content(self) -> Mapping[str, object]:
        """Return the state dict under its nesting, for a `prefix` that names both."""
        return {self.nesting: self.state} if self.nesting else self.state


def read_checkpoint(path: str | Path, *, prefix: str | None = None) -> Checkpoint:
    """Read a weights file, whatever its name; never run code that it holds.

    Numpy arrays become tensors. Averaged (EMA) weights come before plain ones where a file has
    both; of pycls's pair the one with the lower error, the plain ones where that is unknown.
    Prefixes of wrappers (`module.`, `_orig_mod.`) stay.

    Args:
        path: a file of torch's, a safetensors file or a pickle of numpy arrays.
        prefix: which RegNet is wanted where the file holds several, such as "teacher"; see
            `nesting.locate`.

    Returns:
        The state dict, where in the file it lay, and what else there is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is something else, or holds no state dict, or several of
            which `prefix` does not choose one.
    """
    path = Path(path)
    return checkpoint_of(read_content(path), path, prefix=prefix)


def checkpoint_of(content: object, path: Path, *, prefix: str | None = None) -> Checkpoint:
    """Return what `read_checkpoint` does, of the content of a file that was read already.

    Args:
        content: what `read_content` returned.
        path: of the file, for messages.
        prefix: as `read_checkpoint` takes it.

    Raises:
        ValueError: there is no state dict, or several of which `prefix` does not choose one.
    """
    try:
        found = unwrap(content, prefix)
    except ValueError as error:
        raise type(error)(f"{path}: {error}") from error
    if found is None:
        raise UserError(f"{path} {_say_what_is_there(content)}; save one with {EXPORT_HINT}")
    used = found.keys[:1] or (("trunk", "heads") if found.nesting else content)
    return Checkpoint(
        state=as_tensors(found.entries, str(path)),
        nesting=found.nesting,
        extras={key: value for key, value in content.items() if key not in used},
    )


def write_checkpoint(
    path: str | Path, state: Mapping[str, torch.Tensor], *, nesting: str | None = None
) -> None:
    """Write a state dict in the form that the suffix asks for, whole or not at all.

    `.safetensors` is bare. `.pth`, `.pt`, `.bin` and `.torch` are torch's, bare. `.pyth` is
    pycls's, below "model_state". `.pkl` is Detectron2's zoo form: numpy arrays below "model", and
    the request for name matching unless names are a whole detector's ("backbone....").

    Args:
        path: the file to write; a missing folder is made, an existing file replaced.
        state: names to tensors, on any device.
        nesting: for torch's files, the key(s) to nest the state under, as `Checkpoint.nesting`
            names them; "" for none, None for what the suffix does by itself.

    Raises:
        ValueError: unknown suffix or nesting, or a state that the format cannot hold.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path} must end in one of {', '.join(SUFFIXES)}, got '{path.suffix}'")
    if nesting is None:
        nesting = {".pyth": "model_state", ".pkl": "model"}.get(suffix, "")
    only = {".safetensors": "", ".pkl": "model"}.get(suffix, nesting)
    if nesting != only:
        raise UserError(
            f"{path} cannot nest the weights under '{nesting}', {suffix} files have them under "
            f"{repr(only) if only else 'no key'}; leave nesting out, or use one of "
            f"{', '.join(TORCH_SUFFIXES)}"
        )
    others = [
        f"{name} ({type(value).__name__})"
        for name, value in state.items()
        if not isinstance(name, str) or not isinstance(value, torch.Tensor)
    ]
    if others or not state:
        raise UserError(
            f"{path} was not written: a state dict has names and tensors, got "
            f"{listing(others) or 'none'}; give model.state_dict()"
        )
    # Contiguous copies: a file shall hold neither shared memory nor the rest of a sliced tensor.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    if suffix == ".safetensors":
        data = safetensors.torch.save(tensors, metadata={"format": "pt"})
        write_whole(path, lambda file: file.write(data))
    elif suffix == ".pkl":
        content = _detectron2_form(path, tensors)
        # Protocols below 3 spell bytes as text, half as long again.
        write_whole(path, lambda file: pickle.dump(content, file, protocol=4))
    else:
        try:
            content = nest(tensors, nesting)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
        if suffix == ".pyth" and nesting == "model_state":
            content = {"epoch": 0, **content}
        write_whole(path, lambda file: torch.save(content, file))


def _say_what_is_there(content: object) -> str:
    """Say what a file holds that has no state dict."""
    if not isinstance(content, Mapping):
        kind = content if isinstance(content, StandIn) else type(content).__name__
        return f"holds no state dict (names to tensors), but a {kind}"
    if not content or any(isinstance(v, Mapping) and not v for v in content.values()):
        return "holds a state dict without tensors"
    keys = listing(list(content))
    return f"holds no state dict (names to tensors); its top-level keys are {keys}"


def _detectron2_form(path: Path, state: dict[str, torch.Tensor]) -> dict[str, object]:
    """Return what Detectron2's zoo files hold; a whole detector's names are left as they are."""
    arrays = {}
    for name, tensor in state.items():
        try:
            arrays[name] = tensor.numpy()
        except TypeError as error:
            raise UserError(
                f"{path} cannot hold {name}: numpy has no {str(tensor.dtype).split('.')[-1]}; "
                "convert it with .float(), or write .safetensors or .pth"
            ) from error
    matching = not any(name.startswith("backbone.") for name in arrays)
    content = {"model": arrays, "__author__": "regnet_backbones"}
    return content | ({"matching_heuristics": True} if matching else {})
