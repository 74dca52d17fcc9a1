"""What a newcomer gets wrong with a detector: each ends in one line that says what."""

import errno
import json
import os
import shutil
import signal

import pytest
import torch
from demo_datasets import own_data
from load_tool import load_tool
from PIL import Image
from troubleshooting import assert_documented

from regnet_backbones import config_path, shapes
from regnet_backbones.detection import run
from regnet_backbones.detection.config import read_config
from regnet_backbones.detection.training import checkpoint
from regnet_backbones.detection.training.trainer import Trainer
from regnet_backbones.errors import UserError

QUICK = str(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml"))
SMALL = {
    "MODEL.DEVICE": "cpu",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.MAX_ITER": "3",
    "SOLVER.CHECKPOINT_PERIOD": "1",
    "TEST.PICTURES": "0",
    "INPUT.MIN_SIZE_TRAIN": "(32,)",
    "INPUT.MIN_SIZE_TEST": "32",
    "DATALOADER.NUM_WORKERS": "0",
}


@pytest.fixture(scope="module")
def main():
    return load_tool("train_net").main


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=4, num_val=2, image_size=64)
    return shapes.write(tmp_path_factory.mktemp("data") / "shapes", spec)


@pytest.fixture
def line(main, dataset, tmp_path, capsys, monkeypatch):
    """Call the tool with a small config, and return the documented line that it ends with."""
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)

    def call(*options, config=QUICK, own=True, status=2, **overrides):
        settings = SMALL | {"OUTPUT_DIR": str(tmp_path / "out")}
        settings |= {name.replace("__", "."): value for name, value in overrides.items()}
        data = own_data(dataset) if own else []
        pairs = [text for pair in settings.items() for text in pair]
        assert main(["--config-file", str(config), *data, *options, *pairs]) == status
        return assert_documented(capsys.readouterr().err)

    return call


@pytest.fixture(scope="module")
def finished(main, dataset, tmp_path_factory):
    """A run of three iterations."""
    output = tmp_path_factory.mktemp("finished")
    assert main(arguments(dataset, output)) == 0
    return output


def arguments(dataset, output, *options, **overrides):
    settings = SMALL | {"OUTPUT_DIR": str(output)}
    settings |= {name.replace("__", "."): value for name, value in overrides.items()}
    pairs = [text for pair in settings.items() for text in pair]
    return ["--config-file", QUICK, *own_data(dataset), *options, *pairs]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("MODEL.REGNET.NAME", "regnetx_041", "did you mean 'regnetx_040'"),
        ("MODEL.REGNET.NAM", "x", "'MODEL.REGNET.NAM' (did you mean 'MODEL.REGNET.NAME'"),
        ("MODEL.BACKBONE.NAME", "build_regnt_fpn_backbone", "mean 'build_regnet_fpn_backbone'"),
        ("MODEL.META_ARCHITECTURE", "MaskRCNN", "one of FCOSDetector, "),
        ("MODEL.DEVICE", "gpu", "must be cpu, cuda, or one GPU such as cuda:1, got 'gpu'"),
        ("MODEL.WEIGHTS", "gone.pth", "'gone.pth'"),
        ("SOLVER.MAX_ITER", "many", "SOLVER.MAX_ITER"),
        ("SOLVER.AMP.ENABLED", "True", "needs CUDA"),
        ("DATASETS.TRAIN", "coco_2017_train", "DATASETS.TRAIN"),
    ],
)
def test_a_wrong_value(line, key, value, said):
    assert said in line(**{key: value})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["MODEL.REGNET.NAME=regnetx_002", "x"], "no config key 'MODEL.REGNET.NAME=regnetx_002'"),
        (["--num-gpus", "0"], "--num-gpus"),
        (["--num-gpus", "2", "SOLVER.IMS_PER_BATCH", "3"], "multiple of the 2 processes"),
        (["--num-machines", "2", "--dist-url", "auto"], "--dist-url tcp://HOST:PORT"),
        (["--eval-only", "--resume"], "pass MODEL.WEIGHTS"),
    ],
)
def test_a_wrong_command_line(main, dataset, tmp_path, capsys, options, said):
    flags, overrides = options, []
    if len(options) > 1 and options[-2][0] != "-":
        flags, overrides = options[:-2], options[-2:]
    line = arguments(dataset, tmp_path / "out", *flags)
    assert main([*line, *overrides]) == 2
    assert said in assert_documented(capsys.readouterr().err)


def test_a_key_without_a_value(main, capsys):
    assert main(["--config-file", QUICK, "SOLVER.MAX_ITER"]) == 2
    assert "'SOLVER.MAX_ITER' has no value" in assert_documented(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1,\n b: }", "line 2: not a YAML file of plain values: expected the node content"),
        ("MODEL:\n  REGNT:\n    NAME: x", "MODEL.REGNT.NAME' (did you mean 'MODEL.REGNET.NAME'"),
        ("SOLVER:\n  MAX_ITER: many", "SOLVER.MAX_ITER"),
        ("MODEL: foo", "'MODEL'"),
    ],
)
def test_a_wrong_config_file(line, tmp_path, text, said):
    config = tmp_path / "own.yaml"
    config.write_text(text)
    found = line(config=config)
    assert said in found
    assert str(config) in found


def test_a_config_file_that_is_none(line, dataset):
    assert "no config file 'gone.yaml'" in line(config="gone.yaml")
    image = next(dataset.images("train").iterdir())
    assert "save it as UTF-8" in line(config=image)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("('coco_2018_train',)", "'coco_2018_train', which is not registered (did you mean 'coco_"),
        ("('coco_2017_train',)", "below DETECTRON2_DATASETS"),
        ("()", "DATASETS.TRAIN is empty"),
    ],
)
def test_datasets_that_are_not_there(line, tmp_path, monkeypatch, names, said):
    monkeypatch.chdir(tmp_path)
    assert said in line(own=False, DATASETS__TRAIN=names)


def test_an_output_folder_that_cannot_be_written_to(line, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(Trainer, "__init__", None)  # it is found before
    assert "must be a folder, got" in line(OUTPUT_DIR=str(tmp_path / "file"))
    assert "must be a folder, got" in line(OUTPUT_DIR=str(tmp_path / "file" / "run"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert "cannot be written to" in line(OUTPUT_DIR=str(tmp_path / "run"))


def test_a_file_that_is_no_weights(line, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_text("<!DOCTYPE html><html>")
    assert "is a web page" in line(MODEL__WEIGHTS=str(file))


# Runs that were ended, and are resumed


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted at iteration 1"),
    ],
)
def test_what_ends_a_run_leaves_its_checkpoint(
    line, main, dataset, tmp_path, monkeypatch, error, status, said
):
    step = Trainer.run_step

    def run_step(self):
        step(self)
        if self.iter == 1:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_step", run_step)
        assert said in line(status=status)
    goes_on_from(main, dataset, tmp_path / "out", done=1)


def test_a_full_disk_leaves_a_checkpoint(line, main, dataset, tmp_path, monkeypatch):
    whole = checkpoint.write_whole

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            if self.file.tell() + len(data) > 50_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

        def flush(self):
            self.file.flush()

    def write_whole(path, write):
        whole(path, (lambda file: write(Full(file))) if "0000001" in path.name else write)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_whole", write_whole)
        found = line()
    assert "No space left on device" in found
    goes_on_from(main, dataset, tmp_path / "out", done=1)


def test_a_signal_leaves_a_checkpoint_of_the_last_step(line, main, dataset, tmp_path, monkeypatch):
    step = Trainer.run_step

    def run_step(self):
        if self.iter == 1:
            signal.raise_signal(signal.SIGTERM)
        step(self)

    options = {"SOLVER.CHECKPOINT_PERIOD": "100"}
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_step", run_step)
        found = line(status=143, **options)
    assert "SIGTERM" in found
    assert f"'{tmp_path / 'out' / 'model_0000001.pth'}'" in found
    assert "Traceback" not in (tmp_path / "out" / "log.txt").read_text()
    goes_on_from(main, dataset, tmp_path / "out", done=2)


def test_a_signal_before_the_first_step_ends_a_run_at_once(line, tmp_path, monkeypatch):
    for owner, name in ((run, "check_datasets"), (run, "collect_env_info"), (Trainer, "__init__")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda *_, **__: signal.raise_signal(signal.SIGTERM))
            assert "SIGTERM before the first step" in line(status=143)
    assert not list((tmp_path / "out").glob("*.pth"))


def goes_on_from(main, dataset, output, *, done):
    """Check that the last checkpoint is whole, and that a resumed run ends as it should."""
    last = output / (output / "last_checkpoint").read_text()
    assert torch.load(last, weights_only=True)["iteration"] == done - 1
    assert not list(output.glob(".*.part"))
    assert main(arguments(dataset, output, "--resume")) == 0
    assert f"Starting training from iteration {done}" in (output / "log.txt").read_text()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"MODEL.REGNET.NAME": "regnety_002"}, "weights do not match the network"),
        ({"MODEL.FPN.OUT_CHANNELS": "32"}, "the checkpoint does not fit the config"),
        ({"SOLVER.OPTIMIZER": "SGD"}, "SOLVER.OPTIMIZER was ADAMW and is SGD; restore"),
        ({"MODEL.BACKBONE.FREEZE_AT": "2"}, "MODEL.BACKBONE.FREEZE_AT was 0 and is 2; restore"),
        ({"SOLVER.MAX_ITER": "1"}, "SOLVER.MAX_ITER is 1"),
    ],
)
def test_a_run_does_not_go_on_as_another(line, finished, overrides, said):
    settings = {"SOLVER.MAX_ITER": "4", "OUTPUT_DIR": str(finished)} | overrides
    config = (finished / "config.yaml").read_text()
    assert said in line("--resume", **settings)
    assert (finished / "config.yaml").read_text() == config


def test_a_run_goes_on_with_another_config_and_says_what_is_other(main, dataset, finished):
    rates, log = learning_rates(finished), finished / "log.txt"
    settings = {"SOLVER.MAX_ITER": "5", "SOLVER.BASE_LR": "0.5", "TEST.EVAL_PERIOD": "7"}
    assert main(arguments(dataset, finished, "--resume", **settings)) == 0
    (said,) = [line for line in log.read_text().splitlines() if "config that differs" in line]
    assert "SOLVER.BASE_LR was 0.0015 and is 0.5 (no effect" in said
    assert "SOLVER.MAX_ITER was 3 and is 5" in said
    assert "EVAL_PERIOD" not in said
    assert max(learning_rates(finished)) < 0.01 > max(rates)
    assert main(arguments(dataset, finished, "--resume", **settings)) == 0
    assert log.read_text().count("config that differs") == 1


def test_a_new_run_in_the_folder_of_another_is_not_resumed_as_that(main, dataset, tmp_path):
    output, aside = tmp_path / "out", tmp_path / "out" / "earlier_run_1"
    assert main(arguments(dataset, output, SOLVER__MAX_ITER="1")) == 0
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    kept = ("model_final.pth", "last_checkpoint", "metrics.json", "config.yaml")
    before = {name: (output / name).read_bytes() for name in kept}

    def stop(self):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "run_step", stop)
        assert main(arguments(dataset, output)) == 130
    said = f"earlier run in '{output}' to '{aside}'"
    assert (output / "log.txt").read_text().count(said) == 1
    assert {name: (aside / name).read_bytes() for name in kept} == before
    assert list(aside.glob("events.out.tfevents.*"))
    assert not (output / "last_checkpoint").exists()
    assert not list(output.glob("*.pth"))
    assert main(arguments(dataset, output, "--resume")) == 0
    assert "Starting training from iteration 0" in (output / "log.txt").read_text()
    lines = (output / "metrics.json").read_text().splitlines()
    assert all(json.loads(text)["iteration"] > 0 for text in lines)  # the first run had one
    assert len(list(output.glob("earlier_run_*"))) == 1


def test_a_new_run_begins_with_the_weights_of_the_other(main, dataset, tmp_path):
    output = tmp_path / "out"
    assert main(arguments(dataset, output, SOLVER__MAX_ITER="1")) == 0
    weights = str(output / "model_final.pth")
    options = {"MODEL__WEIGHTS": weights, "SOLVER__BASE_LR": "0.0"}
    assert main(arguments(dataset, output, **options)) == 0
    runs = (output / "earlier_run_1", output)
    first, second = (torch.load(run / "model_final.pth")["model"] for run in runs)
    name = "proposal_generator.rpn_head.conv.weight"
    assert torch.equal(first[name], second[name])


def learning_rates(output):
    lines = (output / "metrics.json").read_text().splitlines()
    return [json.loads(text)["lr"] for text in lines if '"lr"' in text]


def test_a_checkpoint_of_another_model_is_not_evaluated(line, finished):
    weights = str(finished / "model_final.pth")
    found = line("--eval-only", MODEL__WEIGHTS=weights, MODEL__FPN__OUT_CHANNELS="32")
    assert "have another shape: " in found


# Data that is not checked before


@pytest.mark.parametrize(("split", "workers"), [("train", "1"), ("val", "0")])
def test_a_deep_image(line, dataset, tmp_path, split, workers):
    images = tmp_path / "images"
    shutil.copytree(dataset.images(split), images)
    for file in images.iterdir():
        deep = Image.new("I;16", Image.open(file).size, 4096)
        deep.save(images / file.name, "PNG")
    options = [f"--{split}-images", str(images)]
    counts = {"DATALOADER__CHECK_IMAGES": "0", "SOLVER__MAX_ITER": "1"}
    found = line(*options, DATALOADER__NUM_WORKERS=workers, **counts)
    assert f"image '{images}" in found
    assert "has more than 8 bits per channel" in found


# Trained detectors


@pytest.mark.parametrize(
    ("tool", "options", "said"),
    [
        ("evaluate", ["gone"], "no 'gone'; pass the folder of a run"),
        ("evaluate", ["{run}", "--val-json", "gone.json"], "--val-images"),
        (
            "evaluate",
            ["{run}", "--val-json", "gone.json", "--val-images", "{empty}"],
            "no annotation file 'gone.json'",
        ),
        ("evaluate", ["{run}", "--config-file", "gone.yaml"], "no config 'gone.yaml'"),
        ("predict", ["{run}", "gone.jpg"], "'gone.jpg'; pass files"),
    ],
)
def test_a_wrong_trained_detector(finished, tmp_path, capsys, tool, options, said):
    places = {"run": str(finished), "empty": str(tmp_path)}
    options = [option.format(**places) for option in options]
    assert load_tool(tool).main([*options, "--output", str(tmp_path / "out")]) == 2
    assert said in assert_documented(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: "", "an empty file"),
        (lambda text: text[: text.index("\nTEST:") + 1], "VERSION, VIS_PERIOD"),
        (lambda text: text[: text.index("\nSOLVER:") + 20], "config.yaml'"),
        (lambda text: "MODEL:\n  MASK_ON: false\n", "VERSION"),
    ],
)
def test_the_config_of_a_run_that_was_cut(finished, tmp_path, change, said):
    for name in ("config.yaml", "last_checkpoint"):
        shutil.copy(finished / name, tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text(change(config.read_text()))
    with pytest.raises(UserError) as error:
        read_config(config)
    assert said in str(error.value)
    assert str(config) in str(error.value)


@pytest.mark.parametrize(
    "command",
    [
        "report {run} --output {out}.html",
        "export {run} --output {out}.pt2",
    ],
)
def test_no_tool_takes_a_config_that_was_cut(dataset, finished, tmp_path, capsys, command):
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("last_checkpoint", "model_final.pth", "metrics.json"):
        shutil.copy(finished / name, copy)
    (copy / "config.yaml").write_text("VERSION: 2\n")
    places = {"run": copy, "images": dataset.images("val"), "out": tmp_path / "out"}
    tool, *options = (word.format(**places) for word in command.split())
    assert load_tool(tool).main(options) == 2
    assert str(copy / "config.yaml") in assert_documented(capsys.readouterr().err)


def test_a_resumed_run_writes_a_config_that_was_cut_again(main, dataset, finished, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    (copy / "config.yaml").write_text("VERSION: 2\n")
    assert main(arguments(dataset, copy, "--resume", SOLVER__MAX_ITER="6")) == 0
    read_config(copy / "config.yaml")
