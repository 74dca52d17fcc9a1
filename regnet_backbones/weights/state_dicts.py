"""State dicts: as tensors, compared with those of a model, and in messages."""

import reprlib
import textwrap
from collections import OrderedDict, defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from regnet_backbones.errors import UserError

# How many names of each kind an error lists, and the longest text of a file in a message.
LISTED_NAMES = 8
LONGEST = 100

# torch.optim.swa_utils.AveragedModel counts its updates in the state dict, alone or in DDP.
AVERAGED_MODEL_COUNTERS = ("n_averaged", "module.n_averaged")


def as_tensors(state: Mapping[str, object], where: str) -> dict[str, torch.Tensor]:
    """Return a state dict of tensors or numpy arrays as tensors, without what a wrapper counts.

    The versions of its modules, which torch keeps on state dicts, stay.
    """
    tensors, others = {}, []
    for name, value in state.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            native = value.dtype.newbyteorder("=")
            # Torch takes neither negative strides nor, without a warning, read-only memory.
            value = torch.from_numpy(np.require(value, native, ["C", "W"]))
        if not isinstance(name, str) or not isinstance(value, torch.Tensor) or value.is_nested:
            kind = getattr(value, "name", None) or getattr(value, "dtype", type(value).__name__)
            kind = kind if isinstance(name, str) else "a name that is not text"
            others.append(f"{shown(name)} ({shown(str(kind))})")
        elif name not in AVERAGED_MODEL_COUNTERS or value.ndim:
            tensors[name] = value.detach() if value.requires_grad else value
    if others:
        text = f"{where} has entries that are not tensors: {listing(others)}"
        raise UserError(f"{text}; save it with torch.save(model.state_dict(), path)")
    return with_versions(tensors, versions_of(state))


def versions_of(state: Mapping[str, object]) -> dict[str, dict[str, int]]:
    """Return the versions of modules that torch keeps on a state dict, by the modules' names."""
    metadata = getattr(state, "_metadata", None)
    metadata = metadata if isinstance(metadata, Mapping) else {}
    return {
        name: {"version": each["version"]}
        for name, each in metadata.items()
        if isinstance(name, str) and isinstance(each, Mapping) and type(each.get("version")) is int
    }


def with_versions(
    state: dict[str, torch.Tensor], versions: Mapping[str, Mapping[str, int]]
) -> dict[str, torch.Tensor]:
    """Return a state dict that holds versions of modules, as `Module.load_state_dict` reads them.

    Modules that were once saved under other names rename what has no version, or an old one.
    """
    if not versions:
        return state
    versioned = OrderedDict(state)
    versioned._metadata = dict(versions)
    return versioned


def is_counter(name: str) -> bool:
    """Whether an entry counts batches, which matters to no network."""
    return name.endswith("num_batches_tracked")


def compare(
    given: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
    unknown: list[str] | None = None,
) -> str:
    """Count and list what is missing, unknown and of another shape; empty where nothing is."""
    if unknown is None:
        unknown = [name for name in given if name not in own and not is_counter(name)]
    missing = [n for n in own if n not in given and not is_counter(n)]
    ill_shaped = [
        f"{n} {tuple(given[n].shape)} for {tuple(own[n].shape)}"
        for n in own
        if n in given and given[n].shape != own[n].shape
    ]
    kinds = {"missing": missing, "unknown": unknown, "of another shape": ill_shaped}
    return "; ".join(f"{len(n)} {kind}: {listing(n)}" for kind, n in kinds.items() if n)


def cast(
    given: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return weights in the types of a model; raise UserError for values that none should have."""
    broken: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in given.items():
        if problem := _why_not(name, value, own[name]):
            broken[problem].append(name)
    if broken:
        listed = (f"{problem} in {len(n)}: {listing(n)}" for problem, n in broken.items())
        raise UserError(f"the weights have {'; '.join(listed)}. Nothing was loaded")
    return {name: value.to(own[name].dtype) for name, value in given.items()}


def load_all(model: nn.Module, state: object, where: str) -> None:
    """Load a state dict that must be the model's own, all of it, or raise a ValueError."""
    given = as_tensors(state if isinstance(state, Mapping) else {}, where)
    own = model.state_dict()
    if problems := compare(given, own):
        raise UserError(f"{where} does not match the model: {problems}. Nothing was loaded")
    model.load_state_dict(cast(given, own), strict=False)  # old files have no batch counters


def listing(names: list[str]) -> str:
    """Name the first few of a list and count the others."""
    more = f" and {len(names) - LISTED_NAMES} more" if len(names) > LISTED_NAMES else ""
    return ", ".join(map(shown, names[:LISTED_NAMES])) + more


def reason(error: Exception) -> str:
    """Return the text of an error that may quote a file, on one line and cut."""
    return textwrap.shorten(str(error), 5 * LONGEST, placeholder="...")


def shown(value: object) -> str:
    """Return a value of a file for a message: on one line, and cut."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return cut if cut.isprintable() else repr(cut)


def _why_not(name: str, value: torch.Tensor, own: torch.Tensor) -> str | None:
    """Return why a value cannot become that of a model; None where it can."""
    if value.is_meta and own.is_meta:
        return None
    if value.is_meta or value.layout is not torch.strided or value.is_quantized:
        return "tensors that are sparse, quantized or without data"
    kinds = (_kind(value), _kind(own))
    # A running average makes fractions of counters, too.
    if kinds[0] != kinds[1] and kinds != ("float", "int"):
        return f"{value.dtype} for {own.dtype}"
    seen = value if kinds[1] == "int" else value.to(own.dtype)
    if not torch.isfinite(seen).all():
        return f"NaN or infinite values of {own.dtype} (use an earlier checkpoint)"
    return "negative variances" if name.endswith("running_var") and (seen < 0).any() else None


def _kind(value: torch.Tensor) -> str:
    if value.is_floating_point():
        return "float"
    return "complex" if value.is_complex() else "bool" if value.dtype is torch.bool else "int"
