"""Values of a config that are wrong: each is one line that names its key, or a model is built."""

import math
import random

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import build_augmentation
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model

from regnet_backbones import config_path
from regnet_backbones.adapters.detectron2_projects import import_projects
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


def config(name=MASK, **settings):
    """Return a quick config with values that were never checked."""
    cfg = read_config(QUICK / f"{name}.yaml")
    cfg.MODEL.DEVICE = "cpu"
    import_projects(cfg)
    for key, value in settings.items():
        put(cfg, key.replace("__", "."), value)
    return cfg


def put(cfg, key, value):
    *nodes, last = key.split(".")
    for node in nodes:
        cfg = cfg[node]
    dict.__setitem__(cfg, last, value)


def build(cfg):
    """Build what a training builds, without memory for its weights."""
    build_augmentation(cfg, is_train=False)
    build_augmentation(cfg, is_train=True)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    DefaultTrainer.build_lr_scheduler(cfg, DefaultTrainer.build_optimizer(cfg, model))


def wrong_values(value, rng):
    """Return a value like another, and wrong in one of the ways that people and scripts are."""
    kinds = [
        None,
        -5,
        0,
        True,
        "x",
        math.nan,
        math.inf,
        -1.5,
        10**20,
        [],
        (),
        [[0]],
        [None],
        "",
        2.5,
    ]
    if isinstance(value, list | tuple) and value:
        kinds += [[*value, value[0]], list(value[:1]), [list(value)], [str(v) for v in value]]
        kinds += [list(reversed(value)), [-v if isinstance(v, int | float) else v for v in value]]
    return rng.choice(kinds)
