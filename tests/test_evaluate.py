"""tools/evaluate.py on detectors and segmenters: the numbers, and what a newcomer gets wrong."""

import contextlib
import io
import json
import os
import pickle
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from killed_runs import forking_context
from PIL import Image
from small_segmenter import train_segmenter
from troubleshooting import assert_documented

from regnet_backbones import config_path, shapes
from regnet_backbones.detection.config import read_config
from regnet_backbones.detection.data import register_split
from regnet_backbones.runs.results import read_evaluation
from regnet_backbones.semseg.datamodule import SegmentationData

TOOLS = Path(__file__).parent.parent / "tools"
QUICK = config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml")
# Random weights are sure of nothing.
SMALL = ["INPUT.MIN_SIZE_TEST", "64", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
SMALL += ["TEST.DETECTIONS_PER_IMAGE", "25"]


def main(tool, *arguments):
    """Run a tool in this process and return its exit status."""
    return runpy.run_path(str(TOOLS / f"{tool}.py"))["main"]([str(a) for a in arguments])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=4, num_val=3, image_size=64)
    return shapes.write(tmp_path_factory.mktemp("data") / "shapes", spec)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """Return the folder that a training of a detector on data of one's own would have left."""
    torch.manual_seed(0)
    run = tmp_path_factory.mktemp("detector")
    cfg = read_config(QUICK, [*SMALL, "MODEL.DEVICE", "cpu", "DATASETS.TEST", "('own_val',)"])
    DetectionCheckpointer(build_model(cfg), save_dir=str(run)).save("model_final")
    (run / "config.yaml").write_text(cfg.dump())
    return run


@pytest.fixture(scope="module")
def own_val(detector, dataset, tmp_path_factory):
    """Return options for data whose truth is half of what the detector predicts: an AP above 0.

    The categories have the ids 11, 13, 15, 17, 19.
    """
    cfg = read_config(detector / "config.yaml")
    cfg.MODEL.WEIGHTS = str(detector / "model_final.pth")
    cfg.DATASETS.TEST = ()
    predictor = DefaultPredictor(cfg)
    content = {"images": [], "annotations": []}
    for number, path in enumerate(sorted(dataset.images("val").iterdir()), 1):
        instances = predictor(read_image(str(path), "BGR"))["instances"].to("cpu")
        content["images"].append({"id": number, "file_name": path.name, "height": 64, "width": 64})
        for entry in instances_to_coco_json(instances[::2], number):
            entry |= {"category_id": 11 + 2 * entry["category_id"], "iscrowd": 0}
            entry |= {"id": len(content["annotations"]) + 1}
            entry |= {"area": entry["bbox"][2] * entry["bbox"][3]}
            content["annotations"].append(entry)
    content["categories"] = [
        {"id": 11 + 2 * index, "name": name} for index, name in enumerate(shapes.CATEGORIES)
    ]
    path = tmp_path_factory.mktemp("own") / "val.json"
    path.write_text(json.dumps(content))
    return ["--val-json", str(path), "--val-images", str(dataset.images("val"))]


@pytest.fixture(scope="module")
def data(dataset):
    root = str(dataset.root / "semantic")
    return SegmentationData("ade20k", root, crop_size=64, batch_size=4, num_workers=0)


@pytest.fixture(scope="module")
def segmenter(data, tmp_path_factory):
    """Return the folder that a training of a segmenter leaves."""
    run = tmp_path_factory.mktemp("segmenter")
    trainer = train_segmenter(data)
    trainer.save_checkpoint(run / "checkpoints" / "best.ckpt")
    return run


@pytest.fixture(scope="module")
def evaluated(detector, own_val):
    """Return what the evaluation of the detector printed; it wrote to its folder."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main("evaluate", detector, *own_val) == 0
    return printed.getvalue()


def results_of(folder):
    return json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)


# Detectors


def test_a_detector_is_as_good_as_in_its_training(detector, evaluated, own_val, tmp_path, capsys):
    found = results_of(detector / "evaluation")
    assert (found["kind"], found["checkpoint"]) == ("detector", str(detector / "model_final.pth"))
    assert found["settings"]["datasets"] == ["own_val"]
    assert found["settings"]["json_file"] == own_val[1]
    metrics = found["results"]["own_val"]
    assert set(metrics) == {"bbox", "segm"}
    assert 1 < metrics["bbox"]["AP"] < 99
    assert metrics["bbox"]["APl"] is None  # nothing is larger than 96 pixels of 64
    assert re.search(rf"^bbox +{metrics['bbox']['AP']:.1f} ", evaluated, re.MULTILINE)
    assert f"results: {detector / 'evaluation' / 'results.json'}" in evaluated
    assert (detector / "evaluation" / "pictures" / "own_val.png").is_file()
    images = read_evaluation(detector / "evaluation").images
    assert images.complete
    assert [score.file for score in images.images] == [f"{n:06}.png" for n in range(3)]

    own = ["--train-json", own_val[1], "--train-images", own_val[3], *own_val]
    config = ["--config-file", detector / "config.yaml", "--eval-only"]
    weights = ["MODEL.WEIGHTS", detector / "model_final.pth", "OUTPUT_DIR", tmp_path]
    assert main("train_net", *config, *own, *weights) == 0
    printed = capsys.readouterr().out
    for task in ("bbox", "segm"):
        numbers = [metrics[task][name] for name in ("AP", "AP50", "AP75", "APs")]
        pattern = " +".join(f"{number:.1f}" for number in numbers)
        assert re.search(rf"^{task} +{pattern} ", printed, re.MULTILINE)


def test_all_that_a_detector_predicts_is_right_where_it_is_the_truth(
    detector, dataset, own_val, tmp_path
):
    """Its predictions of one image, as annotations of one category each, have an AP of 100."""
    image = sorted(dataset.images("val").iterdir())[0]
    options = ["--val-json", own_val[1], "--min-score", "0", "--output", tmp_path / "predicted"]
    assert main("predict", detector, image, *options) == 0
    content = json.loads(Path(own_val[1]).read_text())
    entries = json.loads((tmp_path / "predicted" / "predictions.json").read_text())
    assert len(entries) > 20
    content["annotations"] = [
        {**entry, "id": number, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
        for number, entry in enumerate(entries, 1)
    ]
    content["images"] = content["images"][:1]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    own = ["--val-json", tmp_path / "truth.json", *own_val[2:]]
    output = ["--output", tmp_path / "out", "--device", "cpu"]
    assert main("evaluate", detector / "model_final.pth", *own, *output) == 0
    assert results_of(tmp_path / "out")["results"]["own_val"]["bbox"]["AP"] == pytest.approx(100)


def test_a_config_that_tells_no_data_is_not_evaluated_on_others(
    detector, own_val, tmp_path, capsys
):
    """Which another run of this process has registered."""
    register_split("own_val", *own_val[1::2])
    assert main("evaluate", detector, "--output", tmp_path) == 2
    error = assert_documented(capsys.readouterr().err)
    assert "--val-json and --val-images" in error


def test_other_classes_of_the_same_number_are_refused(remembering, own_val, tmp_path, capsys):
    content = json.loads(Path(own_val[1]).read_text())
    for category, name in zip(content["categories"], shapes.CATEGORIES[::-1], strict=True):
        category["name"] = name
    (tmp_path / "val.json").write_text(json.dumps(content))
    own = ["--val-json", tmp_path / "val.json", *own_val[2:]]
    assert main("evaluate", remembering, *own) == 2
    error = assert_documented(capsys.readouterr().err)
    assert "circle, square, triangle, star, cross" in error
    assert "cross, star, triangle, square, circle" in error


def widen(content):
    content["images"][0]["width"] = 99


def name_by_numbers(content):
    for number, category in enumerate(content["categories"]):
        category["name"] = number


def test_data_that_would_spoil_an_evaluation_are_refused(
    detector, own_val, tmp_path, capsys, monkeypatch
):
    from regnet_backbones.detection import evaluation

    monkeypatch.setattr(evaluation, "build_model", None)  # building one would be a TypeError
    own = ["--val-json", tmp_path / "val.json", *own_val[2:]]
    for change, named in (
        (widen, "000000.png"),
        (name_by_numbers, "category 11 (name 0)"),
        (lambda content: content.update(categories=["circle"]), "categories"),
        (lambda content: content["annotations"].append("x"), "annotations"),
    ):
        content = json.loads(Path(own_val[1]).read_text())
        change(content)
        (tmp_path / "val.json").write_text(json.dumps(content))
        assert main("evaluate", detector, *own, "--output", tmp_path / "out") == 2
        error = capsys.readouterr().err  # of as many lines as there are defects
        assert f"'{tmp_path}/val.json'" in error.splitlines()[0]
        assert named in error


@pytest.fixture
def remembering(detector, own_val, tmp_path):
    """Return the detector's folder with a config that tells where the data of its training lie."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "model_final.pth").symlink_to(detector / "model_final.pth")
    cfg = read_config(detector / "config.yaml")
    cfg.DATASETS.OWN.VAL_JSON, cfg.DATASETS.OWN.VAL_IMAGES = own_val[1::2]
    cfg.DATASETS.OWN.CATEGORIES = [[n, name] for n, name in enumerate(shapes.CATEGORIES, 1)]
    (run / "config.yaml").write_text(cfg.dump())
    return run


def test_the_data_of_the_training_are_found(detector, evaluated, remembering, own_val):
    assert main("evaluate", remembering) == 0
    found, named = results_of(remembering / "evaluation"), results_of(detector / "evaluation")
    assert found["results"] == named["results"]
    assert found["settings"] == named["settings"]


def test_data_that_have_gone_are_named(remembering, own_val, tmp_path, capsys):
    cfg = read_config(remembering / "config.yaml")
    cfg.DATASETS.OWN.VAL_JSON = str(tmp_path / "gone.json")
    (remembering / "config.yaml").write_text(cfg.dump())
    assert main("evaluate", remembering) == 2
    error = assert_documented(capsys.readouterr().err)
    assert f"'{tmp_path}/gone.json'" in error
    assert "--val-json and --val-images" in error
    assert main("evaluate", remembering, *own_val) == 0  # which are there


def evaluate_with_forks(printed, *arguments):
    """Run the tool in a process of its own, and print to a file."""

    def fork(worker, args, **options):  # prints where this process does
        function, *_, (_errors, *work), _timeout = args
        pickle.dumps((function, work))  # as it is to be spawned
        torch.multiprocessing.start_processes(worker, args, start_method="fork", **options)

    os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT), 1)
    torch.multiprocessing.spawn = fork
    sys.exit(main("evaluate", *arguments))


def test_two_processes_find_what_one_does(detector, evaluated, own_val, tmp_path):
    printed = tmp_path / "printed.txt"
    arguments = (printed, detector, *own_val, "--devices", "2", "--output", tmp_path)
    run = forking_context().Process(target=evaluate_with_forks, args=arguments)
    run.start()
    run.join()
    assert run.exitcode == 0
    assert len(re.findall(r"^bbox +\d", printed.read_text(), re.MULTILINE)) == 1
    assert results_of(tmp_path) == results_of(detector / "evaluation")
    assert (tmp_path / "log.txt.rank1").is_file()
    alone, shared = (read_evaluation(f).images for f in (detector / "evaluation", tmp_path))
    assert (shared.images, shared.best) == (alone.images, alone.best)
    pictures = [p.name for p in (tmp_path / "pictures").iterdir()]
    assert sorted(pictures) == ["best_1.jpg", "best_2.jpg", "own_val.png", "worst_1.jpg"]


def test_test_time_augmentation_is_done_and_told(detector, evaluated, own_val, tmp_path):
    opts = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64, 80)"]
    assert main("evaluate", detector, *own_val, "--output", tmp_path, "--opts", *opts) == 0
    found, plain = results_of(tmp_path), results_of(detector / "evaluation")
    assert found["settings"]["test_augmentation"]["MIN_SIZES"] == [64, 80]
    assert found["settings"]["opts"] == opts
    assert plain["settings"]["test_augmentation"] is None
    assert found["results"]["own_val"]["bbox"] != plain["results"]["own_val"]["bbox"]


def test_an_evaluation_in_windows_sees_what_a_prediction_in_windows_does(
    detector, evaluated, own_val, dataset, tmp_path
):
    windows = ["--window", "40", "--window-stride", "24"]
    assert main("evaluate", detector, *own_val, "--output", tmp_path, *windows) == 0
    settings = results_of(tmp_path)["settings"]
    assert (settings["window"], settings["window_stride"]) == (40, 24)
    found = json.loads((tmp_path / "inference" / "coco_instances_results.json").read_text())
    options = ["--min-score", "0", "--no-pictures", "--val-json", own_val[1], *windows]
    options += ["--output", tmp_path / "predicted", "--device", "cpu", "--batch-size", "4"]
    assert main("predict", detector, dataset.images("val"), *options) == 0
    predicted = json.loads((tmp_path / "predicted" / "predictions.json").read_text())
    by_score = [
        sorted(entries, key=lambda entry: (entry["image_id"], -entry["score"]))
        for entries in (found, predicted)
    ]
    assert len(found) == len(predicted)
    for one, other in zip(*by_score, strict=True):
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-2)
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    whole = results_of(detector / "evaluation")
    assert whole["settings"]["window"] is None
    assert whole["results"] != results_of(tmp_path)["results"]


def test_wrong_command_lines_for_a_detector_are_refused(detector, tmp_path, capsys, monkeypatch):
    from regnet_backbones.detection import evaluation

    monkeypatch.setattr(evaluation, "build_model", None)  # building one would be a TypeError
    for options, named in (
        (["--opts", "DATASETS.TEST", "('x',)"], "'x', which is not registered"),
        (["--opts", "DATASETS.TEST", "()"], "DATASETS.TEST is empty"),
        (["--opts", "DATASETS.TEST", "('ade20k_sem_seg_val',)"], "'ade20k_sem_seg_val'"),
        (["--opts", "MODEL.WEIGHTS", "x"], "MODEL.WEIGHTS"),
        (["--opts", "MODEL.NAME", "x"], "MODEL.NAME"),
        (["--opts", "MODEL.MASK_ON"], "pairs"),
        (["--val-json", "a.json"], "--val-images"),
        (["--val-images", "a"], "--val-json"),
        (["--devices", "0"], "must be 1 to"),
        (["--device", "abacus"], "'abacus'"),
        (["--config-file", "gone.yaml"], "'gone.yaml'"),
        (["--flip"], "--flip"),
    ):
        assert main("evaluate", detector, "--output", tmp_path, *options) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert named in error
        assert not list(tmp_path.iterdir())


def drop_a_category(content):
    content["categories"].pop()
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 19]


def drop_masks(content):
    for annotation in content["annotations"]:
        del annotation["segmentation"]


def test_data_of_another_model_are_refused(detector, own_val, tmp_path, capsys):
    segmenter = ["--opts", "MODEL.META_ARCHITECTURE", "SemanticSegmentor"]
    own = ["--val-json", tmp_path / "val.json", *own_val[2:]]
    for change, options, named in (
        (drop_a_category, [], "5 classes"),
        (drop_masks, [], "set MODEL.MASK_ON False"),
        (lambda content: None, segmenter, "SemanticSegmentor"),
    ):
        content = json.loads(Path(own_val[1]).read_text())
        change(content)
        (tmp_path / "val.json").write_text(json.dumps(content))
        assert main("evaluate", detector, *own, "--output", tmp_path, *options) == 2
        assert named in capsys.readouterr().err


def test_boxes_alone_are_evaluated_without_masks(detector, own_val, tmp_path):
    content = json.loads(Path(own_val[1]).read_text())
    drop_masks(content)
    (tmp_path / "val.json").write_text(json.dumps(content))
    own = ["--val-json", tmp_path / "val.json", *own_val[2:]]
    boxes = ["--opts", "MODEL.MASK_ON", "False"]
    assert main("evaluate", detector, *own, "--output", tmp_path, *boxes) == 0
    assert set(results_of(tmp_path)["results"]["own_val"]) == {"bbox"}


def test_a_checkpoint_must_hold_all_of_the_model(detector, own_val, tmp_path, capsys):
    """Also heads that a training would leave random, which its log alone would say."""
    for opts, named in (
        (["MODEL.ROI_BOX_HEAD.FC_DIM", "128"], "roi_heads.box_head.fc1.weight"),
        (["MODEL.ROI_MASK_HEAD.NUM_CONV", "3"], "roi_heads.mask_head.mask_fcn3.no"),
    ):
        assert main("evaluate", detector, *own_val, "--output", tmp_path, "--opts", *opts) == 2
        assert named in capsys.readouterr().err
        assert not (tmp_path / "results.json").exists()


# Segmenters


def test_a_segmenter_is_evaluated_on_the_data_of_its_training(segmenter, dataset, tmp_path, capsys):
    assert main("evaluate", segmenter, "--device", "cpu") == 0
    found = results_of(segmenter / "evaluation")
    assert found["kind"] == "segmenter"
    assert found["checkpoint"] == str(segmenter / "checkpoints" / "best.ckpt")
    assert (found["settings"]["flip"], found["settings"]["window"]) == (False, None)
    printed = capsys.readouterr().out
    assert f"{100 * found['results']['accuracy']:.2f}" in printed
    assert f"results: {segmenter / 'evaluation' / 'results.json'}" in printed

    # By hand, of the files that a prediction writes: masks say 0 for pixels without a label.
    images = dataset.semantic_images("val")
    assert main("predict", segmenter, images, "--output", tmp_path, "--device", "cpu") == 0
    right = labelled = 0
    for path in (tmp_path / "labels").iterdir():
        truth = np.asarray(Image.open(dataset.semantic_masks("val") / path.name)).astype(int) - 1
        right += int((np.asarray(Image.open(path)) == truth).sum())
        labelled += int((truth >= 0).sum())
    assert found["results"]["images"] == 3
    assert found["results"]["accuracy"] == pytest.approx(right / labelled, rel=1e-6)


def test_options_reach_a_segmenter_and_the_report(segmenter, dataset, tmp_path):
    root = tmp_path / "moved"
    (dataset.root / "semantic").rename(root)
    try:
        given = "--short-side 48 --window 32 --window-stride 20 --flip --scales 1.0 1.5"
        opts = ["--opts", "root", root, "num_workers", "0"]
        checkpoint = segmenter / "checkpoints" / "best.ckpt"
        assert main("evaluate", checkpoint, "--output", tmp_path, *given.split(), *opts) == 0
    finally:
        root.rename(dataset.root / "semantic")
    settings = results_of(tmp_path)["settings"]
    assert settings.pop("precision")
    assert settings == {
        "short_side": 48,
        "window": 32,
        "window_stride": 20,
        "flip": True,
        "scales": [1.0, 1.5],
        "optimization": None,
        "engine": "torch",
        "exported": None,
        "opts": ["root", str(root), "num_workers", "0"],
    }


def test_wrong_command_lines_for_a_segmenter_are_refused(segmenter, tmp_path, capsys):
    for options, named in (
        (["--opts", "rot", "/data"], "'rot'"),
        (["--opts", "root"], "--opts"),
        (["--opts", "short_side", "None"], "Given value: None"),
        (["--device", "cuda:1"], "'cuda:1'"),
        (["--window", "0"], "'window': 0"),
        (["--config-file", "a.yaml"], "--config-file needs a detector"),
        (["--val-json", "a.json"], "--val-json"),
    ):
        assert main("evaluate", segmenter, "--output", tmp_path, *options) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert named in error
        assert not list(tmp_path.iterdir())
