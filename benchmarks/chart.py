"""A bar chart of how fast rows are, one panel a case."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.entries import OURS
from benchmarks.results import Result
from regnet_backbones.errors import UserError
from regnet_backbones.files import write_whole

COLOURS = {True: "#1f6fb2", False: "#a9b4bd"}  # ours, others

# In inches.
WIDTH, BAR_HEIGHT, PANEL_MARGIN = 9, 0.24, 1.0


def write_chart(path: Path, results: Sequence[Result]) -> None:
    """Draw the ratios of all cases that have some, and write them as PNG, whole or not at all.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: no case has ratios.
    """
    from matplotlib.figure import Figure

    panels = [
        (result, [row for row in result.measured if result.ratio(row) is not None])
        for result in results
    ]
    panels = [(result, rows) for result, rows in panels if rows]
    if not panels:
        raise UserError("no chart without ratios, because no reference row was measured")
    heights = [len(rows) * BAR_HEIGHT + PANEL_MARGIN for _, rows in panels]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for axis, (result, rows) in zip(axes, panels, strict=True):
        ratios = [result.ratio(row) for row in rows]
        bars = axis.barh(
            [row.name for row in rows], ratios, color=[COLOURS[row.family == OURS] for row in rows]
        )
        axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.invert_yaxis()
        axis.margins(x=0.08)
        axis.tick_params(axis="y", labelsize=8)
        axis.set_title(result.case.title, fontsize=10)
        axis.set_xlabel(f"times as fast as {result.reference}", fontsize=8)
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=120))
