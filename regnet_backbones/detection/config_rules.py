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

from regnet_backbones.adapters.detectron2_network import FEATURE_LEVELS
from regnet_backbones.adapters.detectron2_solver import FULL_MODEL, OPTIMIZERS
from regnet_backbones.backbone import OUTPUT_STRIDES
from regnet_backbones.norm import NORMS


@dataclass(frozen=True)
class Number:
    """A finite number from `low` to `high`, both of which `open` leaves out."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    open: bool = False

    def allows(self, value: object) -> bool:
        """Return whether a value is such a number; True and False are not."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        inside = self.low < value < self.high if self.open else self.low <= value <= self.high
        return inside and abs(value) < math.inf

    def __str__(self) -> str:
        """Return its words: "a whole number of 1 or more"."""
        kind = "a whole number" if self.whole else "a number"
        if math.isinf(self.low):
            return kind if math.isinf(self.high) else f"{kind} of {self.high:,} or less"
        if math.isinf(self.high):
            return f"{kind} above {self.low}" if self.open else f"{kind} of {self.low} or more"
        if self.open:
            return f"{kind} between {self.low} and {self.high:,}"
        return f"{kind} from {self.low} to {self.high:,}"


@dataclass(frozen=True)
class Choice:
    """One of some values, or one of the names in a registry."""

    values: Sequence[object] | Registry

    def allows(self, value: object) -> bool:
        """Return whether a value is one of them."""
        return value in self.names

    def __str__(self) -> str:
        """Return its words: "one of sum, avg"."""
        return f"one of {', '.join(str(name) or repr(name) for name in self.names)}"

    @property
    def names(self) -> Sequence[object]:
        """Return what there is to choose from."""
        registry = isinstance(self.values, Registry)
        return sorted(name for name, _ in self.values) if registry else self.values


@dataclass(frozen=True)
class Accepted:
    """What a function accepts; it raises an error for everything else."""

    words: str
    function: Callable[[object], object]

    def allows(self, value: object) -> bool:
        """Return whether the function accepts a value."""
        try:
            self.function(value)
        except (KeyError, TypeError, AttributeError, RuntimeError):
            return False
        return True

    def __str__(self) -> str:
        """Return its words."""
        return self.words


@dataclass(frozen=True)
class Either:
    """What one of some rules allows."""

    rules: tuple["Rule", ...]

    def allows(self, value: object) -> bool:
        """Return whether one of them allows a value."""
        return any(rule.allows(value) for rule in self.rules)

    def __str__(self) -> str:
        """Return the words of all."""
        return ", or ".join(map(str, self.rules))


@dataclass(frozen=True)
class Each:
    """A list of values that a rule allows: at least `least` of them, or one of `lengths`."""

    rule: "Rule"
    least: int = 1
    lengths: tuple[int, ...] = ()

    def allows(self, value: object) -> bool:
        """Return whether a value is such a list."""
        return (
            isinstance(value, list | tuple)
            and (len(value) in self.lengths if self.lengths else len(value) >= self.least)
            and all(map(self.rule.allows, value))
        )

    def __str__(self) -> str:
        """Return its words: "a list of 2 values, each a number above 0"."""
        count = " or ".join(map(str, self.lengths)) or (f"{self.least} or more" * (self.least > 0))
        return f"a list of {count} values, each {self.rule}".replace("  ", " ")


Rule = Number | Choice | Accepted | Either | Each


def _require(holds: bool) -> None:
    if not holds:
        raise TypeError


ANYTHING = Accepted("anything", lambda value: None)
TEXT = Accepted("text", lambda value: _require(isinstance(value, str) and "\0" not in value))
TRUTH = Choice((True, False))
COUNT, FROM_0, NOT_NEGATIVE = Number(1, whole=True), Number(0, whole=True), Number(0)
SHARE, POSITIVE, PROBABILITY = Number(0, 1), Number(0, open=True), Number(0, 1, open=True)
# Far above what is needed, and below what fills a machine's memory.
SIDE, WIDTH = Number(0, 65536, whole=True), Number(1, 65536, whole=True)
CLASSES, RESOLUTION = Number(1, 1_000_000, whole=True), Number(1, 1024, whole=True)
LAYERS, WORKERS = Number(0, 100, whole=True), Number(0, 10_000, whole=True)
POOLERS = ("ROIAlign", "ROIAlignV2", "ROIPool", "ROIAlignRotated")
SCHEDULERS = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR", "WarmupPolyLR")
SAMPLERS = (
    "TrainingSampler",
    "RepeatFactorTrainingSampler",
    "RandomSubsetTrainingSampler",
    "WeightedTrainingSampler",
    "WeightedCategoryTrainingSampler",
)
NORM = Accepted(
    "one of '', BN, SyncBN, FrozenBN, GN, LN, nnSyncBN, naiveSyncBN, naiveSyncBN_N",
    lambda value: get_norm(value, 32),
)

# Rules and the keys that they are for, by as much of their end as is needed.
_TABLE: tuple[tuple[Rule, str], ...] = (
    (COUNT, "MAX_ITER IMS_PER_BATCH CHECKPOINT_PERIOD BATCH_SIZE_PER_IMAGE PRECISE_BN.NUM_ITER"),
    (COUNT, "PRE_NMS_TOPK_TRAIN PRE_NMS_TOPK_TEST POST_NMS_TOPK_TRAIN POST_NMS_TOPK_TEST"),
    (COUNT, "TOPK_CANDIDATES_TEST"),
    (FROM_0, "EVAL_PERIOD VIS_PERIOD CHECK_IMAGES PICTURES WARMUP_ITERS POOLER_SAMPLING_RATIO"),
    (FROM_0, "REFERENCE_WORLD_SIZE"),
    (Number(-1, 1_000_000, whole=True), "DETECTIONS_PER_IMAGE"),  # -1: all
    (Number(high=2**31 - 1, whole=True), "SEED"),  # below 0: another one in each run
    (Number(0, 5, whole=True), "FREEZE_AT"),
    (WORKERS, "NUM_WORKERS"),
    (LAYERS, "NUM_FC NUM_CONV NUM_CONVS"),
    (WIDTH, "OUT_CHANNELS FC_DIM CONV_DIM CONVS_DIM"),
    (Each(WIDTH), "ROI_KEYPOINT_HEAD.CONV_DIMS"),
    (Each(Either((WIDTH, Choice((-1,))))), "RPN.CONV_DIMS"),
    (CLASSES, "NUM_CLASSES NUM_KEYPOINTS"),
    (RESOLUTION, "POOLER_RESOLUTION"),
    (SIDE, "MIN_SIZE_TEST"),  # 0: images keep their size
    (Each(SIDE), "MIN_SIZE_TRAIN"),
    (WIDTH, "MAX_SIZE_TRAIN MAX_SIZE_TEST AUG.MAX_SIZE"),
    (Each(WIDTH), "AUG.MIN_SIZES"),
    (SHARE, "POSITIVE_FRACTION SCORE_THRESH_TEST NMS_THRESH NMS_THRESH_TEST NMS_TH"),
    (SHARE, "INFERENCE_TH_TEST OVERLAP_THRESH INSTANCES_CONFIDENCE_THRESH PICTURES_MIN_SCORE"),
    (SHARE, "REPEAT_THRESHOLD DROP_PATH_RATE MOMENTUM ANCHOR_GENERATOR.OFFSET"),
    (PROBABILITY, "PRIOR_PROB EMA.DECAY"),
    (Number(0.000001, 1), "RANDOM_SUBSET_RATIO"),
    (POSITIVE, "CLIP_VALUE POS_RADIUS"),
    (Either((POSITIVE, Choice((math.inf,)))), "CLIP_GRADIENTS.NORM_TYPE"),
    (NOT_NEGATIVE, "BASE_LR WEIGHT_DECAY WEIGHT_DECAY_NORM BIAS_LR_FACTOR GAMMA WARMUP_FACTOR"),
    (NOT_NEGATIVE, "SMOOTH_L1_BETA SMOOTH_L1_LOSS_BETA PROPOSAL_GENERATOR.MIN_SIZE"),
    (Either((NOT_NEGATIVE, Choice((None,)))), "WEIGHT_DECAY_BIAS"),
    (Each(COUNT, least=0), "SOLVER.STEPS"),
    (Each(POSITIVE, lengths=(2,)), "CROP.SIZE"),
    (Each(POSITIVE), "PIXEL_STD"),
    (Each(Number()), "PIXEL_MEAN"),
    (Each(POSITIVE, lengths=(4, 5)), "BBOX_REG_WEIGHTS"),  # 5 for rotated boxes
    (Each(Each(POSITIVE, lengths=(4,))), "ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS"),
    (Each(PROBABILITY), "IOU_THRESHOLDS ROI_BOX_CASCADE_HEAD.IOUS"),
    (Each(Choice((-1, 0, 1))), "IOU_LABELS"),
    (Either((Each(POSITIVE), Each(Each(POSITIVE)))), "SIZES ASPECT_RATIOS"),
    (Each(TEXT), "IN_FEATURES"),
    (Each(TEXT, least=0), "DATASETS.TRAIN DATASETS.TEST"),
    (Each(Choice(tuple(FEATURE_LEVELS))), "REGNET.OUT_FEATURES"),
    (Choice(OUTPUT_STRIDES), "OUTPUT_STRIDE"),
    (Choice((0, 1, 2)), "TOP_LEVELS"),
    (Choice((1, 2, 4, 8, 16, 32)), "COMMON_STRIDE"),
    (NORM, "NORM"),
    (Choice(NORMS), "REGNET.NORM"),
    (Choice(("sum", "avg")), "FUSE_TYPE"),
    (Choice(("smooth_l1", "giou", "diou", "ciou")), "BBOX_REG_LOSS_TYPE"),
    (Choice(POOLERS), "POOLER_TYPE"),
    (Choice((*POOLERS, "")), "ROI_MASK_HEAD.POOLER_TYPE"),  # "" in PointRend
    (Choice(("BGR", "RGB", "L", "YUV-BT.601")), "INPUT.FORMAT"),
    (Choice(("polygon", "bitmask")), "MASK_FORMAT"),
    (Choice(("choice", "range")), "MIN_SIZE_TRAIN_SAMPLING"),
    (Choice(("horizontal", "vertical", "none")), "RANDOM_FLIP"),
    (Choice(("relative", "relative_range", "absolute", "absolute_range")), "CROP.TYPE"),
    (Choice(("linear", "constant")), "WARMUP_METHOD"),
    (Choice(("value", "norm", FULL_MODEL)), "CLIP_TYPE"),
    (Choice(OPTIMIZERS), "SOLVER.OPTIMIZER"),
    (Choice(SCHEDULERS), "LR_SCHEDULER_NAME"),
    (Choice(SAMPLERS), "SAMPLER_TRAIN"),
    (Accepted("cpu, cuda, or one GPU such as cuda:1", torch.device), "MODEL.DEVICE"),
    (Choice(META_ARCH_REGISTRY), "META_ARCHITECTURE"),
    (Choice(BACKBONE_REGISTRY), "BACKBONE.NAME"),
    (Choice(ANCHOR_GENERATOR_REGISTRY), "ANCHOR_GENERATOR.NAME"),
    (Either((Choice(PROPOSAL_GENERATOR_REGISTRY), Choice(("PrecomputedProposals",)))),
     "PROPOSAL_GENERATOR.NAME"),
    (Choice(RPN_HEAD_REGISTRY), "RPN.HEAD_NAME"),
    (Choice(ROI_HEADS_REGISTRY), "ROI_HEADS.NAME"),
    (Choice(ROI_BOX_HEAD_REGISTRY), "ROI_BOX_HEAD.NAME"),
    (Choice(ROI_MASK_HEAD_REGISTRY), "ROI_MASK_HEAD.NAME"),
    (Choice(ROI_KEYPOINT_HEAD_REGISTRY), "ROI_KEYPOINT_HEAD.NAME"),
    (Choice(SEM_SEG_HEADS_REGISTRY), "SEM_SEG_HEAD.NAME"),
)  # fmt: skip
_RULES = {key: rule for rule, keys in _TABLE for key in keys.split()}


def rule_of(key: str, default: object) -> Rule:
    """Return the rule of a key: that of the table, or to be of the type of its default."""
    parts = key.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    return next((_RULES[end] for end in ends if end in _RULES), None) or _like(default)


def _like(default: object) -> Rule:
    """Return the rule of values like a default: of the same type, and nested as deep."""
    if isinstance(default, list | tuple):
        return Each(_like(default[0]) if default else ANYTHING, least=0)
    if isinstance(default, bool):
        return TRUTH
    if isinstance(default, int | float):
        return Number()
    return TEXT if isinstance(default, str) else ANYTHING
