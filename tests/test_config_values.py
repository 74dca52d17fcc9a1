"""Values of a config that are wrong: each is one line that names its key, or a model is built."""

import contextlib
import math
import random

import pytest
import torch
from detectron2.data.detection_utils import build_augmentation
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model

from regnet_backbones import config_path
from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.detection.config import read_config, values_by_key
from regnet_backbones.detection.config_checks import check_config

QUICK = config_path("detectron2/quick")
MASK, RETINANET, CASCADE, FCOS, PANOPTIC, C4, KEYPOINT = (
    f"{name}_regnet_small{neck}"
    for name, neck in (
        ("mask_rcnn", "_fpn"),
        ("retinanet", "_fpn"),
        ("cascade_mask_rcnn", "_fpn"),
        ("fcos", "_fpn"),
        ("panoptic_fpn", ""),
        ("mask_rcnn", "_c4"),
        ("keypoint_rcnn", "_fpn"),
    )
)


def config(name, key=None, value=None):
    """Return a quick config with a value that was never checked."""
    cfg = read_config(QUICK / f"{name}.yaml")
    cfg.MODEL.DEVICE = "cpu"
    import_projects(cfg)
    if key is not None:
        put(cfg, key, value)
    return cfg


def put(cfg, key, value):
    *nodes, last = key.split(".")
    for node in nodes:
        cfg = cfg[node]
    cfg[last] = value


def build(cfg):
    """Build what a training builds, without memory for its weights."""
    build_augmentation(cfg, is_train=False)
    build_augmentation(cfg, is_train=True)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    DefaultTrainer.build_lr_scheduler(cfg, DefaultTrainer.build_optimizer(cfg, model))


WRONG = [
    (MASK, "INPUT.MIN_SIZE_TEST", -5),
    (MASK, "INPUT.MIN_SIZE_TRAIN", ()),
    (MASK, "INPUT.MIN_SIZE_TRAIN", ("800",)),
    (MASK, "INPUT.MAX_SIZE_TRAIN", 0),
    (MASK, "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),  # of one size
    (MASK, "MODEL.ANCHOR_GENERATOR.SIZES", [[0]]),
    (MASK, "MODEL.ANCHOR_GENERATOR.SIZES", []),
    (MASK, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[-1.0]]),
    (MASK, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[[1.0]]]),
    (MASK, "MODEL.FPN.IN_FEATURES", ["res2"]),
    (MASK, "MODEL.FPN.IN_FEATURES", "res2"),
    (MASK, "MODEL.FPN.OUT_CHANNELS", 0),
    (MASK, "MODEL.FPN.OUT_CHANNELS", 10**12),
    (MASK, "MODEL.FPN.FUSE_TYPE", "max"),
    (MASK, "MODEL.BACKBONE.FREEZE_AT", -1),
    (MASK, "MODEL.REGNET.NORM", None),
    (MASK, "MODEL.REGNET.DROP_PATH_RATE", math.nan),
    (MASK, "MODEL.RPN.IN_FEATURES", ["p2", "p7"]),
    (MASK, "MODEL.RPN.BBOX_REG_WEIGHTS", (1.0, 1.0)),
    (MASK, "MODEL.RPN.NMS_THRESH", 7),
    (MASK, "MODEL.ROI_HEADS.NUM_CLASSES", 0),
    (MASK, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", -0.1),
    (MASK, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 0),
    (MASK, "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "RoIAlign"),
    (MASK, "MODEL.ROI_BOX_HEAD.NUM_FC", -1),
    (MASK, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", True),
    (MASK, "MODEL.ROI_MASK_HEAD.NAME", "MaskHead"),
    (MASK, "MODEL.PIXEL_STD", [0.0, 1.0, 1.0]),
    (MASK, "SEED", 10**20),
    (MASK, "SOLVER.BASE_LR", math.nan),
    (MASK, "SOLVER.BASE_LR", math.inf),
    (MASK, "SOLVER.BASE_LR", True),
    (MASK, "SOLVER.STEPS", (30, 20)),
    (MASK, "SOLVER.STEPS", 30),
    (MASK, "SOLVER.STEPS", ((30,),)),
    (MASK, "SOLVER.WARMUP_METHOD", "cosine"),
    (MASK, "SOLVER.MAX_ITER", 0),
    (MASK, "SOLVER.IMS_PER_BATCH", 0),
    (MASK, "SOLVER.OPTIMIZER", "LION"),
    (MASK, "SOLVER.LR_SCHEDULER_NAME", "Foo"),
    (MASK, "DATALOADER.NUM_WORKERS", -1),
    (MASK, "DATALOADER.SAMPLER_TRAIN", "Foo"),
    (MASK, "DATASETS.TRAIN", (1,)),
    (MASK, "INPUT.FORMAT", "GBR"),
    (MASK, "INPUT.MASK_FORMAT", "foo"),
    (MASK, "MODEL.ROI_HEADS.NAME", "StandardROIHead"),
    (MASK, "TEST.PICTURES_MIN_SCORE", 50.0),
    (RETINANET, "MODEL.RETINANET.PRIOR_PROB", 1.0),
    (RETINANET, "MODEL.RETINANET.IN_FEATURES", ["p2"]),
    (RETINANET, "MODEL.RETINANET.NUM_CLASSES", 2.5),
    (FCOS, "MODEL.FCOS.TOP_LEVELS", "2"),
    (FCOS, "MODEL.FCOS.POS_RADIUS", 0),
    (PANOPTIC, "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 3),
    (KEYPOINT, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (0,)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "key", "value"), WRONG)
def test_a_wrong_value_is_one_line_that_names_its_key(name, key, value):
    with pytest.raises(ValueError) as raised:
        check_config(config(name, key, value), training=True)
    message = str(raised.value)
    assert key in message
    assert "\n" not in message
    assert len(message) < 700


FINE = [
    (MASK, "INPUT.MIN_SIZE_TEST", 0),  # images keep their size
    (MASK, "MODEL.ANCHOR_GENERATOR.SIZES", [8.0, 16.0]),
    (MASK, "MODEL.ANCHOR_GENERATOR.SIZES", [[8, 16]]),
    (MASK, "SOLVER.STEPS", ()),
    (MASK, "SOLVER.STEPS", (10**9,)),  # beyond the end: no step is taken
    (MASK, "SOLVER.CLIP_GRADIENTS.NORM_TYPE", math.inf),
    (MASK, "SOLVER.WEIGHT_DECAY_BIAS", None),
    (MASK, "MODEL.ROI_BOX_HEAD.NORM", "GN"),
    (MASK, "SEED", -1),
]


@pytest.mark.parametrize(("name", "key", "value"), FINE)
def test_a_value_that_works_is_not_refused(name, key, value):
    cfg = config(name, key, value)
    check_config(cfg, training=True)
    build(cfg)


def test_what_only_a_training_reads_is_not_checked_for_an_evaluation():
    check_config(config(MASK, "SOLVER.MAX_ITER", 0), training=False)
    with pytest.raises(ValueError, match="POOLER_RESOLUTION"):
        check_config(config(MASK, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 0), training=False)


def wrong_value(value, rng):
    """Return a value like another, and wrong in one of the ways in which people are."""
    kinds = [None, -5, 0, True, "x", math.nan, math.inf, -1.5, 10**20, [], [[0]], [None], "", 2.5]
    if isinstance(value, list | tuple) and value:
        kinds += [[*value, value[0]], list(value[:1]), [list(value)], [str(v) for v in value]]
        kinds += [list(reversed(value)), [-v if isinstance(v, int | float) else v for v in value]]
    return rng.choice(kinds)


@pytest.mark.parametrize("name", [MASK, RETINANET, CASCADE, FCOS, PANOPTIC, C4, KEYPOINT])
def test_drawn_values_are_refused_by_name_or_a_model_is_built(name):
    rng, lines, draws = random.Random(name), {}, 20
    values = values_by_key(config(name))
    keys = [key for key in values if key.startswith(("MODEL.", "INPUT.", "SOLVER.", "SEED"))]
    keys = [key for key in keys if not key.startswith("MODEL.RESNETS")]
    for _ in range(draws):
        key = rng.choice(keys)
        cfg = config(name, key, wrong_value(values[key], rng))
        try:
            check_config(cfg, training=True)
        except ValueError as error:
            lines[key] = str(error)
            continue
        with contextlib.suppress(AssertionError, ValueError):  # detectron2's, of several keys
            build(cfg)
    assert 3 < len(lines) < draws
    assert [key for key, line in lines.items() if key not in line or "\n" in line] == []
