"""The command `regnet-backbones`: light until it works, configs by name, options of both kinds."""

import subprocess
import sys
from typing import get_args

import pytest
from detectron2.engine import default_argument_parser

from regnet_backbones import config_path
from regnet_backbones.cli import train
from regnet_backbones.cli.datasets import draw_shapes
from regnet_backbones.cli.export import export_command
from regnet_backbones.cli.main import COMMANDS, main
from regnet_backbones.cli.models import predict_command
from regnet_backbones.cli.run import find_config, parse_size
from regnet_backbones.errors import UnknownNameError, UserError
from regnet_backbones.export.formats import IMAGE_SIZE, OPSET
from regnet_backbones.optimize.options import Dtype
from regnet_backbones.shapes import ShapesSpec

HELP = """
import sys
from regnet_backbones.cli.main import COMMANDS, main
for words in [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]:
    try:
        assert main(words) == 0
    except SystemExit as end:
        assert end.code == 0
    heavy = {"torch", "detectron2", "lightning", "matplotlib", "scipy"} & sys.modules.keys()
    assert not heavy, (words, heavy)
"""


def test_help_is_light_and_shows_how_the_command_is_called():
    ended = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for name, (_, summary) in COMMANDS.items():
        assert summary in ended.stdout
        assert f"usage: regnet-backbones {name} " in ended.stdout
        assert f"    regnet-backbones {name} " in ended.stdout  # an example
    assert "%" not in ended.stdout.replace("5%", "")


def test_a_wrong_command_is_corrected(capsys):
    assert main(["evalute", "output/demo"]) == 2
    assert "'evaluate'" in capsys.readouterr().err


# Configs


def test_every_config_is_found_by_its_name_and_by_its_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for trainer in ("detectron2", "semseg"):
        for path in config_path(trainer).rglob("*.yaml"):
            assert find_config(path.stem, trainer) == str(path)
            below = path.relative_to(config_path())
            assert find_config(str(below), trainer) == str(path)
            assert find_config(f"configs/{below}", trainer) == str(path)


@pytest.mark.parametrize("given", ["", "mine.yaml", "runs/mine.yaml", "data: {root: x}"])
def test_what_is_no_name_is_left_to_the_trainer(given):
    assert find_config(given, "semseg") == given


def test_a_file_is_preferred_to_a_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unet_regnet_small_shapes").touch()
    assert find_config("unet_regnet_small_shapes", "semseg") == "unet_regnet_small_shapes"


def test_a_wrong_name_is_corrected(capsys):
    with pytest.raises(UnknownNameError, match="'mask_rcnn_regnety_032_fpn_1x'"):
        find_config("mask_rcnn_regnety_033_fpn_1x", "detectron2")
    assert main(["train-detector", "--config-file", "mask_rcnn_regnety_033_fpn_1x"]) == 2
    assert main(["train-segmenter", "--config", "unet_regnet_smal_shapes"]) == 2
    assert "'unet_regnet_small_shapes'" in capsys.readouterr().err


def test_each_config_of_a_segmenter_gets_its_path():
    path = str(config_path("semseg/quick/unet_regnet_small_shapes.yaml"))
    name = "unet_regnet_small_shapes"
    words = ["--config", name, f"--config={name}", "--output", name, "--config"]
    assert train.with_config_paths(words) == [
        *("--config", path, f"--config={path}", "--output", name, "--config")
    ]


# Options that are restated, so that they are known without a framework


def test_the_options_are_detectron2s_and_ours():
    parser = train.train_detector.parser("train-detector")
    theirs = vars(default_argument_parser().parse_args([]))
    ours = vars(parser.parse_args([]))
    assert {name: ours[name] for name in theirs} == {**theirs, "dist_url": "auto"}


def test_defaults_and_choices_are_those_of_the_package():
    drawn = vars(draw_shapes.parser("").parse_args([]))
    spec = ShapesSpec()
    for name in ("num_train", "num_val", "image_size", "seed"):
        assert drawn[name] == getattr(spec, name)
    (dtype,) = (each for each in predict_command.parser("")._actions if each.dest == "dtype")
    assert dtype.choices == get_args(Dtype)
    text = export_command.parser("").format_help()
    assert "{} {})".format(*IMAGE_SIZE) in text
    assert f"{OPSET})" in text


# check-data


@pytest.fixture
def detector_parser():
    return train.train_detector.parser("train-detector")


@pytest.fixture
def given(monkeypatch, detector_parser):
    """Return the command lines that the trainers are given."""
    found = []
    for name in ("train_detector", "train_segmenter"):
        monkeypatch.setattr(train, name, lambda argv, prog, name=name: found.append((name, argv)))
    return found


def test_data_are_checked_by_the_trainer_whose_options_are_given(given, detector_parser):
    train_data = ["--train-json", "a.json", "--train-images", "a"]
    detectors = [*train_data, "--val-json", "b.json", "--val-images", "b"]
    segmenters = ["--config", "c.yaml", "--data.train_masks", "b", "--output", "out"]
    train.check_data([*detectors, "MODEL.MASK_ON", "False"], "")
    train.check_data(["--config-file", "mine.yaml"], "")
    train.check_data(segmenters, "")
    assert [name for name, _ in given] == ["train_detector", "train_detector", "train_segmenter"]
    first, second = (detector_parser.parse_args(argv) for _, argv in given[:2])
    assert first.check_data
    assert first.config_file == train.DETECTOR_CONFIG
    assert (first.train_json, first.val_images) == ("a.json", "b")
    assert first.opts == ["MODEL.MASK_ON", "False"]
    assert second.config_file == "mine.yaml"
    assert given[2][1] == ["--check_data", *segmenters]


@pytest.mark.parametrize("line", ["", "--config a --config-file b", "--train-images a"])
def test_it_must_be_clear_what_the_data_are_for(line, given, capsys):
    assert train.check_data(line.split(), "check-data") == 2
    assert "--data.train_masks" in capsys.readouterr().err
    assert not given


# Words


@pytest.mark.parametrize(("text", "size"), [("512", (512, 512)), ("800x1344", (800, 1344))])
def test_a_size_is_one_side_or_two(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "x512", "512x", "512x0", "1x2x3", "-5", "5.0"])
def test_anything_else_is_no_size(text):
    with pytest.raises(UserError, match="800x1344"):
        parse_size(text)
