"""Where a file has its network: state dicts within checkpoints, RegNets within state dicts.

Both are found by what they are, not by what their keys are called: a state dict is a mapping that
holds tensors or arrays, and a RegNet has the names of `dialects`.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from regnet_backbones.weights.dialects import DIALECTS, find_names, find_networks
from regnet_backbones.weights.entries import as_tensors, listing

# ClassyVision and VISSL split the network into `trunk` and `heads`, below these keys.
CLASSY = "classy_state_dict"

# A small file can hold a mapping that is nested without an end.
MAX_DEPTH = 8
MAX_ENTRIES = 1_000_000
MAX_NETWORKS = 100

# What an optimizer keeps of each weight has the name of the weight.
_OPTIMIZER = re.compile("optim", re.IGNORECASE)
# Averaged weights. pycls' are preferred by their error only (`_preferred`).
_AVERAGED = re.compile(r"(^|[_.])ema([_.]|$)", re.IGNORECASE)
_PYCLS_AVERAGED = "ema_state"


class SeveralNetworksError(ValueError):
    """There are several networks, and nothing chooses one of them."""


@dataclass(frozen=True, eq=False)
class StateDict:
    """A state dict within a checkpoint.

    Attributes:
        keys: that lead to it, none if the checkpoint is one itself.
        nesting: the keys joined with ".", `CLASSY` for ClassyVision's forms.
        entries: names to tensors or arrays.
    """

    keys: tuple[str, ...]
    nesting: str
    entries: Mapping


@dataclass(frozen=True)
class Network:
    """Where the RegNet of a state dict is.

    Attributes:
        dialect: one of `DIALECTS`.
        prefix: what stands before its names, such as "backbone.bottom_up."; may be empty.
        place: the keys of the state dict and the prefix, as `locate` takes them.
        entries: all of the state dict, with their whole names.
        state: the network's entries, without the prefix.
        rest: all other entries, with their whole names.
    """

    dialect: str
    prefix: str
    place: str
    entries: Mapping[str, torch.Tensor]
    state: dict[str, torch.Tensor]
    rest: dict[str, torch.Tensor]


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
    """Find the RegNet in a state dict.

    Args:
        content: names to tensors or numpy arrays, or a checkpoint that holds such a state dict.
        prefix: which network to take where there are several: the keys that lead to its state dict
            ("teacher"), what stands before its names ("backbone."), or both ("teacher.backbone.").
            The beginning is enough where only one network has it.

    Returns:
        The network, and what the state dict holds besides it.

    Raises:
        ValueError: there is none, or there are several and `prefix` does not choose one.
    """
    found = unwrap(content, prefix)
    entries = content if found is None else found.entries
    places = _places([found]) if found else []
    if not places:
        raise ValueError(
            f"there is no RegNet in these {len(entries)} names: "
            f"{listing([name for name in entries if isinstance(name, str)])}. Known are the names "
            f"of {', '.join(DIALECTS)}"
            + ("; by their shapes these are a ResNet's" if find_names(entries) else "")
        )
    matching = _matching(places, prefix)
    if len(matching) != 1:
        raise _no_choice(places, matching, prefix)
    place = matching[0]
    before, entries = place.prefix, as_tensors(entries, "the state dict")
    state = {k.removeprefix(before): v for k, v in entries.items() if k.startswith(before)}
    rest = {k: v for k, v in entries.items() if not k.startswith(before)}
    return Network(place.dialect, before, str(place), entries, state, rest)


def unwrap(content: object, prefix: str | None = None) -> StateDict | None:
    """Find the state dict of a checkpoint; None if there is none.

    State dicts with a RegNet come before others, and of a pair averaged weights before plain ones.

    Args:
        content: what a file holds.
        prefix: which network is wanted where there are several, see `locate`.

    Raises:
        ValueError: several have a RegNet, and `prefix` does not choose one; or the checkpoint has
            no end.
    """
    if not isinstance(content, Mapping):
        return None
    found = list(_state_dicts(content))
    places = _places(found)
    if not places:
        leaves = [e for e in found if not any(isinstance(v, Mapping) for v in e.entries.values())]
        return max(_preferred(leaves, content), key=lambda e: len(e.entries), default=None)
    matching = _matching(places, prefix)
    owners = {place.owner.keys: place.owner for place in matching}
    chosen = _preferred(list(owners.values()), content)
    if len(chosen) != 1:
        raise _no_choice(places, matching, prefix)
    return chosen[0]


def nest(state: dict[str, torch.Tensor], nesting: str) -> dict[str, object]:
    """Put a state dict under the key(s) of `nesting`.

    Raises:
        ValueError: it would not be found there.
    """
    if nesting == CLASSY:
        heads = {k.removeprefix("heads."): v for k, v in state.items() if k.startswith("heads.")}
        trunk = {k: v for k, v in state.items() if not k.startswith("heads.")}
        return {CLASSY: {"base_model": {"model": {"trunk": trunk, "heads": heads}}}}
    keys = nesting.split(".") if nesting else []
    if len(keys) > MAX_DEPTH or not all(keys) or any(map(_OPTIMIZER.search, keys)):
        raise ValueError(
            f"nesting must be up to {MAX_DEPTH} keys joined with '.', none of them an optimizer's, "
            f"got {nesting[:100]!r}"
        )
    for key in reversed(keys):
        state = {key: state}
    return state


def is_array(value: object) -> bool:
    """Tell whether a state dict may have this value."""
    return isinstance(value, torch.Tensor | np.ndarray)


@dataclass(frozen=True, eq=False)
class _Place:
    """A RegNet: the state dict that has it, the prefix of its names there, and their dialect."""

    owner: StateDict
    prefix: str
    dialect: str

    def __str__(self) -> str:
        """Return how a user can choose it."""
        return ".".join(filter(None, (self.owner.nesting, self.prefix)))


def _mappings(content: Mapping) -> Iterator[tuple[tuple[str, ...], Mapping]]:
    """Walk nested mappings, but for what is an optimizer's; give the keys that lead to each."""
    queue, seen = deque([((), content)]), 0
    while queue:
        keys, mapping = queue.popleft()
        seen += len(mapping) + 1
        if seen > MAX_ENTRIES:
            raise ValueError(f"there are more than {MAX_ENTRIES} entries in nested mappings")
        yield keys, mapping
        queue.extend(
            ((*keys, key), value)
            for key, value in mapping.items()
            if isinstance(value, Mapping) and isinstance(key, str) and len(keys) < MAX_DEPTH
            if not _OPTIMIZER.search(key)
        )


def _state_dicts(content: Mapping) -> Iterator[StateDict]:
    """Find the mappings that hold tensors or arrays; ClassyVision's trunk and heads are one."""
    joined: set[tuple[str, ...]] = set()
    for keys, mapping in _mappings(content):
        if any(keys[:i] in joined and keys[i] in ("trunk", "heads") for i in range(len(keys))):
            continue
        trunk, heads = mapping.get("trunk"), mapping.get("heads")
        if isinstance(trunk, Mapping) and any(map(is_array, trunk.values())):
            entries = dict(trunk)
            for path, head in _mappings(heads if isinstance(heads, Mapping) else {}):
                entries |= {
                    ".".join(("heads", *path, name)): value
                    for name, value in head.items()
                    if isinstance(name, str) and not isinstance(value, Mapping)
                }
            yield StateDict(keys, ".".join(keys) if joined else CLASSY, entries)
            joined.add(keys)
        elif any(map(is_array, mapping.values())):
            yield StateDict(keys, ".".join(keys), mapping)


def _places(found: list[StateDict]) -> list[_Place]:
    """Return the RegNets of state dicts.

    What an optimizer keeps of the weights may have their names, but not the statistics of batch
    norm: it is left out where the network is there as well.
    """
    places = [
        _Place(each, prefix, dialect)
        for each in found
        for prefix, dialect in find_networks(each.entries).items()
    ]
    if len(places) > MAX_NETWORKS:
        raise ValueError(f"there are more than {MAX_NETWORKS} RegNets in one file")
    whole = [p.owner.entries for p in places if _has_statistics(p.owner.entries)]
    return [
        place
        for place in places
        if _has_statistics(place.owner.entries)
        or not any(place.owner.entries.keys() < entries.keys() for entries in whole)
    ]


def _has_statistics(entries: Mapping) -> bool:
    """Tell whether a state dict has running statistics of batch norm."""
    return any(isinstance(name, str) and name.endswith(".running_var") for name in entries)


def _matching(places: list[_Place], prefix: str | None) -> list[_Place]:
    """Return the networks that are meant by a prefix: by all of it, or else by its beginning."""
    if prefix is None:
        return places
    wanted = prefix.removesuffix(".")
    names = {place: [n.removesuffix(".") for n in (str(place), place.prefix)] for place in places}
    exact = [place for place in places if wanted in names[place]]
    return exact or [p for p in places if any(n.startswith(f"{wanted}.") for n in names[p])]


def _preferred(found: list[StateDict], content: Mapping) -> list[StateDict]:
    """Return the averaged one of a pair of state dicts; all of what is no such pair.

    pycls evaluates both its networks, and the better one is taken.
    """
    averaged = [each for each in found if any(map(_AVERAGED.search, each.keys))]
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
    places: list[_Place], matching: list[_Place], prefix: str | None
) -> SeveralNetworksError:
    """Say that a prefix, or none, chooses no network or several, and which it can choose."""
    what = "more than one RegNet," if matching else f"no RegNet under {str(prefix)[:100]!r}, but"
    choices = listing(sorted(repr(str(place)) for place in matching or places))
    return SeveralNetworksError(
        f"there is {what} under {choices}; choose one with prefix= "
        "(tools/convert_weights.py: --prefix, or --into-prefix for the file of --into)"
    )
