"""Where training scripts keep the network within a checkpoint."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

# Keys under which training scripts keep the network, the preferred one first: averaged weights
# before plain ones. pycls's `ema_state` is preferred by its error only (`_nesting_keys`).
EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict")
NESTING_KEYS = (*EMA_KEYS, "model", "state_dict", "model_state", "model_state_dict", "ema_state")

# ClassyVision and VISSL split the network into `trunk` and `heads`, below one of these paths.
CLASSY = "classy_state_dict"
CLASSY_PATHS = ((CLASSY, "base_model", "model"), ("base_model", "model"), ())


def unwrap(content: object) -> tuple[Mapping, tuple[str, ...]] | None:
    """Find the state dict and the keys that lead to it; None if there is none."""
    if not isinstance(content, Mapping):
        return None
    for path in CLASSY_PATHS:
        state = _join_classy(content, path)
        if state is not None:
            return state, (CLASSY,)
    for key in _nesting_keys(content):
        found = unwrap(content.get(key))
        if found is not None:
            return found[0], (key, *found[1])
    values = content.values()
    if any(is_array(v) for v in values) and not any(isinstance(v, Mapping) for v in values):
        return content, ()
    return None


def nest(state: dict[str, torch.Tensor], nesting: str) -> dict[str, object]:
    """Put a state dict under the key(s) of `nesting`."""
    if nesting == CLASSY:
        heads = {k.removeprefix("heads."): v for k, v in state.items() if k.startswith("heads.")}
        trunk = {k: v for k, v in state.items() if not k.startswith("heads.")}
        return {CLASSY: {"base_model": {"model": {"trunk": trunk, "heads": heads}}}}
    for key in reversed(nesting.split(".") if nesting else ()):
        state = {key: state}
    return state


def is_array(value: object) -> bool:
    """Tell whether a state dict may have this value."""
    return isinstance(value, torch.Tensor | np.ndarray)


def _nesting_keys(content: Mapping) -> tuple[str, ...]:
    """Order the keys by preference: pycls evaluates both its networks and takes the better."""
    try:
        ema_is_better = float(content["ema_err"]) < float(content["test_err"])
    except (KeyError, TypeError, ValueError, RuntimeError):
        ema_is_better = False
    return ("ema_state", *NESTING_KEYS) if ema_is_better else NESTING_KEYS


def _join_classy(content: Mapping, path: tuple[str, ...]) -> dict[str, object] | None:
    """Join the trunk and the heads that lie below `path` in one state dict."""
    for key in path:
        content = content.get(key)
        if not isinstance(content, Mapping):
            return None
    trunk, heads = content.get("trunk"), content.get("heads")
    if not isinstance(trunk, Mapping) or not any(map(is_array, trunk.values())):
        return None
    return {**trunk, **dict(_flatten(heads if isinstance(heads, Mapping) else {}, "heads."))}


def _flatten(entries: Mapping, prefix: str) -> Iterator[tuple[str, object]]:
    """Name the entries of nested mappings by their paths."""
    for name, value in entries.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
