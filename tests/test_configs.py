"""Every config that is shipped loads and builds the model it names."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from regnet_backbones import config_path, zoo

ROOT = config_path("detectron2")
CONFIGS = sorted(ROOT.rglob("*.yaml"))
# Bases name no network, recipes do.
RECIPES = [path for path in CONFIGS if not path.name.startswith("Base-")]


def load(path):
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def test_all_configs_are_seen():
    names = {str(path.relative_to(ROOT)) for path in CONFIGS}
    coco = {
        f"mask_rcnn_{name}_fpn_{schedule}.yaml"
        for name in ("regnetx_032", "regnety_032", "regnety_040")
        for schedule in ("1x", "3x")
    }
    quick = {
        "quick/Base-Shapes.yaml",
        "quick/mask_rcnn_regnet_small_fpn.yaml",
        "quick/mask_rcnn_regnetx_002_fpn.yaml",
    }
    assert names == coco | quick | {"Base-RegNet-FPN.yaml"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_recipe_builds_the_network_of_its_file_name(path):
    cfg = load(path)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    name = re.match(r"mask_rcnn_(regnet[xyzv]_\d+|regnet_small)_fpn", path.name)[1]
    bottom_up = model.backbone.bottom_up
    if name == "regnet_small":
        assert tuple(bottom_up.channels.values()) == (48, 96, 160, 288)
        assert [stage.depth for stage in bottom_up.design.stages] == [1, 2, 3, 1]
    else:
        assert bottom_up.name == name
        assert tuple(bottom_up.channels.values()) == zoo.get(name).channels[1:]
    assert model.roi_heads.mask_on


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(ROOT)))
def test_pixels_are_normalised_as_the_weights_expect(path):
    cfg = load(path)
    row = zoo.get(cfg.MODEL.REGNET.NAME or "regnetx_002")
    tag = cfg.MODEL.WEIGHTS.rpartition(".")[2] or row.default_tag
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.PIXEL_MEAN == pytest.approx([255 * v for v in row.weights[tag].mean])
    assert cfg.MODEL.PIXEL_STD == pytest.approx([255 * v for v in row.weights[tag].std])
    if cfg.MODEL.WEIGHTS:
        assert cfg.MODEL.WEIGHTS == f"timm://{row.name}.{tag}"
    else:
        assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
        assert cfg.MODEL.REGNET.NORM == "BN"


@pytest.mark.parametrize(
    ("schedule", "steps", "iterations"),
    [("1x", (60000, 80000), 90000), ("3x", (210000, 250000), 270000)],
)
def test_schedules_are_detectron2s(schedule, steps, iterations):
    """At 16 images an iteration, 90k iterations are 12 epochs of COCO."""
    for path in ROOT.glob(f"*_{schedule}.yaml"):
        solver = load(path).SOLVER
        assert (solver.STEPS, solver.MAX_ITER, solver.IMS_PER_BATCH) == (steps, iterations, 16)
        assert solver.WEIGHT_DECAY == 5e-5


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_recipe_is_short(path):
    assert len(path.read_text().splitlines()) <= 8
    assert yaml.safe_load(path.read_text().replace("_BASE_", "BASE"))["BASE"]


def test_an_unknown_config_is_answered_with_those_there_are():
    assert isinstance(config_path("detectron2/Base-RegNet-FPN.yaml"), Path)
    with pytest.raises(FileNotFoundError, match="mask_rcnn_regnety_032_fpn_1x.yaml"):
        config_path("detectron2/mask_rcnn_regnety_32.yaml")
