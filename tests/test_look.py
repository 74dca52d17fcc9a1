"""What both trainers show of their data before the first step; the run is as without it."""

import random

import numpy as np
import pytest
import torch
from demo_datasets import own_data
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from load_tool import load_tool
from PIL import Image

from regnet_backbones import config_path, shapes
from regnet_backbones.detection import look as detection_look
from regnet_backbones.runs import look

DETECTOR = str(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml"))
SEGMENTER = str(config_path("semseg/quick/unet_regnet_small_shapes.yaml"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=8, num_val=2, image_size=64, seed=0)
    return shapes.write(tmp_path_factory.mktemp("data") / "shapes", spec)


def draw():
    random.random(), np.random.rand(), torch.rand(1)
    return Image.new("RGB", (8, 8))


def numbers():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_a_look_leaves_random_numbers_as_they_were(tmp_path, capsys):
    found = []
    for looks in (True, False):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        if looks:
            look.show(tmp_path / "run", table=lambda: f"share {draw()}", picture=draw)
        found.append(numbers())
    assert found[0] == found[1]
    assert (tmp_path / "run" / "data.png").is_file()
    assert "share" in capsys.readouterr().out


def test_a_look_that_fails_is_a_warning(tmp_path, capsys, caplog):
    def fail():
        raise RuntimeError("no such colour")

    look.show(tmp_path, table=lambda: "a table", picture=fail)
    assert "no picture of the training data: RuntimeError: no such colour" in caplog.text
    look.show(tmp_path, table=fail, picture=draw)
    assert "no table of the training data: RuntimeError" in caplog.text
    assert "a table" in capsys.readouterr().out
    assert (tmp_path / "data.png").is_file()
    look.show(tmp_path / "none", table=lambda: "", picture=None)
    assert not (tmp_path / "none").exists()


def test_long_tables_show_both_ends():
    text = look.table_of(["class", "boxes"], [[f"class {k}", 1000 + k] for k in range(1203)])
    assert len(text.splitlines()) == 2 + look.ROWS + 1
    assert all(word in text for word in ("class 0 ", "1,000", "class 1202", "2,202", "1,163 more"))


def test_pictures_of_all_sizes_are_laid_out_in_rows():
    sizes = [(64, 64), (640, 320), (30, 900), (10, 10)]
    sheet = look.mosaic([Image.new("RGB", size, "red") for size in sizes])
    assert sheet.height == 2 * (look.SIDE + look.MARGIN) + look.MARGIN
    assert sheet.width == 3 * (2 * look.SIDE + look.MARGIN) + look.MARGIN
    assert sheet.getpixel((look.MARGIN, look.MARGIN)) == (255, 0, 0)


def segmenter(dataset, output, *more):
    words = [
        *("--config", SEGMENTER, "--output", output, "--data.root", dataset.root / "semantic"),
        *("--data.batch_size", 2, "--data.num_workers", 0, "--trainer.max_steps", 2),
        *("--trainer.val_check_interval", 2, "--trainer.enable_progress_bar", "false", *more),
    ]
    return load_tool("train_semseg").main([str(word) for word in words])


def test_a_segmenter_is_trained_on_what_was_looked_at(dataset, tmp_path, capsys):
    """Shares are those of the mask files, and the weights those of a run without a picture."""
    assert segmenter(dataset, tmp_path / "a") == 0
    printed = capsys.readouterr().out
    masks = [np.asarray(Image.open(p)) for p in dataset.semantic_masks("train").glob("*.png")]
    background = np.mean([(mask == 6).mean() for mask in masks])
    row = next(line for line in printed.splitlines() if line.startswith("background "))
    assert row.split()[1:3] == [f"{background:.2%}", "8"]
    assert Image.open(tmp_path / "a" / "data.png").width > 3 * look.SIDE

    assert segmenter(dataset, tmp_path / "b", "--model.pictures", 0) == 0
    assert not (tmp_path / "b" / "data.png").exists()
    both = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("a", "b")
    )
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in both), strict=True))


def test_segmentation_data_are_checked_in_full_without_a_training(dataset, tmp_path, capsys):
    options = ["--check_data", "--model.encoder", "regnety_032"]
    options += ["--model.encoder_weights", "imagenet"]  # which nobody fetches
    assert segmenter(dataset, tmp_path / "run", *options) == 0
    printed = capsys.readouterr().out
    assert "8 training and 2 validation pairs" in printed
    assert "background" in printed
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["data.png"]

    copy = shapes.write(tmp_path / "shapes", shapes.ShapesSpec(num_train=4, num_val=2, seed=1))
    image = next((copy.root / "semantic" / "images" / "training").iterdir())
    content = image.read_bytes()
    image.unlink()  # a hard link to another
    image.write_bytes(content[:-200])
    assert segmenter(copy, tmp_path / "broken", *options) == 2
    assert f"image '{image}' cannot be read" in capsys.readouterr().err


def detector(dataset, output, *options):
    words = [
        *("--config-file", DETECTOR, *options[: len(options) % 2]),
        *own_data(dataset),
        *("OUTPUT_DIR", output, "SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "SEED", 3),
        *("TEST.EVAL_PERIOD", 0, "DATALOADER.NUM_WORKERS", 0, *options[len(options) % 2 :]),
    ]
    return load_tool("train_net").main([str(word) for word in words])


def test_a_detector_is_trained_on_what_was_looked_at(dataset, tmp_path, capsys):
    """Random numbers and batches are those of a run without a look, and so are the weights."""
    assert detector(dataset, tmp_path / "a") == 0
    assert "8 of 8 training images" in capsys.readouterr().out
    assert Image.open(tmp_path / "a" / "data.png").width > 2 * look.SIDE
    assert detector(dataset, tmp_path / "b", "--skip-data-check") == 0
    assert not (tmp_path / "b" / "data.png").exists()
    a, b = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]
        for name in ("a", "b")
    )
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_detection_data_are_shown_when_they_are_checked(dataset, tmp_path, capsys, caplog):
    assert detector(dataset, tmp_path, "--check-data") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in shapes.CATEGORIES)
    assert {file.name for file in tmp_path.iterdir()} == {"data_report.txt", "data.png"}
    assert "of the training data:" not in caplog.text


def test_boxes_are_counted_by_class_with_their_sizes():
    def record(*boxes):
        keys = ("category_id", "bbox", "bbox_mode", "iscrowd")
        return {"annotations": [dict(zip(keys, box, strict=False)) for box in boxes]}

    metadata = MetadataCatalog.get("look_test").set(thing_classes=["a", "b", "c"])
    records = [
        record((0, [0, 0, 4, 9], BoxMode.XYWH_ABS), (0, [0, 0, 4, 9], BoxMode.XYWH_ABS)),
        record((1, [10, 10, 18, 18], BoxMode.XYXY_ABS), (1, [5, 5, 2, 8], BoxMode.XYWH_ABS)),
        record((2, [0, 0, 4, 9], BoxMode.XYWH_ABS, 1)),
        {},
    ]
    try:
        lines = detection_look.sizes_by_class(records, metadata).splitlines()
    finally:
        MetadataCatalog.remove("look_test")
    assert lines[0].startswith("4 of 4 training images")
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    assert rows["a"] == ["2", "50.0%", "1", "6", "6", "6"]
    assert rows["b"] == ["2", "50.0%", "1", "4", "6", "8"]
    assert rows["c"][:3] == ["0", "0.0%", "0"]
