"""Weights of a RegNet from a file: read safely, load completely or raise.

Files hold a state dict with timm's parameter names (`stem.conv.weight`, `s1.b1.conv1.conv.weight`,
...), as `.safetensors` or as a `torch.save` file, bare or under one of the usual keys.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from timm.models import adapt_input_conv
from torch import nn

# Keys under which training scripts nest the weights of the network.
NESTING_KEYS = ("model", "state_dict")

# Parts of a timm classifier that no feature map passes through.
CLASSIFIER_PARTS = ("head.", "final_conv.")

# How many keys of each kind an error lists.
LISTED_KEYS = 8


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict on the CPU; never runs code that a file holds.

    Args:
        path: a `.safetensors` file, or one written by `torch.save`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at '{path}'")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    for key in NESTING_KEYS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(torch.is_tensor(v) for v in state.values()):
        raise ValueError(
            f"'{path}' holds no state dict (names to tensors), neither bare nor under "
            f"{' or '.join(map(repr, NESTING_KEYS))}; save one with torch.save(net.state_dict(), "
            "path)"
        )
    return dict(state)


def load_timm_state_dict(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load a timm RegNet's weights into a `RegNetFeatures`, completely.

    What the extractor does not have is dropped: the classifier, and stages behind its last level.
    A stem of three channels is adapted to the model's `in_channels` as timm does (summed for one
    channel, repeated and rescaled for more).

    Args:
        model: a `RegNetFeatures`, changed in place (not at all when this raises).
        state: a state dict with timm's names.

    Raises:
        ValueError: keys are missing, unknown, or have another shape; all are counted, some listed.
    """
    own = model.state_dict()
    dropped = tuple(f"{part}." for part in model.pruned_parts)
    dropped += tuple(p for p in CLASSIFIER_PARTS if not any(key.startswith(p) for key in own))
    state = {key: value for key, value in state.items() if not key.startswith(dropped)}
    _adapt_stem(state, own)
    # A frozen norm has no batch counter, a norm that is not frozen finds it in older files missing.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in own and not k.endswith("num_batches_tracked")]
    ill_shaped = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if missing or unknown or ill_shaped:
        raise ValueError(
            "the weights do not match the network, nothing was loaded; "
            + "; ".join(
                _listing(what, keys)
                for what, keys in (
                    ("missing", missing),
                    ("unknown", unknown),
                    ("of another shape", ill_shaped),
                )
                if keys
            )
            + ". The names must be timm's and the file of the same variant."
        )
    model.load_state_dict({key: state.get(key, own[key]) for key in own})


def _adapt_stem(state: dict[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> None:
    """Fit the first convolution of `state` to the input channels of `own`, in place."""
    key = next((k for k, v in own.items() if v.ndim == 4), None)
    if key in state and state[key].ndim == 4 and state[key].shape[1] == 3:
        state[key] = adapt_input_conv(own[key].shape[1], state[key])


def _listing(what: str, keys: list[str]) -> str:
    """Count the keys of one kind and name the first of them."""
    more = f", and {len(keys) - LISTED_KEYS} more" if len(keys) > LISTED_KEYS else ""
    return f"{len(keys)} {what}: {', '.join(keys[:LISTED_KEYS])}{more}"
