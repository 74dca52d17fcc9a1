"""Charts of designs: block widths, fits, error distributions, and the Pareto front of a search.

Figures are made without pyplot, so nothing of a notebook's or a program's own changes;
`write_chart` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, cycle, pairwise, product
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from regnet_backbones.cli.design_options import check_package
from regnet_backbones.errors import UserError
from regnet_backbones.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from regnet_backbones.design import Edf, Fit, RegNetDesign

SUFFIXES = (".png", ".svg")
SIZE = (8, 5)  # in inches
LEGEND_ROW = 0.21
TITLE_LETTERS = 80  # in a line
DPI = 150  # of PNG

# Okabe and Ito's, which colour-blind people can distinguish, without their yellow: too light here.
BLUE, ORANGE, GREEN = "#0072b2", "#e69f00", "#009e73"
RED, PURPLE, SKY = "#d55e00", "#cc79a7", "#56b4e9"
COLORS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
DOTS, SHADE, PALE, INK = "#9aa5ae", "#eef2f5", "#a4d6f2", "#22272b"


def check_chart(path: str | Path) -> None:
    """Raise for a chart that could not be written, before what takes long to compute."""
    suffix = Path(path).suffix
    if suffix.lower() not in SUFFIXES:
        raise UserError(f"a chart ends in {' or '.join(SUFFIXES)}, got '{suffix}' in '{path}'")
    check_package("matplotlib", "charts")


def write_chart(path: str | Path, figure: Figure) -> None:
    """Write a figure as PNG or SVG by the suffix, whole or not at all."""
    form = Path(path).suffix.lower().removeprefix(".")
    write_whole(Path(path), lambda file: figure.savefig(file, format=form, dpi=DPI))


def width_figure(design: RegNetDesign, *, title: str) -> Figure:
    """Draw a design's width per block: on the line, quantized, and fitted to its groups."""
    stages = ", ".join(f"s{i}: {s.width} × {s.depth}" for i, s in enumerate(design.stages, 1))
    figure, axis = _new_width_figure(title, stages)
    edges = [end - 0.5 for end in accumulate((s.depth for s in design.stages), initial=0)]
    for start, end in list(pairwise(edges))[::2]:
        axis.axvspan(start, end, color=SHADE, zorder=0)
    widths = [stage.width for stage in design.stages for _ in range(stage.depth)]
    _steps(axis, widths, "stages, fitted to their groups", color=PALE, linewidth=6)
    _steps(axis, design.block_widths.quantized, "quantized")
    _line(axis, design.block_widths.continuous)
    axis.set_xlim(edges[0], edges[-1])
    _add_legend(figure, columns=3)
    return figure


def fit_figure(fit: Fit, *, title: str) -> Figure:
    """Draw a network's width per block and the quantized line that was fitted to it."""
    figure, axis = _new_width_figure(
        f"{title}: fit error {fit.error:.3g}",
        f"w_0 = {fit.w_0:g}, w_a = {fit.w_a:.4g}, w_m = {fit.w_m:.4g}",
    )
    _steps(axis, fit.quantized, "fitted, quantized")
    _line(axis, fit.continuous)
    axis.plot(fit.observed, "o", color=RED, markersize=5, label="observed")
    _add_legend(figure, columns=3)
    return figure


def edf_figure(edfs: Mapping[str, Edf], *, xlabel: str) -> Figure:
    """Draw EDFs by name, with their bands, and each one's count, lowest value and median."""
    figure, axis = _new_figure(xlabel, "share of networks")
    looks = cycle(product(("-", "--", ":"), COLORS))
    for (name, edf), (style, color) in zip(edfs.items(), looks, strict=False):
        x = (edf.values[0], *edf.values)  # from a share of 0 on
        numbers = f"{edf.values[0]:#.4g} | {edf.quantile(0.5):#.4g}"
        label = f"{len(edf.values)} [{numbers}]  {name}"
        axis.step(x, (0, *edf.shares), style, where="post", color=color, label=label)
        band = ((0, *bound) for bound in (edf.low, edf.high))
        axis.fill_between(x, *band, step="post", color=color, alpha=0.15, linewidth=0)
    axis.set_ylim(0, 1.02)
    figure.set_figheight(SIZE[1] + LEGEND_ROW * len(edfs))
    _add_legend(figure, columns=1, title="networks [min | median]")
    return figure


def pareto_figure(
    points: Sequence[tuple[float, float]],
    front: Sequence[int],
    *,
    xlabel: str,
    ylabel: str,
    marked: Mapping[str, tuple[float, float]],
    limit: float | None = None,
) -> Figure:
    """Draw designs as dots, their Pareto front as a line, and networks to compare with by name.

    `front`: which of the points are the front; `limit`: the bound on x.
    """
    figure, axis = _new_figure(xlabel, ylabel)
    axis.plot(*zip(*points, strict=True), "o", color=DOTS, markersize=4, label="designs")
    best = sorted(points[i] for i in front)
    axis.plot(*zip(*best, strict=True), "o-", color=BLUE, markersize=5, label="Pareto front")
    if limit is not None:
        axis.axvline(limit, color=INK, linestyle="--", linewidth=1, label=f"bound, {limit:g}")
    looks = cycle(product("Ds^v", COLORS[1:]))
    for (name, point), (marker, color) in zip(marked.items(), looks, strict=False):
        axis.plot(*point, marker, color=color, markersize=8, label=name, linestyle="none")
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


def _new_width_figure(*title: str) -> tuple[Figure, Axes]:
    """Return an empty chart of widths per block, with lines of a title, wrapped where too long."""
    figure, axis = _new_figure("block j", "width (channels)")
    figure.suptitle("\n".join(fill(line, TITLE_LETTERS) for line in title))
    axis.locator_params(axis="x", integer=True)
    axis.set_ylim(bottom=0)
    return figure, axis


def _add_legend(figure: Figure, *, columns: int, title: str | None = None) -> None:
    """Put the legend below the chart, where it hides nothing."""
    figure.legend(loc="outside lower center", ncols=columns, title=title, frameon=False)


def _steps(
    axis: Axes, widths: Sequence[float], label: str, *, color: str = BLUE, linewidth: float = 2
) -> None:
    """Draw a width per block as steps, each from half a block before to half a block after."""
    edges = [j - 0.5 for j in range(len(widths) + 1)]
    axis.stairs(widths, edges, baseline=None, label=label, color=color, linewidth=linewidth)


def _line(axis: Axes, widths: Sequence[float]) -> None:
    """Draw the line u_j that widths are quantized from."""
    axis.plot(widths, ".-", color=INK, linewidth=1, label="line u_j = w_0 + w_a j")
