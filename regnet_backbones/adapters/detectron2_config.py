"""What we add to a detectron2 config: the `MODEL.REGNET` node, and keys of our trainer.

`OUT_FEATURES, DEPTH, W0, WA, WM, GROUP_W, SE_R, NORM` are the schema of the published RegNet
detectors (pycls's names for the paper's symbols); the other keys are ours.
"""

from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# None: not given. It also lets a YAML file write a whole number where a float is meant.
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
    # "RGB" or "BGR" images, where the weights of MODEL.WEIGHTS saw others than those of their
    # project (pycls and detectron2's own RegNet: BGR, all others: RGB). PIXEL_MEAN and PIXEL_STD
    # are then taken as they are, otherwise they must be those of the weights.
    "WEIGHTS_FORMAT": "",
}

TRAINING_DEFAULTS = {
    # "SGD", which is detectron2's own, or "ADAMW".
    "SOLVER": {"OPTIMIZER": "SGD"},
    # How many val images tools/train_net.py draws with their predictions at every evaluation, and
    # the score an instance must have to be drawn.
    "TEST": {"PICTURES": 15, "PICTURES_MIN_SCORE": 0.5},
}

# What gives a design when MODEL.REGNET.NAME is empty.
REQUIRED_NUMBERS = ("W0", "WA", "WM", "DEPTH", "GROUP_W")
NUMBERS = (*REQUIRED_NUMBERS, "BOT_MUL", "SE_R")


def add_regnet_config(cfg: "CfgNode") -> None:
    """Add `MODEL.REGNET` and our trainer's keys to a config; keys that it already has stay.

    `get_cfg()` does this by itself once `regnet_backbones` is imported; this is for a config made
    before that, and for projects that build their config by hand.
    """
    new_node = type(cfg)
    if "REGNET" not in cfg.MODEL:
        cfg.MODEL.REGNET = new_node()
    _add_missing(cfg.MODEL.REGNET, REGNET_DEFAULTS)
    for node, defaults in TRAINING_DEFAULTS.items():
        if node not in cfg:
            cfg[node] = new_node()
        _add_missing(cfg[node], defaults)


def regnet_node(cfg: "CfgNode") -> "CfgNode":
    """Return a copy of `MODEL.REGNET` with every key: a project may have defined its own node."""
    node = cfg.MODEL.REGNET.clone() if "REGNET" in cfg.MODEL else type(cfg)()
    node.defrost()
    _add_missing(node, REGNET_DEFAULTS)
    return node


def extend_defaults(defaults: ModuleType) -> None:
    """Give detectron2's own defaults our keys, so that `get_cfg()` has them."""
    add_regnet_config(defaults._C)


def _add_missing(node: "CfgNode", defaults: dict[str, object]) -> None:
    """Add the keys that a node does not have."""
    for key, value in defaults.items():
        if key not in node:
            node[key] = value
