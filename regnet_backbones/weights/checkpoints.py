"""Checkpoints: files in and out, and where in one its network is.

State dicts and networks are found by what they are, not by what their keys are called: a state dict
is a mapping that holds tensors or arrays, and a RegNet has the names of `dialects`.
"""

import pickle
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from regnet_backbones.errors import UserError
from regnet_backbones.files import write_whole
from regnet_backbones.weights.dialects import DIALECTS, find_networks
from regnet_backbones.weights.state_dicts import as_tensors, listing
from regnet_backbones.weights.unpickling import EXPORT_HINT, StandIn, read_content

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".torch", ".pyth")
SUFFIXES = (".safetensors", ".pkl", *TORCH_SUFFIXES)

# ClassyVision and VISSL split the network into `trunk` and `heads`, below these keys.
CLASSY = "classy_state_dict"
# The plain weights of detectors trained with MODEL.EMA, whose "model" is averaged.
TRAINED_KEY = "trained_model"

# A small file can hold a mapping that is nested without an end, and very many networks.
MAX_DEPTH = 8
MAX_ENTRIES = 1_000_000
MAX_NETWORKS = 100

# What an optimizer keeps of each weight has the name of the weight.
_OPTIMIZER = re.compile("optim", re.IGNORECASE)
# Averaged weights. pycls' are preferred by their error only (`_preferred`).
_AVERAGED = re.compile(r"(^|[_.])ema([_.]|$)", re.IGNORECASE)
_PYCLS_AVERAGED = "ema_state"


class SeveralNetworksError(UserError):
    """There are several networks, and nothing chooses one of them."""


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds.

    Attributes:
        state: the network's state dict, on the CPU.
        nesting: the key(s) of it, joined with "."; empty if there are none, "classy_state_dict" for
            all of ClassyVision's forms.
        extras: the other top-level entries (optimizer, iteration, ...).
    """

    state: dict[str, torch.Tensor]
    nesting: str
    extras: dict[str, object]

    @property
    def content(self) -> Mapping[str, object]:
        """Return the state dict under its nesting, for a `prefix` that names both."""
        return {self.nesting: self.state} if self.nesting else self.state


@dataclass(frozen=True, eq=False)
class Network:
    """A state dict within a checkpoint, and where in it a RegNet is.

    `keys` lead to the state dict, `nesting` is the same joined with "." (`CLASSY` for
    ClassyVision's forms); `entries` are all of it. The RegNet's names begin with `prefix`, such as
    "backbone.bottom_up."; `dialect` is empty where there is none.
    """

    keys: tuple[str, ...]
    nesting: str
    entries: Mapping
    prefix: str = ""
    dialect: str = ""

    @property
    def place(self) -> str:
        """The keys of the state dict and the prefix, as `locate` takes them."""
        return ".".join(filter(None, (self.nesting, self.prefix)))

    @cached_property
    def state(self) -> dict[str, torch.Tensor]:
        """The RegNet's entries, without the prefix."""
        named = self.entries.items()
        return {n.removeprefix(self.prefix): v for n, v in named if n.startswith(self.prefix)}

    @cached_property
    def rest(self) -> dict[str, torch.Tensor]:
        """All other entries, with their whole names."""
        return {n: v for n, v in self.entries.items() if not n.startswith(self.prefix)}


def read_checkpoint(path: str | Path, *, prefix: str | None = None) -> Checkpoint:
    """Read a weights file, whatever its name; never run code that it holds.

    Numpy arrays become tensors. Averaged (EMA) weights come before plain ones where a file has
    both; of pycls's pair the one with the lower error, the plain ones where that is unknown.
    Prefixes of wrappers (`module.`, `_orig_mod.`) stay.

    Args:
        path: a file of torch's, a safetensors file or a pickle of numpy arrays.
        prefix: which RegNet is wanted where the file holds several, such as "teacher"; see
            `locate`.

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
    """Do what `read_checkpoint` does, with what `read_content` returned of the file."""
    try:
        found = unwrap(content, prefix)
    except UserError as error:
        raise type(error)(f"{path}: {error}") from error
    if found is None:
        what = content if isinstance(content, StandIn) else f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            what = f"a mapping with the keys {listing(list(content)) or 'none'}"
        raise UserError(
            f"{path} holds no state dict (names to tensors), but {what}; save one with "
            f"{EXPORT_HINT}"
        )
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
    usual = {".pyth": "model_state", ".pkl": "model"}.get(suffix, "")
    nesting = usual if nesting is None else nesting
    if suffix in (".safetensors", ".pkl") and nesting != usual:
        raise UserError(
            f"{path} cannot nest the weights under '{nesting}'; leave nesting out, or use one of "
            f"{', '.join(TORCH_SUFFIXES)}"
        )
    is_right = all(isinstance(n, str) and isinstance(v, torch.Tensor) for n, v in state.items())
    if not state or not is_right:
        raise UserError(f"{path} was not written: the state must be names and tensors")
    # Contiguous copies: a file must not hold shared memory or the rest of a sliced tensor.
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
        content = _nest(tensors, nesting, path)
        if suffix == ".pyth" and nesting == usual:
            content = {"epoch": 0, **content}
        write_whole(path, lambda file: torch.save(content, file))


def detect(
    state_dict: Mapping[str, torch.Tensor | np.ndarray], *, prefix: str | None = None
) -> str:
    """Return the dialect of the RegNet in a state dict, one of `DIALECTS`.

    Args:
        state_dict: of a network, or of a model that holds one under any prefix (`module.`,
            `backbone.bottom_up.`, `encoder.`, ...), or a checkpoint that holds such a state dict
            under any keys.
        prefix: which network, where there are several; see `locate`.

    Raises:
        ValueError: there is no RegNet in it, or more than one.
    """
    return locate(state_dict, prefix).dialect


def locate(content: Mapping[str, object], prefix: str | None = None) -> Network:
    """Find the RegNet in a state dict, or in a checkpoint that holds one.

    Of several networks `prefix` chooses one: by the keys that lead to its state dict ("teacher"),
    by what stands before its names ("backbone."), or by both ("teacher.backbone."). The beginning
    is enough where only one network has it. Raise ValueError where there is none, or no choice.
    """
    found = unwrap(content, prefix)
    entries = content if found is None else found.entries
    networks = _networks([found]) if found else []
    if not networks:
        raise UserError(
            f"there is no RegNet in these {len(entries)} names: "
            f"{listing([name for name in entries if isinstance(name, str)])}. Known are the names "
            f"of {', '.join(DIALECTS)}"
        )
    matching = _matching(networks, prefix)
    if len(matching) != 1:
        raise _no_choice(networks, matching, prefix)
    return replace(matching[0], entries=as_tensors(entries, "the state dict"))


def unwrap(content: object, prefix: str | None = None) -> Network | None:
    """Find the state dict of a checkpoint, with a RegNet or without; None if there is none.

    State dicts with a RegNet come before others, and of a pair averaged weights before plain ones.
    Raise ValueError where several have a RegNet, and `prefix` does not choose one.
    """
    if not isinstance(content, Mapping):
        return None
    found = list(_state_dicts(content))
    networks = _networks(found)
    if not networks:
        leaves = [e for e in found if not any(isinstance(v, Mapping) for v in e.entries.values())]
        return max(_preferred(leaves, content), key=lambda e: len(e.entries), default=None)
    matching = _matching(networks, prefix)
    chosen = _preferred(list({network.keys: network for network in matching}.values()), content)
    if len(chosen) != 1:
        raise _no_choice(networks, matching, prefix)
    return chosen[0]


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


def _nest(state: dict[str, torch.Tensor], nesting: str, path: Path) -> dict[str, object]:
    """Put a state dict under the key(s) of `nesting`, where `unwrap` would find it."""
    if nesting == CLASSY:
        heads = {k.removeprefix("heads."): v for k, v in state.items() if k.startswith("heads.")}
        trunk = {k: v for k, v in state.items() if not k.startswith("heads.")}
        return {CLASSY: {"base_model": {"model": {"trunk": trunk, "heads": heads}}}}
    keys = nesting.split(".") if nesting else []
    if len(keys) > MAX_DEPTH or not all(keys) or any(map(_OPTIMIZER.search, keys)):
        raise UserError(
            f"{path}: nesting must be up to {MAX_DEPTH} keys joined with '.', none of them an "
            f"optimizer's, got {nesting[:100]!r}"
        )
    for key in reversed(keys):
        state = {key: state}
    return state


def _mappings(content: Mapping) -> Iterator[tuple[tuple[str, ...], Mapping]]:
    """Walk nested mappings, but for what is an optimizer's; give the keys that lead to each."""
    queue, seen = deque([((), content)]), 0
    while queue:
        keys, mapping = queue.popleft()
        seen += len(mapping) + 1
        if seen > MAX_ENTRIES:
            raise UserError(f"there are more than {MAX_ENTRIES} entries in nested mappings")
        yield keys, mapping
        queue.extend(
            ((*keys, key), value)
            for key, value in mapping.items()
            if isinstance(value, Mapping) and isinstance(key, str) and len(keys) < MAX_DEPTH
            if not _OPTIMIZER.search(key)
        )


def _state_dicts(content: Mapping) -> Iterator[Network]:
    """Find the mappings that hold tensors or arrays; ClassyVision's trunk and heads are one."""
    joined: set[tuple[str, ...]] = set()
    for keys, mapping in _mappings(content):
        if any(keys[:i] in joined and keys[i] in ("trunk", "heads") for i in range(len(keys))):
            continue
        trunk, heads = mapping.get("trunk"), mapping.get("heads")
        if isinstance(trunk, Mapping) and _has_arrays(trunk):
            entries = dict(trunk)
            for path, head in _mappings(heads if isinstance(heads, Mapping) else {}):
                entries |= {
                    ".".join(("heads", *path, name)): value
                    for name, value in head.items()
                    if isinstance(name, str) and not isinstance(value, Mapping)
                }
            yield Network(keys, ".".join(keys) if joined else CLASSY, entries)
            joined.add(keys)
        elif _has_arrays(mapping):
            yield Network(keys, ".".join(keys), mapping)


def _has_arrays(mapping: Mapping) -> bool:
    return any(isinstance(value, torch.Tensor | np.ndarray) for value in mapping.values())


def _networks(found: list[Network]) -> list[Network]:
    """Return the RegNets of state dicts.

    What an optimizer keeps of the weights may have their names, but not the statistics of batch
    norm: it is left out if the network is present as well.
    """
    networks = [
        replace(each, prefix=prefix, dialect=dialect)
        for each in found
        for prefix, dialect in find_networks(each.entries).items()
    ]
    if len(networks) > MAX_NETWORKS:
        raise UserError(f"there are more than {MAX_NETWORKS} RegNets in one file")
    whole = [
        network
        for network in networks
        if any(isinstance(n, str) and n.endswith(".running_var") for n in network.entries)
    ]
    return [
        network
        for network in networks
        if network in whole
        or not any(network.entries.keys() < other.entries.keys() for other in whole)
    ]


def _matching(networks: list[Network], prefix: str | None) -> list[Network]:
    """Return the networks that are meant by a prefix: by all of it, or else by its beginning."""
    if prefix is None:
        return networks
    wanted = prefix.removesuffix(".")
    names = [(n, (n.place.removesuffix("."), n.prefix.removesuffix("."))) for n in networks]
    exact = [network for network, own in names if wanted in own]
    return exact or [n for n, own in names if any(o.startswith(f"{wanted}.") for o in own)]


def _preferred(found: list[Network], content: Mapping) -> list[Network]:
    """Return the averaged one of a pair of state dicts; all if there is no such pair.

    pycls evaluates both its networks, and the better one is taken.
    """
    trained = [each for each in found if TRAINED_KEY in each.keys]
    averaged = [
        e for e in found if any(map(_AVERAGED.search, e.keys)) or (trained and e not in trained)
    ]
    plain = [each for each in found if each not in averaged]
    if len(averaged) != 1 or len(plain) != 1:
        return found
    keys = averaged[0].keys
    if _PYCLS_AVERAGED not in keys:
        return averaged
    for key in keys[: keys.index(_PYCLS_AVERAGED)]:
        content = content[key]
    try:
        return averaged if float(content["ema_err"]) < float(content["test_err"]) else plain
    except (KeyError, TypeError, ValueError, RuntimeError):
        return plain


def _no_choice(
    networks: list[Network], matching: list[Network], prefix: str | None
) -> SeveralNetworksError:
    """Say that a prefix, or none, chooses no network or several, and which it can choose."""
    what = "more than one RegNet," if matching else f"no RegNet under {str(prefix)[:100]!r}, but"
    choices = listing(sorted(repr(network.place) for network in matching or networks))
    return SeveralNetworksError(
        f"there is {what} under {choices}; choose one with prefix= "
        "(convert-weights: --prefix, or --into-prefix for the file of --into)"
    )
