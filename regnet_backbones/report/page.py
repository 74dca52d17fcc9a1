"""A report as one HTML page that needs no other file."""

import base64
import io
from collections.abc import Mapping
from itertools import cycle, product
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from regnet_backbones.files import write_whole
from regnet_backbones.report.reading import Report
from regnet_backbones.runs.confusion import Confusion
from regnet_backbones.runs.results import score_text

LABELS = {"Losses": "loss", "Learning rate": "learning rate", "Validation": "%"}  # by caption
CHART_SIZE = (4.2, 3.1)  # in inches; as wide as a column of the page
FEW = 20  # fewer points of a curve are marked: a single validation gives no line

# Text and grid, on light and on dark paper.
INKS = {"light": ("#3d4852", "#c3ccd5"), "dark": ("#d5dce2", "#38424c")}

# Okabe and Ito's colours, which colour-blind people can distinguish, without their yellow.
STYLES = tuple(
    product(("-", "--", ":"), ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"))
)

MOST_LABELS = 31  # of a confusion matrix that is shown as one
MOST_CONFUSIONS = 30  # listed in place of a larger one

PICTURE_WIDTH = 900  # in pixels, at most: a page of a dozen pictures is below two megabytes


def write_page(path: str | Path, *reports: Report) -> None:
    """Write the page of one report or several, whole or not at all."""
    page = render(*reports)
    write_whole(Path(path), lambda file: file.write(page.encode()))


def render(*reports: Report) -> str:
    """Return the page of reports, next to each other: HTML in which all texts are escaped."""
    environment = Environment(
        loader=PackageLoader("regnet_backbones.report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["picture"] = _picture_uri
    environment.filters["number"] = _number
    environment.filters["sortable"] = lambda value: "" if value is None else f"{value:.6g}"
    environment.filters["rgb"] = lambda color: "rgb({}, {}, {})".format(*color)
    template = environment.get_template("page.html.j2")
    return template.render(
        parts=[(report, _charts(report), _matrices(report)) for report in reports]
    )


def _charts(report: Report) -> list[dict[str, str]]:
    charts = []
    for caption, curves in report.curves.items():
        drawn = {name: values for name, values in curves.items() if values}
        if drawn:
            uris = {paper: _chart_uri(drawn, LABELS[caption], *INKS[paper]) for paper in INKS}
            words = "; ".join(_in_words(*curve) for curve in drawn.items())
            charts.append({"caption": caption, "alt": f"{caption}: {words}", **uris})
    return charts


def _matrices(report: Report) -> dict[str, dict[str, object]]:
    found = report.metrics.confusion if report.metrics else {}
    return {task: _matrix(confusion) for task, confusion in found.items()}


def _number(value: float | None, column: str) -> str:
    if value is None:
        return "–"
    return score_text(value) if column.endswith("min_score") else f"{value:.2f}"


def _matrix(confusion: Confusion) -> dict[str, object]:
    """Return a confusion matrix as cells: text, share of the row, words; a large one as a list."""
    labels, unit = confusion.labels, confusion.unit
    rows, confused = [], []
    for truth, counts in zip(labels, confusion.counts, strict=True):
        cells, total = [], max(1, sum(counts))
        for label, count in zip(labels, counts, strict=True):
            share = count / total
            text = f"{100 * share:.1f}" if unit == "pixels" else str(count)
            words = f"{truth} predicted as {label}: {count:,} {unit}, {share:.1%} of the row"
            cells.append((text if count else "", share, words))
            if count and label != truth:
                confused.append((truth, label, count, 100 * share))
        rows.append((truth, cells))
    if len(labels) <= MOST_LABELS:
        return {"labels": labels, "unit": unit, "rows": rows}
    confused.sort(key=lambda each: -each[2])
    return {"labels": labels, "unit": unit, "frequent": confused[:MOST_CONFUSIONS]}


def _picture_uri(image: Image.Image) -> Markup:
    small = image.convert("RGB")
    if small.width > PICTURE_WIDTH:
        small = small.resize((PICTURE_WIDTH, round(PICTURE_WIDTH * small.height / small.width)))
    file = io.BytesIO()
    # Colours in full resolution: half would blur the borders of classes.
    small.save(file, "JPEG", quality=85, subsampling="4:4:4")
    return _uri("image/jpeg", file.getvalue())


def _chart_uri(
    curves: Mapping[str, Mapping[int, float]], ylabel: str, ink: str, grid: str
) -> Markup:
    """Draw curves over the iterations; losses whose small parts would vanish get a log axis."""
    colours = {"text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": grid}
    colours |= {"xtick.color": ink, "ytick.color": ink, "grid.color": grid}
    values = [value for curve in curves.values() for value in curve.values()]
    # The same salt for the same names, so that the same run gives the same page.
    with rc_context({**colours, "svg.fonttype": "path", "svg.hashsalt": ylabel, "font.size": 10}):
        figure = Figure(figsize=CHART_SIZE, layout="constrained")
        axis = figure.add_subplot(xlabel="iteration", ylabel=ylabel)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(linewidth=0.6)
        axis.set_axisbelow(True)
        for (name, curve), (style, colour) in zip(curves.items(), cycle(STYLES), strict=False):
            label = name.replace("$", r"\$").replace("_", " ")  # no formula, not hidden
            line = {"linestyle": style, "color": colour, "label": label}
            line["marker"] = "o" if len(curve) < FEW else ""
            axis.plot(list(curve), list(curve.values()), markersize=4, linewidth=1.4, **line)
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
    # What comes before the element names an address.
    return _uri("image/svg+xml", svg[svg.index("<svg") :].encode())


def _in_words(name: str, curve: Mapping[int, float]) -> str:
    """Describe a curve, for readers who do not see it."""
    first, last = min(curve), max(curve)
    start = f"{name} from {curve[first]:.3g} at iteration {first:,}"
    return f"{start} to {curve[last]:.3g} at {last:,}"


def _uri(kind: str, content: bytes) -> Markup:
    """Return content as a data: address, in which there is nothing to escape."""
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")
