"""The Detectron2 adapter: config node, builders, heads, checkpoints.

Light by itself, because `compat/` is imported before detectron2 is: names below are looked up when
they are asked for.
"""

from importlib import import_module

_LAZY = {
    "builders": (
        "BUILDERS",
        "RegNetBackbone",
        "build_fcos_regnet_fpn_backbone",
        "build_regnet_backbone",
        "build_regnet_fpn_backbone",
        "build_retinanet_regnet_fpn_backbone",
        "register_builders",
    ),
    "config": ("add_regnet_config",),
    "heads": ("FCOSDetector", "RegNetRes5ROIHeads"),
    "compat.engine": ("make_local_groups",),
    "compat.panoptic_quality": ("VOID", "id2rgb", "rgb2id"),
}
_MODULES = {name: module for module, names in _LAZY.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a name from the module that has it."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
