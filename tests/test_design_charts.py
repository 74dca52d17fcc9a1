import subprocess
import sys
from itertools import combinations
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.text import Annotation, Text
from PIL import Image
from regnet_backbones.cli.design.charts import (
    check_chart,
    edf_figure,
    fit_figure,
    pareto_figure,
    width_figure,
    write_chart,
)
from regnet_backbones.design.distribution import edf

from regnet_backbones import zoo
from regnet_backbones.design.law import RegNetDesign

X_3200MF = zoo.get("regnetx_032").design

# A fit by its attributes; the numbers belong to no real one.
FIT = SimpleNamespace(
    observed=(16.0, 24.0, 48.0, 96.0),
    continuous=(16.0, 34.5, 53.0, 71.5),
    quantized=(16, 32, 48, 64),
    error=0.12345,
    w_0=16,
    w_a=18.5,
    w_m=1.5,
)
EDFS = {"mine.json": edf([40.0, 42.0, 41.0]), "_theirs.json": edf([39.5, 44.5, 46.5, 43.5])}
POINTS = [(3.0, 30.0), (1.0, 10.0), (2.0, 25.0), (2.5, 12.0)]
MARKED = {"regnetx_002": (1.5, 11.0), "resnet50": (2.9, 28.0)}


def draw_pareto(**changes):
    words = {"points": POINTS, "front": [0, 2, 1], "marked": MARKED, "limit": 2.75} | changes
    points, front = words.pop("points"), words.pop("front")
    return pareto_figure(points, front, xlabel="latency (ms)", ylabel="GFLOPs", **words)


FIGURES = {
    "widths": lambda: width_figure(X_3200MF, title="regnetx_032"),
    "fit": lambda: fit_figure(FIT, title="mine"),
    "edf": lambda: edf_figure(EDFS, xlabel="error (%)"),
    "pareto": lambda: draw_pareto(limit=None),
}


def lines_of(figure):
    """Return the lines of a chart that have a name in its legend, by it: x and y."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in figure.axes[0].lines
    }


def steps_of(figure):
    """Return the steps of a chart by their name: heights and edges."""
    return {
        patch.get_label(): (list(patch.get_data().values), list(patch.get_data().edges))
        for patch in figure.axes[0].patches
        if isinstance(patch, StepPatch)
    }


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def labels_of(figure):
    """Return the annotations of a chart that have a text."""
    return [
        child
        for child in figure.axes[0].get_children()
        if isinstance(child, Annotation) and child.get_text()
    ]


def boxes_of(figure):
    """Return what labels and titles take, in pixels, without the lines that lead to marks."""
    figure.draw_without_rendering()
    return [Text.get_window_extent(text) for text in [*labels_of(figure), *figure.texts]]


def assert_apart(figure):
    """Check that no text is over another or cut off."""
    boxes = boxes_of(figure)
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    for box in boxes:
        assert figure.bbox.containsx(box.x0)
        assert figure.bbox.containsx(box.x1)
        assert figure.bbox.containsy(box.y1)


@pytest.mark.parametrize("name", FIGURES)
def test_charts_are_written_as_png_and_svg(name, tmp_path):
    write_chart(tmp_path / "new" / "chart.png", FIGURES[name]())
    with Image.open(tmp_path / "new" / "chart.png") as image:
        assert (image.format, image.width) == ("PNG", 1200)
        assert len(image.convert("RGB").getcolors(1 << 24)) > 20
    write_chart(str(tmp_path / "chart.SVG"), FIGURES[name]())
    assert ElementTree.parse(tmp_path / "chart.SVG").getroot().tag.endswith("svg")


@pytest.mark.parametrize("name", FIGURES)
def test_a_chart_that_cannot_be_written_leaves_what_was_there(name, tmp_path, monkeypatch):
    def broken(figure, file, **options):
        file.write(b"half")
        raise OSError("disk full")

    (tmp_path / "chart.png").write_bytes(b"before")
    monkeypatch.setattr(Figure, "savefig", broken)
    with pytest.raises(OSError, match="disk full"):
        write_chart(tmp_path / "chart.png", FIGURES[name]())
    assert [each.name for each in tmp_path.iterdir()] == ["chart.png"]
    assert (tmp_path / "chart.png").read_bytes() == b"before"


def test_other_suffixes_are_refused(tmp_path):
    for file in ("chart.jpg", "chart"):
        with pytest.raises(ValueError, match=r"a chart ends in .png or .svg, got '(.jpg|)' in '"):
            check_chart(tmp_path / file)
        with pytest.raises(ValueError, match="a chart ends in"):
            write_chart(tmp_path / file, draw_pareto())
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_an_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'regnet_backbones\[design\]'"):
        check_chart(tmp_path / "chart.png")


def test_importing_takes_no_matplotlib_and_drawing_neither_torch_nor_pyplot(tmp_path):
    code = f"""
import sys
from regnet_backbones.cli.design import charts
from regnet_backbones.design.distribution import edf
print("matplotlib" in sys.modules)
charts.write_chart({str(tmp_path / "x.png")!r}, charts.edf_figure({{"a": edf([1, 2])}}, xlabel=""))
print("matplotlib" in sys.modules, {{"torch", "timm", "matplotlib.pyplot"}} & set(sys.modules))
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split("\n")[:2] == ["False", "True set()"]


def test_widths_are_those_of_the_design():
    figure = width_figure(X_3200MF, title="RegNetX-3.2GF")
    # Written by hand: stages as published, w_0 = 88, w_a = 26.31, and w_j before the groups of 48.
    fitted = [96] * 2 + [192] * 6 + [432] * 15 + [1008] * 2
    quantized = [88] * 2 + [200] * 6 + [448] * 15 + [1000] * 2
    edges = [j - 0.5 for j in range(26)]
    assert steps_of(figure) == {
        "stages, fitted to their groups": (fitted, edges),
        "quantized": (quantized, edges),
    }
    ((x, y),) = lines_of(figure).values()
    assert x == list(range(25))
    assert y == pytest.approx([88 + 26.31 * j for j in range(25)])
    assert [t.get_text() for t in labels_of(figure)] == [
        "s1: 96 × 2",
        "s2: 192 × 6",
        "s3: 432 × 15",
        "s4: 1008 × 2",
    ]
    assert [t.xy[0] for t in labels_of(figure)] == [0.5, 4.5, 15, 23.5]  # middles of the stages
    assert figure.get_suptitle() == "RegNetX-3.2GF"
    assert len(legend_of(figure)) == 3


def test_a_fit_is_drawn_with_its_error_and_numbers():
    figure = fit_figure(FIT, title="mine")
    edges = [-0.5, 0.5, 1.5, 2.5, 3.5]
    assert list(steps_of(figure).values()) == [([16, 32, 48, 64], edges)]
    lines = lines_of(figure)
    assert lines["observed"] == ([0, 1, 2, 3], [16, 24, 48, 96])
    assert lines["line u_j = w_0 + w_a j"] == ([0, 1, 2, 3], [16, 34.5, 53, 71.5])
    assert figure.get_suptitle() == "mine: fit error 0.123\nw_0 = 16, w_a = 18.5, w_m = 1.5"


def test_distributions_are_steps_with_bands_and_numbers():
    figure = edf_figure(EDFS, xlabel="error (%)")
    assert legend_of(figure) == [
        "3 [40.00 | 41.00]  mine.json",
        "4 [39.50 | 44.00]  _theirs.json",
    ]
    lines = list(lines_of(figure).values())
    assert lines[0] == ([40, 40, 41, 42], [0, 1 / 3, 2 / 3, 1])
    assert lines[1] == ([39.5, 39.5, 43.5, 44.5, 46.5], [0, 0.25, 0.5, 0.75, 1])
    assert {line.get_drawstyle() for line in figure.axes[0].lines} == {"steps-post"}
    for band, curve in zip(figure.axes[0].collections, EDFS.values(), strict=True):
        corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
        assert corners >= set(zip(curve.values, curve.low, strict=True))
        assert corners >= set(zip(curve.values, curve.high, strict=True))
    assert figure.axes[0].get_xlabel() == "error (%)"


def test_many_distributions_differ_in_colour_or_line_and_leave_the_chart_its_height():
    few = edf_figure(EDFS, xlabel="error")
    many = edf_figure({str(i): edf([i, i + 1]) for i in range(18)}, xlabel="error")
    looks = {(line.get_color(), line.get_linestyle()) for line in many.axes[0].lines}
    assert len(looks) == 18
    heights = []
    for figure in (few, many):
        figure.draw_without_rendering()
        heights.append(figure.axes[0].get_window_extent().height)
    assert heights[1] == pytest.approx(heights[0], rel=0.1)


def test_a_pareto_chart_has_all_points_the_front_the_bound_and_the_marks():
    figure = draw_pareto()
    assert lines_of(figure) == {
        "designs": ([3, 1, 2, 2.5], [30, 10, 25, 12]),
        "Pareto front": ([1, 2, 3], [10, 25, 30]),
        "bound, 2.75": ([2.75, 2.75], [0, 1]),
        "for comparison": ([1.5, 2.9], [11, 28]),
    }
    assert {t.get_text(): t.xy for t in labels_of(figure)} == MARKED
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("latency (ms)", "GFLOPs")
    assert legend_of(draw_pareto(front=[], marked={}, limit=None)) == ["designs"]


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="there are no distributions to draw"):
        edf_figure({}, xlabel="error")
    with pytest.raises(ValueError, match="there are no designs to draw"):
        draw_pareto(points=[], front=[])


@pytest.mark.parametrize(
    "design",
    [
        pytest.param(X_3200MF, id="2, 6, 15, 2"),
        pytest.param(zoo.get("regnetx_002").design, id="1, 1, 4, 7"),
        pytest.param(RegNetDesign(24, 40, 4.0, 20, 8), id="1, 4, 14, 1"),
        pytest.param(RegNetDesign(2048, 1000, 2.5, 20, 8), id="wide"),
    ],
)
def test_labels_of_narrow_stages_and_long_titles_are_apart(design):
    assert_apart(width_figure(design, title=f"{design} with its long, long title"))


def test_names_of_marks_are_apart_from_each_other_and_cover_no_mark():
    designs = [(10 + i % 20, 1 + i * 0.618 % 8) for i in range(200)]
    marked = {f"regnetx_{i:03}": (20 + i % 2 / 4, 4 + i / 50) for i in range(5)}
    marked |= {"at the right edge": (29, 5), "at the top": (12, 8.9), "at the left": (10, 1)}
    figure = draw_pareto(points=designs, front=[0, 1], marked=marked)
    assert_apart(figure)
    marks = figure.axes[0].transData.transform(list(marked.values()))
    assert not any(box.contains(*mark) for box in boxes_of(figure) for mark in marks)
