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

from regnet_backbones.cli.design.packages import check_package
from regnet_backbones.errors import UserError
from regnet_backbones.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    from regnet_backbones.design.distribution import Edf
    from regnet_backbones.design.fitting import Fit
    from regnet_backbones.design.law import RegNetDesign

SUFFIXES = (".png", ".svg")

# In inches.
SIZE = (8, 5)
LEGEND_ROW = 0.21

TITLE_LETTERS = 80  # in a line
DPI = 150  # of PNG

# Okabe and Ito's, which colour-blind people can tell apart, without their yellow: too light here.
BLUE, ORANGE, GREEN = "#0072b2", "#e69f00", "#009e73"
RED, PURPLE, SKY = "#d55e00", "#cc79a7", "#56b4e9"
CURVES = tuple(product(("-", "--", ":"), (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)))
DOTS, SHADE, PALE, INK = "#9aa5ae", "#eef2f5", "#a4d6f2", "#22272b"

# Width of a stage's label, as a share of the chart's.
LABEL_SHARE = 0.16

# Where a name may stand beside its mark, best first, and how far away, in points; beyond the first
# distance a line leads to the mark. Going away by FAR is as bad as covering one more dot.
SIDES = ((1, 0), (1, 1), (1, -1), (0, 1), (0, -1), (-1, 0), (-1, 1), (-1, -1))
DISTANCES = (7, 16, 28, 42)
FAR = 14
ALIGNMENT = {-1: ("right", "top"), 0: ("center", "center"), 1: ("left", "bottom")}
MARK = 7  # size of a mark, in points


def check_chart(path: str | Path) -> None:
    """Raise for a chart that could not be written, before what takes long to compute.

    Raises:
        ValueError: the suffix is neither .png nor .svg.
        ModuleNotFoundError: matplotlib is not installed.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in SUFFIXES:
        raise UserError(f"a chart ends in {' or '.join(SUFFIXES)}, got '{suffix}' in '{path}'")
    check_package("matplotlib", "charts")


def write_chart(path: str | Path, figure: Figure) -> None:
    """Write a figure as PNG or SVG by the suffix, whole or not at all.

    Raises:
        ValueError: the suffix is neither .png nor .svg.
        OSError: the file cannot be written; the one that was there stays.
    """
    check_chart(path)
    form = Path(path).suffix.lower().removeprefix(".")
    write_whole(Path(path), lambda file: figure.savefig(file, format=form, dpi=DPI))


def width_figure(design: RegNetDesign, *, title: str) -> Figure:
    """Draw a design's width per block: on the line, quantized, and fitted to its groups."""
    figure, axis = _new_width_figure(title)
    stages = design.stages
    edges = [end - 0.5 for end in accumulate((s.depth for s in stages), initial=0)]
    for start, end in list(pairwise(edges))[::2]:
        axis.axvspan(start, end, color=SHADE, zorder=0)
    widths = [stage.width for stage in stages for _ in range(stage.depth)]
    _steps(axis, widths, "stages, fitted to their groups", color=PALE, linewidth=6)
    _steps(axis, design.block_widths.quantized, "quantized")
    _line(axis, design.block_widths.continuous)
    axis.set_xlim(edges[0], edges[-1])
    axis.set_ylim(bottom=0)
    _add_legend(figure, columns=3)
    texts = [f"s{i}: {stage.width} × {stage.depth}" for i, stage in enumerate(stages, start=1)]
    centres = [(start + end) / 2 for start, end in pairwise(edges)]
    for text, centre, x in zip(texts, centres, _spread(centres, edges), strict=True):
        axis.annotate(
            text,
            (centre, 1),
            (x, 1.06),
            xycoords=("data", "axes fraction"),
            ha="center",
            arrowprops={"arrowstyle": "-", "color": DOTS, "shrinkA": 0, "shrinkB": 0},
        )
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
    axis.set_ylim(bottom=0)
    _add_legend(figure, columns=3)
    return figure


def edf_figure(edfs: Mapping[str, Edf], *, xlabel: str) -> Figure:
    """Draw EDFs by name, with their bands, and each one's count, lowest value and median.

    Raises:
        ValueError: there is no EDF.
    """
    if not edfs:
        raise UserError("there are no distributions to draw, give one or more")
    figure, axis = _new_figure(xlabel, "share of networks")
    for (name, edf), (style, color) in zip(edfs.items(), cycle(CURVES), strict=False):
        # From 0 below the lowest value on.
        x = (edf.values[0], *edf.values)
        numbers = f"{edf.values[0]:#.4g} | {edf.quantile(0.5):#.4g}"
        axis.step(
            x,
            (0, *edf.shares),
            style,
            where="post",
            color=color,
            label=f"{len(edf.values)} [{numbers}]  {name}",
        )
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

    Args:
        points: (x, y) of each design.
        front: which of the points are the front.
        xlabel: what x is, and its unit.
        ylabel: what y is, and its unit.
        marked: (x, y) of the other networks.
        limit: the bound on x, None for none.

    Raises:
        ValueError: there are no points.
    """
    if not points:
        raise UserError("there are no designs to draw, give one or more points")
    figure, axis = _new_figure(xlabel, ylabel)
    axis.plot(*zip(*points, strict=True), "o", color=DOTS, markersize=4, label="designs")
    if front:
        best = sorted(points[i] for i in front)
        axis.plot(*zip(*best, strict=True), "o-", color=BLUE, markersize=5, label="Pareto front")
    if limit is not None:
        axis.axvline(limit, color=INK, linestyle="--", linewidth=1, label=f"bound, {limit:g}")
    if marked:
        axis.plot(
            *zip(*marked.values(), strict=True),
            "D",
            color=RED,
            markersize=MARK,
            label="for comparison",
        )
    _add_legend(figure, columns=4)
    if marked:
        _label(figure, axis, marked, points)
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
    locator = axis.xaxis.get_major_locator()
    locator.set_params(integer=True)  # type: ignore[call-arg]  # matplotlib's default one takes it
    return figure, axis


def _add_legend(figure: Figure, *, columns: int, title: str | None = None) -> None:
    """Put the legend below the chart, where it hides nothing."""
    figure.legend(loc="outside lower center", ncols=columns, title=title, frameon=False)


def _steps(
    axis: Axes, widths: Sequence[float], label: str, *, color: str = BLUE, linewidth: float = 2
) -> None:
    """Draw a width per block as steps, each from half a block before to half a block behind."""
    edges = [j - 0.5 for j in range(len(widths) + 1)]
    axis.stairs(widths, edges, baseline=None, label=label, color=color, linewidth=linewidth)


def _line(axis: Axes, widths: Sequence[float]) -> None:
    """Draw the line u_j that widths are quantized from."""
    axis.plot(widths, ".-", color=INK, linewidth=1, label="line u_j = w_0 + w_a j")


def _spread(centres: Sequence[float], edges: Sequence[float]) -> list[float]:
    """Return where labels stand that are to be above centres, but not over each other."""
    gap = LABEL_SHARE * (edges[-1] - edges[0])
    places = []
    for centre in centres:
        places.append(max(centre, places[-1] + gap if places else edges[0] + gap / 2))
    last = edges[-1] - gap / 2
    for i in reversed(range(len(places))):
        places[i] = min(places[i], last)
        last = places[i] - gap
    return places


def _label(
    figure: Figure,
    axis: Axes,
    marked: Mapping[str, tuple[float, float]],
    points: Sequence[tuple[float, float]],
) -> None:
    """Write names beside their marks, where they cover no other name and few points."""
    from matplotlib.patheffects import withStroke

    figure.draw_without_rendering()  # lays it out: from here on, points have their pixels
    pixels = figure.dpi / 72  # in a point
    marks = axis.transData.transform(list(marked.values()))
    dots = axis.transData.transform(points)
    taken = [_box(mark, (MARK * pixels, MARK * pixels), (0, 0), 0) for mark in marks]
    for (name, point), mark in zip(marked.items(), marks, strict=True):
        style = {"color": RED, "path_effects": [withStroke(linewidth=3, foreground="white")]}
        label = axis.annotate(name, point, (0, 0), textcoords="offset points", **style)
        size = label.get_window_extent().size
        costs = {}
        for distance, side in product(DISTANCES, SIDES):
            box = _box(mark, size, side, distance * pixels)
            outside = not (axis.bbox.contains(*box.min) and axis.bbox.contains(*box.max))
            covered = ((dots > box.min) & (dots < box.max)).all(axis=1).sum()
            costs[distance, side] = outside, box.count_overlaps(taken), covered + distance / FAR
        distance, side = min(costs, key=costs.get)
        taken.append(_box(mark, size, side, distance * pixels))
        label.xyann = offset = [sign * distance for sign in side]
        label.set(ha=ALIGNMENT[side[0]][0], va=ALIGNMENT[side[1]][1])
        if distance > DISTANCES[0]:
            line = {"arrowstyle": "-", "color": RED, "linewidth": 0.8, "shrinkA": 0}
            axis.annotate("", point, offset, textcoords="offset points", arrowprops=line, zorder=2)


def _box(mark: Sequence[float], size: Sequence[float], side: Sequence[int], away: float) -> Bbox:
    """Return what something of a size takes on a side of a mark, so far away, all in pixels."""
    from matplotlib.transforms import Bbox

    corner = (
        at + sign * away - length * (1 - sign) / 2
        for at, length, sign in zip(mark, size, side, strict=True)
    )
    return Bbox.from_bounds(*corner, *size)
