"""The Detectron2 adapter: config node, builders, heads, checkpoints. Imports nothing by itself."""

from importlib import import_module

# Names of `compat`, which nothing outside this package imports.
_LAZY = {
    "make_local_groups": "compat.engine",
    "VOID": "compat.panoptic_quality",
    "id2rgb": "compat.panoptic_quality",
    "rgb2id": "compat.panoptic_quality",
}


def __getattr__(name: str) -> object:
    """Import a name from the module that has it."""
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
