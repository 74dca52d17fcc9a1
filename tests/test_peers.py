"""Peers train under the conditions of a run, frameworks alike, on the demo's images."""

import json

import pytest
import yaml

from benchmarks import frameworks, peers
from regnet_backbones import config_path, shapes
from regnet_backbones.detection.config import read_config

QUICK = config_path("detectron2/quick/mask_rcnn_regnetx_002_fpn.yaml")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    shapes.write(folder, shapes.ShapesSpec(num_train=8, num_val=2, image_size=64))
    return folder


def measure(kind, backbone, config):
    """Write a config, run the command, and return what it writes."""
    output = config.with_suffix(".json")
    assert peers.main([kind, str(config), "--backbone", backbone, "--output", str(output)]) == 0
    return json.loads(output.read_text())


@pytest.mark.parametrize("masks", [False, True])
def test_a_detector_is_trained_and_scored(masks, data, tmp_path):
    cfg = read_config(QUICK, ["MODEL.MASK_ON", masks, "SOLVER.MAX_ITER", 2])
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.SOLVER.IMS_PER_BATCH = (48, 64), 64, 2
    own = cfg.DATASETS.OWN
    own.TRAIN_IMAGES, own.VAL_IMAGES = (str(data / "images" / s) for s in ("train", "val"))
    own.TRAIN_JSON = str(data / "annotations" / "instances_train.json")
    own.VAL_JSON = str(data / "annotations" / "instances_val.json")
    own.CATEGORIES = [[number, str(number)] for number in range(1, 6)]
    (tmp_path / "config.yaml").write_text(cfg.dump())
    found = measure("detector", "efficientnet_b0", tmp_path / "config.yaml")
    kinds = ("bbox_", "segm_") if masks else ("",)
    assert set(found["percent"]) == {f"{kind}{ap}" for kind in kinds for ap in ("map", "map_50")}
    assert found["images_seen"] == 4
    assert found["multiply_adds"] == pytest.approx(0.39e9, rel=0.1)  # published: of all of it


def test_a_segmenter_is_trained_and_scored(data, tmp_path):
    paths = {"train_images": "images/training", "val_images": "images/validation"}
    masks = {"train_masks": "annotations/training", "val_masks": "annotations/validation"}
    sizes = {"short_side": 32, "crop_size": 32, "scale_range": [0.9, 1.1], "flip": 0.5}
    normal = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "batch_size": 2}
    labels = {"root": str(data / "semantic"), "num_classes": 7, "ignore_label": 6}
    options = {"decoder": "Unet", "decoder_options": {"decoder_channels": [32, 16, 8, 8, 8]}}
    options |= {"loss": "ce+dice", "lr": 0.001, "weight_decay": 0.01, "power": 0.9}
    config = {"data": paths | masks | sizes | normal | labels, "model": options}
    config |= {"trainer": {"max_steps": 2}, "seed_everything": 0}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    first, again = (measure("segmenter", "resnet18", tmp_path / "config.yaml") for _ in range(2))
    assert first["percent"] == again["percent"]
    assert 0 < first["percent"]["mIoU"] < 100
    assert first["multiply_adds"] == pytest.approx(1.8e9, rel=0.05)


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("mask_rcnn", {"bbox_map", "bbox_map_50", "segm_map", "segm_map_50"}),
        ("retinanet", {"map", "map_50"}),
        ("fcos", {"map", "map_50"}),
        ("deeplabv3", {"mIoU"}),
    ],
)
def test_a_model_of_the_comparison_of_frameworks_is_trained_and_scored(name, scores, data, capsys):
    assert frameworks.main([name, "--shapes", str(data), "--steps", "1"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found) == {"model", "steps", "seed", "cpu_seconds", *scores}
    assert all(found[score] >= 0 for score in scores)
