"""What a key of a config may be: a table of rules, each a value that is allowed and its words.

Detectron2 checks the type of a value and nothing else: not the values in a list, not their range.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from detectron2.layers import get_norm
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
)
from fvcore.common.registry import Registry

from regnet_backbones.adapters.detectron2.network import FEATURE_LEVELS
from regnet_backbones.adapters.detectron2.solver import FULL_MODEL, OPTIMIZERS
from regnet_backbones.backbone import OUTPUT_STRIDES
from regnet_backbones.norm import NORMS


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

    words = f"a{' whole' * whole} number"
    if low > -math.inf and high < math.inf:
        words += f" between {low} and {high:,}" if inside else f" from {low} to {high:,}"
    elif low > -math.inf:
        words += f" above {low}" if inside else f" of {low} or more"
    elif high < math.inf:
        words += f" of {high:,} or less"
    return Rule(words, allows)


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

    count = " or ".join(map(str, lengths)) or (f"{least} or more" if least else "any number of")
    return Rule(f"a list of {count} values, each {rule.words}", allows)


ANYTHING = Rule("anything", lambda value: True)
TEXT = accepted("text", lambda value: isinstance(value, str) and "\0" not in value)
TRUTH = choice((True, False))
COUNT, FROM_0, NOT_NEGATIVE = number(1, whole=True), number(0, whole=True), number(0)
SHARE, POSITIVE, PROBABILITY = number(0, 1), number(0, inside=True), number(0, 1, inside=True)
# Far above what is needed, and below what fills a machine's memory.
SIDE, WIDTH = number(0, 65536, whole=True), number(1, 65536, whole=True)
POOLERS = ("ROIAlign", "ROIAlignV2", "ROIPool", "ROIAlignRotated")
SCHEDULERS = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR", "WarmupPolyLR")
SAMPLERS = (
    "TrainingSampler",
    "RepeatFactorTrainingSampler",
    "RandomSubsetTrainingSampler",
    "WeightedTrainingSampler",
    "WeightedCategoryTrainingSampler",
)
# Rules and the keys that they are for, by as much of their end as is needed.
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
    (choice(OPTIMIZERS), "SOLVER.OPTIMIZER"),
    (choice(SCHEDULERS), "LR_SCHEDULER_NAME"),
    (choice(SAMPLERS), "SAMPLER_TRAIN"),
    (accepted("cpu, cuda, or one GPU such as cuda:1", torch.device), "MODEL.DEVICE"),
)  # fmt: skip
_RULES = {key: rule for rule, keys in _TABLE for key in keys.split()}

# Registries, whose names are known once the projects of a config are imported.
_REGISTRIES: dict[str, Registry] = {
    "META_ARCHITECTURE": META_ARCH_REGISTRY,
    "BACKBONE.NAME": BACKBONE_REGISTRY,
    "ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
    "PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "RPN.HEAD_NAME": RPN_HEAD_REGISTRY,
    "ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
    "ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
    "ROI_KEYPOINT_HEAD.NAME": ROI_KEYPOINT_HEAD_REGISTRY,
    "SEM_SEG_HEAD.NAME": SEM_SEG_HEADS_REGISTRY,
}


def rule_of(key: str, default: object) -> Rule:
    """Return the rule of a key: that of the tables, or to be of the type of its default."""
    parts = key.split(".")
    for end in (".".join(parts[start:]) for start in range(len(parts))):
        if end in _RULES:
            return _RULES[end]
        if end in _REGISTRIES:
            others = ["PrecomputedProposals"] if end == "PROPOSAL_GENERATOR.NAME" else []
            return choice(sorted(name for name, _ in _REGISTRIES[end]) + others)
    return _like(default)


def _like(default: object) -> Rule:
    """Return the rule of values like a default: of the same type, and nested as deep."""
    if isinstance(default, list | tuple):
        return each(_like(default[0]) if default else ANYTHING, least=0)
    if isinstance(default, bool):
        return TRUTH
    if isinstance(default, int | float):
        return number()
    return TEXT if isinstance(default, str) else ANYTHING
