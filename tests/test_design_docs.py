"""The walk-through of docs/design.md, and the README's part of it: every command runs, smaller."""

import re
from pathlib import Path

import pytest
from documents import commands, links
from load_tool import load_tool

from regnet_backbones.detection.config import read_config
from regnet_backbones.detection.run import argument_parser

ROOT = Path(__file__).parent.parent
DOCUMENTS = {name: (ROOT / name).read_text() for name in ("README.md", "docs/design.md")}

# What makes a command quick; of options given twice the last counts.
SMALLER = {
    "sample": ["--count", "6"],
    "search": [
        *("--measure-size", "32", "--runs", "1", "--threads", "1", "--latency-ms", "1000"),
        *("--count", "2", "--max-measured", "2"),
    ],
}
COUNTS = {"README.md": 7, "docs/design.md": 18}


def arguments(name, tool):
    return [line[2:] for line in commands(DOCUMENTS[name], f"python tools/{tool}.py")]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_commands_run_in_their_order(name, tmp_path, monkeypatch, capsys):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    found = arguments(name, "design")
    assert len(found) == COUNTS[name]
    for command in found:
        status = load_tool("design").main([*command, *SMALLER.get(command[0], [])])
        assert status == 0, f"{command}: {capsys.readouterr()}"
    for _, path in re.findall(r"--(picture|write|base) (\S+)", DOCUMENTS[name]):
        assert (tmp_path / path).is_file()


def test_the_training_reads_the_config_that_was_written(tmp_path, monkeypatch):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    (writing,) = [c for c in arguments("docs/design.md", "design") if "--base" in c]
    assert load_tool("design").main([*writing, *SMALLER["search"]]) == 0
    (training,) = arguments("docs/design.md", "train_net")
    args = argument_parser(epilog="").parse_args(training)
    cfg = read_config(args.config_file, args.opts)
    assert cfg.MODEL.REGNET.SE_R == 0.25
    assert cfg.MODEL.REGNET.NAME == ""
    assert cfg.DATASETS.TRAIN == ("shapes_train",)


def test_its_pictures_and_results_are_there():
    for name, text in DOCUMENTS.items():
        linked = links(text)
        assert all((ROOT / name).parent.joinpath(path).exists() for path in linked), linked
    results = re.findall(r"`(benchmarks/results/\w+\.json)`", DOCUMENTS["docs/design.md"])
    assert len(results) >= 2
    assert all((ROOT / path).is_file() for path in results)
