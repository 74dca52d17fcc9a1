"""What we add to a detectron2 config: `MODEL.REGNET`, `MODEL.FCOS`, keys of projects and trainer.

`OUT_FEATURES, DEPTH, W0, WA, WM, GROUP_W, SE_R, NORM` are the schema of the published RegNet
detectors (pycls's names for the paper's symbols); the other keys are ours. Those of `MODEL.FCOS`
are named as AdelaiDet names them.
"""

from collections.abc import Mapping
from copy import deepcopy
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING

from regnet_backbones.adapters.detectron2.projects import PROJECT_DEFAULTS

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

TRAINING_DEFAULTS = {
    # COCO instance jsons of one's own and the folders of their images, all four or none: they take
    # the place of DATASETS.TRAIN and TEST, and give every head its number of classes. CATEGORIES
    # is noted by the training: id and name of each class, in the order of class numbers.
    "DATASETS": {
        "OWN": {
            "TRAIN_JSON": "",
            "TRAIN_IMAGES": "",
            "VAL_JSON": "",
            "VAL_IMAGES": "",
            "CATEGORIES": [],
        }
    },
    # "SGD", which is detectron2's own, "ADAMW" or "ADAM".
    "SOLVER": {"OPTIMIZER": "SGD"},
    "DATALOADER": {
        # Of the images that RandomSubsetTrainingSampler takes; detectron2 0.6 reads the key, and
        # has no default for it.
        "RANDOM_SUBSET_RATIO": 1.0,
        # How many images of each dataset tools/train_net.py opens before it trains, the first
        # ones; 0 for none.
        "CHECK_IMAGES": 100,
    },
    # A running average of the weights, which tools/train_net.py evaluates and saves beside those in
    # training. DECAY is the weight of the past; with WARMUP it rises to that with the iterations.
    "MODEL": {"EMA": {"ENABLED": False, "DECAY": 0.9998, "WARMUP": True}},
    # How many val images tools/train_net.py draws with their predictions at every evaluation, and
    # the score an instance must have to be drawn.
    "TEST": {"PICTURES": 15, "PICTURES_MIN_SCORE": 0.5},
    # The backbone made faster by regnet_backbones.optimize: the training of tools/train_net.py,
    # whose checkpoints stay the same, and models that are evaluated or predict with the config.
    "OPTIMIZE": {
        "ENABLED": False,
        # By torch.compile, which takes a minute before the first result.
        "COMPILE": False,
        # "float32", "bfloat16" or "float16", of a trained model; SOLVER.AMP.ENABLED decides the
        # precision of a training and of the evaluations in it.
        "DTYPE": "float32",
        # "auto" measures. A run that shall be resumed exact to the last bit needs "contiguous" or
        # "channels_last": measured again, another one may be found faster.
        "MEMORY_FORMAT": "auto",
    },
}

# What gives a design when MODEL.REGNET.NAME is empty.
REQUIRED_NUMBERS = ("W0", "WA", "WM", "DEPTH", "GROUP_W")
NUMBERS = (*REQUIRED_NUMBERS, "BOT_MUL", "SE_R")


def add_regnet_config(cfg: "CfgNode") -> None:
    """Add all of our keys to a config, and those of detectron2's projects; keys it has stay.

    Of these, `get_cfg()` has `MODEL.REGNET` alone once `regnet_backbones` is imported, which is
    enough for a RegNet. The recipes of `configs/` and the configs of our tools' runs need the rest.

    Args:
        cfg: of detectron2, changed in place.
    """
    _add_missing(cfg, {"MODEL": {"REGNET": REGNET_DEFAULTS, "FCOS": FCOS_DEFAULTS}})
    for defaults in (TRAINING_DEFAULTS, *PROJECT_DEFAULTS):
        _add_missing(cfg, defaults)


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
    _add_missing(defaults._C, {"MODEL": {"REGNET": REGNET_DEFAULTS}})
    config_class = type(defaults._C)
    dump = config_class.dump
    if hasattr(dump, "leaves_out_regnet"):
        return

    @wraps(dump)
    def dump_what_is_used(self: "CfgNode", *args: object, **kwargs: object) -> str:
        model = self.get("MODEL")
        if isinstance(model, Mapping) and model.get("REGNET") == REGNET_DEFAULTS:
            self = self.clone()
            del self.MODEL["REGNET"]
        return dump(self, *args, **kwargs)

    dump_what_is_used.leaves_out_regnet = True
    config_class.dump = dump_what_is_used


def extend_defaults_by_all(defaults: ModuleType) -> None:
    """Give detectron2's own defaults all of our keys."""
    add_regnet_config(defaults._C)


def _completed(cfg: "CfgNode", name: str, defaults: Mapping[str, object]) -> "CfgNode":
    """Return a copy of a node of `MODEL` with the default of every key that it lacks."""
    node = cfg.MODEL[name].clone() if name in cfg.MODEL else type(cfg)()
    node.defrost()
    _add_missing(node, defaults)
    return node


def _add_missing(node: "CfgNode", defaults: Mapping[str, object]) -> None:
    """Add the keys that a node does not have, and those that its nodes do not have."""
    for key, value in defaults.items():
        if isinstance(value, Mapping):
            if key not in node:
                node[key] = type(node)()
            _add_missing(node[key], value)
        elif key not in node:
            node[key] = deepcopy(value)
