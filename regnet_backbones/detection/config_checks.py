"""Values of a config that detectron2 takes as they are, and fails on when a run has begun."""

import os
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from regnet_backbones.adapters.detectron2.builders import BUILDERS
from regnet_backbones.adapters.detectron2.config import fcos_node
from regnet_backbones.adapters.detectron2.network import feature_levels
from regnet_backbones.detection.config import default_config, did_you_mean, values_by_key
from regnet_backbones.detection.config_rules import rule_of
from regnet_backbones.errors import MissingFileError, UserError

# What a training alone reads.
OF_TRAINING = (
    "SOLVER.",
    "INPUT.CROP.",
    "INPUT.MIN_SIZE_TRAIN",
    "INPUT.MAX_SIZE_TRAIN",
    "INPUT.RANDOM_FLIP",
    "DATALOADER.SAMPLER_TRAIN",
    "DATALOADER.REPEAT_THRESHOLD",
    "DATALOADER.RANDOM_SUBSET_RATIO",
)

# The norms of every detector's backbone.
OF_BACKBONES = ("MODEL.REGNET.NORM", "MODEL.FPN.NORM")

# Levels on top of those of an FPN; `MODEL.FCOS.TOP_LEVELS` has those of another builder.
TOP_LEVELS = {
    "build_regnet_fpn_backbone": 1,
    "build_resnet_fpn_backbone": 1,
    "build_retinanet_regnet_fpn_backbone": 2,
    "build_retinanet_resnet_fpn_backbone": 2,
}

# Norms, and the channels that 32 groups must divide.
NORMED = {
    "MODEL.FPN.NORM": "MODEL.FPN.OUT_CHANNELS",
    "MODEL.RETINANET.NORM": "MODEL.FPN.OUT_CHANNELS",
    "MODEL.FCOS.NORM": "MODEL.FPN.OUT_CHANNELS",
    "MODEL.ROI_BOX_HEAD.NORM": "MODEL.ROI_BOX_HEAD.CONV_DIM",
    "MODEL.ROI_MASK_HEAD.NORM": "MODEL.ROI_MASK_HEAD.CONV_DIM",
    "MODEL.SEM_SEG_HEAD.NORM": "MODEL.SEM_SEG_HEAD.CONVS_DIM",
}

# A key in the words of a rule.
KEY = re.compile(r"[A-Z]+(?:\.[A-Z_]+)+")

# Where a dataset's metadata says what it is read from.
PLACES = ("json_file", "panoptic_json", "image_root", "image_dir", "dirname")


def check_config(cfg: CfgNode, *, training: bool, processes: int = 1) -> None:
    """Check values that are wrong whatever the data, before anything is built.

    Args:
        cfg: of a run; what it names of projects is imported already.
        training: not only an evaluation.
        processes: how many run.

    Raises:
        ValueError: with the key, what it may be, and what it is.
    """
    unread = _unread(cfg) + (() if training else OF_TRAINING)
    for key, default in values_by_key(default_config()).items():
        if key.startswith(unread):
            continue
        value, rule = _value(cfg, key, default), rule_of(key, default)
        if not rule.allows(value):
            meant = did_you_mean(str(value), map(str, rule.names), form=repr)
            raise UserError(f"{key} must be {rule.words}, got {_shown(value)}{meant}")
    for is_wrong, words in _misfits(cfg, lambda key: not key.startswith(unread), processes):
        if is_wrong:
            values = " and ".join(_shown(_value(cfg, key)) for key in KEY.findall(words))
            raise UserError(f"{words}, got {values}")


def check_datasets_exist(cfg: CfgNode, *, training: bool) -> None:
    """Check that the datasets of a config are registered, and what they are read from is there.

    Raises:
        ValueError: one is not registered, or none is named.
        FileNotFoundError: a file or folder is not there.
    """
    registered = DatasetCatalog.list()
    for key in ("TRAIN", "TEST") if training else ("TEST",):
        names = cfg.DATASETS[key]
        if not names and (key == "TRAIN" or not training):
            raise UserError(
                f"DATASETS.{key} is empty; name registered datasets, such as "
                "\"('coco_2017_train',)\", or give your data with --train-json, --train-images, "
                "--val-json and --val-images"
            )
        for name in names:
            if name not in registered:
                meant = did_you_mean(name, registered, form=repr)
                raise UserError(
                    f"DATASETS.{key} names '{name}', which is not registered{meant}; register it "
                    "in code that runs before, or give your data with --train-json and the like"
                )
            metadata = MetadataCatalog.get(name)
            paths = [metadata.get(place) for place in PLACES]
            paths = [path for path in paths if isinstance(path, str) and "://" not in path]
            missing = next((path for path in paths if not Path(path).exists()), None)
            if missing is not None:
                root = os.environ.get("DETECTRON2_DATASETS")
                where = f"'{root}'" if root else "not set, which means 'datasets' of this folder"
                raise MissingFileError(
                    f"the dataset '{name}' of DATASETS.{key} has no '{missing}'; set "
                    f"DETECTRON2_DATASETS to the folder that holds it (it is {where})"
                )


def _unread(cfg: CfgNode) -> tuple[str, ...]:
    """Return how keys begin that nothing of this config reads."""
    model = cfg.MODEL
    architecture, backbone = model.META_ARCHITECTURE, model.BACKBONE.NAME
    regions = architecture in ("GeneralizedRCNN", "PanopticFPN")
    proposals = regions or architecture == "ProposalNetwork"
    rpn = proposals and model.PROPOSAL_GENERATOR.NAME == "RPN"
    standard = regions and model.ROI_HEADS.NAME in ("StandardROIHeads", "CascadeROIHeads")
    read = {
        "MODEL.REGNET.": backbone in BUILDERS,
        "MODEL.RESNETS.": "resnet" in str(backbone),
        "MODEL.FPN.": "fpn" in str(backbone),
        "MODEL.PROPOSAL_GENERATOR.": proposals,
        "MODEL.RPN.": rpn,
        "MODEL.ANCHOR_GENERATOR.": rpn or architecture == "RetinaNet",
        "MODEL.ROI_": regions,
        "MODEL.ROI_BOX_HEAD.NAME": standard,
        "MODEL.ROI_BOX_CASCADE_HEAD.": regions and model.ROI_HEADS.NAME == "CascadeROIHeads",
        "MODEL.ROI_MASK_HEAD.": model.MASK_ON,
        "MODEL.ROI_KEYPOINT_HEAD.": model.KEYPOINT_ON,
        "MODEL.SEM_SEG_HEAD.": architecture in ("PanopticFPN", "SemanticSegmentor"),
        "MODEL.PANOPTIC_FPN.": architecture == "PanopticFPN",
        "MODEL.RETINANET.": architecture == "RetinaNet",
        "MODEL.FCOS.": "FCOS" in f"{architecture} {backbone}".upper(),
        "MODEL.POINT_HEAD.": "PointRend" in f"{model.ROI_MASK_HEAD.NAME} {model.SEM_SEG_HEAD.NAME}",
        "MODEL.INS_EMBED_HEAD.": architecture == "PanopticDeepLab",
        "MODEL.PANOPTIC_DEEPLAB.": architecture == "PanopticDeepLab",
        "MODEL.EMA.": model.get("EMA", {}).get("ENABLED", False),
        "TEST.AUG.": cfg.TEST.AUG.ENABLED,
        "INPUT.CROP.": cfg.INPUT.CROP.ENABLED,
        "SOLVER.CLIP_GRADIENTS.": cfg.SOLVER.CLIP_GRADIENTS.ENABLED,
    }
    return tuple(start for start, is_read in read.items() if not is_read)


def _misfits(
    cfg: CfgNode, reads: Callable[[str], bool], processes: int
) -> Iterator[tuple[bool, str]]:
    """Yield whether keys that are right by themselves contradict each other, and how they must be.

    `reads` returns whether anything reads a key.
    """
    model, solver, images = cfg.MODEL, cfg.SOLVER, cfg.INPUT
    yield (
        len(model.PIXEL_MEAN) != len(model.PIXEL_STD),
        "MODEL.PIXEL_MEAN and MODEL.PIXEL_STD must have one number for each channel",
    )
    yield from _feature_misfits(cfg, reads)
    for name in ("RPN", "ROI_HEADS", "RETINANET"):
        if reads(f"MODEL.{name}.IOU_LABELS"):
            thresholds, labels = list(model[name].IOU_THRESHOLDS), model[name].IOU_LABELS
            yield (
                thresholds != sorted(thresholds) or len(labels) != len(thresholds) + 1,
                f"MODEL.{name}.IOU_THRESHOLDS must rise, and MODEL.{name}.IOU_LABELS be one more",
            )
    for key, channels in NORMED.items():
        unused = _value(cfg, f"{channels.rpartition('.')[0]}.NUM_CONV", 1) == 0
        if reads(key) and not unused and _value(cfg, key) == "GN":
            words = f"{channels} must be a multiple of 32 for {key} 'GN'"
            yield _value(cfg, channels) % 32 != 0, words
    heads, box, mask = model.ROI_HEADS, model.ROI_BOX_HEAD, model.ROI_MASK_HEAD
    if reads("MODEL.ROI_BOX_CASCADE_HEAD."):
        words = "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG must be True for CascadeROIHeads"
        yield not box.CLS_AGNOSTIC_BBOX_REG, words
        ious, name = model.ROI_BOX_CASCADE_HEAD.IOUS, "MODEL.ROI_BOX_CASCADE_HEAD"
        yield (
            len(ious) != len(model.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS)
            or ious[0] != heads.IOU_THRESHOLDS[0],
            f"{name}.IOUS must be as many as {name}.BBOX_REG_WEIGHTS, and begin with "
            "MODEL.ROI_HEADS.IOU_THRESHOLDS",
        )
    if reads("MODEL.ROI_BOX_HEAD.NAME"):
        yield (
            box.NAME == "FastRCNNConvFCHead" and not box.NUM_FC + box.NUM_CONV,
            "MODEL.ROI_BOX_HEAD.NUM_FC or MODEL.ROI_BOX_HEAD.NUM_CONV must be 1 or more",
        )
        yield (
            reads("MODEL.ROI_MASK_HEAD.") and not mask.POOLER_TYPE and "Point" not in mask.NAME,
            "MODEL.ROI_MASK_HEAD.POOLER_TYPE must be a pooler for MODEL.ROI_MASK_HEAD.NAME",
        )
    if not reads("SOLVER."):
        return
    yield list(solver.STEPS) != sorted(set(solver.STEPS)), "SOLVER.STEPS must rise"
    words = "SOLVER.MOMENTUM must be above 0 for SOLVER.NESTEROV"
    yield solver.NESTEROV and not solver.MOMENTUM, words
    yield (
        images.MIN_SIZE_TRAIN_SAMPLING == "range" and len(images.MIN_SIZE_TRAIN) != 2,
        "INPUT.MIN_SIZE_TRAIN must be the lowest and highest size for "
        "INPUT.MIN_SIZE_TRAIN_SAMPLING 'range'",
    )
    if reads("INPUT.CROP."):
        relative = "relative" in images.CROP.TYPE
        yield (
            any(side > 1 if relative else side % 1 for side in images.CROP.SIZE),
            f"INPUT.CROP.SIZE must be {'shares up to 1' if relative else 'whole numbers'} for "
            "INPUT.CROP.TYPE",
        )
    yield (
        solver.IMS_PER_BATCH % processes != 0,
        f"SOLVER.IMS_PER_BATCH must be a multiple of the {processes} processes",
    )
    for key in OF_BACKBONES:
        yield (
            processes > 1 and model.DEVICE == "cpu" and _value(cfg, key) == "SyncBN",
            f"{key} 'SyncBN' needs GPUs in several processes, or one process; or set it to 'BN' or "
            "'FrozenBN'",
        )


def _feature_misfits(cfg: CfgNode, reads: Callable[[str], bool]) -> Iterator[tuple[bool, str]]:
    """Yield what must hold of the maps that heads name, and of the anchors on them."""
    maps = _maps(cfg)
    for node in ("RPN", "ROI_HEADS", "SEM_SEG_HEAD", "RETINANET", "FCOS", "INS_EMBED_HEAD"):
        key = f"MODEL.{node}.IN_FEATURES"
        if not reads(key):
            continue
        names = list(_value(cfg, key))
        of = "MODEL.FPN.IN_FEATURES" if reads("MODEL.FPN.") else "MODEL.REGNET.OUT_FEATURES"
        words = f"{key} must be of the maps {', '.join(maps)}, which come from {of}"
        yield bool(maps) and not set(names) <= set(maps), words
        levels = [int(name[1:]) for name in names if re.fullmatch(r"p\d", name)]
        yield (
            node == "ROI_HEADS" and any(b - a != 1 for a, b in pairwise(levels)),
            f"{key} must be neighbours from fine to coarse, such as ['p2', 'p3']",
        )
        if node not in ("RPN", "RETINANET") or not reads("MODEL.ANCHOR_GENERATOR."):
            continue
        numbers = []
        for name in ("SIZES", "ASPECT_RATIOS"):
            rows = cfg.MODEL.ANCHOR_GENERATOR[name]
            rows = rows if isinstance(rows[0], list | tuple) else [rows]
            words = f"MODEL.ANCHOR_GENERATOR.{name} must be one list, or one for each map of {key}"
            yield len(rows) not in (1, len(names)), words
            numbers.append([len(row) for row in rows] * (len(names) // len(rows)))
        yield (
            len({sizes * ratios for sizes, ratios in zip(*numbers, strict=True)}) > 1,
            "MODEL.ANCHOR_GENERATOR.SIZES and MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS must give every "
            "map as many anchors",
        )


def _maps(cfg: CfgNode) -> list[str]:
    """Return the names of the maps that a backbone gives; none where that is not known."""
    name = cfg.MODEL.BACKBONE.NAME
    if name == "build_regnet_backbone":
        return list(cfg.MODEL.REGNET.OUT_FEATURES)
    if name not in {*TOP_LEVELS, *BUILDERS}:
        return []
    levels = feature_levels(cfg.MODEL.FPN.IN_FEATURES).values()
    top = TOP_LEVELS.get(name, fcos_node(cfg).TOP_LEVELS)
    return [f"p{level}" for level in range(min(levels), max(levels) + top + 1)]


def _shown(value: object) -> str:
    """Return a value as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # of a number with thousands of digits
        return "a number of too many digits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _value(cfg: CfgNode, key: str, default: object = None) -> object:
    """Return what a config has at a dotted key."""
    for part in key.split("."):
        if not isinstance(cfg, CfgNode) or part not in cfg:
            return default
        cfg = cfg[part]
    return cfg
