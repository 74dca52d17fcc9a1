"""The README says what is true: its commands parse, its code runs, its links lead somewhere."""

import importlib.util
import re
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import documents
import pytest
import torch
import yaml
from detectron2.config import LazyConfig, get_cfg
from detectron2.modeling import build_backbone

from regnet_backbones import zoo
from regnet_backbones.benchmark.command import benchmark_parser
from regnet_backbones.detection.config import read_config
from regnet_backbones.detection.run import argument_parser
from regnet_backbones.inference.arguments import evaluate_parser, predict_parser
from regnet_backbones.inference.export import export_parser
from regnet_backbones.weights.sources import find_source

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

commands = partial(documents.commands, README)


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_two_commands_are_targets_of_the_makefile():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {command[1] for command in commands("make ")} | set(re.findall(r"`make (\w+)`", README))
    assert {"demo", "test", "install"} <= named
    assert named <= targets


def test_ci_runs_the_readmes_test_command_then_lint():
    script = (ROOT / ".ci" / "run").read_text()
    assert script.index("make test\n") < script.index("make lint\n")


def test_training_commands_parse_and_name_configs_that_exist():
    found = [c[2:] for c in commands("python tools/train_net.py")]
    found += [c[c.index("tools/train_net.py") + 1 :] for c in commands("torchrun")]
    assert len(found) == 7
    own = []
    for command in found:
        args = argument_parser(epilog="").parse_args(command)
        cfg = read_config(ROOT / args.config_file, args.opts)
        own += [cfg.SOLVER.STEPS] if args.train_json == "train.json" else []
    assert own == [(4000,)]


def test_the_lazy_config_that_it_names_is_one():
    ((*_, path),) = commands("DETECTRON2_ENV_MODULE=")
    assert "model" in LazyConfig.load(str(ROOT / path))


def test_conversions_parse():
    found = commands("python tools/convert_weights.py")
    assert len(found) == 3
    parser = runpy.run_path(str(ROOT / "tools" / "convert_weights.py"))["_parser"]()
    for command in found:
        args = parser.parse_args(command[2:])
        assert args.to or args.into


def test_the_trainings_of_segmenters_name_configs_and_options_that_exist(segmenter_parser):
    found = commands("python tools/train_semseg.py")
    assert len(found) == 2
    for command in found:
        index = command.index("--config") + 1
        command[index] = str(ROOT / command[index])
        config = segmenter_parser.parse_args(command[2:])
        assert config.data.root.startswith("/data/")
    assert config.data.layout == "folder"


def test_evaluations_and_predictions_parse():
    for tool, parser in (("evaluate", evaluate_parser), ("predict", predict_parser)):
        found = commands(f"python tools/{tool}.py")
        assert len(found) == 3
        for command in found:
            parser("").parse_args(command[2:])


def test_benchmarks_and_exports_parse():
    for tool, parser, count in (("benchmark", benchmark_parser, 1), ("export", export_parser, 4)):
        found = commands(f"python tools/{tool}.py")
        assert len(found) == count
        for command in found:
            parser("").parse_args(command[2:])


@pytest.mark.parametrize("source", re.findall(r"`((?:timm|torchvision|pycls)://[\w.-]+)`", README))
def test_weights_that_it_names_exist(source):
    assert find_source(source).variant is zoo.get("regnety_032")


@pytest.mark.parametrize("tool", sorted((ROOT / "tools").glob("*.py")), ids=lambda p: p.name)
def test_every_tool_explains_itself(tool):
    result = subprocess.run(
        [sys.executable, tool, "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "usage:" in result.stdout
    spec = importlib.util.spec_from_file_location(tool.stem, tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert f"tools/{tool.name}" in module.__doc__
    assert len(tool.read_text().splitlines()) < 100


def test_the_code_runs(tmp_path):
    """The config that the code reads is the one shown beside it."""
    cfg = get_cfg()
    for block in blocks("yaml"):
        cfg.merge_from_other_cfg(type(cfg)(yaml.safe_load(block)))
    (tmp_path / "my_config.yaml").write_text("\n".join([cfg.dump(), "VERSION: 2"]))
    found = blocks("python")
    assert len(found) == 5
    for block in found:
        block = block.replace("512", "64")  # as true of a small image
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", block],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert result.returncode == 0, result.stderr


def test_the_config_builds_the_network_it_names():
    cfg = get_cfg()
    for block in blocks("yaml"):
        cfg.merge_from_other_cfg(type(cfg)(yaml.safe_load(block)))
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]  # as every stock FPN config says
    with torch.device("meta"):
        backbone = build_backbone(cfg)
    weights = zoo.get("regnety_032").weights["ra_in1k"]
    assert backbone.bottom_up.name == "regnety_032"
    assert cfg.MODEL.WEIGHTS == f"timm://regnety_032.{weights.tag}"
    assert cfg.MODEL.PIXEL_MEAN == pytest.approx([255 * v for v in weights.mean])
    assert cfg.MODEL.PIXEL_STD == pytest.approx([255 * v for v in weights.std])


def test_the_widths_it_tells_are_right():
    """By the paper's law, which the reference numbers hold ours to."""

    def widths(name):
        return "-".join(str(stage.width) for stage in zoo.get(name).design.stages)

    assert f"RegNetY-3.2GF is {widths('RegNetY-3.2GF')}" in README
    assert f"*RegNetY-3.2GF is {widths('RegNetY-400MF')} wide.*" in README
    assert f"X, Y, V, Z: {len(zoo.names())} of them" in README
    tv = [name for name in zoo.names() if name.endswith("_tv")]
    assert {"regnetx_004_tv", "regnety_008_tv", "regnety_080_tv"} == set(tv)


def test_links_lead_somewhere():
    for target in documents.links(README):
        assert (ROOT / target).is_file(), target
