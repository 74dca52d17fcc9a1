"""Tables and charts of designs; charts are made without pyplot, whose settings are a program's own.

matplotlib and tabulate are imported when they are needed: they come with the extra `design`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, product
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from regnet_backbones.design import Candidate, Complexity, Found, RegNetDesign, pareto_front
from regnet_backbones.design.cost import short
from regnet_backbones.design.formats import python_code
from regnet_backbones.errors import UserError
from regnet_backbones.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from regnet_backbones.design import Edf

Rows = Sequence[Sequence[object]]

# Unit and name of what is counted.
CAPACITIES = {
    "flops": (1e9, "multiply-adds (G)"),
    "params": (1e6, "parameters (M)"),
    "activations": (1e6, "activations (M)"),
}

COST_HEADERS = ("multiply-adds", "params", "activations")

SUFFIXES = (".png", ".svg")
SIZE = (8, 5)  # in inches
TITLE_LETTERS = 80  # in a line

# Okabe and Ito's, which colour-blind people can distinguish, without their yellow: too light here.
BLUE, ORANGE, GREEN = "#0072b2", "#e69f00", "#009e73"
RED, PURPLE, SKY = "#d55e00", "#cc79a7", "#56b4e9"
COLORS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
DOTS, PALE, INK = "#9aa5ae", "#a4d6f2", "#22272b"


def table(headers: Sequence[str], rows: Rows, align: str = "right", style: str = "simple") -> str:
    """Return a table in a style of tabulate; `align` is for all columns but the first."""
    from tabulate import tabulate

    columns = ("left", *[align] * (len(headers) - 1))
    return tabulate(rows, headers, style, disable_numparse=True, colalign=columns)


def describe(design: RegNetDesign) -> str:
    """Return the numbers of a design, and its stages, in one line."""
    stages = ", ".join(f"{stage.width}x{stage.depth}" for stage in design.stages)
    return f"{python_code(design)}: {stages}"


def cost_columns(cost: Complexity) -> tuple[str, str, str]:
    """Return what belongs under `COST_HEADERS`."""
    return short(cost.flops), short(cost.params), short(cost.activations)


def check_chart(path: str | Path) -> None:
    """Raise for a chart that could not be written, before what takes long to compute."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise UserError(f"a chart must end in {' or '.join(SUFFIXES)}, got '{path}'")
    import matplotlib.figure  # noqa: F401


def write_chart(path: str | Path, figure: Figure) -> None:
    """Write a figure as PNG or SVG by the suffix, whole or not at all."""
    form = Path(path).suffix.lower().removeprefix(".")
    write_whole(Path(path), lambda file: figure.savefig(file, format=form, dpi=150))


def width_figure(
    title: str,
    line: Sequence[float],
    steps: Mapping[str, Sequence[float]],
    observed: Sequence[float] = (),
) -> Figure:
    """Draw the width of each block: on the line, as one or two kinds of steps, and as observed."""
    figure, axis = _new_figure("block j", "width (channels)")
    figure.suptitle("\n".join(fill(part, TITLE_LETTERS) for part in title.splitlines()))
    axis.locator_params(axis="x", integer=True)
    edges = [j - 0.5 for j in range(len(line) + 1)]
    looks = ((PALE, 6), (BLUE, 2))[-len(steps) :]
    for (label, widths), (color, linewidth) in zip(steps.items(), looks, strict=True):
        look = {"color": color, "linewidth": linewidth}
        axis.stairs(widths, edges, baseline=None, label=label, **look)
    axis.plot(line, ".-", color=INK, linewidth=1, label="line u_j = w_0 + w_a j")
    if observed:
        axis.plot(observed, "o", color=RED, markersize=5, label="observed")
    axis.set_ylim(bottom=0)
    _add_legend(figure, columns=3)
    return figure


def edf_figure(edfs: Mapping[str, Edf], *, xlabel: str) -> Figure:
    """Draw EDFs by name, with their bands."""
    figure, axis = _new_figure(xlabel, "share of networks")
    looks = cycle(product(("-", "--", ":"), COLORS))
    for (name, edf), (style, color) in zip(edfs.items(), looks, strict=False):
        x = (edf.values[0], *edf.values)  # from a share of 0 on
        label = f"{name}, median {edf.quantile(0.5):.4g}"
        axis.step(x, (0, *edf.shares), style, where="post", color=color, label=label)
        band = ((0, *bound) for bound in (edf.low, edf.high))
        axis.fill_between(x, *band, step="post", color=color, alpha=0.15, linewidth=0)
    axis.set_ylim(0, 1.02)
    _add_legend(figure, columns=2)
    return figure


def search_figure(
    found: Found, references: Mapping[str, Candidate], capacity: str, limit_ms: float | None
) -> Figure:
    """Draw measured designs by time and capacity: dots, the Pareto front, references, the limit."""
    unit, name = CAPACITIES[capacity]
    figure, axis = _new_figure("ms", name)

    def point(candidate: Candidate) -> tuple[float, float]:
        return candidate.latency_ms, getattr(candidate.cost, capacity) / unit

    points = [point(each) for each in found.measured]
    front = sorted(points[i] for i in pareto_front([(ms, -most) for ms, most in points]))
    axis.plot(*zip(*points, strict=True), "o", color=DOTS, markersize=4, label="designs")
    axis.plot(*zip(*front, strict=True), "o-", color=BLUE, markersize=5, label="Pareto front")
    if limit_ms is not None:
        axis.axvline(limit_ms, color=INK, linestyle="--", linewidth=1, label=f"bound, {limit_ms:g}")
    for name, each in references.items():
        axis.plot(*point(each), "D", color=RED, markersize=8, label=name, linestyle="none")
    _add_legend(figure, columns=4)
    return figure


def _new_figure(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """Return a figure with one empty chart."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#d8dee3", linewidth=0.6)
    axis.set_axisbelow(True)
    return figure, axis


def _add_legend(figure: Figure, *, columns: int) -> None:
    """Put the legend below the chart, where it hides nothing."""
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)
