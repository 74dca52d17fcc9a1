"""Values of a config that detectron2 takes as they are, and fails on when a run has begun.

Detectron2 checks the type of a value and nothing else: not the values in a list, not their range.
`RULES` is what each key may be, `_misfits` what must hold of several together.
"""

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from detectron2 import modeling
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import get_norm
from fvcore.common.registry import Registry

from regnet_backbones.adapters.detectron2.builders import BUILDERS
from regnet_backbones.adapters.detectron2.config import fcos_node
from regnet_backbones.adapters.detectron2.network import FEATURE_LEVELS, feature_levels
from regnet_backbones.adapters.detectron2.solver import FULL_MODEL, OPTIMIZERS
from regnet_backbones.backbone import OUTPUT_STRIDES
from regnet_backbones.detection.architectures import architecture_of
from regnet_backbones.detection.config import default_config, did_you_mean, values_by_key
from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.norm import NORMS
from regnet_backbones.optimize import MemoryFormat
from regnet_backbones.optimize.options import Dtype, check_compiler


@dataclass(frozen=True)
class Rule:
    """What is allowed, and the words for it; `names` are those that it chooses from."""

    words: str
    allows: Callable[[object], bool]
    names: Sequence[object] = ()


def number(
    low: float = -math.inf, high: float = math.inf, *, whole: bool = False, inside: bool = False
) -> Rule:
    """Allow finite numbers from `low` to `high`, or strictly between them; not True and False."""

    def allows(value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            return False
        return abs(value) < math.inf and (low < value < high if inside else low <= value <= high)

    bounds = f"{'between' if inside else 'from'} {low:,} {'and' if inside else 'to'} {high:,}"
    return Rule(f"a {'whole ' * whole}number {bounds}", allows)


def choice(values: Sequence[object]) -> Rule:
    """Allow some values."""
    listed = ", ".join(str(value) or repr(value) for value in values)
    return Rule(f"one of {listed}", lambda value: value in values, values)


def accepted(words: str, function: Callable[[object], object]) -> Rule:
    """Allow what a function accepts; it raises an error for everything else."""

    def allows(value: object) -> bool:
        try:
            return function(value) is not False
        except (KeyError, TypeError, AttributeError, RuntimeError):
            return False

    return Rule(words, allows)


def either(*rules: Rule) -> Rule:
    """Allow what one of some rules allows."""
    words = ", or ".join(rule.words for rule in rules)
    return Rule(words, lambda value: any(rule.allows(value) for rule in rules))


def each(rule: Rule, *lengths: int, least: int = 1) -> Rule:
    """Allow lists of what a rule allows, of at least `least` values or of one of `lengths`."""

    def allows(value: object) -> bool:
        if not isinstance(value, list | tuple) or not all(map(rule.allows, value)):
            return False
        return len(value) in lengths if lengths else len(value) >= least

    count = " or ".join(map(str, lengths)) or f"{least} or more"
    return Rule(f"a list of {count} values, each {rule.words}", allows)


def like(default: object) -> Rule:
    """Allow values like a default: of the same type, and nested as deep."""
    if isinstance(default, list | tuple):
        return each(like(default[0]) if default else ANYTHING, least=0)
    if isinstance(default, bool):
        return choice((True, False))
    if isinstance(default, int | float):
        return number()
    return TEXT if isinstance(default, str) else ANYTHING


ANYTHING = Rule("anything", lambda value: True)
TEXT = accepted("text", lambda value: isinstance(value, str) and "\0" not in value)
COUNT, FROM_0, NOT_NEGATIVE = number(1, whole=True), number(0, whole=True), number(0)
SHARE, POSITIVE, PROBABILITY = number(0, 1), number(0, inside=True), number(0, 1, inside=True)
# Far above what is needed, and below what fills a machine's memory.
SIDE, WIDTH = number(0, 65536, whole=True), number(1, 65536, whole=True)
POOLERS = ("ROIAlign", "ROIAlignV2", "ROIPool", "ROIAlignRotated")
SCHEDULERS = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR", "WarmupPolyLR")
SAMPLERS = ("Training", "RepeatFactorTraining", "RandomSubsetTraining", "WeightedTraining",
            "WeightedCategoryTraining")  # fmt: skip
# Rules and the keys that they are for, by as much of their end as is needed. Other values must be
# of the type of their default.
_TABLE: tuple[tuple[Rule, str], ...] = (
    (COUNT, "MAX_ITER IMS_PER_BATCH CHECKPOINT_PERIOD BATCH_SIZE_PER_IMAGE PRECISE_BN.NUM_ITER"),
    (COUNT, "PRE_NMS_TOPK_TRAIN PRE_NMS_TOPK_TEST POST_NMS_TOPK_TRAIN POST_NMS_TOPK_TEST"),
    (COUNT, "TOPK_CANDIDATES_TEST"),
    (FROM_0, "EVAL_PERIOD VIS_PERIOD CHECK_IMAGES PICTURES WARMUP_ITERS POOLER_SAMPLING_RATIO"),
    (FROM_0, "REFERENCE_WORLD_SIZE"),
    (number(-1, 1_000_000, whole=True), "DETECTIONS_PER_IMAGE"),  # -1: all
    (number(high=2**31 - 1, whole=True), "SEED"),  # below 0: another one in each run
    (number(0, 5, whole=True), "FREEZE_AT"),
    (number(0, 10_000, whole=True), "NUM_WORKERS"),
    (number(0, 100, whole=True), "NUM_FC NUM_CONV NUM_CONVS"),
    (WIDTH, "OUT_CHANNELS FC_DIM CONV_DIM CONVS_DIM"),
    (each(WIDTH), "ROI_KEYPOINT_HEAD.CONV_DIMS"),
    (each(either(WIDTH, choice((-1,)))), "RPN.CONV_DIMS"),
    (number(1, 1_000_000, whole=True), "NUM_CLASSES NUM_KEYPOINTS"),
    (number(1, 1024, whole=True), "POOLER_RESOLUTION"),
    (SIDE, "MIN_SIZE_TEST"),  # 0: images keep their size
    (each(SIDE), "MIN_SIZE_TRAIN"),
    (WIDTH, "MAX_SIZE_TRAIN MAX_SIZE_TEST AUG.MAX_SIZE"),
    (each(WIDTH), "AUG.MIN_SIZES"),
    (SHARE, "POSITIVE_FRACTION SCORE_THRESH_TEST NMS_THRESH NMS_THRESH_TEST NMS_TH"),
    (SHARE, "INFERENCE_TH_TEST OVERLAP_THRESH INSTANCES_CONFIDENCE_THRESH PICTURES_MIN_SCORE"),
    (SHARE, "REPEAT_THRESHOLD DROP_PATH_RATE MOMENTUM ANCHOR_GENERATOR.OFFSET"),
    (PROBABILITY, "PRIOR_PROB EMA.DECAY"),
    (number(0.000001, 1), "RANDOM_SUBSET_RATIO"),
    (POSITIVE, "CLIP_VALUE POS_RADIUS"),
    (either(POSITIVE, choice((math.inf,))), "CLIP_GRADIENTS.NORM_TYPE"),
    (NOT_NEGATIVE, "BASE_LR WEIGHT_DECAY WEIGHT_DECAY_NORM BIAS_LR_FACTOR GAMMA WARMUP_FACTOR"),
    (NOT_NEGATIVE, "SMOOTH_L1_BETA SMOOTH_L1_LOSS_BETA PROPOSAL_GENERATOR.MIN_SIZE"),
    (either(NOT_NEGATIVE, choice((None,))), "WEIGHT_DECAY_BIAS"),
    (each(COUNT, least=0), "SOLVER.STEPS"),
    (each(POSITIVE, 2), "CROP.SIZE"),
    (each(POSITIVE), "PIXEL_STD"),
    (each(number()), "PIXEL_MEAN"),
    (each(POSITIVE, 4, 5), "BBOX_REG_WEIGHTS"),  # 5 for rotated boxes
    (each(each(POSITIVE, 4)), "ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS"),
    (each(PROBABILITY), "IOU_THRESHOLDS ROI_BOX_CASCADE_HEAD.IOUS"),
    (each(choice((-1, 0, 1))), "IOU_LABELS"),
    (either(each(POSITIVE), each(each(POSITIVE))), "SIZES ASPECT_RATIOS"),
    (each(TEXT), "IN_FEATURES"),
    (each(TEXT, least=0), "DATASETS.TRAIN DATASETS.TEST"),
    (each(choice(tuple(FEATURE_LEVELS))), "REGNET.OUT_FEATURES"),
    (choice(OUTPUT_STRIDES), "OUTPUT_STRIDE"),
    (choice((0, 1, 2)), "TOP_LEVELS"),
    (choice((1, 2, 4, 8, 16, 32)), "COMMON_STRIDE"),
    (accepted("one of '', BN, SyncBN, FrozenBN, GN, LN, nnSyncBN, naiveSyncBN, naiveSyncBN_N",
              lambda value: get_norm(value, 32)), "NORM"),
    (choice(NORMS), "REGNET.NORM"),
    (choice(("sum", "avg")), "FUSE_TYPE"),
    (choice(("smooth_l1", "giou", "diou", "ciou")), "BBOX_REG_LOSS_TYPE"),
    (choice(POOLERS), "POOLER_TYPE"),
    (choice((*POOLERS, "")), "ROI_MASK_HEAD.POOLER_TYPE"),  # "" in PointRend
    (choice(("BGR", "RGB", "L", "YUV-BT.601")), "INPUT.FORMAT"),
    (choice(("polygon", "bitmask")), "MASK_FORMAT"),
    (choice(("choice", "range")), "MIN_SIZE_TRAIN_SAMPLING"),
    (choice(("horizontal", "vertical", "none")), "RANDOM_FLIP"),
    (choice(("relative", "relative_range", "absolute", "absolute_range")), "CROP.TYPE"),
    (choice(("linear", "constant")), "WARMUP_METHOD"),
    (choice(("value", "norm", FULL_MODEL)), "CLIP_TYPE"),
    (choice(get_args(Dtype)), "OPTIMIZE.DTYPE"),
    (choice(get_args(MemoryFormat)), "OPTIMIZE.MEMORY_FORMAT"),
    (choice(OPTIMIZERS), "SOLVER.OPTIMIZER"),
    (choice(SCHEDULERS), "LR_SCHEDULER_NAME"),
    (choice([f"{name}Sampler" for name in SAMPLERS]), "SAMPLER_TRAIN"),
    (accepted("cpu, cuda, or one GPU such as cuda:1", torch.device), "MODEL.DEVICE"),
)  # fmt: skip
RULES: dict[str, Rule] = {key: rule for rule, keys in _TABLE for key in keys.split()}

# Keys of names in a registry of detectron2, which knows them once the projects are imported.
_REGISTRIES: dict[str, Registry] = {
    f"{node}.NAME": getattr(modeling, f"{node}_REGISTRY")
    for node in (
        *("BACKBONE", "ANCHOR_GENERATOR", "PROPOSAL_GENERATOR", "ROI_HEADS", "ROI_BOX_HEAD"),
        *("ROI_MASK_HEAD", "ROI_KEYPOINT_HEAD"),
    )
} | {
    "META_ARCHITECTURE": modeling.META_ARCH_REGISTRY,
    "RPN.HEAD_NAME": modeling.RPN_HEAD_REGISTRY,
    "SEM_SEG_HEAD.NAME": modeling.SEM_SEG_HEADS_REGISTRY,
}

# What a training alone reads.
OF_TRAINING = ("SOLVER.", "INPUT.CROP.", "INPUT.MIN_SIZE_TRAIN", "DATALOADER.SAMPLER_TRAIN")

# Levels on top of those of an FPN; `MODEL.FCOS.TOP_LEVELS` has those of another builder.
TOP_LEVELS = {
    "build_regnet_fpn_backbone": 1,
    "build_resnet_fpn_backbone": 1,
    "build_retinanet_regnet_fpn_backbone": 2,
    "build_retinanet_resnet_fpn_backbone": 2,
}

OR_PASS = "or pass your data with --train-json, --train-images, --val-json and --val-images"

# A key in the words of a misfit.
KEY = re.compile(r"[A-Z]+(?:\.[A-Z_]+)+")

logger = logging.getLogger(__name__)


def check_config(cfg: CfgNode, *, training: bool, processes: int = 1) -> None:
    """Raise UserError for values that are wrong whatever the data, before anything is built.

    What the config names of projects is imported already.
    """
    values = values_by_key(cfg)
    for key, default in values_by_key(default_config()).items():
        value, rule = values.get(key, default), _rule_of(key, default)
        unread = value == default or (not training and key.startswith(OF_TRAINING))
        if not unread and not rule.allows(value):
            meant = did_you_mean(str(value), map(str, rule.names), form=repr)
            raise UserError(f"{key} must be {rule.words}, got {_shown(value)}{meant}")
    for words in _misfits(cfg, training, processes):
        given = " and ".join(_shown(values.get(key)) for key in KEY.findall(words))
        raise UserError(f"{words}, got {given}")
    if cfg.OPTIMIZE.ENABLED and cfg.OPTIMIZE.COMPILE:
        check_compiler(cfg.MODEL.DEVICE)
    if cfg.OPTIMIZE.ENABLED and training and cfg.OPTIMIZE.DTYPE != "float32":
        logger.warning(
            "OPTIMIZE.DTYPE %s is for trained models; the training takes its precision from "
            "SOLVER.AMP.ENABLED",
            cfg.OPTIMIZE.DTYPE,
        )


def check_datasets_exist(cfg: CfgNode, *, training: bool, files: bool = True) -> None:
    """Raise UserError where a dataset of a config is not registered, or has masks to be converted.

    Without `files`, only such masks are looked for.
    """
    registered = DatasetCatalog.list()
    for key in ("TRAIN", "TEST") if training else ("TEST",):
        names = cfg.DATASETS[key]
        check_semantic_datasets(names)
        if files and not names and (key == "TRAIN" or not training):
            raise UserError(f"DATASETS.{key} is empty; name registered datasets, {OR_PASS}")
        for name in names if files else ():
            if name not in registered:
                meant = did_you_mean(name, registered, form=repr)
                raise UserError(
                    f"DATASETS.{key} names '{name}', which is not registered{meant}; register it, "
                    f"{OR_PASS}"
                )


def check_semantic_datasets(names: Iterable[str]) -> None:
    """Raise MissingFileError for datasets whose masks are not there in detectron2's form."""
    for name in names:
        if name.startswith("shapes_sem_seg_") and name in DatasetCatalog.list():
            DatasetCatalog.get(name)  # lists the files, and says how to make missing ones
        if not name.startswith("ade20k_sem_seg_"):
            continue
        folder = Path(MetadataCatalog.get(name).sem_seg_root)
        if not folder.is_dir():
            root = folder.parent.parent
            raise MissingFileError(
                f"'{name}' has no masks for detectron2 in '{folder}'; unpack "
                f"ADEChallengeData2016.zip to '{root}', or set DETECTRON2_DATASETS to the folder "
                f"above, then: regnet-backbones prepare-ade20k {root}"
            )


def _rule_of(key: str, default: object) -> Rule:
    """Return the rule of a key: that of the tables, or to be of the type of its default."""
    parts = key.split(".")
    for end in (".".join(parts[start:]) for start in range(len(parts))):
        if end in RULES:
            return RULES[end]
        if end in _REGISTRIES:
            others = ["PrecomputedProposals"] if end == "PROPOSAL_GENERATOR.NAME" else []
            return choice(sorted(name for name, _ in _REGISTRIES[end]) + others)
    return like(default)


def _misfits(cfg: CfgNode, training: bool, processes: int) -> Iterator[str]:
    """Yield how keys must be that are right by themselves, and contradict each other.

    What detectron2 reports itself when it builds the model is left to it.
    """
    solver, images, crop = cfg.SOLVER, cfg.INPUT, cfg.INPUT.CROP
    if len(cfg.MODEL.PIXEL_MEAN) != len(cfg.MODEL.PIXEL_STD):
        yield "MODEL.PIXEL_MEAN and MODEL.PIXEL_STD must have one number for each channel"
    maps, of = _maps(cfg)
    for node in architecture_of(cfg).nodes if maps else ():
        is_read = node != "RPN" or cfg.MODEL.PROPOSAL_GENERATOR.NAME != "PrecomputedProposals"
        if is_read and not set(cfg.MODEL[node].IN_FEATURES) <= set(maps):
            yield f"MODEL.{node}.IN_FEATURES must be of the maps {', '.join(maps)}, that {of} gives"
    if not training:
        return
    if list(solver.STEPS) != sorted(set(solver.STEPS)):
        yield "SOLVER.STEPS must rise"
    if images.MIN_SIZE_TRAIN_SAMPLING == "range" and len(images.MIN_SIZE_TRAIN) != 2:
        yield (
            "INPUT.MIN_SIZE_TRAIN must be the lowest and highest size for "
            "INPUT.MIN_SIZE_TRAIN_SAMPLING 'range'"
        )
    is_relative = "relative" in crop.TYPE
    if crop.ENABLED and any(side > 1 if is_relative else side % 1 for side in crop.SIZE):
        kind = "shares up to 1" if is_relative else "whole numbers"
        yield f"INPUT.CROP.SIZE must be {kind} for INPUT.CROP.TYPE"
    if solver.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
        yield "SOLVER.AMP.ENABLED must be False without a GPU: mixed precision needs CUDA"
    if solver.IMS_PER_BATCH % processes:
        yield f"SOLVER.IMS_PER_BATCH must be a multiple of the {processes} processes"
    for node in ("REGNET", "FPN"):
        if processes > 1 and cfg.MODEL.DEVICE == "cpu" and cfg.MODEL[node].NORM == "SyncBN":
            yield f"MODEL.{node}.NORM 'SyncBN' needs GPUs in several processes; set 'BN'"


def _maps(cfg: CfgNode) -> tuple[list[str], str]:
    """Return the names of the maps that a backbone gives, none if not known, and what says so."""
    name = cfg.MODEL.BACKBONE.NAME
    if name == "build_regnet_backbone":
        return list(cfg.MODEL.REGNET.OUT_FEATURES), "MODEL.REGNET.OUT_FEATURES"
    if name not in {*TOP_LEVELS, *BUILDERS}:
        return [], ""
    levels = feature_levels(cfg.MODEL.FPN.IN_FEATURES).values()
    last = max(levels) + TOP_LEVELS.get(name, fcos_node(cfg).TOP_LEVELS)
    return [f"p{level}" for level in range(min(levels), last + 1)], "MODEL.FPN.IN_FEATURES"


def _shown(value: object) -> str:
    """Return a value as Python writes it, cut if it is long."""
    try:
        text = repr(value)
    except ValueError:  # of a number with thousands of digits
        return "a number of too many digits"
    return text if len(text) <= 200 else f"{text[:200]}..."
