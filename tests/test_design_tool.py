"""`regnet-backbones design`, as it is called."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from documents import ROOT

from regnet_backbones import RegNetFeatures, config_path, zoo
from regnet_backbones.cli.design_output import (
    check_chart,
    edf_figure,
    search_figure,
    width_figure,
)
from regnet_backbones.cli.design_search import interval, span
from regnet_backbones.cli.main import main
from regnet_backbones.design import (
    Candidate,
    Complexity,
    Found,
    RegNetDesign,
    complexity,
    design_of,
    edf,
    read_records,
)
from regnet_backbones.design.cost import short
from regnet_backbones.design.formats import read_results
from regnet_backbones.detection.config import read_config
from regnet_backbones.errors import UserError
from regnet_backbones.measure.meter import LatencyMeter


def design(argv):
    return main(["design", *argv])


SMALL = ["--w0", "8", "--wa", "8", "--wm", "2", "--depth", "8", "--group-width", "8"]
# Its second block lies exactly between two widths, 16 + 105.5 = 16 * 2.25 ** 2.5: float64 rounds
# the exponent down and has four stages, float32 up and has three.
EDGE = ["--w0", "16", "--wa", "105.5", "--wm", "2.25", "--depth", "6", "--group-width", "8"]
SEARCH = [
    *("search", "--w0", "8:16", "--wa", ":16", "--depth", ":12", "--flops", "5M:30M"),
    *("--measure-size", "32", "--runs", "2"),
]
X_400MF = ["--space", "RegNetX_constrained", "--flops", "400M"]


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_bounds_are_read():
    assert interval("400M") == (3.8e8, 4.2e8)
    assert interval("380M:0.42G") == (3.8e8, 4.2e8)
    assert interval("6.3M:") == (6.3e6, math.inf)
    assert interval(":8M") == (0, 8e6)
    assert span("16") == (16, 16)
    assert span("12:20") == (12, 20)
    assert [span(text)[0] for text in ("400MF", "0.8G", "6300k")] == [4e8, 8e8, 6.3e6]
    for text in (":", "5:4", "a:b", "", "M", "4x", "-3", "0", "nan", "1FM", "inf"):
        with pytest.raises(ValueError, match="."):
            interval(text)


def test_show_prints_stages_costs_and_rules(capsys, tmp_path):
    picture = tmp_path / "widths.svg"
    assert design(["show", "RegNetX-200MF", "--picture", str(picture)]) == 0
    found = lines(capsys)
    assert found[0].startswith("regnetx_002: RegNetDesign(w_0=24, w_a=36.44, w_m=2.49, depth=13")
    (s4,) = (line.split() for line in found if line.startswith("s4"))
    # The published stages of RegNetX-200MF: 24, 56, 152, 368 channels, 1, 1, 4, 7 blocks.
    assert s4[:6] == ["s4", "368", "7", "46", "8", "32"]
    (total,) = (line.split() for line in found if line.startswith("all"))
    assert total == ["all", "13", "199M", "2.68M", "2.16M"]
    rules = found[found.index("at 224x224, 1000 classes") + 1 :]
    assert sum(line.startswith("yes") for line in rules) == 7
    assert picture.read_text().count("<svg") == 1


def test_numbers_change_a_name_and_sizes_change_costs(capsys):
    args = ["show", "regnetx_002", "--se-ratio", "0.25", "--image-size", "800x1333"]
    assert design([*args, "--num-classes", "0"]) == 0
    found = lines(capsys)
    assert found[0].startswith(
        "RegNetDesign(w_0=24, w_a=36.44, w_m=2.49, depth=13, group_width=8, se"
    )
    expected = RegNetDesign(24, 36.44, 2.49, 13, 8, se_ratio=0.25)
    flops = complexity(expected, (800, 1333), None).flops
    assert short(flops) in next(line for line in found if line.startswith("all"))
    assert "at 800x1333, the backbone alone" in found
    assert not any(line.startswith("head") for line in found)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["show"], "missing: --w0, --wa, --wm, --depth, --group-width"),
        (["show", "--w0", "8"], "missing: --wa, --wm, --depth, --group-width"),
        (["show", "regnety_32"], "did you mean"),
        (["show", "regnetz_b16"], "regnetz_b16"),
        (["show", "regnetx_002", "--from", "x.json"], "--from"),
        (["show", "--from", "nothing.json"], "nothing.json"),
        (["show", "regnetx_002", "--write", "x"], "--format, one of detectron2"),
        (["show", "regnetx_002", "--picture", "x.bmp"], ".png or .svg"),
        (["show", "regnetx_002", "--num-classes", "-1"], "num_classes"),
        (["show", "regnetz_005", "--format", "detectron2"], "MODEL.REGNET has no key for"),
        (["show", *EDGE, "--build"], "timm builds other stages"),
        (["list", "resnet"], "resnet"),
        (["fit"], "resnet50"),
        (["fit", "resnet50", "--widths", "8"], "--widths"),
        (["fit", "resnet50", "--depths", "8"], "--depths"),
        (["fit", "resnet50", "--stages", "few"], "--stages"),
        (["fit", "regnetz_b16"], "regnetz_b16"),
        (["fit", "efficientnet_b0", "--stages", "any", "--build"], "--stages 4"),
        (["sample", "--space", "RegNetW"], "did you mean 'RegNet"),
        (["sample", "--like", "regnetz_b16"], "regnetz_b16"),
        (["sample", "--like", "regnetx_002", "--flops", "1G"], "--flops"),
        (["sample", "--count", "0"], "count"),
        (["search", "--reference", "regnetz_b16"], "regnetz_b16"),
        ([*SEARCH, "--runs", "0"], "runs"),
        (["edf", "nothing.json"], "nothing.json"),
        (["edf", "a.json", "b/a.json"], "names"),
        (["edf", "a.json", "--output", "x.txt"], ".png or .svg"),
        (["scale", "regnetx_002", "--factor", "0"], "factor"),
        (["scale", "regnetx_002", "--factor", "2", "--strategy", "q"], "strategy"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_answered(args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert design(args) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (MemoryError("out of memory on 'cpu'"), 2, "error: out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_ends_a_measurement_ends_in_one_line(error, status, said, monkeypatch, capsys):
    def measure(self, network):
        raise error

    monkeypatch.setattr(LatencyMeter, "measure", measure)
    assert design(["search", "--reference", "regnetx_002"]) == status
    assert capsys.readouterr().err.startswith(said)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert design(["search", "--device", "cuda"]) == 2
    assert "device 'cuda' needs a GPU" in capsys.readouterr().err


def test_a_design_is_written_for_another_project_and_built(tmp_path, capsys):
    path = tmp_path / "configs" / "mine.yaml"
    args = ["show", *SMALL, "--format", "detectron2", "--write", str(path), "--build"]
    assert design(args) == 0
    numbers = yaml.safe_load(path.read_text())["MODEL"]["REGNET"]
    assert (numbers["W0"], numbers["WA"], numbers["WM"]) == (8, 8.0, 2.0)
    (built,) = (line for line in lines(capsys) if line.startswith("built: "))
    network = RegNetFeatures(RegNetDesign(8, 8.0, 2.0, 8, 8))
    assert f"{sum(p.numel() for p in network.parameters()):,} parameters" in built
    widths = [stage.width for stage in RegNetDesign(8, 8.0, 2.0, 8, 8).stages]
    shapes = [f"{w}x{64 >> i}x{64 >> i}" for i, w in enumerate(widths, start=2)]
    assert built.endswith(", ".join(shapes))


def test_a_base_is_named_from_the_folder_of_the_config(tmp_path, capsys):
    base = config_path("detectron2/quick/Base-Shapes.yaml")
    path = tmp_path / "configs" / "mine.yaml"
    args = ["show", *SMALL, "--format", "detectron2", "--base", str(base)]
    assert design([*args, "--write", str(path)]) == 0
    named = yaml.safe_load(path.read_text())["_BASE_"]
    assert not named.startswith("/")
    assert (path.parent / named).resolve() == base
    assert read_config(path, []).MODEL.REGNET.W0 == 8
    capsys.readouterr()
    for wrong in (["--base", str(base)], ["--base", "no.yaml", "--format", "detectron2"]):
        assert design(["show", *SMALL, *wrong]) == 2
        assert "--base" in capsys.readouterr().err


def test_fit_prints_the_law(capsys, tmp_path):
    picture = tmp_path / "fit.png"
    args = ["fit", "--widths", "24", "56", "152", "368", "--depths", "1", "1", "4", "7"]
    assert design([*args, "--picture", str(picture), "--format", "timm"]) == 0
    found = "\n".join(lines(capsys))
    assert "mean log-ratio error 0.0000" in found
    assert "24x1, 56x1, 152x4, 368x7" in found
    assert "RegNetCfg(" in found
    assert picture.read_bytes().startswith(b"\x89PNG")
    by_name, by_numbers = [], []
    for args, title, into in (
        (["resnet50"], "resnet50", by_name),
        (
            ["--widths", "256", "512", "1024", "2048", "--depths", "3", "4", "6", "3"],
            "these widths",
            by_numbers,
        ),
    ):
        assert design(["fit", *args]) == 0
        into += [line.removeprefix(title) for line in lines(capsys)]
    assert by_name == by_numbers


@pytest.mark.parametrize("name", ["regnetx_016", "regnety_032", "regnetz_005", "regnetv_040"])
def test_fit_recovers_a_regnet_by_its_name(name, capsys):
    assert design(["fit", name, "--format", "smp"]) == 0
    found = "\n".join(lines(capsys))
    assert "mean log-ratio error 0.0000" in found
    (code,) = re.findall(r"(RegNetDesign\(.*\))\)$", found, re.MULTILINE)
    fitted, published = eval(code), zoo.get(name).design
    assert fitted.stages == published.stages
    # The widths tell w_a and w_m no closer.
    assert replace(fitted, w_a=published.w_a, w_m=published.w_m) == published


def test_other_groups_may_be_asked_for_of_a_fitted_regnet(capsys):
    assert design(["fit", "regnety_002", "--group-width", "16"]) == 0
    # 24, 56, 152 and 368 channels: the first three are between two multiples, and go to the even.
    assert lines(capsys)[-1].endswith("group_width=16, se_ratio=0.25): 32x1, 64x1, 160x4, 368x7")


def test_a_sample_is_written_and_taken_up_again(tmp_path, capsys):
    output = tmp_path / "out" / "x"
    assert design(["sample", *X_400MF, "--count", "12", "--output", str(output)]) == 0
    found = lines(capsys)
    assert "12 designs kept, 10 of them shown" in found
    content = json.loads((tmp_path / "out" / "x.json").read_text())
    rows = content["designs"]
    assert len(rows) == 12
    command = "regnet-backbones design sample --space RegNetX_constrained"
    assert content["command"].startswith(command)
    assert content["rejections"]["flops too low"] > 0
    for row in rows:
        cost = complexity(design_of(row))
        assert 3.8e8 <= cost.flops <= 4.2e8
        assert (row["flops"], row["params"]) == (cost.flops, cost.params)
    args = ["show", "--from", f"{output}.json", "--index", "3", "--group-width", "8"]
    assert design(args) == 0
    assert lines(capsys)[0].startswith(f"RegNetDesign(w_0={rows[3]['w_0']}, w_a={rows[3]['w_a']}")
    assert design(["show", "--from", f"{output}.json", "--index", "12"]) == 2
    assert "--index must be 0 to 11" in capsys.readouterr().err


def test_like_means_the_flops_and_at_least_the_params(tmp_path):
    output = tmp_path / "like"
    args = ["sample", "--space", "RegNetY", "--like", "regnety_008", "--count", "5"]
    assert design([*args, "--output", str(output)]) == 0
    published = complexity(zoo.get("regnety_008").design)
    for row in read_records(f"{output}.json"):
        assert row["params"] >= published.params
        assert abs(row["flops"] / published.flops - 1) <= 0.05


def test_the_same_seed_gives_the_same_designs(tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        args = ["sample", "--count", "4", "--seed", seed, "--output", str(tmp_path / name)]
        assert design(args) == 0
    a, b, c = (read_records(tmp_path / f"{name}.json") for name in "abc")
    assert a == b != c


def test_distributions_are_compared(tmp_path, capsys):
    for name, errors in (("RegNetX", [24.0, 25.0, 26.0]), ("mine", [27.0, 28.0, 29.0])):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"error": e} for e in errors]))
    files = [str(tmp_path / "RegNetX.json"), str(tmp_path / "mine.json")]
    chart = tmp_path / "edf.png"
    assert design(["edf", *files, "--output", str(chart)]) == 0
    found = [line.split() for line in lines(capsys)]
    assert ["RegNetX", "3", "25", "24", "to", "26"] in found
    # Every network of the one is better than every network of the other.
    assert ["RegNetX", "mine", "100.0%", "1.000", "0.1"] in found
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert design(["edf", *files, "--column", "flops"]) == 2
    assert "no column 'flops'; there are error" in capsys.readouterr().err


def test_scale_says_what_was_reached(capsys):
    assert design(["scale", "regnetx_002", "--factor", "1"]) == 0
    found = lines(capsys)
    assert "multiply-adds x 1 (asked for: 1)" in found[-1]
    given, scaled = (line.split()[1:] for line in found[2:4])
    assert given == scaled


def test_a_search_measures_and_writes_what_it_found(tmp_path, capsys):
    output = tmp_path / "found"
    args = [*SEARCH, "--count", "4", "--reference", "regnetx_002", "--output", str(output)]
    assert design([*args, "--format", "timm"]) == 0
    found = "\n".join(lines(capsys))
    assert "4 designs kept, 4 of them shown, 4 measured" in found
    assert "the best by latency_ms: row" in found
    assert "\nregnetx_002: " in found
    assert "RegNetCfg(" in found
    content = json.loads((tmp_path / "found.json").read_text())
    assert [row["kept"] for row in content["designs"]] == [True] * 4
    assert all(row["latency_ms"] > 0 and row["memory_mib"] > 0 for row in content["designs"])
    assert content["references"]["regnetx_002"]["flops"] == 199_040_872  # as published
    assert content["memory_format"] in ("contiguous", "channels_last")
    assert (content["device"], content["torch"]) == ("cpu", torch.__version__)
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


def measured_in(monkeypatch, *milliseconds):
    """Let the networks that are measured take so long, one after the other."""
    times = iter(milliseconds)

    def measure(self, network):
        return SimpleNamespace(latency_ms=next(times), memory_mib=1.0)

    monkeypatch.setattr(LatencyMeter, "measure", measure)


def test_what_a_search_chose_is_what_is_taken_from_its_results(tmp_path, monkeypatch, capsys):
    """Of four networks the first and last are over the limit; of the others the third is faster."""
    measured_in(monkeypatch, 9.0, 3.0, 2.0, 9.0)
    output = tmp_path / "found"
    limits = ["--latency-ms", "5", "--count", "3", "--max-measured", "4", "--by", "latency_ms"]
    assert design([*SEARCH, *limits, "--output", str(output)]) == 0
    (said,) = (line for line in lines(capsys) if line.startswith("the best by latency_ms: row 2, "))
    content = json.loads((tmp_path / "found.json").read_text())
    assert content["chosen"] == 2
    assert [row["kept"] for row in content["designs"]] == [False, True, True, False]
    show = ["show", "--from", f"{output}.json"]
    assert design(show) == 0
    assert said.endswith(f", {lines(capsys)[0]}")
    assert design([*show, "--index", "1"]) == 0
    assert not said.endswith(f", {lines(capsys)[0]}")


@pytest.mark.parametrize(
    ("name", "row"), [("50ms_640", 42), ("regnety_008", 27), ("5ms_640", None)]
)
def test_results_of_the_repository_say_what_was_chosen(name, row):
    """42 and 27 are what docs/design.md takes; in 5 ms nothing is to be had."""
    path = ROOT / "benchmarks" / "results" / f"design_{name}.json"
    rows, chosen = read_results(path)
    assert chosen == row
    assert rows[row]["kept"] if row is not None else not any(each["kept"] for each in rows)


def test_a_search_that_is_killed_keeps_what_it_has_measured(tmp_path, monkeypatch):
    measured = []

    def measure(self, network):
        if len(measured) == 3:
            raise SystemExit  # as a scheduler ends a job
        measured.append(network)
        return SimpleNamespace(latency_ms=1.0, memory_mib=1.0)

    monkeypatch.setattr(LatencyMeter, "measure", measure)
    with pytest.raises(SystemExit):
        design([*SEARCH, "--output", str(tmp_path / "killed")])
    rows, chosen = read_results(tmp_path / "killed.json")
    assert [design_of(row) for row in rows] == measured
    assert chosen == 0  # the first of three that take as long


def test_a_search_that_finds_nothing_says_so(tmp_path, capsys):
    output = tmp_path / "none"
    args = [*SEARCH, "--latency-ms", "0.001", "--max-measured", "2", "--output", str(output)]
    assert design(args) == 1
    found = "\n".join(lines(capsys))
    assert "none found; the fastest of those measured takes" in found
    content = json.loads((tmp_path / "none.json").read_text())
    assert [row["kept"] for row in content["designs"]] == [False, False]
    assert content["rejections"]["latency too high"] == 2
    assert content["chosen"] is None


def test_charts_show_what_they_are_given(tmp_path):
    line = [88 + 26.31 * j for j in range(4)]
    steps = {"fitted": [96, 96, 192, 192], "quantized": [88, 88, 200, 200]}
    figure = width_figure("mine", line, steps, [90, 90, 180, 210])
    found = {patch.get_label(): patch for patch in figure.axes[0].patches}
    assert {name: list(each.get_data().values) for name, each in found.items()} == steps
    assert [list(each.get_ydata()) for each in figure.axes[0].lines] == [line, [90, 90, 180, 210]]
    assert figure.axes[0].get_ylim()[0] == 0

    edfs = {"mine": edf([40.0, 42.0, 41.0]), "_theirs": edf([39.5, 44.5, 46.5, 43.5])}
    figure = edf_figure(edfs, xlabel="error (%)")
    mine, theirs = figure.axes[0].lines
    assert list(mine.get_xdata()) == [40, 40, 41, 42]
    assert list(theirs.get_ydata()) == [0, 0.25, 0.5, 0.75, 1]
    assert figure.legends[0].get_texts()[0].get_text() == "mine, median 41"
    points = [[3, 30], [1, 10], [2, 25], [2.5, 12]]
    measured = [Candidate(None, Complexity(flops=g * 1e9), ms) for ms, g in points]
    references = {"a": Candidate(None, Complexity(flops=11e9), 1.5)}
    figure = search_figure(Found((), {}, tuple(measured)), references, "flops", 2.75)
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert lines["designs"] == points
    assert lines["Pareto front"] == [[1, 10], [2, 25], [3, 30]]
    assert lines["bound, 2.75"] == [[2.75, 0], [2.75, 1]]
    assert lines["a"] == [[1.5, 11]]

    for file in ("chart", "chart.jpg"):
        with pytest.raises(UserError, match="png or .svg"):
            check_chart(tmp_path / file)


def test_torch_is_imported_only_to_measure_and_to_build(tmp_path):
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"error": 1.0}, {"error": 2.0}]))
    calls = [
        ["list"],
        ["show", "regnety_032", "--picture", "show.png", "--format", "detectron2"],
        ["fit", "resnet50", "--picture", "fit.png", "--format", "smp"],
        ["sample", *X_400MF, "--count", "3", "--output", "sample"],
        ["edf", str(rows), "--output", "edf.png"],
        ["scale", "regnetx_002", "--factor", "2", "--format", "timm"],
    ]
    code = (
        "import sys; from regnet_backbones.cli.design import design_command\n"
        f"for call in {calls!r}: design_command(call, 'design')\n"
        "print(sorted({'torch', 'timm', 'torchvision', 'detectron2'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert result.stdout.splitlines()[-1] == "[]"
    assert len(list(tmp_path.glob("*.png"))) == 3
