"""The report of a detector's run: what detectron2's own files say, and an evaluation wrote."""

import contextlib
import io
import json
import math
import shutil

import numpy as np
import pytest
from demo_datasets import own_data
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from load_tool import load_tool
from report_pages import Page, read_detector

from regnet_backbones import config_path, shapes
from regnet_backbones.detection.config import default_config, read_config
from regnet_backbones.detection.data import VAL_NAME, read_coco_split, register_split
from regnet_backbones.detection.description import describe
from regnet_backbones.detection.evaluation import BEST_F1

QUICK = str(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml"))
SIDE = 64
IMAGES = 4
STEPS = 4
# Nothing is sure after a few iterations.
SURE_OF_NOTHING = [
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "TEST.PICTURES_MIN_SCORE", "0.0"),
    *("TEST.DETECTIONS_PER_IMAGE", "12", "TEST.PICTURES", "1", "DATALOADER.NUM_WORKERS", "0"),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=4, num_val=IMAGES, image_size=SIDE)
    return shapes.write(tmp_path_factory.mktemp("data") / "shapes", spec)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """Return the folder of a short training on data of one's own."""
    output = tmp_path_factory.mktemp("run")
    options = ["SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", STEPS, "INPUT.MIN_SIZE_TEST", SIDE]
    options += ["TEST.EVAL_PERIOD", 2, "OUTPUT_DIR", output, *SURE_OF_NOTHING]
    arguments = ["--config-file", QUICK, *own_data(dataset), *options]
    with contextlib.redirect_stdout(io.StringIO()):
        assert load_tool("train_net").main([str(argument) for argument in arguments]) == 0
    return output


@pytest.fixture(scope="module")
def val(run, dataset, tmp_path_factory):
    """Return data whose truth is half of what the detector predicts: an AP above 0."""
    cfg = read_config(run / "config.yaml")
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = str(run / "model_final.pth"), "cpu"
    cfg.DATASETS.TEST = ()
    predictor = DefaultPredictor(cfg)
    content = json.loads(dataset.instances_json("val").read_text())
    content["annotations"] = []
    for image in content["images"]:
        path = dataset.images("val") / image["file_name"]
        instances = predictor(read_image(str(path), "BGR"))["instances"].to("cpu")
        for entry in instances_to_coco_json(instances[::2], image["id"]):
            entry |= {"id": len(content["annotations"]) + 1, "iscrowd": 0}
            entry |= {"category_id": content["categories"][entry["category_id"]]["id"]}
            entry |= {"area": entry["bbox"][2] * entry["bbox"][3]}
            content["annotations"].append(entry)
    path = tmp_path_factory.mktemp("own") / "val.json"
    path.write_text(json.dumps(content))
    return read_coco_split(path, dataset.images("val"))


@pytest.fixture(scope="module")
def own(val):
    return ["--val-json", str(val.json_file), "--val-images", str(val.image_root)]


def report_of(*arguments):
    """Run the tool and return what it printed on stderr."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as e:
        assert load_tool("report").main([*map(str, arguments), "--device", "cpu"]) == 0
    return e.getvalue()


@pytest.fixture(scope="module")
def page(run, own):
    """Return the page of the run on other data, whose evaluation is in the folder of the run."""
    report_of(run, *own)
    return Page((run / "report.html").read_text())


@pytest.fixture(scope="module")
def report(run, val, page):
    return read_detector(run, "report", val=val)


def test_results_are_those_of_evaluate(report, page, run, own, tmp_path, capsys):
    evaluate = load_tool("evaluate").main
    assert evaluate([str(run), *own, "--device", "cpu", "--output", str(tmp_path)]) == 0
    expected = json.loads((tmp_path / "results.json").read_text())["results"]["own_val"]
    assert 1 < expected["bbox"]["AP"] < 99
    (table,) = report.metrics.summary
    assert [task for task, _ in table.rows] == ["bbox", "segm"]
    for task, values in table.rows:
        assert values == tuple(expected[task][name] for name in table.columns)
    classes = report.metrics.per_class
    kinds = ("AP", "F1", "precision", "recall", "min_score")
    assert set(classes.columns) == {f"{task} {kind}" for task in ("bbox", "segm") for kind in kinds}
    assert table.columns[:6] == ("AP", "AP50", "AP75", "APs", "APm", "APl")
    assert [name for name, _ in classes.rows] == list(shapes.CATEGORIES)
    for name, values in classes.rows:
        keys = [column.split() for column in classes.columns]
        assert values == tuple(expected[task][f"{kind}-{name}"] for task, kind in keys)
    for task, confusion in report.metrics.confusion.items():
        counts = np.array(confusion.counts)
        predicted = counts[:, :-1].sum()
        assert 100 * counts.trace() / predicted == pytest.approx(expected[task]["precision"])
    assert set(report.metrics.confusion) == {"bbox", "segm"}
    assert "with model_final.pth, on own_val" in report.metrics.source
    assert ["bbox", f"{expected['bbox']['AP']:.2f}"] in [row[:2] for row in page.rows()]


def test_curves_are_what_metrics_json_says(report, run):
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    losses = {line["iteration"]: line["total_loss"] for line in lines if "total_loss" in line}
    assert report.curves["Losses"]["total_loss"] == losses
    assert report.curves["Losses"].keys() == {
        *("total_loss", "loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc")
    }
    results = [line for line in lines if "bbox/AP" in line]
    assert len(results) == STEPS / 2  # of the evaluations in and after the training
    validation = report.curves["Validation"]
    assert list(validation) == ["bbox AP", "segm AP"]
    assert list(validation["segm AP"].values()) == [line["segm/AP"] for line in results]
    times = [line["time"] for line in lines if "time" in line]
    assert f"{2 / times[0]:.1f} images per second (batch 2" in dict(report.speed)["training"]


def test_pictures_have_the_scores_of_their_images(report):
    assert report.images.complete
    assert report.images.available == IMAGES
    assert "boxes with a score of at least 0 that match" in report.images.score
    best, worst = report.pictures.values()
    shown = [*best, *worst]
    assert sorted(score.file for _, score in shown) == [f"{n:06}.png" for n in range(IMAGES)]
    for image, score in shown:
        total = 2 * score.found + score.missed + score.made_up
        assert score.score == pytest.approx(2 * score.found / total)
        assert score.found > 0  # the truth is among the predictions
        assert image.width == 2 * image.height + 4  # pixels between the two
    scores = [score.score for _, score in (*best, *reversed(worst))]
    assert scores == sorted(scores, reverse=True)


def test_what_was_trained_is_said(report, page, run, val):
    facts = dict(report.facts)
    assert page.text_of("h1") == [report.run.title] == ["Mask R-CNN on a RegNet by numbers"]
    assert facts["iterations"] == f"{STEPS} of 2 images"
    assert facts["started from"] == "random weights"
    assert facts["validated on"] == str(val.json_file)
    # What `tools/design.py show` says of these numbers.
    assert facts["its cost"] == "196 M multiply-adds at 224×224, 529 k parameters"
    assert "parameters" in facts["whole model"]
    assert "ms an image" in dict(report.speed)["inference"]
    assert report.missing == ()
    again = f"train-detector --config-file {run}/config.yaml OUTPUT_DIR {run}_again"
    assert report.command == f"regnet-backbones {again}"
    changed = {key: value for key, value, _ in report.run.changed}
    assert changed["SOLVER.MAX_ITER"] == str(STEPS)
    assert changed["MODEL.BACKBONE.NAME"] == "build_regnet_fpn_backbone"
    assert "MODEL.WEIGHTS" not in changed
    assert f"MAX_ITER: {STEPS}" in report.run.config


def test_settings_that_differ_are_those_that_were_set(tmp_path):
    cfg = default_config()
    cfg.merge_from_list(["SOLVER.BASE_LR", 0.5, "MODEL.REGNET.NAME", "regnety_032"])
    cfg.OUTPUT_DIR = "elsewhere"
    file = tmp_path / "mine.yaml"
    file.write_text(cfg.dump())
    assert sorted(describe(file).changed) == [
        ("MODEL.REGNET.NAME", "regnety_032", ""),
        ("SOLVER.BASE_LR", "0.5", "0.001"),
    ]


def test_with_fewer_images_the_results_are_the_logged_ones(run, tmp_path):
    """Of the data of the training, in a process that knows other data by their name."""
    register_split(VAL_NAME, "other.json", "other")
    copy = shutil.copytree(run, tmp_path / "a run")
    report_of(copy, "--images", "1")
    report = read_detector(copy, "report")
    last = json.loads((run / "metrics.json").read_text().splitlines()[-1])
    (table,) = report.metrics.summary
    logged = [last[f"bbox/{name}"] for name in table.columns]
    assert list(table.rows[0][1]) == [None if math.isnan(v) else v for v in logged]
    assert report.metrics.source == f"logged by the training at iteration {STEPS}, on own_val"
    assert (len(report.images.images), report.images.available) == (1, IMAGES)
    assert report.command.endswith(f"'{copy}/config.yaml' OUTPUT_DIR '{copy}_again'")

    # Where all images are asked for, they are evaluated, with what the training found in the end.
    report_of(copy)
    report = read_detector(copy, "report")
    assert report.images.complete
    (table,) = report.metrics.summary
    columns = [name for name in table.columns if name not in BEST_F1]
    logged = [last[f"bbox/{name}"] for name in columns]
    expected = pytest.approx([None if math.isnan(v) else v for v in logged])
    assert list(table.rows[0][1])[: len(columns)] == expected
    assert report.metrics.source == "found by an evaluation with model_final.pth, on own_val"


def test_an_evaluation_is_used_where_it_is_of_checkpoint_and_data(run, own, val, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    assert "There are no metrics" in report_of(copy, *own, "--no-evaluate")
    shutil.copytree(run / "report", copy / "evaluation")
    assert report_of(copy, *own) == ""
    assert not (copy / "report").exists()
    assert read_detector(copy, "evaluation").images is None  # of the training's data
    (copy / "model_final.pth").write_bytes(b"trained again")
    assert read_detector(copy, "evaluation", val=val).images is None


def test_a_finished_run_is_finished_whichever_checkpoint_is_shown(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.copy(copy / "model_final.pth", copy / "model_best.pth")
    best = copy / "model_best.pth"
    assert "training" not in report_of(best, "--no-evaluate")
    # What the training logged last is not of an earlier checkpoint.
    assert f"evaluate {best}`" in report_of(best, "--no-evaluate")
    (copy / "model_final.pth").unlink()  # killed in its last evaluation
    assert f"ends at iteration {STEPS} of {STEPS}" in report_of(best, "--no-evaluate")
    (copy / "metrics.json").unlink()
    assert "no log of the training" in report_of(best, "--no-evaluate")


def test_without_its_data_a_run_is_reported_and_says_so(run, tmp_path):
    moved = shutil.copytree(run, tmp_path / "moved", ignore=shutil.ignore_patterns("report"))
    config = moved / "config.yaml"
    config.write_text(config.read_text().replace("instances_val.json", "gone.json"))
    file = tmp_path / "page.html"
    missing = report_of(moved, "--output", file)
    (line,) = [line for line in Page(file.read_text()).text_of("li") if "predicted" in line]
    assert line in missing
    assert "gone.json" in line
    assert "--val-json" in line


def test_mistakes_of_the_command_line(run, val, own, tmp_path, capsys):
    main = load_tool("report").main
    content = json.loads(val.json_file.read_text())
    content["categories"].append({"id": 99, "name": "hexagon"})
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    for arguments, named in (
        (["--val-json", str(other), *own[2:]], str(other)),
        (["--val-json", "val.json"], "--val-images"),
        (["--opts", "MODEL.DEVICE", "cpu"], "--device"),
        (["--opts", "MODEL.NAME", "x"], "MODEL.NAME"),
    ):
        assert main([str(run), *arguments]) == 2
        assert named in capsys.readouterr().err
