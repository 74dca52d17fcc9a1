"""Runs without a config: what is chosen for data and device, repeated, resumed, and shown."""

import json
import re
from pathlib import Path

import labelled_folders as folders
import numpy as np
import pytest
import torch
from PIL import Image

from regnet_backbones import config_path, shapes
from regnet_backbones.cli.main import main
from regnet_backbones.detection.config import read_config
from regnet_backbones.detection.config_checks import check_config
from regnet_backbones.detection.data_checks.coco import CocoSplit
from regnet_backbones.detection.first_run import BASES, Data, choose, look_at, schedule
from regnet_backbones.errors import UserError
from regnet_backbones.measure.timing import estimate
from regnet_backbones.runs import first_run
from regnet_backbones.weights import sources

# Blood cells, tiny objects on aerial images, few large ones, thumbnails, icons, panoramas.
DATA = {
    "cells": Data(205, 480, 0.07, 0.45, 1.3, 28, ""),
    "aerial": Data(2000, 2000, 0.004, 0.05, 1.0, 400, "polygon"),
    "few": Data(3, 600, 0.1, 0.6, 1.5, 13, "bitmask"),
    "thumbnails": Data(500, 48, 0.2, 0.8, 1.0, 2, ""),
    "icons": Data(1, 16, 0.3, 1.0, 1.0, 1, ""),
    "panoramas": Data(12, 40, 0.5, 0.5, 50.0, 10, ""),
}

KINDS = ("images", "masks")


@pytest.mark.parametrize("weights", ["", "timm://regnetx_002"])
@pytest.mark.parametrize("gpus", [0, 2])
@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_a_choice_is_a_config_that_fits_the_data(data, gpus, weights):
    chosen = choose(data, weights=weights, gpus=gpus, gpu_memory=24.0) | schedule(300)
    base = BASES["cuda" if gpus else "cpu"]
    cfg = read_config(config_path(f"detectron2/{base}.yaml"), ["MODEL.DEVICE", "cpu"])
    cfg.merge_from_list([each for pair in chosen.items() for each in pair])
    check_config(cfg, training=True, processes=gpus or 1)
    assert cfg.MODEL.MASK_ON == bool(data.masks)
    frozen = (cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.REGNET.NORM)
    assert frozen == ((2, "FrozenBN") if weights else (0, "BN"))
    assert cfg.TEST.DETECTIONS_PER_IMAGE >= data.objects
    if gpus:
        return
    sizes, side = [size for (size,) in cfg.MODEL.ANCHOR_GENERATOR.SIZES], cfg.INPUT.MIN_SIZE_TEST
    assert len(sizes) == len(cfg.MODEL.RPN.IN_FEATURES)
    assert sizes[0] == pytest.approx(max(4, data.small * side), abs=1)
    assert sizes[-1] == pytest.approx(data.large * side, abs=1)
    near = side - 32 < data.short_side <= side
    assert 16 <= data.small * side or side == 320 or near or side == 64
    # Images keep their shape, and two pixels of C5 or more, for batch norm.
    for key in ("TRAIN", "TEST"):
        sizes = cfg.INPUT[f"MIN_SIZE_{key}"]
        sizes = [sizes] if key == "TEST" else sizes
        assert min(sizes) >= 64
        assert cfg.INPUT[f"MAX_SIZE_{key}"] >= data.long * max(sizes)
    assert cfg.MODEL.RPN.POST_NMS_TOPK_TEST >= 2 * data.objects
    assert cfg.SOLVER.IMS_PER_BATCH <= data.images


def test_the_learning_rate_of_pretrained_weights_is_the_recipes_in_proportion():
    for memory, batch in ((4, 1), (16, 4), (80, 8)):
        chosen = choose(DATA["cells"], weights="w", gpus=1, gpu_memory=memory)
        assert chosen["SOLVER.IMS_PER_BATCH"] == batch
        assert chosen["SOLVER.BASE_LR"] == pytest.approx(0.02 * batch / 16)


@pytest.mark.parametrize(
    ("images", "batch", "seconds", "minutes", "steps"),
    [
        (205, 8, 0.5, 10, 1200),  # as many as fit
        (3, 3, 0.5, 10, 300),  # 300 epochs
        (100_000, 8, 100, 1, 10),  # less than one fits
        (118_000, 16, None, None, 88_500),  # 12 epochs
        (200, 8, None, None, 2500),  # 100 epochs
        (5, 4, None, None, 120),
    ],
)
def test_the_length_fits_the_minutes_or_the_images(images, batch, seconds, minutes, steps):
    assert first_run.steps_of(images, batch, seconds=seconds, minutes=minutes) == steps


def test_an_estimate_is_of_the_median():
    text = estimate([0.4, 0.5, 30.0], 1320, "iterations")
    assert [float(n) for n in re.findall(r"\d[\d.]*", text.replace(",", ""))] == [11, 1320, 0.5]


def test_weights_that_nobody_has_are_warned_of(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(sources, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(sources, "urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError()))
    assert first_run.published_weights("regnetx_002", key="MODEL.WEIGHTS") == ""
    assert "MODEL.WEIGHTS" in caplog.text
    file = tmp_path / "checkpoints" / "regnetx_002.pycls_in1k.safetensors"
    file.parent.mkdir()
    file.touch()
    assert first_run.published_weights("regnetx_002", key="MODEL.WEIGHTS") == "timm://regnetx_002"


@pytest.mark.parametrize(
    ("argv", "option"),
    [
        (["train-detector", "--config-file", "x.yaml", "--minutes", "3"], "--minutes"),
        (["train-detector", "--train", "yolo:x", "--minutes", "-1"], "--minutes"),
        (["train-detector", "--eval-only", "--report", "--config-file", "x.yaml"], "--report"),
        (["train-segmenter", "--config", "x.yaml", "--minutes", "3"], "--minutes"),
    ],
)
def test_options_that_do_not_go_together(argv, option, capsys):
    assert main(argv) == 2
    assert option in capsys.readouterr().err


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    return [row["total_loss"] for row in rows if "total_loss" in row]


def test_a_detector_is_trained_shown_resumed_and_repeated(tmp_path, capsys, monkeypatch):
    data = folders.write_yolo(tmp_path / "data", ("train", "val"))
    output = tmp_path / "run"
    given = ["train-detector", "--train", f"yolo:{data}", "--val", f"yolo:{data}"]
    opts = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(output)]
    assert main([*given, "--minutes", "0.001", *opts, "SOLVER.IMS_PER_BATCH", "2"]) == 0
    printed = capsys.readouterr().out
    assert (output / "report.html").is_file()
    assert f"--config-file {output / 'config.yaml'}" in printed
    cfg = read_config(output / "config.yaml")
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER) == (2, 10)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    # Resumed without a config, it is the same run, which has ended.
    monkeypatch.setattr(first_run, "steps_of", None)
    assert main([*given, "--resume", "--no-report", *opts]) == 0
    repeat = ["train-detector", "--config-file", str(output / "config.yaml")]
    assert main([*repeat, "OUTPUT_DIR", str(tmp_path / "again")]) == 0
    assert losses(tmp_path / "again") == losses(output)
    assert not (tmp_path / "again" / "report.html").exists()


def test_a_segmenter_is_trained_shown_and_repeated(tmp_path, capsys, caplog):
    spec = shapes.ShapesSpec(num_train=4, num_val=2, image_size=64, seed=0)
    root = shapes.write(tmp_path / "shapes", spec).root / "semantic"
    given = ["--data.layout", "ade20k", "--data.root", str(root), "--output", str(tmp_path / "run")]
    given += ["--model.encoder_weights", "null", "--trainer.accelerator", "cpu"]
    given += ["--data.num_workers", "0", "--minutes", "0.001"]
    file = next((root / "images" / "training").iterdir())
    with Image.open(file) as image:
        exif = image.getexif()
        exif[0x0112] = 3  # upside down
        image.save(file, exif=exif)
    assert main(["train-segmenter", *given]) == 0
    assert (tmp_path / "run" / "report.html").is_file()
    assert caplog.text.count("turned by their EXIF data") == 1
    config = tmp_path / "run" / "tensorboard" / "config.yaml"
    assert f"--config {config}" in capsys.readouterr().out
    again = ["--config", str(config), "--output", str(tmp_path / "again")]
    assert main(["train-segmenter", *again]) == 0
    weights = [
        torch.load(tmp_path / run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in ("run", "again")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_masks_of_some_objects_and_the_longer_side_are_looked_at(caplog):
    box = {"bbox": [0, 0, 10, 10], "iscrowd": 0, "image_id": 1}
    images = [{"id": 1, "width": 400, "height": 40}]
    content = {"images": images, "annotations": [box, {**box, "segmentation": [[0] * 6]}]}
    split = CocoSplit(Path("x.json"), None, content, ())
    assert look_at(split, split).long == 10
    assert "2 of 4 objects" in caplog.text
    content["annotations"].pop()
    caplog.clear()
    assert (look_at(split, split).masks, caplog.text) == ("", "")


def test_batches_of_a_tiny_image_train_a_segmenter_and_the_last_step_is_validated(tmp_path):
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        for name in "ab":
            Image.fromarray(np.eye(20, dtype=np.uint8)).save(tmp_path / kind / f"{name}.png")
    given = [f"--data.{part}_{kind}={kind}" for part in ("train", "val") for kind in KINDS]
    given += ["--data.layout", "folder", "--data.root", str(tmp_path), "--data.num_classes", "2"]
    given += ["--model.encoder_weights", "null", "--trainer.accelerator", "cpu", "--no-report"]
    given += ["--data.num_workers", "0", "--trainer.max_steps", "1"]
    given += ["--data.batch_size", "1", "--output", str(tmp_path / "run")]
    assert main(["train-segmenter", *given]) == 0
    assert (tmp_path / "run/checkpoints/best.ckpt").is_file()


def test_a_choice_is_not_made_by_torchrun(monkeypatch, tmp_path):
    from regnet_backbones.cli.train import train_detector
    from regnet_backbones.detection import first_run as detectors

    monkeypatch.setattr(detectors.processes, "started_by_torchrun", lambda: True)
    args = train_detector.parser("").parse_args(["--train", "yolo:x", "OUTPUT_DIR", str(tmp_path)])
    with pytest.raises(UserError, match="--config-file"):
        detectors.is_needed(args)
