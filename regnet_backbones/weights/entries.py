"""Entries of a state dict: as tensors, whatever held them, and in messages."""

import reprlib
from collections.abc import Mapping

import numpy as np
import torch

from regnet_backbones.errors import UserError

# How many names of each kind an error lists, and the longest text of a file in a message.
LISTED_NAMES = 8
LONGEST = 100

# torch.optim.swa_utils.AveragedModel counts its updates in the state dict, alone or in DDP.
AVERAGED_MODEL_COUNTERS = ("n_averaged", "module.n_averaged")

_REPR = reprlib.Repr()
_REPR.maxlevel = 2


def as_tensors(state: Mapping[str, object], where: str) -> dict[str, torch.Tensor]:
    """Return a state dict as tensors, without what a wrapper counts in it.

    Args:
        state: names to tensors or numpy arrays.
        where: what holds them, for messages.

    Raises:
        ValueError: a value is neither, or one that torch has no rectangular tensor of, or a name is
            not text.
    """
    tensors, others = {}, []
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            value = _from_numpy(value)
        if not isinstance(name, str):
            others.append(f"{shown(name)} (a name that is not text)")
        elif not isinstance(value, torch.Tensor) or value.is_nested:
            kind = getattr(value, "name", None) or getattr(value, "dtype", type(value).__name__)
            others.append(f"{shown(name)} ({shown(str(kind))})")
        elif name not in AVERAGED_MODEL_COUNTERS or value.ndim:
            tensors[name] = value.detach() if value.requires_grad else value
    if others:
        raise UserError(
            f"{where} has entries that are not tensors: {listing(others)}; save tensors alone, "
            "with torch.save(model.state_dict(), path)"
        )
    return tensors


def listing(names: list[str]) -> str:
    """Name the first few of a list and count the others."""
    more = f" and {len(names) - LISTED_NAMES} more" if len(names) > LISTED_NAMES else ""
    return ", ".join(map(shown, names[:LISTED_NAMES])) + more


def reason(error: Exception) -> str:
    """Return the text of an error that may quote a file, on one line and cut."""
    text = " ".join(str(error).split())
    return text if len(text) <= 5 * LONGEST else f"{text[: 5 * LONGEST]}..."


def shown(value: object) -> str:
    """Return a value of a file for a message: on one line, and cut."""
    try:
        text = value if isinstance(value, str) else _REPR.repr(value)
    except ValueError:  # Python prints no number of more than some thousand digits
        text = f"a {type(value).__name__}"
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return cut if cut.isprintable() else repr(cut)


def _from_numpy(array: np.ndarray) -> torch.Tensor | np.ndarray:
    """Return an array as a tensor, or as it is where torch has no such numbers."""
    try:
        native = array.dtype.newbyteorder("=")
        # Torch takes neither negative strides nor, without a warning, memory that is read-only.
        return torch.from_numpy(np.require(array, native, ["C", "W"]))
    except TypeError:
        return array
