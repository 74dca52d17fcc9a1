"""Values of a config that detectron2 takes as they are, and fails on when a run has begun."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from regnet_backbones.adapters.detectron2 import BUILDERS
from regnet_backbones.adapters.detectron2_config import fcos_node
from regnet_backbones.adapters.detectron2_network import feature_levels
from regnet_backbones.detection.config import default_config, values_by_key
from regnet_backbones.detection.config_rules import Choice, rule_of

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
            names = [str(name) for name in rule.names] if isinstance(rule, Choice) else []
            raise ValueError(
                f"{key} must be {rule}, got {_shown(value)}{_meant(str(value), names)}"
            )
    for problem in _misfits(cfg, unread):
        raise ValueError(problem)
    if not training:
        return
    if cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH must be a multiple of the {processes} processes, got "
            f"{cfg.SOLVER.IMS_PER_BATCH}"
        )
    synced = [key for key in OF_BACKBONES if _value(cfg, key) == "SyncBN"]
    if synced and processes > 1 and cfg.MODEL.DEVICE == "cpu":
        raise ValueError(
            f"{' and '.join(synced)} 'SyncBN' needs GPUs in several processes, got {processes} "
            "processes on the CPU; set it to 'BN' or 'FrozenBN', or run in one process"
        )


def check_datasets_exist(cfg: CfgNode, *, training: bool) -> None:
    """Check that the datasets of a config are registered, and what they are read from is there.

    Raises:
        ValueError: one is not registered, or none is named.
        FileNotFoundError: a file or folder is not there.
    """
    for key in ("TRAIN", "TEST") if training else ("TEST",):
        names = cfg.DATASETS[key]
        if not names and (key == "TRAIN" or not training):
            raise ValueError(
                f"DATASETS.{key} is empty; name registered datasets, such as "
                "\"('coco_2017_train',)\", or give one's own with --train-json, --train-images, "
                "--val-json and --val-images"
            )
        for name in names:
            _check_dataset(f"DATASETS.{key}", name)


def _check_dataset(key: str, name: str) -> None:
    registered = DatasetCatalog.list()
    if name not in registered:
        raise ValueError(
            f"{key} names '{name}', which is not registered{_meant(name, registered)}; detectron2 "
            "has its own datasets registered and the demo's; one's own are given with --train-json "
            "and the like, or registered in code that runs before"
        )
    metadata = MetadataCatalog.get(name)
    for place in PLACES:
        path = metadata.get(place)
        if not isinstance(path, str) or "://" in path or Path(path).exists():
            continue
        root = os.environ.get("DETECTRON2_DATASETS")
        where = f"is '{root}'" if root else "is not set, which means 'datasets' of this folder"
        raise FileNotFoundError(
            f"the dataset '{name}' of {key} has no '{path}'; set DETECTRON2_DATASETS to the folder "
            f"that holds it (it {where})"
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


def _misfits(cfg: CfgNode, unread: tuple[str, ...]) -> Iterator[str]:
    """Yield what does not fit together, of keys that are read and that are right by themselves."""

    def reads(key: str) -> bool:
        return not key.startswith(unread)

    model, solver, images = cfg.MODEL, cfg.SOLVER, cfg.INPUT
    if len(model.PIXEL_MEAN) != len(model.PIXEL_STD):
        yield (
            "MODEL.PIXEL_MEAN and MODEL.PIXEL_STD must have one number for each channel, got "
            f"{list(model.PIXEL_MEAN)} and {list(model.PIXEL_STD)}"
        )
    yield from _feature_misfits(cfg, reads)
    for name in ("RPN", "ROI_HEADS", "RETINANET"):
        if reads(f"MODEL.{name}.IOU_LABELS"):
            thresholds, labels = list(model[name].IOU_THRESHOLDS), list(model[name].IOU_LABELS)
            if thresholds != sorted(thresholds) or len(labels) != len(thresholds) + 1:
                yield (
                    f"MODEL.{name}.IOU_THRESHOLDS must be rising, and MODEL.{name}.IOU_LABELS one "
                    f"more, got {thresholds} and {labels}"
                )
    for key, channels in NORMED.items():
        unused = _value(cfg, f"{channels.rpartition('.')[0]}.NUM_CONV", 1) == 0
        if reads(key) and not unused and _value(cfg, key) == "GN" and _value(cfg, channels) % 32:
            yield f"{channels} must be a multiple of 32 for {key} 'GN', got {_value(cfg, channels)}"
    heads, box, cascade = model.ROI_HEADS, model.ROI_BOX_HEAD, model.ROI_BOX_CASCADE_HEAD
    if reads("MODEL.ROI_BOX_CASCADE_HEAD."):
        if not box.CLS_AGNOSTIC_BBOX_REG:
            yield (
                "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG must be True for CascadeROIHeads, got "
                "False"
            )
        count, first = len(cascade.BBOX_REG_WEIGHTS), heads.IOU_THRESHOLDS[0]
        if len(cascade.IOUS) != count or cascade.IOUS[0] != first:
            yield (
                "MODEL.ROI_BOX_CASCADE_HEAD.IOUS must be as many as its BBOX_REG_WEIGHTS, "
                f"{count}, and begin with MODEL.ROI_HEADS.IOU_THRESHOLDS, {first}, got "
                f"{list(cascade.IOUS)}"
            )
    if reads("MODEL.ROI_BOX_HEAD.NAME"):
        if box.NAME == "FastRCNNConvFCHead" and not box.NUM_FC + box.NUM_CONV:
            yield "MODEL.ROI_BOX_HEAD.NUM_FC or NUM_CONV must be 1 or more, got 0 and 0"
        mask = model.ROI_MASK_HEAD
        if reads("MODEL.ROI_MASK_HEAD.") and not mask.POOLER_TYPE and "Point" not in mask.NAME:
            yield f"MODEL.ROI_MASK_HEAD.POOLER_TYPE must be a pooler for {mask.NAME}, got ''"
    if not reads("SOLVER."):
        return
    steps = list(solver.STEPS)
    if steps != sorted(set(steps)):
        yield f"SOLVER.STEPS must be rising, got {steps}"
    if solver.NESTEROV and not solver.MOMENTUM:
        yield "SOLVER.MOMENTUM must be above 0 for SOLVER.NESTEROV, got 0"
    sizes = list(images.MIN_SIZE_TRAIN)
    if images.MIN_SIZE_TRAIN_SAMPLING == "range" and len(sizes) != 2:
        yield (
            "INPUT.MIN_SIZE_TRAIN must be the lowest and highest size for "
            f"INPUT.MIN_SIZE_TRAIN_SAMPLING 'range', got {sizes}"
        )
    if reads("INPUT.CROP."):
        kind = "shares up to 1" if "relative" in images.CROP.TYPE else "whole numbers"
        if any(side > 1 if kind[0] == "s" else side % 1 for side in images.CROP.SIZE):
            yield (
                f"INPUT.CROP.SIZE must be {kind} for INPUT.CROP.TYPE '{images.CROP.TYPE}', got "
                f"{list(images.CROP.SIZE)}"
            )


def _feature_misfits(cfg: CfgNode, reads: Callable[[str], bool]) -> Iterator[str]:
    """Yield which heads name maps that there are not, and anchors that do not fit their maps."""
    maps = _maps(cfg)
    for node in ("RPN", "ROI_HEADS", "SEM_SEG_HEAD", "RETINANET", "FCOS", "INS_EMBED_HEAD"):
        key = f"MODEL.{node}.IN_FEATURES"
        if not reads(key):
            continue
        names = list(_value(cfg, key))
        if maps and not set(names) <= set(maps):
            of = "MODEL.FPN.IN_FEATURES" if reads("MODEL.FPN.") else "MODEL.REGNET.OUT_FEATURES"
            yield f"{key} must be of the maps that {of} gives, {', '.join(maps)}; got {names}"
        levels = [int(name[1:]) for name in names if re.fullmatch(r"p\d", name)]
        if node == "ROI_HEADS" and levels and levels != list(range(levels[0], levels[-1] + 1)):
            yield f"{key} must be neighbours from fine to coarse, such as ['p2', 'p3'], got {names}"
        if node in ("RPN", "RETINANET") and reads("MODEL.ANCHOR_GENERATOR."):
            yield from _anchor_misfits(cfg.MODEL.ANCHOR_GENERATOR, key, len(names))


def _anchor_misfits(node: CfgNode, key: str, count: int) -> Iterator[str]:
    """Yield what is wrong with the anchors of so many maps, which a key names."""
    numbers = []
    for name in ("SIZES", "ASPECT_RATIOS"):
        rows = node[name] if isinstance(node[name][0], list | tuple) else [node[name]]
        if len(rows) not in (1, count):
            yield (
                f"MODEL.ANCHOR_GENERATOR.{name} must be one list, or one for each of the {count} "
                f"maps of {key}, got {len(rows)}"
            )
            return
        numbers.append([len(row) for row in rows] * (count // len(rows)))
    if len({sizes * ratios for sizes, ratios in zip(*numbers, strict=True)}) > 1:
        yield (
            "MODEL.ANCHOR_GENERATOR.SIZES and ASPECT_RATIOS must give every map as many anchors, "
            f"got {_shown(node.SIZES)} and {_shown(node.ASPECT_RATIOS)}"
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


def _meant(name: str, known: Sequence[str]) -> str:
    """Suggest the names that are written alike."""
    close = get_close_matches(name, known, n=2)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
