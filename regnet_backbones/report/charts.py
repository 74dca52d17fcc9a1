"""Charts of what a training logged, as SVG that a page can hold, on light or dark paper."""

import io
from collections.abc import Sequence
from itertools import cycle, product

from matplotlib import rc_context
from matplotlib.figure import Figure

from regnet_backbones.report.content import Curve

# Okabe and Ito's colours, which colour-blind people can distinguish, without their yellow.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
CURVES = tuple(product(("-", "--", ":"), COLORS))

# In inches; as wide as a column of the page at the size that its letters have there.
SIZE = (4.2, 3.1)

# Fewer points of a curve are marked: a single validation gives no line.
FEW = 20

# Text and grid.
LIGHT, DARK = ("#3d4852", "#d5dce2"), ("#c3ccd5", "#38424c")

# Line styles and colours, told apart by the colour-blind and on both papers.
STYLES = tuple(
    product(("-", "--", ":"), ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"))
)


def chart(curves: Sequence[Curve], ylabel: str, *, dark: bool = False) -> str:
    """Draw one or more curves over the iterations, and return the SVG.

    The axis of losses whose small parts could not be seen is logarithmic.
    """
    ink, grid = DARK if dark else LIGHT
    colours = {"text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": grid}
    colours |= {"xtick.color": ink, "ytick.color": ink, "grid.color": grid}
    values = [value for curve in curves for value in curve.values]
    # The same salt for the same names, so that the same run gives the same page.
    with rc_context({**colours, "svg.fonttype": "path", "svg.hashsalt": ylabel, "font.size": 10}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axis = figure.add_subplot(xlabel="iteration", ylabel=ylabel)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(linewidth=0.6)
        axis.set_axisbelow(True)
        for curve, (style, colour) in zip(curves, cycle(STYLES), strict=False):
            marker = "o" if len(curve.values) < FEW else ""
            label = curve.name.replace("$", r"\$").replace("_", " ")  # no formula, not hidden
            line = {"linestyle": style, "color": colour, "marker": marker, "label": label}
            axis.plot(curve.iterations, curve.values, markersize=4, linewidth=1.4, **line)
        if ylabel == "loss" and max(values) > 20 * min(values) > 0:
            axis.set_yscale("log")
        elif min(values) >= 0:
            axis.set_ylim(bottom=0)
        if len(curves) > 1:
            figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    return svg[svg.index("<svg") :]  # what comes before it names an address


def describe(curves: Sequence[Curve]) -> str:
    """Say in words what a chart shows, for readers who do not see it."""
    parts = (
        f"{curve.name} from {curve.values[0]:.3g} at iteration {curve.iterations[0]:,} to "
        f"{curve.values[-1]:.3g} at {curve.iterations[-1]:,}"
        for curve in curves
    )
    return "; ".join(parts)
