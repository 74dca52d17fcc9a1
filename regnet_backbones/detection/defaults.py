"""The keys of our training tool in a detectron2 config, and where all of our keys come together."""

import sys
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING

from regnet_backbones.adapters.detectron2.config import add_missing, add_regnet_config

if TYPE_CHECKING:
    from detectron2.config import CfgNode

TOOL_DEFAULTS = {
    # Loggers of Lightning, "CSVLogger" or {"class_path": ..., "init_args": {...}}, for trainings.
    "LOGGERS": [],
    # Your COCO jsons and folders of images, all four or none, instead of DATASETS.TRAIN and TEST. A
    # training writes id and name of each class to CATEGORIES, in the order of class numbers.
    "DATASETS": {
        "OWN": dict.fromkeys(("TRAIN_JSON", "TRAIN_IMAGES", "VAL_JSON", "VAL_IMAGES"), "")
        | {"CATEGORIES": []}
    },
    "DATALOADER": {
        # Of RandomSubsetTrainingSampler; detectron2 0.6 reads the key, and has no default for it.
        "RANDOM_SUBSET_RATIO": 1.0,
        # How many images of each dataset are opened before the training, the first ones.
        "CHECK_IMAGES": 100,
    },
    # A running average of the weights; with WARMUP the weight of the past rises to DECAY.
    "MODEL": {"EMA": {"ENABLED": False, "DECAY": 0.9998, "WARMUP": True}},
    # "module:function" that returns the Augmentations and Transforms of a training from a config.
    "INPUT": {"AUGMENTATION": ""},
    # Evaluations without a TEST.BEST_METRIC better by MIN_DELTA that end a training; 0: none.
    "SOLVER": {"EARLY_STOPPING": {"PATIENCE": 0, "MIN_DELTA": 0.0}},
    "TEST": {
        # The metric of model_best.pth, as metrics.json names it: "bbox/AP", "val_total_loss", ...
        # "auto": the main one of the first dataset; "": no model_best.pth.
        "BEST_METRIC": "auto",
        # Whether an evaluation also computes the losses of the val images.
        "LOSS": False,
        # Val images that are drawn at every evaluation, and the least score of drawn instances.
        "PICTURES": 15,
        "PICTURES_MIN_SCORE": 0.5,
        # "pycocotools", "faster-coco-eval", or "auto": the latter if it is installed.
        "EVALUATOR": "auto",
    },
    # The backbone made faster by regnet_backbones.optimize; checkpoints stay the same.
    "OPTIMIZE": {
        "ENABLED": False,
        # By torch.compile, which takes a minute before the first result.
        "COMPILE": False,
        # "float32", "bfloat16" or "float16", of a trained model; of a training: SOLVER.AMP.ENABLED.
        "DTYPE": "float32",
        # "on", "off", or "auto", which in training measures whether folding batch norms gains.
        # Only a run with a given FOLD and MEMORY_FORMAT resumes exactly.
        "FOLD": "auto",
        # "contiguous", "channels_last", or "auto", which measures.
        "MEMORY_FORMAT": "auto",
    },
}


def add_tool_config(cfg: "CfgNode") -> None:
    """Add our keys and those of detectron2's projects to a config; keys that it has stay."""
    add_regnet_config(cfg)
    add_missing(cfg, TOOL_DEFAULTS)


def extend_get_cfg(config: ModuleType) -> None:
    """Let `get_cfg` of `detectron2.config` return all of our keys."""
    stock = config.get_cfg

    @wraps(stock)
    def get_cfg() -> "CfgNode":
        cfg = stock()
        add_tool_config(cfg)
        return cfg

    config.get_cfg = sys.modules["detectron2.config.config"].get_cfg = get_cfg
