"""The report of a segmenter's run: what Lightning's own files say, and an evaluation wrote."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
import yaml
from load_tool import load_tool
from report_pages import Page, read_segmenter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from regnet_backbones import config_path, shapes
from regnet_backbones.semseg.description import describe
from regnet_backbones.semseg.evaluation import evaluate

QUICK = config_path("semseg/quick/unet_regnet_small_shapes.yaml")
STEPS = 4
IMAGES = 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=4, num_val=IMAGES, image_size=64)
    return shapes.write(tmp_path_factory.mktemp("data") / "shapes", spec)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """Return the folder of a short training."""
    output = tmp_path_factory.mktemp("run")
    arguments = [
        *("--config", QUICK, "--output", output, "--data.root", dataset.root / "semantic"),
        *("--data.batch_size", 2, "--data.num_workers", 0, "--trainer.max_steps", STEPS),
        *("--trainer.val_check_interval", 2, "--trainer.log_every_n_steps", 1),
        *("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"),
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        assert load_tool("train_semseg").main([str(argument) for argument in arguments]) == 0
    return output


def report_of(*arguments):
    """Run the tool and return what it printed on stderr that is missing."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as e:
        assert load_tool("report").main([*map(str, arguments), "--device", "cpu"]) == 0
    return "".join(line for line in e.getvalue().splitlines(True) if line.startswith("missing: "))


@pytest.fixture(scope="module")
def report(run):
    assert report_of(run) == ""
    return read_segmenter(run)


@pytest.fixture(scope="module")
def events(run):
    accumulator = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {tag: accumulator.Scalars(tag) for tag in accumulator.Tags()["scalars"]}


def in_percent(value):
    return None if value is None else pytest.approx(100 * value, rel=1e-5)


def test_results_are_those_of_evaluate(report, run):
    expected = evaluate(run / "checkpoints" / "best.ckpt", accelerator="cpu")
    (summary,) = report.metrics.summary
    assert summary.columns == ("mIoU", "pixel accuracy", "mean Dice", "boundary mIoU")
    keys = ("miou", "accuracy", "mdice", "boundary_miou")
    assert summary.rows[0][1] == tuple(in_percent(expected[key]) for key in keys)
    assert 0 < expected["miou"] < 1
    keys = ("iou", "dice", "precision", "recall", "boundary_iou")
    found = dict(report.metrics.per_class.rows)
    for name, values in found.items():
        assert values == tuple(in_percent(expected[key][name]) for key in keys)
    confusion = report.metrics.confusion["segmentation"]
    assert confusion.labels == list(found)
    counts = np.array(confusion.counts)
    assert counts.trace() / counts.sum() == pytest.approx(expected["accuracy"])
    assert len(found) == len(shapes.CATEGORIES) + 1
    assert report.metrics.source == "found by an evaluation with best.ckpt"


def test_the_score_of_an_image_is_what_evaluate_finds_for_it_alone(report, run, dataset, tmp_path):
    _, chosen = report.pictures["Worst"][0]
    root = shutil.copytree(dataset.root / "semantic", tmp_path / "semantic")
    files = [p for p in root.rglob("*") if "val" in str(p.relative_to(root)) and p.is_file()]
    assert len(files) == 3 * IMAGES  # images, masks, and masks for detectron2
    for path in files:
        if path.stem != chosen.file:
            path.unlink()
    checkpoint = run / "checkpoints" / "best.ckpt"
    alone = evaluate(checkpoint, overrides={"root": str(root)}, accelerator="cpu")
    assert alone["images"] == 1
    assert chosen.score == pytest.approx(alone["miou"], rel=1e-5)


def test_pictures_are_of_all_images_once(report):
    best, worst = report.pictures.values()
    shown = [*best, *worst]
    assert len({score.file for _, score in shown}) == len(shown) == IMAGES
    scores = [score.score for _, score in (*best, *reversed(worst))]
    assert scores == sorted(scores, reverse=True)
    assert all(image.size == (3 * 64, 64) for image, _ in shown)  # image, truth, prediction
    assert list(report.images.legend)[:2] == ["circle", "square"]


def test_curves_are_those_of_tensorboard(report, events):
    (loss,), (rate,) = (report.curves[name].values() for name in ("Losses", "Learning rate"))
    assert list(loss) == list(range(STEPS))
    assert list(loss.values()) == [event.value for event in events["train/loss"]]
    assert list(rate.values()) == [event.value for event in events["train/lr"]]
    validation = report.curves["Validation"]
    assert set(validation) == {"segmentation mIoU", "segmentation pixel accuracy"}
    miou = list(validation["segmentation mIoU"].values())
    assert miou == [100 * event.value for event in events["val/miou"]]
    assert len(miou) == STEPS / 2


def test_what_was_trained_is_said(report, run, segmenter_parser):
    facts = dict(report.facts)
    assert report.run.title == "Unet on a RegNet by numbers"
    assert facts["its cost"] == "196 M multiply-adds at 224×224, 529 k parameters"
    assert facts["started from"] == "random weights"
    assert facts["length"] == f"{STEPS} steps of 2 images"
    assert facts["checkpoint"] == "best.ckpt"
    assert report.missing == ()
    assert [name for name, _ in report.speed] == [
        *("training", "inference", "machine of the evaluation", "versions")
    ]
    *_, option, config, _, output = report.command.split()
    assert option == "--config"
    parsed = segmenter_parser.parse_args(["--config", config, "--output", output])
    assert (parsed.trainer.max_steps, parsed.data.batch_size) == (STEPS, 2)


def test_settings_that_differ_are_those_that_were_set(tmp_path):
    config = {
        "trainer": {"max_steps": 10, "accelerator": "auto", "default_root_dir": "somewhere"},
        "model": {
            **{"lr": 0.001, "momentum": 0.9, "mean": [0.485, 0.456, 0.406]},
            **{"decoder": "Unet", "encoder": "regnety_032"},
        },
        "data": {"layout": "ade20k"},
    }
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    assert describe(file, None).changed == (
        ("trainer.max_steps", "10", "-1"),
        ("model.lr", "0.001", "0.0005"),
        ("data.layout", "ade20k", "required"),
    )


def test_without_a_config_the_arguments_are_those_of_the_checkpoint(run):
    found = describe(None, run / "checkpoints" / "best.ckpt")
    assert found.title == "Unet on a RegNet by numbers"
    assert "class_names:" in found.config


def test_with_fewer_images_the_results_are_the_logged_ones(run, events, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    report_of(copy, "--images", "1")
    report = read_segmenter(copy)
    best = max(events["val/miou"], key=lambda event: event.value)
    assert report.metrics.source == f"logged by the training at iteration {best.step}"
    assert report.metrics.summary[0].rows[0][1][0] == 100 * best.value
    assert (len(report.images.images), report.images.available) == (1, IMAGES)


def test_how_a_run_was_evaluated_is_shown(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    shutil.copytree(run / "report", copy / "evaluation")
    before = dict(read_segmenter(copy, "evaluation").facts)["evaluated with"]
    assert before.startswith("short_side ")
    results = copy / "evaluation" / "results.json"
    content = json.loads(results.read_text())
    content["settings"] |= {"window": 32, "engine": "onnxruntime", "exported": "int8.onnx"}
    results.write_text(json.dumps(content))
    facts = dict(read_segmenter(copy, "evaluation").facts)
    after = f"{before}, window 32, engine onnxruntime, exported int8.onnx"
    assert facts["evaluated with"] == after


def test_a_stopped_run_is_reported_as_far_as_it_came(run, tmp_path):
    stopped = shutil.copytree(run, tmp_path / "stopped")
    config = stopped / "tensorboard" / "config.yaml"
    config.write_text(config.read_text().replace(f"max_steps: {STEPS}", "max_steps: 2000"))
    missing = report_of(stopped, "--no-evaluate")
    assert f"the log ends at step {STEPS} of 2,000; this page is of best.ckpt" in missing


@pytest.mark.parametrize("kept", [0, 0.3, "data:\n"], ids=str)
def test_a_config_that_is_cut_off_is_one_line(kept, run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    config = copy / "tensorboard" / "config.yaml"
    text = config.read_text()
    end = text.index(kept) + len(kept) if isinstance(kept, str) else int(kept * len(text))
    config.write_text(text[: text.rfind("\n", 0, end) + 1])
    assert load_tool("report").main([str(copy), "--device", "cpu"]) == 2
    assert str(config) in capsys.readouterr().err


def test_without_its_data_a_run_is_reported_and_says_so(dataset, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    kept = dataset.root.rename(tmp_path / "moved")
    try:
        assert "missing: Nothing is predicted: " in report_of(copy)
        opts = ["--opts", "root", kept / "semantic"]
        assert "missing: Nothing" not in report_of(copy, "--images", "1", *opts)
    finally:
        kept.rename(dataset.root)
    assert "Predictions" in Page((copy / "report.html").read_text()).text_of("h2")


def test_several_runs_are_on_one_page(report, run, tmp_path):
    page = tmp_path / "both.html"
    assert report_of(run, run, "--no-evaluate", "--output", page) == ""
    assert Page(page.read_text()).text_of("h1") == 2 * [report.run.title]


def test_mistakes_of_the_command_line(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    main = load_tool("report").main
    for arguments, named in (
        (["--opts", "root"], "--opts"),
        (["--opts", "roof", "x"], "roof"),
        (["--val-json", "x.json"], "--val-json"),
        (["--device", "nothing"], "'nothing'"),
        (["--output", str(copy)], "--output"),
    ):
        assert main([str(copy), "--images", "1", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("error: ") == 1
        assert named in error
