"""Checkpoints: files in and out, and where in one its network is.

State dicts and networks are found by what they are, not by what their keys are called: a state dict
is a mapping that holds tensors or arrays, and a RegNet has the names of `dialects`.
"""

import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from regnet_backbones.errors import UserError, as_user_error
from regnet_backbones.files import write_whole
from regnet_backbones.weights.dialects import DIALECTS, find_networks, to_timm_name
from regnet_backbones.weights.state_dicts import as_tensors, listing
from regnet_backbones.weights.unpickling import EXPORT_HINT, StandIn, read_content

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".torch", ".pyth")
SUFFIXES = (".safetensors", ".pkl", *TORCH_SUFFIXES)

# ClassyVision and VISSL split the network into `trunk` and `heads`, below these keys.
CLASSY = "classy_state_dict"
# The plain weights of detectors trained with MODEL.EMA, whose "model" is averaged.
TRAINED_KEY = "trained_model"
LIGHTNING_TRAINED_KEY = "current_model_state"

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
        nesting: its keys joined with ".", "" for none; "classy_state_dict" for ClassyVision's.
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
    """A state dict within a checkpoint, and the RegNet in it, if there is one.

    `keys` and `nesting` lead to the state dict (see `Checkpoint`), `entries` are all of it. The
    names of the RegNet begin with `prefix`, such as "backbone.bottom_up.".
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
    def timm_names(self) -> dict[str, str]:
        """timm's name of each entry of the RegNet; empty for what is in no RegNet."""
        return {name: to_timm_name(name, self.dialect) or "" for name in self.state}

    @cached_property
    def rest(self) -> dict[str, torch.Tensor]:
        """All other entries, with their whole names."""
        return {n: v for n, v in self.entries.items() if not n.startswith(self.prefix)}

    def rest_of_model(self, *homes: str) -> dict[str, torch.Tensor]:
        """Return a model without its network, which is under one of `homes`; empty if it is not.

        Names are those of a model of which no part is compiled.
        """
        prefix = uncompiled(self.prefix)
        home = next((home for home in homes if prefix.endswith(home)), None)
        if home is None:
            return {}
        outer = prefix.removesuffix(home)
        rest = {uncompiled(name): value for name, value in self.rest.items()}
        return {n.removeprefix(outer): v for n, v in rest.items() if n.startswith(outer)}


def uncompiled(name: str) -> str:
    """Return the name that something has where no part of the model was compiled by torch."""
    return name.replace("_orig_mod.", "")


def read_checkpoint(path: str | Path, *, prefix: str | None = None) -> Checkpoint:
    """Read a weights file, whatever its name; never run code that it holds.

    Numpy arrays become tensors. Averaged (EMA) weights come before plain ones where a file has
    both; of pycls's pair the one with the lower error, the plain ones if that is unknown.
    Prefixes of wrappers (`module.`, `_orig_mod.`) stay.

    Args:
        path: a file of torch's, a safetensors file or a pickle of numpy arrays.
        prefix: which RegNet of several, see `load`.

    Returns:
        The state dict, where in the file it was, and what else there is.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or another one, or does not have one state dict.
    """
    path = Path(path)
    return checkpoint_of(read_content(path), path, prefix=prefix)


def checkpoint_of(content: object, path: Path, *, prefix: str | None = None) -> Checkpoint:
    """Do what `read_checkpoint` does, with what `read_content` returned of the file."""
    try:
        found = unwrap(content, prefix)
    except UserError as error:
        raise type(error)(f"{path}: {error}") from error
    if not found:
        what = content if isinstance(content, StandIn) else f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            what = f"a mapping with the keys {listing(list(content)) or 'none'}"
        raise UserError(f"{path} must have a state dict, got {what}; save one with {EXPORT_HINT}")
    used = found[0].keys[:1] or (("trunk", "heads") if found[0].nesting else content)
    return Checkpoint(
        state=as_tensors(found[0].entries, str(path)),
        nesting=found[0].nesting,
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
        nesting: keys in torch's files, as in `Checkpoint`; None for the default of the suffix.

    Raises:
        ValueError: unknown suffix or nesting, or a state that the format cannot hold.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path} must end in one of {', '.join(SUFFIXES)}, got '{path.suffix}'")
    usual = {".pyth": "model_state", ".pkl": "model"}.get(suffix, "")
    nesting = usual if nesting is None else nesting
    if suffix not in TORCH_SUFFIXES and nesting != usual:
        allowed = ", ".join(TORCH_SUFFIXES)
        raise UserError(f"nesting '{nesting}' needs a file that ends in {allowed}, got {path}")
    # Contiguous copies: a file must not hold shared memory or the rest of a sliced tensor.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    if suffix == ".safetensors":
        data = safetensors.torch.save(tensors, metadata={"format": "pt"})
        write_whole(path, lambda file: file.write(data))
    elif suffix == ".pkl":
        hint = f"{path} was not written; convert the state with .float(), or write .safetensors: "
        with as_user_error(TypeError, prefix=hint):  # numpy has no bfloat16
            content = {"model": {name: tensor.numpy() for name, tensor in tensors.items()}}
        content["__author__"] = "regnet_backbones"
        if not any(name.startswith("backbone.") for name in tensors):
            content["matching_heuristics"] = True
        write_whole(path, lambda file: pickle.dump(content, file, protocol=4))
    else:
        content = _nest(tensors, nesting)
        if suffix == ".pyth" and nesting == usual:
            content = {"epoch": 0, **content}
        write_whole(path, lambda file: torch.save(content, file))


def detect(
    state_dict: Mapping[str, torch.Tensor | np.ndarray], *, prefix: str | None = None
) -> str:
    """Return the dialect of the RegNet in a state dict, one of `DIALECTS`.

    Args:
        state_dict: of a network or a model that has one under any prefix, or a checkpoint of these.
        prefix: which RegNet of several, see `load`.
    """
    return locate(state_dict, prefix).dialect


def locate(content: Mapping[str, object], prefix: str | None = None) -> Network:
    """Find the RegNet in a state dict, or in a checkpoint that holds one.

    Of several networks `prefix` chooses one: by the keys that lead to its state dict ("teacher"),
    by the beginning of its names ("backbone."), or by both ("teacher.backbone.").
    """
    found = unwrap(content, prefix)
    entries = found[0].entries if found else content
    if not found or not found[0].dialect:
        names = listing([name for name in entries if isinstance(name, str)])
        text = f"no RegNet in these {len(entries)} names: {names}"
        raise UserError(f"{text}. Known are the names of {', '.join(DIALECTS)}")
    if len(found) > 1:
        raise _no_choice(found, found, prefix)
    return replace(found[0], entries=as_tensors(entries, "the state dict"))


def unwrap(content: object, prefix: str | None = None) -> list[Network]:
    """Find the state dict of a checkpoint; return the RegNets in it, or all of it without one.

    State dicts with a RegNet come before others, and of a pair averaged weights before plain ones.
    """
    if not isinstance(content, Mapping):
        return []
    found = list(_state_dicts(content))
    networks = _networks(found)
    if not networks:
        leaves = [e for e in found if not any(isinstance(v, Mapping) for v in e.entries.values())]
        return sorted(_preferred(leaves, content), key=lambda e: -len(e.entries))[:1]
    matching = _matching(networks, prefix)
    chosen = _preferred(list({network.keys: network for network in matching}.values()), content)
    if len(chosen) != 1:
        raise _no_choice(networks, matching, prefix)
    return [network for network in matching if network.keys == chosen[0].keys]


def _nest(state: dict[str, torch.Tensor], nesting: str) -> dict[str, object]:
    """Put a state dict under the key(s) of `nesting`."""
    if nesting == CLASSY:
        heads = {k.removeprefix("heads."): v for k, v in state.items() if k.startswith("heads.")}
        trunk = {k: v for k, v in state.items() if not k.startswith("heads.")}
        return {CLASSY: {"base_model": {"model": {"trunk": trunk, "heads": heads}}}}
    for key in reversed(nesting.split(".") if nesting else []):
        state = {key: state}
    return state


def _state_dicts(content: Mapping, keys: tuple[str, ...] = ()) -> Iterator[Network]:
    """Find the mappings that hold tensors or arrays, but for those of an optimizer."""
    trunk, heads = content.get("trunk"), content.get("heads")
    is_classy = isinstance(trunk, Mapping) and _has_arrays(trunk)
    if is_classy:
        heads = _flat(heads, "heads") if isinstance(heads, Mapping) else {}
        yield Network(keys, CLASSY, {**trunk, **dict(heads)})
    elif _has_arrays(content):
        yield Network(keys, ".".join(keys), content)
    known = ("trunk", "heads") if is_classy else ()
    for key in [k for k, v in content.items() if isinstance(k, str) and isinstance(v, Mapping)]:
        if key not in known and not _OPTIMIZER.search(key):
            yield from _state_dicts(content[key], (*keys, key))


def _flat(content: Mapping, name: str) -> Iterator[tuple[str, object]]:
    """Yield the values of nested mappings, and their keys joined with "."."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.{key}")
        else:
            yield f"{name}.{key}", value


def _has_arrays(mapping: Mapping) -> bool:
    return any(isinstance(value, torch.Tensor | np.ndarray) for value in mapping.values())


def _networks(found: list[Network]) -> list[Network]:
    """Return the RegNets of state dicts."""
    networks = [
        replace(each, prefix=prefix, dialect=dialect)
        for each in found
        for prefix, dialect in find_networks(each.entries).items()
    ]
    # What an optimizer keeps of weights has their names, but not the statistics of batch norm.
    whole = [n for n in networks if any(str(name).endswith(".running_var") for name in n.entries)]
    return [
        n
        for n in networks
        if n in whole or not any(n.entries.keys() < w.entries.keys() for w in whole)
    ]


def _matching(networks: list[Network], prefix: str | None) -> list[Network]:
    """Return the networks with a prefix: with all of it, or else with its beginning."""
    if prefix is None:
        return networks
    wanted = prefix.removesuffix(".")
    names = [(n, (n.place.removesuffix("."), n.prefix.removesuffix("."))) for n in networks]
    exact = [network for network, own in names if wanted in own]
    return exact or [n for n, own in names if any(o.startswith(f"{wanted}.") for o in own)]


def _preferred(found: list[Network], content: Mapping) -> list[Network]:
    """Return the averaged one of a pair of state dicts, of pycls's the better; all if no pair."""
    trained = [each for each in found if {TRAINED_KEY, LIGHTNING_TRAINED_KEY} & set(each.keys)]
    averaged = [
        e for e in found if any(map(_AVERAGED.search, e.keys)) or (trained and e not in trained)
    ]
    plain = [each for each in found if each not in averaged]
    if len(averaged) != 1 or len(plain) != 1:
        return found
    if averaged[0].keys[-1] != _PYCLS_AVERAGED:
        return averaged
    for key in averaged[0].keys[:-1]:
        content = content[key]
    averaged_error, error = (float(content.get(k) or "nan") for k in ("ema_err", "test_err"))
    return averaged if averaged_error < error else plain


def _no_choice(
    networks: list[Network], matching: list[Network], prefix: str | None
) -> SeveralNetworksError:
    what = "more than one RegNet," if matching else f"no RegNet under {str(prefix)[:100]!r}, but"
    choices = listing(sorted(repr(network.place) for network in matching or networks))
    return SeveralNetworksError(
        f"there is {what} under {choices}; choose one with prefix= (convert-weights: --prefix)"
    )
