"""Values of a config that would spoil a run in silence, or end it late.

Detectron2 checks the type of a value, and some values when it builds what they are for. `RULES` and
`CHOICES` are for the rest and for our own keys, `_misfits` is what must hold of several together.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import get_args

import torch
from detectron2 import modeling
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from fvcore.common.registry import Registry

from regnet_backbones.adapters.detectron2.builders import BUILDERS
from regnet_backbones.adapters.detectron2.config import fcos_node
from regnet_backbones.adapters.detectron2.network import feature_levels
from regnet_backbones.adapters.detectron2.solver import OPTIMIZERS
from regnet_backbones.detection.architectures import architecture_of
from regnet_backbones.detection.config import default_config, did_you_mean, values_by_key
from regnet_backbones.detection.training.loader import images_per_process, own_augmentations
from regnet_backbones.detection.training.loggers import build_loggers
from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.norm import NORMS
from regnet_backbones.optimize import MemoryFormat
from regnet_backbones.optimize.options import Dtype, Fold, check_compiler

# What a number must be, and the keys that this is for; of a list each number.
RULES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("1 or more", lambda value: value >= 1,
     "SOLVER.MAX_ITER SOLVER.IMS_PER_BATCH SOLVER.CHECKPOINT_PERIOD INPUT.MIN_SIZE_TRAIN "
     "INPUT.MAX_SIZE_TRAIN INPUT.MAX_SIZE_TEST MODEL.FCOS.NUM_CLASSES"),
    ("0 or more", lambda value: 0 <= value < math.inf,
     "DATALOADER.CHECK_IMAGES TEST.PICTURES TEST.EVAL_PERIOD INPUT.MIN_SIZE_TEST SOLVER.BASE_LR "
     "SOLVER.WEIGHT_DECAY SOLVER.WARMUP_ITERS MODEL.FCOS.NUM_CONVS SOLVER.BACKBONE_LR_FACTOR "
     "SOLVER.BASE_LR_END SOLVER.EARLY_STOPPING.PATIENCE SOLVER.EARLY_STOPPING.MIN_DELTA"),
    ("above 0", lambda value: 0 < value < math.inf,
     "MODEL.PIXEL_STD MODEL.FCOS.POS_RADIUS INPUT.CROP.SIZE"),
    ("between 0 and 1", lambda value: 0 < value < 1, "MODEL.EMA.DECAY MODEL.FCOS.PRIOR_PROB"),
    ("from 0 to 1", lambda value: 0 <= value <= 1,
     "TEST.PICTURES_MIN_SCORE MODEL.FCOS.INFERENCE_TH_TEST MODEL.FCOS.NMS_TH MODEL.RPN.NMS_THRESH "
     "MODEL.ROI_HEADS.SCORE_THRESH_TEST MODEL.ROI_HEADS.NMS_THRESH_TEST "
     "MODEL.RETINANET.SCORE_THRESH_TEST MODEL.RETINANET.NMS_THRESH_TEST"),
    ("above 0 and at most 1", lambda value: 0 < value <= 1, "SOLVER.LAYER_DECAY"),
    ("0 (nothing) to 5 (everything)", lambda value: 0 <= value <= 5, "MODEL.BACKBONE.FREEZE_AT"),
)  # fmt: skip

CHOICES: dict[str, Sequence[object]] = {
    "MODEL.REGNET.NORM": NORMS,
    "SOLVER.OPTIMIZER": OPTIMIZERS,
    "OPTIMIZE.DTYPE": get_args(Dtype),
    "OPTIMIZE.FOLD": get_args(Fold),
    "OPTIMIZE.MEMORY_FORMAT": get_args(MemoryFormat),
    "INPUT.FORMAT": ("BGR", "RGB", "L", "YUV-BT.601"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
}

# Keys of names in a registry of detectron2, which knows them once the projects are imported.
REGISTRIES: dict[str, Registry] = {
    "MODEL.META_ARCHITECTURE": modeling.META_ARCH_REGISTRY,
    "MODEL.SEM_SEG_HEAD.NAME": modeling.SEM_SEG_HEADS_REGISTRY,
    "MODEL.BACKBONE.NAME": modeling.BACKBONE_REGISTRY,
    "MODEL.ROI_HEADS.NAME": modeling.ROI_HEADS_REGISTRY,
    "MODEL.ROI_BOX_HEAD.NAME": modeling.ROI_BOX_HEAD_REGISTRY,
    "MODEL.ROI_MASK_HEAD.NAME": modeling.ROI_MASK_HEAD_REGISTRY,
}

# What a training alone reads.
OF_TRAINING = ("SOLVER.", "INPUT.CROP.", "INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN")

OR_PASS = "or pass your data with --train-json, --train-images, --val-json and --val-images"

logger = logging.getLogger(__name__)


def check_config(cfg: CfgNode, *, training: bool, processes: int = 1) -> None:
    """Raise UserError for wrong values; what the config names of projects is imported already."""
    defaults = values_by_key(default_config())
    values = {
        key: value
        for key, value in values_by_key(cfg).items()
        if value != defaults.get(key) and (training or not key.startswith(OF_TRAINING))
    }
    choices = CHOICES | {k: sorted(name for name, _ in r) for k, r in REGISTRIES.items()}
    for key, value in values.items():
        if value is None and defaults.get(key) is not None:
            raise UserError(f"{key} is empty; give it a value or remove the line")
        if value not in (allowed := choices.get(key, [value])):
            names = [str(name) for name in allowed]
            meant = did_you_mean(str(value), names)
            raise UserError(f"{key} must be one of {', '.join(names)}, got {value!r}{meant}")
    for words, allows, keys in RULES:
        for key in filter(values.__contains__, keys.split()):
            numbers = values[key] if isinstance(values[key], list) else [values[key]]
            if not numbers or not all(isinstance(n, int | float) and allows(n) for n in numbers):
                raise UserError(f"{key} must be {words}, got {values[key]}")
    for problem in _misfits(cfg, training):
        raise UserError(problem)
    if training:
        images_per_process(cfg, processes)
        own_augmentations(cfg)
        build_loggers(cfg, only_check=True)
    if cfg.OPTIMIZE.ENABLED and cfg.OPTIMIZE.COMPILE:
        check_compiler(cfg.MODEL.DEVICE)
    if cfg.OPTIMIZE.ENABLED and training and cfg.OPTIMIZE.DTYPE != "float32":
        logger.warning(
            "OPTIMIZE.DTYPE %s is ignored in training; set SOLVER.AMP.ENABLED for mixed precision",
            cfg.OPTIMIZE.DTYPE,
        )


def check_datasets_exist(cfg: CfgNode, *, training: bool) -> None:
    """Raise UserError for datasets that are not registered, or have masks to be converted."""
    registered = DatasetCatalog.list()
    for key in ("TRAIN", "TEST") if training else ("TEST",):
        names = cfg.DATASETS[key]
        check_semantic_datasets(names)
        if not names and (key == "TRAIN" or not training):
            raise UserError(f"DATASETS.{key} is empty; name registered datasets, {OR_PASS}")
        for name in names:
            if name not in registered:
                raise UserError(
                    f"DATASETS.{key} names '{name}', which is not registered"
                    f"{did_you_mean(name, registered)}; register it, {OR_PASS}"
                )


def check_semantic_datasets(names: Iterable[str]) -> None:
    """Raise MissingFileError for datasets whose masks are not there in detectron2's form."""
    for name in names:
        if not name.startswith("ade20k_sem_seg_"):
            continue
        folder = Path(MetadataCatalog.get(name).sem_seg_root)
        if not folder.is_dir():
            root = folder.parent.parent
            raise MissingFileError(
                f"'{name}' has no converted masks in '{folder}'; unpack ADEChallengeData2016.zip "
                f"to '{root}' (or set DETECTRON2_DATASETS to its parent folder), then run "
                f"`regnet-backbones prepare-ade20k {root}`"
            )


def _misfits(cfg: CfgNode, training: bool) -> Iterator[str]:
    """Yield what is wrong with keys that are right by themselves, and contradict each other."""
    model, solver, images = cfg.MODEL, cfg.SOLVER, cfg.INPUT
    try:
        torch.device(model.DEVICE)
    except RuntimeError:
        yield f"MODEL.DEVICE must be cpu, cuda, or one GPU such as cuda:1, got '{model.DEVICE}'"
    maps = _maps(cfg)
    for node in architecture_of(cfg).nodes if maps else ():
        features = model[node].IN_FEATURES
        if not set(features) <= set(maps):
            yield f"MODEL.{node}.IN_FEATURES must be among {', '.join(maps)}, got {features}"
    if not training:
        return
    if list(solver.STEPS) != sorted(set(solver.STEPS)):
        yield f"SOLVER.STEPS must be in ascending order, got {solver.STEPS}"
    if images.MIN_SIZE_TRAIN_SAMPLING == "range" and len(images.MIN_SIZE_TRAIN) != 2:
        yield (
            "INPUT.MIN_SIZE_TRAIN must be two sizes, lowest and highest, with "
            f"INPUT.MIN_SIZE_TRAIN_SAMPLING 'range', got {images.MIN_SIZE_TRAIN}"
        )
    crop, is_relative = images.CROP, "relative" in images.CROP.TYPE
    if crop.ENABLED and any(side > 1 if is_relative else side % 1 for side in crop.SIZE):
        sides = "fractions up to 1" if is_relative else "whole numbers"
        yield f"INPUT.CROP.SIZE must be {sides} for INPUT.CROP.TYPE '{crop.TYPE}', got {crop.SIZE}"
    if solver.BASE_LR_END and solver.LR_SCHEDULER_NAME != "WarmupCosineLR":
        yield "SOLVER.BASE_LR_END needs SOLVER.LR_SCHEDULER_NAME WarmupCosineLR; set it to 0.0"
    if solver.BASE_LR_END > solver.BASE_LR:
        yield f"SOLVER.BASE_LR_END must be at most SOLVER.BASE_LR, got {solver.BASE_LR_END}"
    if solver.EARLY_STOPPING.PATIENCE and not (
        cfg.TEST.EVAL_PERIOD and cfg.TEST.BEST_METRIC and cfg.DATASETS.TEST
    ):
        yield (
            "SOLVER.EARLY_STOPPING.PATIENCE needs a metric to watch; set TEST.EVAL_PERIOD, "
            "TEST.BEST_METRIC and DATASETS.TEST"
        )
    if "loss" in cfg.TEST.BEST_METRIC and not cfg.TEST.LOSS:
        yield f"TEST.BEST_METRIC '{cfg.TEST.BEST_METRIC}' needs TEST.LOSS True"
    if solver.AMP.ENABLED and model.DEVICE == "cpu":
        yield "SOLVER.AMP.ENABLED must be False without a GPU: mixed precision needs CUDA"


def _maps(cfg: CfgNode) -> list[str]:
    """Return the names of the maps that a backbone of ours gives, none of others."""
    name = cfg.MODEL.BACKBONE.NAME
    if name == "build_regnet_backbone":
        return list(cfg.MODEL.REGNET.OUT_FEATURES)
    if name not in BUILDERS:
        return []
    levels = feature_levels(cfg.MODEL.FPN.IN_FEATURES).values()
    tops = {"build_regnet_fpn_backbone": 1, "build_retinanet_regnet_fpn_backbone": 2}
    last = max(levels) + tops.get(name, fcos_node(cfg).TOP_LEVELS)
    return [f"p{level}" for level in range(min(levels), last + 1)]
