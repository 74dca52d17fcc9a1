"""tools/train_net.py from the command line to pictures, on small custom data."""

import contextlib
import io
import json
import logging
import re

import numpy as np
import pytest
import torch
from demo_datasets import own_data
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils.logger import setup_logger
from detectron2.utils.visualizer import Visualizer
from load_tool import load_tool
from PIL import Image
from troubleshooting import assert_documented

from regnet_backbones import add_regnet_config, config_path, shapes
from regnet_backbones.detection import run
from regnet_backbones.detection.config import default_config, values_by_key
from regnet_backbones.detection.data import (
    OPTIONS,
    VAL_NAME,
    read_coco_split,
    register_split,
    use_coco_splits,
)
from regnet_backbones.detection.pictures import PredictionPictures
from regnet_backbones.detection.training.trainer import Trainer

QUICK = str(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml"))
SMALL = ["SOLVER.IMS_PER_BATCH", "2", "TEST.PICTURES", "4", "SOLVER.CHECKPOINT_PERIOD", "20"]
SMALL += ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"]


@pytest.fixture(scope="module")
def main():
    return load_tool("train_net").main


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=8, num_val=6, image_size=96)
    return shapes.write(tmp_path_factory.mktemp("data") / "shapes", spec)


def iterations(output):
    lines = (output / "metrics.json").read_text().splitlines()
    return [json.loads(line)["iteration"] for line in lines]


def test_a_detector_is_trained_resumed_and_evaluated_on_own_data(
    main, dataset, tmp_path, capsys, monkeypatch
):
    common = ["--config-file", QUICK, *own_data(dataset)]
    options = [*SMALL, "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER"]

    # Another program's handler, which changes the names of records for the handlers after it.
    monkeypatch.setattr(logging.getLogger("detectron2"), "handlers", [])
    setup_logger.cache_clear()
    with contextlib.redirect_stdout(io.StringIO()):
        setup_logger()
    assert main([*common, *options, "20"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"bbox +\d+\.\d", printed)
    assert re.search(r"segm +\d+\.\d", printed)
    sheet = tmp_path / "pictures" / "own_val.png"
    assert str(sheet) in printed
    assert Image.open(sheet).width > 4 * 256
    assert list(tmp_path.glob("events.out.tfevents.*"))
    by_hand = get_cfg()  # as scripts with a DefaultPredictor do
    add_regnet_config(by_hand)
    by_hand.merge_from_file(str(tmp_path / "config.yaml"))
    log = (tmp_path / "log.txt").read_text()
    for noise in ("GeneralizedRCNN(", "WEIGHT_DECAY_NORM:", "sys.platform", "Average Recall"):
        assert noise in log
        assert noise not in printed
    assert "eta:" in log
    assert "eta:" in printed

    assert main([*common, "--resume", *options, "22"]) == 0
    assert "Starting training from iteration 20" in (tmp_path / "log.txt").read_text()
    # The evaluation of 20 steps stays.
    assert iterations(tmp_path) == [19, 20, 21, 22]
    trained = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert "bbox/AP" in trained

    sheet.unlink()
    weights = str(tmp_path / "model_final.pth")
    assert main([*common, "--eval-only", *options, "22", "MODEL.WEIGHTS", weights]) == 0
    assert f"{trained['bbox/AP']:.1f}" in capsys.readouterr().out
    assert sheet.is_file()


def test_checkpoints_without_the_one_to_resume_are_kept(main, dataset, tmp_path, capsys):
    arguments = ["--config-file", QUICK, *own_data(dataset), "--resume", *SMALL]
    arguments += ["SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path)]
    earlier, last = tmp_path / "model_0000019.pth", tmp_path / "last_checkpoint"
    earlier.write_bytes(b"of an earlier run")
    last.write_text("model_0000039.pth")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "last_checkpoint" in error
    assert "model_0000039.pth" in error
    last.unlink()
    assert main(arguments) == 0
    assert (tmp_path / "earlier_run_1" / earlier.name).read_bytes() == b"of an earlier run"
    assert "Starting training from iteration 0" in (tmp_path / "log.txt").read_text()


def test_a_config_can_name_own_data_and_that_of_a_run_does(main, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(dataset.root)
    options = ["--config-file", QUICK, "--check-data", *own_data(dataset)]
    options = [option.replace(f"{dataset.root}/", "") for option in options]
    seen = []
    monkeypatch.setattr(run, "_check_data", lambda _, cfg, read: seen.append(cfg))
    assert main([*options, "OUTPUT_DIR", str(tmp_path)]) == 0
    (tmp_path / "config.yaml").write_text(seen[0].dump())
    own = dict(zip(OPTIONS, own_data(dataset)[1::2], strict=True))
    categories = [[number, name] for number, name in enumerate(shapes.CATEGORIES, 1)]
    assert dict(seen[0].DATASETS.OWN) == {**own, "CATEGORIES": categories}

    monkeypatch.chdir(tmp_path)
    assert main(["--config-file", "config.yaml", "--check-data"]) == 0
    assert values_by_key(seen[1]) == values_by_key(seen[0])


def test_classes_are_taken_from_the_json(dataset):
    cfg = default_config()
    cfg.merge_from_file(QUICK)
    train, val = (
        read_coco_split(dataset.instances_json(s), dataset.images(s)) for s in ("train", "val")
    )
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    use_coco_splits(cfg, train, val)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == cfg.MODEL.RETINANET.NUM_CLASSES == 5
    assert cfg.MODEL.POINT_HEAD.NUM_CLASSES == cfg.MODEL.FCOS.NUM_CLASSES == 5
    assert train.categories == dict(enumerate(shapes.CATEGORIES, 1))
    assert [len(split.content["images"]) for split in (train, val)] == [8, 6]


# What a newcomer gets wrong


def edit(dataset, tmp_path, change, split="val"):
    """Copy a split's json, changed, and return the command line that uses it."""
    content = json.loads(dataset.instances_json(split).read_text())
    change(content)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(content))
    arguments = own_data(dataset)
    arguments[arguments.index(f"--{split}-json") + 1] = str(path)
    return arguments


def drop_segmentation(content):
    for annotation in content["annotations"]:
        del annotation["segmentation"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["categories"][0].update(name="disc"),
            "only in train [(1, 'circle')], only in val [(1, 'disc')]",
        ),
        (lambda c: c["images"][0].update(file_name="gone.png"), "gone.png'"),
        (drop_segmentation, "set MODEL.MASK_ON False"),
    ],
)
def test_wrong_annotations_are_refused_before_a_model_is_built(
    main, dataset, tmp_path, capsys, monkeypatch, change, message
):
    monkeypatch.setattr(Trainer, "build_model", None)  # building one would be a TypeError
    arguments = edit(dataset, tmp_path, change)
    output = ["OUTPUT_DIR", str(tmp_path / "out")]
    assert main(["--config-file", QUICK, *arguments, *output]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["MODEL.WEIGHTS", "pycls://RegNetX-16GF", "MODEL.REGNET.NAME", "regnetx_160"],
            "error: could not fetch the weights pycls://RegNetX-16GF: ",
        ),
        (
            ["MODEL.WEIGHTS", "timm://regnety_040"],
            "error: the weights 'timm://regnety_040' need the network",
        ),
        (
            ["MODEL.WEIGHTS", "timm://regnetx_002", "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"],
            "  MODEL.PIXEL_STD: [58.395, 57.12, 57.375]",
        ),
    ],
)
def test_weights_that_cannot_be_had_or_used_stop_it_first(
    main, overrides, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(Trainer, "build_model", None)  # building one would be a TypeError
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    config = str(config_path("detectron2/quick/mask_rcnn_regnetx_002_fpn.yaml"))
    assert main(["--config-file", config, "--skip-data-check", *overrides]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("quick", "message"),
    [
        ("panoptic_fpn_regnet_small", "the PanopticFPN of the config"),
        ("semantic_fpn_regnet_small_shapes", "the SemanticSegmentor of the config"),
        ("keypoint_rcnn_regnet_small_fpn", "the GeneralizedRCNN of the config"),
    ],
)
def test_instances_are_not_enough_for_every_model(main, dataset, capsys, quick, message):
    config = str(config_path(f"detectron2/quick/{quick}.yaml"))
    assert main(["--config-file", config, *own_data(dataset)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--train-json", "--val-images"])
def test_paths_that_are_not_there_are_named(main, dataset, capsys, option):
    arguments = own_data(dataset)
    arguments[arguments.index(option) + 1] = "not/there"
    assert main(["--config-file", QUICK, *arguments]) == 2
    assert "'not/there'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "changed", "message"),
    [
        (8, ["DATASETS.TRAIN", "('shapes_val',)"], "--train-json replaces DATASETS.TRAIN"),
        (8, ["DATASETS.TEST", "('shapes_val',)"], "--train-json replaces DATASETS.TEST"),
        (4, [], "missing: --val-json, --val-images"),
        (0, ["DATASETS.OWN.TRAIN_JSON", "a.json"], "missing: --train-images, --val-json"),
    ],
)
def test_own_data_are_given_whole(main, dataset, capsys, given, changed, message):
    assert main(["--config-file", QUICK, *own_data(dataset)[:given], *changed]) == 2
    assert message in assert_documented(capsys.readouterr().err)


# The trainer


@pytest.mark.parametrize("catalog", [DatasetCatalog, MetadataCatalog])
def test_own_data_replaces_what_is_left_of_other_data(dataset, tmp_path, catalog):
    """Metadata come into being when they are asked for, datasets or not."""
    register_split(VAL_NAME, tmp_path / "other.json", tmp_path)
    catalog.remove(VAL_NAME)
    register_split(VAL_NAME, dataset.instances_json("val"), dataset.images("val"))
    assert MetadataCatalog.get(VAL_NAME).json_file == str(dataset.instances_json("val"))
    assert len(DatasetCatalog.get(VAL_NAME)) == len(list(dataset.images("val").iterdir()))


def test_a_dataset_of_an_unknown_kind_is_refused():
    cfg = default_config()
    MetadataCatalog.get("unheard_of").evaluator_type = "telepathy"
    with pytest.raises(ValueError, match="evaluator_type .*coco.* got 'telepathy'"):
        Trainer.build_evaluator(cfg, "unheard_of")


# Pictures


def test_pictures_show_the_truth_left_and_sure_predictions_right(dataset, tmp_path):
    cfg = default_config()
    splits = [read_coco_split(dataset.instances_json(s), dataset.images(s)) for s in shapes.SPLITS]
    use_coco_splits(cfg, *splits)
    pictures = PredictionPictures("own_val", "instances", tmp_path / "sheet.png", count=3)
    files = sorted(dataset.images("val").iterdir())
    pictures.reset()
    drawn = [files[k * len(files) // 3] for k in range(3)]
    assert len(files) > 3
    for file in files:
        score = 0.4 if file == drawn[1] else 0.9
        instances = Instances((96, 96))
        instances.pred_boxes = Boxes(torch.tensor([[8.0, 8.0, 88.0, 88.0]]))
        instances.scores = torch.tensor([score])
        instances.pred_classes = torch.tensor([0])
        pictures.process([{"file_name": str(file)}], [{"instances": instances}])
    pictures.evaluate()
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    # Three pairs in a row: the other images are not drawn.
    assert sheet.shape == (318 + 8, 3 * 644 + 4, 3)
    plain = np.asarray(Image.open(drawn[1]).convert("RGB").resize((318, 318), Image.BILINEAR))
    truth, unsure = sheet[4:322, 648 : 648 + 318], sheet[4:322, 970 : 970 + 318]
    # Nothing is drawn for a score of 0.4; the truth has masks and names drawn over it.
    assert np.abs(unsure.astype(int) - plain).mean() < 5
    assert np.abs(truth.astype(int) - plain).mean() > 5


def test_a_picture_never_takes_the_numbers_with_it(dataset, tmp_path, caplog, monkeypatch):
    register_split(VAL_NAME, dataset.instances_json("val"), dataset.images("val"))
    monkeypatch.setattr(Visualizer, "overlay_instances", None)  # a call is a TypeError
    pictures = PredictionPictures(VAL_NAME, "instances", tmp_path / "sheet.png", count=2)
    assert pictures.evaluate() is None  # nothing to draw
    assert not list(tmp_path.iterdir())
    for record in DatasetCatalog.get(VAL_NAME)[:2]:
        instances = Instances((96, 96), pred_boxes=Boxes(torch.ones(1, 4)))
        instances.scores, instances.pred_classes = torch.tensor([0.9]), torch.tensor([0])
        pictures.process([record], [{"instances": instances}])
    pictures.evaluate()
    assert (tmp_path / "sheet.png").is_file()
    assert "could not be drawn: TypeError" in caplog.text
