"""The walk-through of docs/design.md: every command runs, smaller."""

import re
import shlex
from dataclasses import replace

import pytest
from documents import ROOT, commands

from regnet_backbones.cli.main import main
from regnet_backbones.cli.train import train_detector
from regnet_backbones.detection.config import read_config
from regnet_backbones.measure.meter import LatencyMeter

# What makes a command quick; of options given twice the last counts.
SMALLER = {
    "sample": ["--count", "6"],
    "search": [
        *("--measure-size", "32", "--runs", "1", "--latency-ms", "1000"),
        *("--count", "1", "--max-measured", "2"),
    ],
}

WALK = (ROOT / "docs" / "design.md").read_text()


def arguments(tool):
    return [shlex.split(line)[2:] for line in commands(WALK, f"regnet-backbones {tool} ")]


@pytest.fixture
def too_slow(monkeypatch):
    """Let the first design of each search take longer than its limit, as most on a real one do."""
    measure = LatencyMeter.measure
    meters = []

    def measure_slowly(self, network):
        measured = measure(self, network)
        later = any(meter is self for meter in meters)
        if later or isinstance(network, str):  # the name of a reference
            return measured
        meters.append(self)
        return replace(measured, latency_ms=5000.0)

    monkeypatch.setattr(LatencyMeter, "measure", measure_slowly)


def test_the_commands_run_in_their_order(tmp_path, monkeypatch, capsys, too_slow):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    found = arguments("design")
    assert len(found) > 10
    printed = {}
    for command in found:
        status = main(["design", *command, *SMALLER.get(command[0], [])])
        said = capsys.readouterr()
        assert status == 0, f"{command}: {said}"
        assert "was rejected" not in said.err
        printed[shlex.join(command)] = said.out
    for _, path in re.findall(r"--(picture|write|base) (\S+)", WALK):
        assert (tmp_path / path).is_file()
    # What is shown, written and scaled of a search is what the search chose.
    (searched,) = (printed[command] for command in printed if "--output found " in command)
    chosen = re.search(r"^the best by flops: row [1-9]\d*, (.+)$", searched, re.MULTILINE)[1]
    taken = [printed[command] for command in printed if "--from found.json" in command]
    assert len(taken) == 3
    assert all(chosen in text for text in taken)


def test_the_training_reads_the_config_that_was_written(tmp_path, monkeypatch):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    (writing,) = [c for c in arguments("design") if "--base" in c]
    assert main(["design", *writing, *SMALLER["search"]]) == 0
    (training,) = arguments("train-detector")
    args = train_detector.parser("").parse_args(training)
    cfg = read_config(args.config_file, args.opts)
    assert cfg.MODEL.REGNET.SE_R == 0.25
    assert cfg.MODEL.REGNET.NAME == ""
    assert cfg.DATASETS.TRAIN == ("shapes_train",)


def test_its_results_are_there():
    results = re.findall(r"`(benchmarks/results/\w+\.json)`", WALK)
    assert len(results) >= 2
    assert all((ROOT / path).is_file() for path in results)
