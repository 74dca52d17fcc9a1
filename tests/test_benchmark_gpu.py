"""The script for a GPU, rehearsed on the CPU: every part that it can do there."""

import json

import pytest
import torch

from benchmarks import gpu, whole_models
from benchmarks.entries import entries_of
from benchmarks.roofline import Rates
from benchmarks.settings import Setting
from regnet_backbones.detection.config import default_config


@pytest.fixture(autouse=True)
def _rates(monkeypatch):
    monkeypatch.setattr(gpu, "measure_rates", lambda precision, device: Rates(1e9, 1e9))


@pytest.fixture
def small_detector(monkeypatch):
    """Let detectors be the demo's, which take a part of the time."""
    cfg = default_config()
    cfg.merge_from_file(str(gpu.DEMO))
    cfg.MODEL.DEVICE = "cpu"
    monkeypatch.setattr(whole_models, "detector_config", lambda case: cfg)
    monkeypatch.setitem(gpu.ROWS, "detector", ("ours, bf16", "ours, optimized, bf16"))


def test_all_parts_but_the_training_are_done_and_written(tmp_path, small_detector):
    argv = ["--device", "cpu", "--quick", "--no-training", "--output", str(tmp_path / "gpu")]
    assert gpu.main(argv) == 0
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert [check["name"] for check in content["checks"]] == [
        setting.row_name("ours") for setting, _ in gpu.CHECKS if not setting.compiled
    ]
    assert all(check["error"] <= check["tolerance"] for check in content["checks"])
    assert [case["part"] for case in content["cases"]] == ["features", "detector"]
    for case in content["cases"]:
        rows = {row["name"]: row["status"] for row in case["rows"]}
        # Nothing is compiled on the way, and torchvision has no regnetx_002.
        expected = [name for name in gpu.ROWS[case["part"]] if not name.endswith("compiled")]
        assert sorted(rows) == sorted(expected)
        assert {n for n, s in rows.items() if s != "measured"} <= {n for n in rows if "torchv" in n}
        assert all(row["peak_bytes"] for row in case["rows"] if row["status"] == "measured")
    assert set(content["rates"]) == {"fp32", "bf16"}
    assert content["not_measured"] == ["max-autotune, batch 1"]


def test_rows_are_those_of_a_gpu():
    for part, names in gpu.ROWS.items():
        known = {entry.name for entry in entries_of(part, training=False, device="cuda")}
        wanted = {*names, *(gpu.AUTOTUNED if part == "features" else ())}
        assert wanted <= known


def test_a_wrong_map_and_an_error_are_failed_checks(monkeypatch, tmp_path):
    class Breaks(Setting):
        def apply(self, model, case):
            raise RuntimeError("broken")

    class Doubles(Setting):
        def apply(self, model, case):
            with torch.no_grad():
                model.stem.conv.weight.mul_(2)
            return model

    monkeypatch.setattr(gpu, "CHECKS", ((Breaks(), 1.0), (Doubles(), 1e-3)))
    broken, doubled = gpu.check_maps(gpu.Plan("cpu", quick=True))
    assert (broken["right"], broken["error"], doubled["right"]) == (False, None, False)
    assert doubled["error"] > 1e-3
    monkeypatch.setattr(gpu, "ROWS", {})
    assert gpu.run(gpu.Plan("cpu", quick=True), tmp_path / "x", training=False) == 1


def test_the_demo_is_trained():
    trained = gpu.train_demo(gpu.Plan("cpu", quick=True), seconds=300)
    assert (trained["status"], trained["output"]) == (0, "")
    assert trained["iterations"] == 2
    assert trained["metrics"]["total_loss"] > 0


def test_a_training_that_takes_too_long_is_stopped():
    trained = gpu.train_demo(gpu.Plan("cpu", quick=True), seconds=0.1)
    assert trained["status"] != 0
    assert trained["iterations"] == 0
