"""Config keys of detectron2's projects DeepLab, PointRend and Panoptic-DeepLab, and their imports.

These projects are part of detectron2, but `get_cfg()` has none of their keys, and its registries
none of their heads: each has a training script that adds them. `add_regnet_config` adds the keys of
these tables, so that every tool of ours reads a config of any of them, and a project is imported
when a config names something of it. Names and defaults are those of the projects' `config.py`, but
for `SOLVER.OPTIMIZER`, which Panoptic-DeepLab would set to "ADAM" for everybody.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectron2.config import CfgNode

POLY_DEFAULTS = {"POLY_LR_POWER": 0.9, "POLY_LR_CONSTANT_ENDING": 0.0}

_DEEPLAB = {
    "INPUT": {"CROP": {"SINGLE_CATEGORY_MAX_AREA": 1.0}},
    "SOLVER": POLY_DEFAULTS,
    "MODEL": {
        "SEM_SEG_HEAD": {
            "LOSS_TYPE": "hard_pixel_mining",
            "PROJECT_FEATURES": ["res2"],
            "PROJECT_CHANNELS": [48],
            "ASPP_CHANNELS": 256,
            "ASPP_DILATIONS": [6, 12, 18],
            "ASPP_DROPOUT": 0.1,
            "USE_DEPTHWISE_SEPARABLE_CONV": False,
        },
        "RESNETS": {"RES4_DILATION": 1, "RES5_MULTI_GRID": [1, 2, 4], "STEM_TYPE": "deeplab"},
    },
}

_POINT_REND = {
    "INPUT": {"CROP": {"SINGLE_CATEGORY_MAX_AREA": 1.0}, "COLOR_AUG_SSD": False},
    "MODEL": {
        "ROI_MASK_HEAD": {
            "IN_FEATURES": ("p2",),
            "FC_DIM": 1024,
            "NUM_FC": 2,
            "OUTPUT_SIDE_RESOLUTION": 7,
            "POINT_HEAD_ON": False,
        },
        "POINT_HEAD": {
            "NAME": "StandardPointHead",
            "NUM_CLASSES": 80,
            "IN_FEATURES": ("p2",),
            "TRAIN_NUM_POINTS": 14 * 14,
            "OVERSAMPLE_RATIO": 3,
            "IMPORTANCE_SAMPLE_RATIO": 0.75,
            "SUBDIVISION_STEPS": 5,
            "SUBDIVISION_NUM_POINTS": 28 * 28,
            "FC_DIM": 256,
            "NUM_FC": 3,
            "CLS_AGNOSTIC_MASK": False,
            "COARSE_PRED_EACH_LAYER": True,
            "COARSE_SEM_SEG_HEAD_NAME": "SemSegFPNHead",
        },
        "IMPLICIT_POINTREND": {
            "IMAGE_FEATURE_ENABLED": True,
            "POS_ENC_ENABLED": True,
            "PARAMS_L2_REGULARIZER": 0.00001,
        },
    },
}

_PANOPTIC_DEEPLAB = {
    "INPUT": {
        "GAUSSIAN_SIGMA": 10,
        "IGNORE_STUFF_IN_OFFSET": True,
        "SMALL_INSTANCE_AREA": 4096,
        "SMALL_INSTANCE_WEIGHT": 3,
        "IGNORE_CROWD_IN_SEMANTIC": False,
    },
    "MODEL": {
        "SEM_SEG_HEAD": {"HEAD_CHANNELS": 256, "LOSS_TOP_K": 0.2},
        "INS_EMBED_HEAD": {
            "NAME": "PanopticDeepLabInsEmbedHead",
            "IN_FEATURES": ["res2", "res3", "res5"],
            "PROJECT_FEATURES": ["res2", "res3"],
            "PROJECT_CHANNELS": [32, 64],
            "ASPP_CHANNELS": 256,
            "ASPP_DILATIONS": [6, 12, 18],
            "ASPP_DROPOUT": 0.1,
            "HEAD_CHANNELS": 32,
            "CONVS_DIM": 128,
            "COMMON_STRIDE": 4,
            "NORM": "SyncBN",
            "CENTER_LOSS_WEIGHT": 200.0,
            "OFFSET_LOSS_WEIGHT": 0.01,
        },
        "PANOPTIC_DEEPLAB": {
            "STUFF_AREA": 2048,
            "CENTER_THRESHOLD": 0.1,
            "NMS_KERNEL": 7,
            "TOP_K_INSTANCE": 200,
            "PREDICT_INSTANCES": True,
            "USE_DEPTHWISE_SEPARABLE_CONV": False,
            "SIZE_DIVISIBILITY": -1,
            "BENCHMARK_NETWORK_SPEED": False,
        },
    },
}

PROJECT_DEFAULTS = (_DEEPLAB, _POINT_REND, _PANOPTIC_DEEPLAB)

# Where the classes are that a config may name: of the projects, and ours over them.
_CLASSES = {
    "DeepLabV3Head": "detectron2.projects.deeplab",
    "DeepLabV3PlusHead": "detectron2.projects.deeplab",
    "AnySizeDeepLabV3Head": "regnet_backbones.adapters.detectron2.heads",
    "AnySizeDeepLabV3PlusHead": "regnet_backbones.adapters.detectron2.heads",
    "PointRendMaskHead": "detectron2.projects.point_rend",
    "ImplicitPointRendMaskHead": "detectron2.projects.point_rend",
    "PointRendSemSegHead": "detectron2.projects.point_rend",
    "PanopticDeepLab": "detectron2.projects.panoptic_deeplab",
    "PanopticDeepLabSemSegHead": "detectron2.projects.panoptic_deeplab",
    "PanopticDeepLabInsEmbedHead": "detectron2.projects.panoptic_deeplab",
}


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
