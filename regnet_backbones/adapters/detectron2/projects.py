"""Detectron2's projects DeepLab, PointRend and Panoptic-DeepLab: their keys and their imports.

These projects are part of detectron2, but `get_cfg()` has none of their keys, and its registries
none of their heads: each has a training script that adds them.
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# What adds the keys of each project.
_CONFIGS = {
    "detectron2.projects.deeplab": "add_deeplab_config",
    "detectron2.projects.point_rend": "add_pointrend_config",
    "detectron2.projects.panoptic_deeplab": "add_panoptic_deeplab_config",
}

# Where the classes are that a config may name: of the projects, and ours over them.
_CLASSES = {
    "DeepLabV3Head": "detectron2.projects.deeplab",
    "DeepLabV3PlusHead": "detectron2.projects.deeplab",
    "AnySizeDeepLabV3Head": "regnet_backbones.adapters.detectron2.deeplab",
    "AnySizeDeepLabV3PlusHead": "regnet_backbones.adapters.detectron2.deeplab",
    "PointRendMaskHead": "detectron2.projects.point_rend",
    "ImplicitPointRendMaskHead": "detectron2.projects.point_rend",
    "PointRendSemSegHead": "detectron2.projects.point_rend",
    "PanopticDeepLab": "detectron2.projects.panoptic_deeplab",
    "PanopticDeepLabSemSegHead": "detectron2.projects.panoptic_deeplab",
    "PanopticDeepLabInsEmbedHead": "detectron2.projects.panoptic_deeplab",
}


@cache
def project_defaults() -> Mapping[str, object]:
    """Return the keys that the installed projects add to detectron2's config, with defaults.

    Panoptic-DeepLab would also set `SOLVER.OPTIMIZER` to "ADAM" for everybody; a config that has
    the key keeps it.
    """
    from detectron2.config.defaults import _C

    cfg = _C.clone()
    for module, function in _CONFIGS.items():
        if find_spec(module) is not None:
            getattr(import_module(module), function)(cfg)
    return _added(cfg, _C)


def import_projects(cfg: "CfgNode") -> None:
    """Import the projects that a config names something of, so that it is in the registries.

    A class of that name that somebody else registered is theirs to use.

    Raises:
        ModuleNotFoundError: detectron2 was installed without its projects.
    """
    from detectron2.modeling import META_ARCH_REGISTRY, ROI_MASK_HEAD_REGISTRY
    from detectron2.modeling import SEM_SEG_HEADS_REGISTRY as SEMANTIC

    named = (
        (META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE),
        (SEMANTIC, cfg.MODEL.SEM_SEG_HEAD.NAME),
        (ROI_MASK_HEAD_REGISTRY, cfg.MODEL.ROI_MASK_HEAD.NAME),
    )
    for registry, name in named:
        if name in _CLASSES and name not in registry:
            import_module(_CLASSES[name])


def _added(extended: Mapping[str, object], stock: Mapping[str, object]) -> dict[str, object]:
    """Return the keys of a config that another does not have, in their nodes."""
    found: dict[str, object] = {}
    for key, value in extended.items():
        if key not in stock:
            found[key] = value
        elif isinstance(value, Mapping) and (inner := _added(value, stock[key])):
            found[key] = inner
    return found
