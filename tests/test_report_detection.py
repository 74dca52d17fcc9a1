"""The report of a detector's run: what detectron2's own files say, and what an evaluation finds."""

import contextlib
import io
import json
import shutil

import pytest
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from load_tool import load_tool
from report_pages import Page

from regnet_backbones import config_path, shapes
from regnet_backbones.detection.config import default_config, read_config
from regnet_backbones.detection.data import VAL_NAME, read_coco_split, register_split
from regnet_backbones.report.content import Table
from regnet_backbones.report.detection import changed_settings, read_detector, results_tables
from regnet_backbones.report.runs import find_run

QUICK = str(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml"))
SIDE = 64
IMAGES = 4
STEPS = 4
# Nothing is sure after a few iterations.
SURE_OF_NOTHING = [
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "TEST.PICTURES_MIN_SCORE", "0.0"),
    *("TEST.DETECTIONS_PER_IMAGE", "12", "TEST.PICTURES", "0", "DATALOADER.NUM_WORKERS", "0"),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=4, num_val=IMAGES, image_size=SIDE)
    return shapes.write(tmp_path_factory.mktemp("data") / "shapes", spec)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """Return the folder of a short training on data of one's own."""
    output = tmp_path_factory.mktemp("run")
    own = [
        *("--train-json", dataset.instances_json("train"), "--train-images"),
        *(dataset.images("train"), "--val-json", dataset.instances_json("val"), "--val-images"),
        dataset.images("val"),
    ]
    options = ["SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", STEPS, "INPUT.MIN_SIZE_TEST", SIDE]
    options += ["TEST.EVAL_PERIOD", 2, "OUTPUT_DIR", output, *SURE_OF_NOTHING]
    arguments = ["--config-file", QUICK, *own, *options]
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
def report(run, val):
    return read_detector(find_run(run), images=200, device="cpu", val=val)


def test_results_are_those_of_evaluate(report, run, val, tmp_path, capsys):
    own = ["--val-json", str(val.json_file), "--val-images", str(val.image_root)]
    evaluate = load_tool("evaluate").main
    assert evaluate([str(run), *own, "--device", "cpu", "--output", str(tmp_path)]) == 0
    expected = json.loads((tmp_path / "results.json").read_text())["results"]["own_val"]
    assert 1 < expected["bbox"]["AP"] < 99
    (table,) = report.metrics.summary
    assert [task for task, _ in table.rows] == ["bbox", "segm"]
    for task, values in table.rows:
        for name, value in zip(table.columns, values, strict=True):
            assert value == pytest.approx(expected[task][name], nan_ok=True) or (
                expected[task][name] is None and value != value  # NaN, which JSON has not
            )
    classes = report.metrics.per_class
    assert classes.columns == ("bbox AP", "segm AP")
    assert [name for name, _ in classes.rows] == list(shapes.CATEGORIES)
    for name, values in classes.rows:
        for task, value in zip(("bbox", "segm"), values, strict=True):
            wanted = expected[task][f"AP-{name}"]
            assert (None if value != value else value) == pytest.approx(wanted)
    assert report.metrics.source.startswith(f"all {IMAGES} images of own_val, evaluated for this")
    capsys.readouterr()


def test_curves_are_what_metrics_json_says(report, run):
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    losses = {line["iteration"]: line["total_loss"] for line in lines if "total_loss" in line}
    curve = report.curves.losses[0]
    assert curve.name == "total_loss"
    assert dict(zip(curve.iterations, curve.values, strict=True)) == losses
    assert {c.name for c in report.curves.losses} == {
        *("total_loss", "loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc")
    }
    results = [line for line in lines if "bbox/AP" in line]
    assert len(results) == STEPS / 2  # of the evaluations in and after the training
    validation = {curve.name: curve for curve in report.curves.validation}
    assert list(validation) == ["bbox AP", "segm AP"]
    assert list(validation["segm AP"].values) == [line["segm/AP"] for line in results]
    (speed,) = [value for name, value in report.speed if name == "training"]
    times = [line["time"] for line in lines if "time" in line]
    assert f"{2 / times[0]:.1f} images per second (batch 2" in speed


def test_pictures_have_the_scores_of_their_images(report):
    predictions = report.predictions
    assert (predictions.predicted, predictions.available) == (IMAGES, IMAGES)
    assert "masks with a score of at least 0 that match" in predictions.score
    shown = [*predictions.best, *predictions.worst]
    assert sorted(picture.name for picture in shown) == [f"{n:06}.png" for n in range(IMAGES)]
    for picture in shown:
        found, _, missed, _, made_up, *_ = picture.note.split()
        total = 2 * int(found) + int(missed) + int(made_up)
        assert picture.score == pytest.approx(2 * int(found) / total)
        assert int(found) > 0  # the truth is among the predictions
        assert picture.image.width == 2 * picture.image.height + 4  # pixels between the two
    assert predictions.best[0].score >= predictions.best[1].score >= predictions.worst[0].score
    assert predictions.milliseconds > 0


def test_what_was_trained_is_said(report):
    facts = dict(report.facts)
    assert report.title == "Mask R-CNN on a RegNet by numbers"
    assert facts["iterations"] == f"{STEPS} of 2 images"
    assert facts["started from"] == "random weights"
    # What `tools/design.py show` says of these numbers.
    assert facts["its cost"] == "196 M multiply-adds at 224×224, 529 k parameters"
    assert report.missing == ()
    assert f"--config-file {find_config(report)}" in report.command


def find_config(report):
    return report.command.split()[3]


def test_settings_that_differ_are_those_that_were_set():
    cfg = default_config()
    cfg.merge_from_list(["SOLVER.BASE_LR", 0.5, "MODEL.REGNET.NAME", "regnety_032"])
    cfg.OUTPUT_DIR = "elsewhere"
    found = [(s.key, s.value, s.default) for s in changed_settings(cfg, default_config())]
    assert sorted(found) == [
        ("MODEL.REGNET.NAME", "regnety_032", ""),
        ("SOLVER.BASE_LR", "0.5", "0.001"),
    ]


def test_the_config_of_the_run_names_what_was_overridden(report):
    changed = {setting.key: setting.value for setting in report.config.changed}
    assert changed["SOLVER.MAX_ITER"] == str(STEPS)
    assert changed["MODEL.BACKBONE.NAME"] == "build_regnet_fpn_backbone"
    assert "MODEL.WEIGHTS" not in changed
    assert f"MAX_ITER: {STEPS}" in report.config.text


def test_tasks_of_the_same_metrics_share_a_table():
    summary, classes = results_tables(
        {
            "bbox": {"AP": 1.0, "AP50": 2.0, "AP-a-b": 3.0},
            "segm": {"AP": 4.0, "AP50": 5.0, "AP-a-b": 6.0},
            "sem_seg": {"mIoU": 7.0, "IoU-sky": 8.0, "ACC-sky": 9.0},
        }
    )
    assert summary == (
        Table(("AP", "AP50"), (("bbox", (1.0, 2.0)), ("segm", (4.0, 5.0)))),
        Table(("mIoU",), (("sem_seg", (7.0,)),)),
    )
    assert classes == Table(
        ("bbox AP", "segm AP", "sem_seg IoU", "sem_seg ACC"),
        (("a-b", (3.0, 6.0, None, None)), ("sky", (None, None, 8.0, 9.0))),
    )
    assert results_tables({"bbox": {"AP": 1.0}})[1] is None


def test_with_fewer_images_the_results_are_the_logged_ones(run):
    report = read_detector(find_run(run), images=1, device="cpu")
    last = json.loads((run / "metrics.json").read_text().splitlines()[-1])
    (table,) = report.metrics.summary
    logged = [last[f"bbox/{name}"] for name in table.columns]
    assert list(table.rows[0][1]) == pytest.approx(logged, nan_ok=True)
    assert report.metrics.source == f"logged by the training at iteration {STEPS}, on own_val"
    assert (report.predictions.predicted, report.predictions.available) == (1, IMAGES)


def test_results_are_of_the_data_that_the_page_is_of(run, val, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "a run")
    report = read_detector(find_run(copy), images=1, device="cpu", val=val)
    assert dict(report.facts)["validated on"] == str(val.json_file)
    assert report.metrics is None  # the logged ones are of other data
    (missing,) = report.missing
    assert f"`python tools/evaluate.py '{copy}'`, with the same options, finds them" in missing
    own = ["--val-json", str(val.json_file), "--val-images", str(val.image_root)]
    assert load_tool("evaluate").main([str(copy), *own, "--device", "cpu"]) == 0
    capsys.readouterr()
    report = read_detector(find_run(copy), images=1, device="cpu", val=val)
    assert report.metrics.source == "found by tools/evaluate.py with model_final.pth, on own_val"
    report = read_detector(find_run(copy), images=1, device="cpu")
    assert report.metrics.source.startswith("logged by the training")
    assert report.command.endswith(f"'{copy}/config.yaml' OUTPUT_DIR '{copy}_again'")


def test_the_data_of_the_training_are_found(run):
    """From the config of the run, in a process that knows other data by their name."""
    register_split(VAL_NAME, "other.json", "other")
    report = read_detector(find_run(run), images=IMAGES, device="cpu")
    last = json.loads((run / "metrics.json").read_text().splitlines()[-1])
    (table,) = report.metrics.summary
    logged = [last[f"bbox/{name}"] for name in table.columns]
    assert report.metrics.source.startswith(f"all {IMAGES} images of own_val, evaluated for this")
    assert list(table.rows[0][1]) == pytest.approx(logged, nan_ok=True)
    again = f"train_net.py --config-file {run}/config.yaml OUTPUT_DIR {run}_again"
    assert report.command == f"python tools/{again}"


def test_without_its_data_a_run_is_reported_and_says_so(run, tmp_path, capsys):
    moved = shutil.copytree(run, tmp_path / "moved")
    config = moved / "config.yaml"
    config.write_text(config.read_text().replace("instances_val.json", "gone.json"))
    page = tmp_path / "page.html"
    assert load_tool("report").main([str(moved), "--output", str(page), "--device", "cpu"]) == 0
    assert f"report: {page}" in capsys.readouterr().out
    (missing,) = [line for line in Page(page.read_text()).text_of("li") if "predicted" in line]
    assert "gone.json'; tell where they are with --val-json and --val-images" in missing


def test_a_stopped_run_is_reported_as_far_as_it_came(run, tmp_path, capsys):
    stopped = shutil.copytree(run, tmp_path / "stopped")
    for path in (*stopped.glob("*.pth"), stopped / "last_checkpoint"):
        path.unlink()
    lines = (stopped / "metrics.json").read_text().splitlines()
    (stopped / "metrics.json").write_text("\n".join(lines[:1]))
    assert load_tool("report").main([str(stopped), "--device", "cpu"]) == 0
    text = (stopped / "report.html").read_text()
    iteration = json.loads(lines[0])["iteration"] + 1
    assert f"the log ends at iteration {iteration} of {STEPS}." in text
    assert "There is no checkpoint yet" in text
    assert "Mask R-CNN" in Page(text).text_of("h1")[0]


def test_data_that_do_not_belong_to_the_run_are_refused(run, val, tmp_path, capsys):
    main = load_tool("report").main
    content = json.loads(val.json_file.read_text())
    content["categories"].append({"id": 99, "name": "hexagon"})
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    own = ["--val-json", str(other), "--val-images", str(val.image_root)]
    assert main([str(run), *own]) == 2
    assert "the detector has 5 classes" in capsys.readouterr().err


def test_half_data_and_what_is_said_otherwise_are_refused(run, capsys):
    main = load_tool("report").main
    assert main([str(run), "--val-json", "val.json"]) == 2
    assert "missing: --val-images" in capsys.readouterr().err
    assert main([str(run), "--opts", "MODEL.DEVICE", "cpu"]) == 2
    assert "give --device" in capsys.readouterr().err
