"""What we add to a detectron2 config: `MODEL.REGNET`, `MODEL.FCOS`, and keys of projects.

`OUT_FEATURES, DEPTH, W0, WA, WM, GROUP_W, SE_R, NORM` are the schema of the published RegNet
detectors (pycls's names for the paper's symbols); the other keys are ours. Those of `MODEL.FCOS`
are named as AdelaiDet names them.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from types import ModuleType
from typing import TYPE_CHECKING

from regnet_backbones.adapters.detectron2.compat.hook import replaces
from regnet_backbones.adapters.detectron2.projects import project_defaults

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# None means 'not set', and lets YAML give an int where a float is expected.
REGNET_DEFAULTS = {
    # A name of regnet_backbones.zoo; it wins over the numbers below.
    "NAME": "",
    # The design by numbers: w_0, w_a, w_m, depth, group_width, bottleneck_multiplier, se_ratio.
    "W0": None,
    "WA": None,
    "WM": None,
    "DEPTH": None,
    "GROUP_W": None,
    "BOT_MUL": None,
    "SE_R": None,
    "STEM_W": 32,
    # "paper", or "torchvision" for the widths that torchvision gives five of the variants.
    "ROUNDING": "paper",
    # What build_regnet_backbone returns: res2 to res5, or s1 to s4 (the same maps), or stem.
    "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    # "BN", "SyncBN", "FrozenBN" or "GN".
    "NORM": "FrozenBN",
    # Below 32 (16, 8) the last stages are dilated; not together with an FPN.
    "OUTPUT_STRIDE": 32,
    "DROP_PATH_RATE": 0.0,
    "GRAD_CHECKPOINT": False,
    # "RGB" or "BGR" images of MODEL.WEIGHTS, if other than those of their project (pycls and
    # detectron2's own RegNet: BGR, others: RGB). Then PIXEL_MEAN and PIXEL_STD are not checked.
    "WEIGHTS_FORMAT": "",
}

SOLVER_DEFAULTS = {
    # "SGD", "ADAMW" or "ADAM".
    "OPTIMIZER": "SGD",
    # Learning rate of the RegNet over SOLVER.BASE_LR, and a factor from stage to stage: once for
    # the last stage, five times for the stem.
    "BACKBONE_LR_FACTOR": 1.0,
    "LAYER_DECAY": 1.0,
    # The last learning rate of "WarmupCosineLR"; a key of detectron2's main.
    "BASE_LR_END": 0.0,
}

# What gives a design when MODEL.REGNET.NAME is empty.
REQUIRED_NUMBERS = ("W0", "WA", "WM", "DEPTH", "GROUP_W")
NUMBERS = (*REQUIRED_NUMBERS, "BOT_MUL", "SE_R")

FCOS_DEFAULTS = {
    "NUM_CLASSES": 80,
    "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    # Levels that build_fcos_regnet_fpn_backbone puts on top of P5: 2, 1 or 0.
    "TOP_LEVELS": 2,
    # Of each of the two branches of the head, and their norm: "GN", "BN", "" ...
    "NUM_CONVS": 4,
    "NORM": "GN",
    # Score of a location before training.
    "PRIOR_PROB": 0.01,
    # The part of a box around its centre whose locations are positive, in strides.
    "POS_RADIUS": 1.5,
    # Of the focal loss.
    "LOSS_ALPHA": 0.25,
    "LOSS_GAMMA": 2.0,
    # Of sqrt(class score * centerness).
    "INFERENCE_TH_TEST": 0.2,
    "PRE_NMS_TOPK_TEST": 1000,
    "NMS_TH": 0.6,
}


def add_regnet_config(cfg: "CfgNode") -> None:
    """Add what our recipes name to a config; keys it has stay.

    That is `MODEL.REGNET`, `MODEL.FCOS`, keys of `SOLVER` and those of detectron2's projects.
    """
    models = {"REGNET": REGNET_DEFAULTS, "FCOS": FCOS_DEFAULTS}
    add_missing(cfg, {"MODEL": models, "SOLVER": SOLVER_DEFAULTS})
    add_missing(cfg, project_defaults())


def regnet_node(cfg: "CfgNode") -> "CfgNode":
    """Return a copy of `MODEL.REGNET` with every key: a project may have defined its own node."""
    return _completed(cfg, "REGNET", REGNET_DEFAULTS)


def fcos_node(cfg: "CfgNode") -> "CfgNode":
    """Return a copy of `MODEL.FCOS` with every key, see `regnet_node`."""
    return _completed(cfg, "FCOS", FCOS_DEFAULTS)


def extend_defaults(defaults: ModuleType) -> None:
    """Give detectron2's own defaults `MODEL.REGNET`, and leave it out of dumps without a RegNet.

    A config that does not use the node can then be read where this package is not installed.
    """
    add_missing(defaults._C, {"MODEL": {"REGNET": REGNET_DEFAULTS}})

    @replaces(type(defaults._C))
    def dump(stock: Callable[..., str], self: "CfgNode", *args: object, **kwargs: object) -> str:
        model = self.get("MODEL")
        if isinstance(model, Mapping) and model.get("REGNET") == REGNET_DEFAULTS:
            self = self.clone()
            del self.MODEL["REGNET"]
        return stock(self, *args, **kwargs)


def add_missing(node: "CfgNode", defaults: Mapping[str, object]) -> None:
    """Add the keys that a node does not have, and those that its nodes do not have."""
    for key, value in defaults.items():
        if isinstance(value, Mapping):
            if key not in node:
                node[key] = type(node)()
            add_missing(node[key], value)
        elif key not in node:
            node[key] = deepcopy(value)


def _completed(cfg: "CfgNode", name: str, defaults: Mapping[str, object]) -> "CfgNode":
    """Return a copy of a node of `MODEL` with the default of every key that it lacks."""
    node = cfg.MODEL[name].clone() if name in cfg.MODEL else type(cfg)()
    node.defrost()
    add_missing(node, defaults)
    return node
