"""Detectron2's projects DeepLab, PointRend and Panoptic-DeepLab: their keys and their imports.

These projects are part of detectron2, but `get_cfg()` has none of their keys, and its registries
none of their heads: each has a training script that adds them.
"""

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
_OUR_HEADS = "regnet_backbones.adapters.detectron2.deeplab"


@cache
def project_defaults() -> "CfgNode":
    """Return detectron2's default config with the keys that the installed projects add to it.

    Panoptic-DeepLab would also set `SOLVER.OPTIMIZER` to "ADAM" for everybody; a config that has
    the key keeps it.
    """
    from detectron2.config.defaults import _C

    cfg = _C.clone()
    for module, function in _CONFIGS.items():
        if find_spec(module) is not None:
            getattr(import_module(module), function)(cfg)
    return cfg


def import_projects(cfg: "CfgNode") -> None:
    """Import the projects if a config names a model or a head that is in no registry yet."""
    from detectron2.modeling import META_ARCH_REGISTRY, ROI_MASK_HEAD_REGISTRY
    from detectron2.modeling import SEM_SEG_HEADS_REGISTRY as SEMANTIC

    named = (
        (META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE),
        (SEMANTIC, cfg.MODEL.SEM_SEG_HEAD.NAME),
        (ROI_MASK_HEAD_REGISTRY, cfg.MODEL.ROI_MASK_HEAD.NAME),
    )
    if not all(name in registry for registry, name in named):
        for module in (*_CONFIGS, _OUR_HEADS):
            import_module(module)
