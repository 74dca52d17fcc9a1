"""The table of architectures: what its rows name exists, and every shipped config has a row."""

from pkgutil import resolve_name

import pytest

from regnet_backbones import config_path
from regnet_backbones.detection.architectures import (
    ARCHITECTURES,
    OTHER,
    architecture_of,
    number_of_classes,
    outputs_of,
    title_of,
)
from regnet_backbones.detection.config import default_config, read_config, values_by_key


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_row_names_keys_and_a_mapper_that_exist(name):
    row, keys = ARCHITECTURES[name], values_by_key(default_config())
    assert not row.classes or row.classes in keys
    for node in row.nodes:
        assert any(key.startswith(f"MODEL.{node}") for key in keys)
    assert not row.mapper or callable(resolve_name(row.mapper))


def test_every_shipped_config_has_a_row():
    paths = sorted(config_path("detectron2/quick").glob("[a-z]*.yaml"))
    found = {path.stem: read_config(path) for path in paths}
    assert {cfg.MODEL.META_ARCHITECTURE for cfg in found.values()} <= ARCHITECTURES.keys()
    assert title_of(found["cascade_mask_rcnn_regnet_small_fpn"]) == "Cascade Mask R-CNN"
    assert title_of(found["keypoint_rcnn_regnet_small_fpn"]) == "Keypoint R-CNN"
    assert outputs_of(found["semantic_fpn_regnet_small_shapes"]) == ("sem_seg",)
    assert number_of_classes(found["fcos_regnet_small_fpn"]) == 5


def test_panoptic_deeplab_gives_instances_if_its_config_says_so():
    cfg = default_config()
    cfg.MODEL.META_ARCHITECTURE = "PanopticDeepLab"
    assert "instances" in outputs_of(cfg)
    cfg.MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES = False
    assert outputs_of(cfg) == ("sem_seg", "panoptic_seg")
    cfg.MODEL.META_ARCHITECTURE = "SomebodysOwn"
    assert architecture_of(cfg) is OTHER
