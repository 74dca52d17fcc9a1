"""The benchmark's arithmetic: memory, times, ratios, roofline, scaling, and what is written."""

import json
import os
import re
import shlex
import shutil
import socket

import pytest
import torch
from documents import ROOT

from benchmarks import families, fma, roofline
from benchmarks.cases import Case
from benchmarks.chart import write_chart
from benchmarks.command import _check, _rows, benchmark_parser, plain_command
from benchmarks.machine import cpu_model, versions
from benchmarks.report import as_json, result_table, scaling_table
from benchmarks.results import Result, Row, failed_rows
from benchmarks.roofline import Rates, distances, measure_rates, roofline_of
from benchmarks.runner import failure_of
from benchmarks.scaling import Point, points, scaling
from benchmarks.steps import largest_error
from regnet_backbones import complexity, zoo
from regnet_backbones.cli.run import parse_size
from regnet_backbones.errors import UserError
from regnet_backbones.runs.results import write_json

RECORDED = sorted((ROOT / "benchmarks" / "results").glob("cpu_*.json"))

CASE = Case("features", False, "regnetx_002", (64, 96), 4)


def row(name, *seconds, family="timm", precision="fp32", **options):
    return Row(name, family, precision, "measured", seconds, **options)


# Half of the reference's time is twice as fast; the outliers move no median.
RESULT = Result(
    CASE,
    "timm",
    (
        row("ours", 0.1, 0.1, 9.0, family="ours", peak_bytes=3 * 2**20, error=2e-6),
        row("timm", 0.2, 0.1, 0.4),
        row("timm, channels_last", 0.16, 0.16, 0.16),
        Row("torchvision", "torchvision", "fp32", "left out", note="it has no regnetx_002"),
        Row("SMP", "SMP", "fp32", "out of memory"),
        Row("detectron2", "detectron2", "fp32", "failed", note="RuntimeError: broken"),
    ),
)


# Results


def test_medians_spreads_and_ratios():
    ours, timm, fast = RESULT.measured
    assert (ours.median, timm.median, fast.median) == (0.1, 0.2, 0.16)
    assert ours.spread == pytest.approx(4.45)  # between 0.1 and 4.55
    assert row("once", 0.5).spread == 0
    assert [RESULT.ratio(r) for r in RESULT.rows[:4]] == pytest.approx([2, 1, 1.25, None])
    assert RESULT.images_per_second(ours) == pytest.approx(40)
    assert RESULT.best("timm", "fp32") is fast
    assert RESULT.best("timm", "bf16") is None
    assert [r.name for r in failed_rows([RESULT])] == ["detectron2"]


def test_the_table_has_numbers_stars_and_every_row_that_is_missing():
    lines = result_table(RESULT).splitlines()
    cells = {line.split("  ")[0]: line.split() for line in lines[3:6]}
    assert cells["ours"] == ["ours", "100.0", "4450.0", "40.0", "2.00", "3.0", "2e-06", "*"]
    assert cells["timm"][-1] != "*"
    assert cells["timm, channels_last"][-1] == "*"
    assert "left out: torchvision: it has no regnetx_002" in lines
    assert "out of memory: SMP" in lines
    assert "failed: detectron2: RuntimeError: broken" in lines
    assert "fp32: 'ours' is 1.60 times as fast as 'timm, channels_last'" in lines


def test_without_its_reference_a_table_has_no_ratios_and_says_so(tmp_path):
    result = Result(CASE, "timm", RESULT.rows[:1])
    assert "no ratios: the row 'timm' was not measured" in result_table(result)
    with pytest.raises(ValueError, match="no chart without ratios"):
        write_chart(tmp_path / "chart.png", [result])
    assert "nothing was measured" in result_table(Result(CASE, "timm", RESULT.rows[3:]))


def test_json_has_every_time_and_the_chart_is_a_png(tmp_path):
    write_json(tmp_path / "new" / "x.json", as_json([RESULT], about={"threads": 1}))
    content = json.loads((tmp_path / "new" / "x.json").read_text())
    (case,) = content["cases"]
    assert (content["threads"], case["variant"], case["size"]) == (1, "regnetx_002", [64, 96])
    assert [r["name"] for r in case["rows"]] == [r.name for r in RESULT.rows]
    ours, _, fast, left_out, *_ = case["rows"]
    assert ours["seconds"] == [0.1, 0.1, 9.0]
    assert (ours["ratio"], ours["best_of_family"], fast["best_of_family"]) == (2, True, True)
    assert (left_out["ratio"], left_out["status"]) == (None, "left out")
    write_chart(tmp_path / "x.png", [RESULT, RESULT])
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_an_error_is_told_in_a_line_without_paths():
    error = RuntimeError("in /home/someone/.venv/lib/conv.py:\n  see https://pytorch.org/docs/x")
    failure = failure_of(error)
    assert failure.status == "failed"
    assert failure.note == "RuntimeError: in conv.py: see https://pytorch.org/docs/x"
    assert len(failure_of(ValueError("x" * 5000)).note) < 300
    for out in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ):
        assert failure_of(out).status == "out of memory"
    assert failure_of(ValueError("a note on being out of memory")).status == "failed"


def test_errors_of_maps_are_relative_to_the_largest_value():
    reference = [torch.tensor([-8.0, 2.0]), torch.tensor([1.0])]
    assert largest_error([torch.tensor([-8.0, 4.0]), torch.tensor([1.0])], reference) == 0.25
    with pytest.raises(FloatingPointError, match="C3 has values that are not finite"):
        largest_error([reference[0], torch.tensor([torch.nan])], reference)
    with pytest.raises(ValueError, match=re.escape("C3 is (2,), and (1,) in our extractor")):
        largest_error([reference[0], torch.zeros(2)], reference)


# Roofline and scaling


def test_the_roofline_follows_from_the_published_cost():
    """RegNetX-200MF at 224: 199 M multiply-adds and 2.2 M activations with its classifier."""
    case = Case("features", False, "regnetx_002", (224, 224), 2)
    floor = roofline_of(case, "fp32", Rates(multiply_adds=1e9, bandwidth=1e9))
    assert floor.compute == pytest.approx(2 * 0.1995, rel=0.01)
    # 2.3 M parameters without the classifier's 0.37 M, and each activation twice, in 4 bytes.
    assert floor.memory == pytest.approx((2.31e6 + 2 * 2 * 2.16e6) * 4 / 1e9, rel=0.01)
    half = roofline_of(case, "bf16", Rates(multiply_adds=1e9, bandwidth=1e9))
    assert half.memory == pytest.approx(floor.memory / 2)
    assert distances(row("ours", 3 * floor.compute), floor)[0] == pytest.approx(3)
    for other in (
        Case("features", True, "regnetx_002", (64, 64), 1),
        Case("detector", False, "regnetx_002", (64, 64), 1),
        Case("features", False, "regnetz_b16", (64, 64), 1),
    ):
        assert roofline_of(other, "fp32", Rates(1, 1)) is None


@pytest.fixture
def timed_rates(monkeypatch):
    """Let every product take half a second, and every copy a quarter."""
    times = {"product": (7.0, 0.5, 0.7), "copy": (0.25, 0.3, 0.3)}
    monkeypatch.setattr(roofline, "interleaved_times", lambda calls, **_: times)


def test_rates_count_a_product_and_both_ways_of_a_copy(timed_rates):
    rates = measure_rates("bf16", side=10, copy_bytes=1000)
    assert rates == Rates(2000.0, 8000.0, "a matrix product")


def test_float32_of_a_cpu_is_measured_by_multiply_adds(timed_rates, monkeypatch):
    monkeypatch.setattr(roofline, "fma_call", lambda threads: (lambda: None, 100 * threads))
    rates = measure_rates("fp32", side=10, copy_bytes=1000)
    assert rates.multiply_adds == 200 * torch.get_num_threads()
    assert "fused" in rates.by


def test_without_a_compiler_the_product_is_taken_and_the_reason_told(timed_rates, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    rates = measure_rates("fp32", side=10, copy_bytes=1000)
    assert rates.multiply_adds == 2000
    assert "a matrix product" in rates.by
    assert "CXX" in rates.by


needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler, g++"
)


@needs_compiler
def test_a_source_that_does_not_compile_is_told(tmp_path, monkeypatch):
    (tmp_path / "fma.cpp").write_text("not C++")
    monkeypatch.setattr(fma, "SOURCE", tmp_path / "fma.cpp")
    with pytest.raises(UserError, match="fma.cpp"):
        fma.fma_call(1)


@needs_compiler
def test_the_loop_does_all_of_its_multiply_adds():
    """Accumulators of 1, 2, ... 12, all of whose lanes are halved, and one added, three times."""
    call, count = fma.fma_call(2, rounds=3)
    lanes = count // (2 * 3 * 12)
    assert lanes in (4, 8, 16)
    expected = sum(lanes * (start / 8 + 1 / 4 + 1 / 2 + 1) for start in range(1, 13))
    assert call() == [pytest.approx(expected)] * 2


def test_scaling_finds_the_power():
    made = [
        Point("ours", False, "x", (1, 1), 1, flops=n, activations=n**2, seconds=3 * n**1.5)
        for n in (10, 100, 1000)
    ]
    alone = Point("ours", True, "x", (1, 1), 1, flops=5, activations=5, seconds=1)
    (fitted,) = scaling([*made, alone])
    assert (fitted.flops, fitted.activations) == pytest.approx((1.5, 0.75))
    table = scaling_table([*made, alone])
    assert "ours: time grows with the 1.50th power of multiply-adds, the 0.75th" in table
    assert "no row of ours" in scaling_table([])


def test_scaling_takes_our_rows_for_whole_batches():
    (point,) = points(
        [RESULT, Result(Case("segmenter", False, "regnetx_002", (64, 64), 1), "", ())]
    )
    assert (point.row, point.seconds, point.batch) == ("ours", 0.1, 4)
    # 199 M multiply-adds at 224x224 in proportion to the pixels, but for the classifier.
    assert point.flops == pytest.approx(4 * 199e6 * 64 * 96 / 224**2, rel=0.01)


# The machine


def test_the_processor_is_named_and_the_host_is_not(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast CPU @ 3GHz\n")
    assert cpu_model(tmp_path / "cpuinfo") == "Fast CPU @ 3GHz"
    assert cpu_model(tmp_path / "nothing")
    found = versions()
    assert found["torch"] == torch.__version__
    assert set(found) >= {"python", "timm", "torchvision", "detectron2", "onnxruntime"}
    assert socket.gethostname() not in found.values()


# Command lines


def test_a_command_line_is_repeated_as_it_was_given():
    argv = ["--entries", "ours, optimized", "*bf16", "timm", "--output=/home/me/results/mine"]
    line = plain_command("tools/benchmark.py", argv, ["e", "/home/me/results/mine", None])
    assert line == (
        "python tools/benchmark.py --entries 'ours, optimized' '*bf16' timm --output=mine"
    )


@pytest.mark.parametrize("path", RECORDED, ids=[path.stem for path in RECORDED])
def test_what_the_committed_results_were_measured_with_can_be_given_again(path):
    python, tool, *argv = shlex.split(json.loads(path.read_text())["command"])
    assert (python, tool) == ("python", "tools/benchmark.py")
    args = benchmark_parser("").parse_args(argv)
    _check(args, _rows(args))  # the rows are there


# Sizes


def test_sizes_are_sides_or_height_by_width():
    assert parse_size("512") == (512, 512)
    assert parse_size("800x1344") == (800, 1344)


def test_other_sizes_are_refused():
    for text in ("", "0", "-5", "800x", "x800", "800x0", "1x2x3", "big"):
        with pytest.raises(ValueError, match=f"got '{text}'"):
            parse_size(text)


def test_families_are_counted_as_designs_are_and_measured(tmp_path, capsys):
    for name in ("regnety_004", "regnetx_016"):
        expected = complexity(zoo.get(name).design, image_size=(224, 320), num_classes=None)
        flops, activations, params = families.complexity(name, (224, 320))
        # Squeeze-and-excitation puts out a few values that the paper does not count.
        assert flops == pytest.approx(expected.flops, rel=1e-3)
        assert activations == pytest.approx(expected.activations, rel=5e-3)
        assert params == expected.params
    argv = ["--sizes", "64x96", "--groups", "0", "--runs", "1", "--output", str(tmp_path / "all")]
    assert families.main(argv) == 0
    rows = json.loads((tmp_path / "all.json").read_text())["rows"]
    assert [row["name"] for row in rows] == list(families.GROUPS[0])
    assert all(row["peak_mib"] > 0 and len(row["seconds"]) == 1 for row in rows)
    assert "efficientnet_b0" in capsys.readouterr().out
    assert (tmp_path / "all.png").stat().st_size > 0
