"""A report as one HTML page that needs no other file."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from regnet_backbones.files import write_whole
from regnet_backbones.report.charts import chart, describe
from regnet_backbones.report.content import Report

TEMPLATE = "page.html.j2"

# By the caption of a chart.
LABELS = {"Losses": "loss", "Learning rate": "learning rate", "Validation": "%"}

# Pictures are at most this wide, in pixels: a page of a dozen of them is below two megabytes.
PICTURE_WIDTH = 900
PICTURE_QUALITY = 85


def write_page(path: str | Path, report: Report) -> None:
    """Write the page of a report, whole or not at all.

    Args:
        path: the file, `.html`.
        report: what the page says.

    Raises:
        OSError: the file cannot be written.
    """
    page = render(report)
    write_whole(Path(path), lambda file: file.write(page.encode()))


def render(report: Report) -> str:
    """Return the page of a report, HTML in which all of its texts are escaped.

    Args:
        report: what the page says.
    """
    environment = Environment(
        loader=PackageLoader("regnet_backbones.report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["picture"] = picture_uri
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.2f}"
    environment.filters["sortable"] = lambda value: "" if value is None else f"{value:.6g}"
    environment.filters["rgb"] = lambda color: "rgb({}, {}, {})".format(*color)
    return environment.get_template(TEMPLATE).render(report=report, charts=_charts(report))


def picture_uri(image: Image.Image) -> Markup:
    """Return a picture as a JPEG in a data: address."""
    small = image.convert("RGB")
    if small.width > PICTURE_WIDTH:
        small = small.resize((PICTURE_WIDTH, round(PICTURE_WIDTH * small.height / small.width)))
    file = io.BytesIO()
    # Colours in full resolution: half would blur the borders of classes.
    small.save(file, "JPEG", quality=PICTURE_QUALITY, subsampling="4:4:4")
    return _uri("image/jpeg", file.getvalue())


def _charts(report: Report) -> list[dict[str, str]]:
    """Draw the curves that there are."""
    found = []
    for caption, curves in report.curves.items():
        drawn = [curve for curve in curves if curve.values]
        if drawn:
            light, dark = (
                _uri("image/svg+xml", chart(drawn, LABELS[caption], dark=dark).encode())
                for dark in (False, True)
            )
            alt = f"{caption}: {describe(drawn)}"
            found.append({"caption": caption, "light": light, "dark": dark, "alt": alt})
    return found


def _uri(kind: str, content: bytes) -> Markup:
    """Return content as a data: address, in which there is nothing to escape."""
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")
