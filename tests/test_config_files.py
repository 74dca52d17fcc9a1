"""Config files are data: whatever is in one, nothing of it runs, and what is wrong is one line."""

import os
from functools import partial
from pathlib import Path

import pytest
import yaml
from load_tool import load_tool
from PIL import Image

from regnet_backbones.cli.train import train_detector
from regnet_backbones.detection import run
from regnet_backbones.detection.config import load_config_file, read_config
from regnet_backbones.detection.trained import load_config
from regnet_backbones.runs.trained import Trained
from regnet_backbones.runs.yaml_files import read_yaml
from regnet_backbones.semseg import description

MARKER = "OWNED"
TOUCH = f"['touch {MARKER}']"
# Text of a file, and what the line about it must name.
HOSTILE = {
    "a call": (f"OUTPUT_DIR: !!python/object/apply:os.system {TOUCH}", "!!python/object/apply:os"),
    "a call below": (f"MODEL:\n  WEIGHTS: !!python/object/apply:os.system {TOUCH}", "line 2"),
    "an expression": (
        f"SEED: !!python/object/apply:eval [\"open('{MARKER}', 'w') and 1\"]",
        "!!python/object/apply:eval",
    ),
    "a whole tag": (
        f"X: !<tag:yaml.org,2002:python/object/apply:os.system> {TOUCH}",
        "!!python/object/apply:os.system",
    ),
    "a tuple": ("SOLVER:\n  STEPS: !!python/tuple [1, 2]", "!!python/tuple"),
    "a tag of somebody's": ("X: !mine 3", "!mine"),
    "twice": ("SEED: 1\nVIS_PERIOD: 2\nSEED: 3", "'SEED'"),
    "twice below": ("SOLVER: {MAX_ITER: 1, STEPS: [1], MAX_ITER: 2}", "'MAX_ITER'"),
    "tabs": ("MODEL:\n\tDEVICE: cpu", "line 2"),
    "a code page": ("OUTPUT_DIR: caf\xe9".encode("latin-1"), "UTF-8"),
}  # fmt: skip
# Files that are YAML, and no config.
NO_CONFIG = {
    "nothing": ("", "an empty file"),
    "a list": ("- SEED", "a list"),
    "a loop": ("_BASE_: ./config.yaml", "_BASE_"),
    "a base that is a number": ("_BASE_: 3", "_BASE_"),
    "a model that is a number": ("MODEL: 3", "'MODEL'"),
    "a base that there is not": ("_BASE_: gone.yaml", "gone.yaml"),
}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Write a config file where a marker would be written, too."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="config.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    yield write
    assert not Path(MARKER).exists()


def one_line(message):
    return "\n" not in message and len(message) < 600


def readings(path):
    """Return every reading of a detector's config in our tools, by the tools that do it."""
    args = train_detector.parser("").parse_args(["--config-file", str(path), "MODEL.DEVICE", "cpu"])
    trained = Trained("detector", path.with_name("model_final.pth"), path)
    return {
        "train": partial(run.read_run_config, args),
        "evaluate, predict, export, report": partial(load_config, trained),
        "a report without a checkpoint": partial(read_config, path),
        "a segmenter's report": partial(description.read_config, path, None),
    }


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_is_read_as_data_everywhere(config, case):
    text, named = HOSTILE[case]
    for tool, read in readings(config(text)).items():
        with pytest.raises(ValueError) as raised:
            read()
        message = str(raised.value)
        assert named in message, (tool, message)
        assert "config.yaml" in message
        assert one_line(message)


@pytest.mark.parametrize("case", ["a call", "twice"])
def test_a_base_is_read_as_data(config, case):
    text, named = HOSTILE[case]
    config(text, "base.yaml")
    path = config("_BASE_: middle.yaml")
    config("_BASE_: [base.yaml]", "middle.yaml")
    for read in list(readings(path).values())[:-1]:
        with pytest.raises(ValueError) as raised:
            read()
        assert named in str(raised.value)
        assert "base.yaml" in str(raised.value)


@pytest.mark.parametrize("case", NO_CONFIG)
def test_what_is_no_config_is_one_line(config, case):
    text, named = NO_CONFIG[case]
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        read_config(config(text))
    message = str(raised.value)
    assert named in message
    assert one_line(message)


def test_the_tools_print_the_line(config, capsys):
    path = config(HOSTILE["a call"][0])
    config("", "model_final.pth")
    Image.new("RGB", (8, 8)).save(path.with_name("image.png"))
    for tool, arguments in {
        "train_net": ["--config-file", str(path)],
        "evaluate": [str(path.parent)],
        "predict": [str(path.parent), str(path.parent)],
        "export": [str(path.parent), "--output", "x.pt"],
        "report": [str(path.parent)],
    }.items():
        assert load_tool(tool).main(arguments) == 2, tool
        error = capsys.readouterr().err
        assert "Traceback" not in error, tool
        assert "!!python/object/apply:os.system" in error, tool


def test_bases_are_merged_in_order_below_the_file(config):
    config("MODEL: {DEVICE: cuda, WEIGHTS: a}\nSEED: 1", "a.yaml")
    config("MODEL: {WEIGHTS: b}\nSEED: 2", "b.yaml")
    path = config("_BASE_: [a.yaml, b.yaml]\nSEED: 3")
    merged = {"MODEL": {"DEVICE": "cuda", "WEIGHTS": "b"}, "SEED": 3}
    assert load_config_file(path) == merged
    config("_BASE_: ~/config.yaml", "home.yaml")
    os.environ["HOME"], home = str(path.parent), os.environ["HOME"]
    try:
        assert load_config_file(path.with_name("home.yaml")) == merged
    finally:
        os.environ["HOME"] = home


def test_plain_values_are_what_yaml_says_they_are(config):
    text = "a: 1\nb: [1.5, x, null, true]\nc: &c {d: 0x10, e: 1.0e+3}\nf: {<<: *c, d: 2}\ng: .inf"
    assert read_yaml(config(text)) == yaml.safe_load(text)
    assert read_yaml(config("\ufeffa: 1")) == {"a": 1}


def test_the_lists_that_detectron2_computes_in_its_configs_are_known(config):
    """Of its Base-RetinaNet.yaml, which projects build upon."""
    expression = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"
    path = config(
        f'MODEL:\n  ANCHOR_GENERATOR:\n    SIZES: !!python/object/apply:eval ["{expression}"]'
    )
    assert read_config(path).MODEL.ANCHOR_GENERATOR.SIZES == eval(expression)
