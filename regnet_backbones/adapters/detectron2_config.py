"""The `MODEL.REGNET` node of a detectron2 config.

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
}

# What gives a design when MODEL.REGNET.NAME is empty.
REQUIRED_NUMBERS = ("W0", "WA", "WM", "DEPTH", "GROUP_W")
NUMBERS = (*REQUIRED_NUMBERS, "BOT_MUL", "SE_R")


def add_regnet_config(cfg: "CfgNode") -> None:
    """Add `MODEL.REGNET` to a config; keys that it already has stay.

    `get_cfg()` does this by itself once `regnet_backbones` is imported; this is for a config made
    before that, and for projects that build their config by hand.
    """
    new_node = type(cfg)
    if "REGNET" not in cfg.MODEL:
        cfg.MODEL.REGNET = new_node()
    for key, value in REGNET_DEFAULTS.items():
        if key not in cfg.MODEL.REGNET:
            cfg.MODEL.REGNET[key] = value


def extend_defaults(defaults: ModuleType) -> None:
    """Give detectron2's own defaults the node, so that `get_cfg()` has it."""
    add_regnet_config(defaults._C)
