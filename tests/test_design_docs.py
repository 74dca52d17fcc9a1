"""The walk-through of docs/design.md: every command runs, smaller."""

import re
import shlex

from documents import ROOT, commands
from load_tool import load_tool

from regnet_backbones.detection.config import read_config
from regnet_backbones.detection.run import argument_parser

# What makes a command quick; of options given twice the last counts.
SMALLER = {
    "sample": ["--count", "6"],
    "search": [
        *("--measure-size", "32", "--runs", "1", "--threads", "1", "--latency-ms", "1000"),
        *("--count", "2", "--max-measured", "2"),
    ],
}

WALK = (ROOT / "docs" / "design.md").read_text()


def arguments(tool):
    return [shlex.split(line)[2:] for line in commands(WALK, f"python tools/{tool}.py")]


def test_the_commands_run_in_their_order(tmp_path, monkeypatch, capsys):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    found = arguments("design")
    assert len(found) > 10
    for command in found:
        status = load_tool("design").main([*command, *SMALLER.get(command[0], [])])
        assert status == 0, f"{command}: {capsys.readouterr()}"
    for _, path in re.findall(r"--(picture|write|base) (\S+)", WALK):
        assert (tmp_path / path).is_file()


def test_the_training_reads_the_config_that_was_written(tmp_path, monkeypatch):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    (writing,) = [c for c in arguments("design") if "--base" in c]
    assert load_tool("design").main([*writing, *SMALLER["search"]]) == 0
    (training,) = arguments("train_net")
    args = argument_parser(epilog="").parse_args(training)
    cfg = read_config(args.config_file, args.opts)
    assert cfg.MODEL.REGNET.SE_R == 0.25
    assert cfg.MODEL.REGNET.NAME == ""
    assert cfg.DATASETS.TRAIN == ("shapes_train",)


def test_its_results_are_there():
    results = re.findall(r"`(benchmarks/results/\w+\.json)`", WALK)
    assert len(results) >= 2
    assert all((ROOT / path).is_file() for path in results)
