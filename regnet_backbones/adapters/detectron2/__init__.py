"""The Detectron2 adapter: config node, builders, heads, checkpoints. Imports nothing by itself."""

from regnet_backbones.adapters import import_lazily

# Names of `compat`, which nothing outside this package imports.
_LAZY = {
    "leave_groups": "compat.engine",
    "make_local_groups": "compat.engine",
    "id2rgb": "compat.panoptic_quality",
    "rgb2id": "compat.panoptic_quality",
}


def __getattr__(name: str) -> object:
    """Import a name from the module that has it."""
    return import_lazily(__name__, _LAZY, name)
