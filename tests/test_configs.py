"""Every config that is shipped loads and builds the model it names."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.projects.deeplab import DeepLabV3PlusHead

from regnet_backbones import config_path, zoo
from regnet_backbones.detection.config import get_config, read_config

ROOT = config_path("detectron2")
CONFIGS = sorted(ROOT.rglob("*.yaml"))
# Bases name no network, recipes do.
RECIPES = [path for path in CONFIGS if not path.name.startswith("Base-")]
FILE_NAME = re.compile(
    r"(mask_rcnn|semantic_fpn|deeplab_v3_plus)_(regnet[xyzv]_\d+|regnet_small)_"
    r"(fpn|fpn_1x|fpn_3x|ade20k_160k|shapes)\.yaml"
)


def load(path):
    cfg = read_config(path)
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def test_all_configs_are_seen():
    names = {str(path.relative_to(ROOT)) for path in CONFIGS}
    coco = {
        f"mask_rcnn_{name}_fpn_{schedule}.yaml"
        for name in ("regnetx_032", "regnety_032", "regnety_040")
        for schedule in ("1x", "3x")
    }
    ade20k = {
        f"{head}_{name}_ade20k_160k.yaml"
        for head in ("semantic_fpn", "deeplab_v3_plus")
        for name in ("regnety_032", "regnety_040")
    }
    quick = {
        "quick/Base-Shapes.yaml",
        "quick/Base-Shapes-SemSeg.yaml",
        "quick/mask_rcnn_regnet_small_fpn.yaml",
        "quick/mask_rcnn_regnetx_002_fpn.yaml",
        "quick/semantic_fpn_regnet_small_shapes.yaml",
        "quick/deeplab_v3_plus_regnet_small_shapes.yaml",
    }
    bases = {f"Base-RegNet-{kind}.yaml" for kind in ("FPN", "SemSeg", "SemanticFPN")}
    assert names == coco | ade20k | quick | bases | {"Base-RegNet-DeepLabV3Plus.yaml"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_recipe_builds_the_network_of_its_file_name(path):
    cfg = load(path)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    family, name, _ = FILE_NAME.fullmatch(path.name).groups()
    dilated = family == "deeplab_v3_plus"
    bottom_up = model.backbone if dilated else model.backbone.bottom_up
    if name == "regnet_small":
        channels = (48, 96, 160, 288)
        assert [stage.depth for stage in bottom_up.design.stages] == [1, 2, 3, 1]
    else:
        channels = zoo.get(name).channels[1:]
        assert bottom_up.name == name
    assert tuple(bottom_up.channels.values()) == (channels[::3] if dilated else channels)
    assert tuple(bottom_up.strides.values()) == ((4, 16) if dilated else (4, 8, 16, 32))
    if family == "mask_rcnn":
        assert model.roi_heads.mask_on
    else:
        assert isinstance(model.sem_seg_head, DeepLabV3PlusHead) is dilated
        classes = MetadataCatalog.get(cfg.DATASETS.TEST[0]).stuff_classes
        assert model.sem_seg_head.predictor.out_channels == len(classes)


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


@pytest.mark.parametrize("path", [*ROOT.glob("*_ade20k_160k.yaml")], ids=lambda p: p.name)
def test_the_schedule_of_ade20k_is_mmsegmentations(path):
    """Its `schedule_160k.py` and `ade20k.py`: what its published results were trained with."""
    cfg = load(path)
    solver, images, crop = cfg.SOLVER, cfg.INPUT, cfg.INPUT.CROP
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.MOMENTUM) == ("SGD", 0.01, 0.9)
    assert (solver.WEIGHT_DECAY, solver.IMS_PER_BATCH, solver.MAX_ITER) == (5e-4, 16, 160000)
    assert (solver.LR_SCHEDULER_NAME, solver.POLY_LR_POWER) == ("WarmupPolyLR", 0.9)
    assert solver.BASE_LR * solver.POLY_LR_CONSTANT_ENDING == pytest.approx(1e-4)
    assert (crop.ENABLED, crop.SIZE, crop.SINGLE_CATEGORY_MAX_AREA) == (True, [512, 512], 0.75)
    assert (images.MIN_SIZE_TRAIN_SAMPLING, images.MIN_SIZE_TRAIN) == ("range", (256, 1024))
    assert (images.MIN_SIZE_TEST, images.MAX_SIZE_TEST) == (512, 2048)
    assert cfg.MODEL.REGNET.NORM == cfg.MODEL.SEM_SEG_HEAD.NORM == "SyncBN"


def keys(cfg, prefix=""):
    for key, value in cfg.items():
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_the_keys_of_semantic_segmentation_change_no_default():
    ours, theirs = dict(keys(get_config())), dict(keys(get_cfg()))
    assert {key: ours[key] for key in theirs} == theirs
    assert {"SOLVER.POLY_LR_POWER", "INPUT.COLOR_AUG_SSD"} <= set(ours) - set(theirs)


@pytest.mark.parametrize("path", [*ROOT.rglob("mask_rcnn*.yaml")], ids=lambda p: p.name)
def test_a_detectors_config_needs_no_keys_but_those_of_get_cfg(path):
    """What a training writes, any tool of detectron2's reads."""
    assert dict(keys(load(path))).keys() == dict(keys(get_cfg())).keys()


def test_what_only_a_segmenter_heeds_is_refused_in_a_detectors_config():
    path = ROOT / "mask_rcnn_regnety_032_fpn_1x.yaml"
    with pytest.raises(ValueError, match="Non-existent key: INPUT.COLOR_AUG_SSD"):
        read_config(path, ["INPUT.COLOR_AUG_SSD", "True"])
    poly = read_config(path, ["SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR"])
    assert poly.SOLVER.POLY_LR_POWER == 0.9


def test_a_dilated_backbone_under_an_fpn_is_refused():
    cfg = load(ROOT / "semantic_fpn_regnety_032_ade20k_160k.yaml")
    cfg.MODEL.REGNET.OUTPUT_STRIDE = 16
    with pytest.raises(ValueError, match="set MODEL.BACKBONE.NAME to 'build_regnet_backbone'"):
        build_model(cfg)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_recipe_is_short(path):
    assert len(path.read_text().splitlines()) <= 8
    assert yaml.safe_load(path.read_text().replace("_BASE_", "BASE"))["BASE"]


def test_an_unknown_config_is_answered_with_those_there_are():
    assert isinstance(config_path("detectron2/Base-RegNet-FPN.yaml"), Path)
    with pytest.raises(FileNotFoundError, match="mask_rcnn_regnety_032_fpn_1x.yaml"):
        config_path("detectron2/mask_rcnn_regnety_32.yaml")
