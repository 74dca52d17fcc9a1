"""The keys of our training tool in a detectron2 config, and where all of our keys come together."""

import sys
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING

from regnet_backbones.adapters.detectron2.config import add_missing, add_regnet_config

if TYPE_CHECKING:
    from detectron2.config import CfgNode

TOOL_DEFAULTS = {
    # Loggers of Lightning next to detectron2's: "lightning.pytorch.loggers.CSVLogger", for short
    # "CSVLogger", or {"class_path": ..., "init_args": {...}}. A training imports and builds them,
    # and nothing else does.
    "LOGGERS": [],
    # Your COCO instance jsons and the folders of their images, all four or none: they replace
    # DATASETS.TRAIN and TEST, and give every head its number of classes. The training writes id and
    # name of each class to CATEGORIES, in the order of class numbers.
    "DATASETS": {
        "OWN": {
            "TRAIN_JSON": "",
            "TRAIN_IMAGES": "",
            "VAL_JSON": "",
            "VAL_IMAGES": "",
            "CATEGORIES": [],
        }
    },
    "DATALOADER": {
        # Of RandomSubsetTrainingSampler; detectron2 0.6 reads the key, and has no default for it.
        "RANDOM_SUBSET_RATIO": 1.0,
        # How many images of each dataset are opened before the training, the first ones.
        "CHECK_IMAGES": 100,
    },
    # A running average of the weights, which is evaluated and saved with those in training. DECAY
    # is the weight of the past; with WARMUP it rises to that with the iterations.
    "MODEL": {"EMA": {"ENABLED": False, "DECAY": 0.9998, "WARMUP": True}},
    # "module:function": it is called with the config and returns a list of detectron2's
    # Augmentations and Transforms, in place of all others of a training. A training imports it,
    # and nothing else does.
    "INPUT": {"AUGMENTATION": ""},
    # A training ends after PATIENCE evaluations without a value of TEST.BEST_METRIC that is better
    # by more than MIN_DELTA, in the units of the metric; 0 for no such end.
    "SOLVER": {"EARLY_STOPPING": {"PATIENCE": 0, "MIN_DELTA": 0.0}},
    "TEST": {
        # The metric of model_best.pth: "bbox/AP", "segm/AP50", "sem_seg/mIoU", "val_total_loss",
        # ... as metrics.json names it, so with several datasets "dataset/bbox/AP". "auto": the
        # chief one of the first dataset; "": no model_best.pth.
        "BEST_METRIC": "auto",
        # Whether an evaluation also computes the losses of the val images.
        "LOSS": False,
        # How many val images are drawn with their predictions at every evaluation, and the score an
        # instance must have to be drawn.
        "PICTURES": 15,
        "PICTURES_MIN_SCORE": 0.5,
        # What computes COCO's numbers of boxes and masks: "pycocotools", "faster-coco-eval", or
        # "auto", which is the latter if it is installed.
        "EVALUATOR": "auto",
    },
    # The backbone made faster by regnet_backbones.optimize: in training, whose checkpoints stay the
    # same, and in evaluation and prediction.
    "OPTIMIZE": {
        "ENABLED": False,
        # By torch.compile, which takes a minute before the first result.
        "COMPILE": False,
        # "float32", "bfloat16" or "float16", of a trained model; SOLVER.AMP.ENABLED decides the
        # precision of a training and of the evaluations in it.
        "DTYPE": "float32",
        # Batch norms are folded into convolutions: "on", "off", or "auto", which in training
        # measures whether it gains. A run that must resume exact to the last bit needs "on" or
        # "off", and a given MEMORY_FORMAT: measured again, another choice may be faster.
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
