"""Values of a config that detectron2 takes in silence: each is one line that names its key."""

import math

import pytest

from regnet_backbones import config_path
from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.detection.config import read_config
from regnet_backbones.detection.config_checks import check_config

MASK, FCOS, RETINANET = (f"{name}_regnet_small_fpn" for name in ("mask_rcnn", "fcos", "retinanet"))


def config(name, values):
    """Return a quick config with values that were never checked."""
    cfg = read_config(config_path(f"detectron2/quick/{name}.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    import_projects(cfg)
    for key, value in values.items():
        node = cfg
        *nodes, last = key.split(".")
        for name in nodes:
            node = node[name]
        node[last] = value
    return cfg


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        (MASK, "INPUT.MIN_SIZE_TEST", -5),
        (MASK, "INPUT.MIN_SIZE_TRAIN", ()),
        (MASK, "INPUT.MIN_SIZE_TRAIN", ("800",)),
        (MASK, "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),  # of one size
        (MASK, "INPUT.FORMAT", "GBR"),
        (MASK, "INPUT.MASK_FORMAT", "foo"),
        (MASK, "MODEL.BACKBONE.FREEZE_AT", -1),
        (MASK, "MODEL.REGNET.NORM", None),
        (MASK, "MODEL.RPN.IN_FEATURES", ["p2", "p7"]),
        (MASK, "MODEL.RPN.NMS_THRESH", 7),
        (MASK, "MODEL.ROI_MASK_HEAD.NAME", "MaskHead"),
        (MASK, "MODEL.PIXEL_STD", [0.0, 1.0, 1.0]),
        (MASK, "SOLVER.BASE_LR", math.inf),
        (MASK, "SOLVER.STEPS", (30, 20)),
        (MASK, "SOLVER.MAX_ITER", 0),
        (MASK, "SOLVER.MAX_ITER", None),  # no value behind the colon
        (MASK, "SOLVER.OPTIMIZER", "LION"),
        (MASK, "SOLVER.LAYER_DECAY", 0.0),
        (MASK, "SOLVER.BACKBONE_LR_FACTOR", -1.0),
        (MASK, "SOLVER.BASE_LR_END", 1.0),  # above BASE_LR
        (MASK, "SOLVER.EARLY_STOPPING.PATIENCE", -1),
        (MASK, "INPUT.AUGMENTATION", "os.path"),
        (MASK, "INPUT.AUGMENTATION", "no_such_module:build"),
        (MASK, "INPUT.AUGMENTATION", "math:build"),  # it has none
        (MASK, "INPUT.AUGMENTATION", "math:pi"),
        (MASK, "INPUT.AUGMENTATION", "builtins:type"),  # returns no list
        (MASK, "TEST.PICTURES_MIN_SCORE", 50.0),
        (MASK, "MODEL.EMA.DECAY", 1.0),
        (RETINANET, "MODEL.RETINANET.IN_FEATURES", ["p2"]),
        (FCOS, "MODEL.FCOS.POS_RADIUS", 0),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_key(name, key, value):
    with pytest.raises(ValueError, match=key) as raised:
        check_config(config(name, {key: value}), training=True)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "size", "is_fine"),
    [
        ("absolute", [512, 512], True),
        ("absolute", [0.9, 0.9], False),
        ("relative_range", [0.9, 0.9], True),
        ("relative_range", [512, 512], False),
    ],
)
def test_crops_are_shares_or_pixels(kind, size, is_fine):
    cfg = config(MASK, {"INPUT.CROP.ENABLED": True, "INPUT.CROP.TYPE": kind})
    cfg.INPUT.CROP.SIZE = size
    if is_fine:
        check_config(cfg, training=True)
    else:
        with pytest.raises(ValueError, match=r"INPUT.CROP.SIZE must be .* for INPUT.CROP.TYPE"):
            check_config(cfg, training=True)


def test_values_that_work_are_not_refused():
    values = {
        "INPUT.MIN_SIZE_TEST": 0,  # images keep their size
        "SOLVER.STEPS": (),
        "SOLVER.WEIGHT_DECAY_BIAS": None,
        "SOLVER.CLIP_GRADIENTS.NORM_TYPE": math.inf,
        "MODEL.ROI_BOX_HEAD.NORM": "GN",
        "SEED": -1,
    }
    check_config(config(MASK, values), training=True)


def test_what_only_a_training_reads_is_not_checked_for_an_evaluation():
    check_config(config(MASK, {"SOLVER.MAX_ITER": 0}), training=False)
    with pytest.raises(ValueError, match="MIN_SIZE_TEST"):
        check_config(config(MASK, {"INPUT.MIN_SIZE_TEST": -1}), training=False)
