"""A report as one HTML page that needs nothing beside itself."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from regnet_backbones.files import write_whole
from regnet_backbones.report.charts import chart, describe
from regnet_backbones.report.content import Curve, Report

TEMPLATE = "page.html.j2"

# Pictures, whatever they were, are as wide as this at most, in pixels: a page of a dozen of them
# is then below two megabytes.
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
    environment.filters["number"] = _number
    environment.filters["sortable"] = lambda value: "" if value is None else f"{value:.6g}"
    environment.filters["rgb"] = lambda color: "rgb({}, {}, {})".format(*color)
    return environment.get_template(TEMPLATE).render(report=report, charts=_charts(report))


def picture_uri(image: Image.Image) -> Markup:
    """Return a picture as a JPEG in an address of its own."""
    small = image.convert("RGB")
    if small.width > PICTURE_WIDTH:
        small = small.resize((PICTURE_WIDTH, round(PICTURE_WIDTH * small.height / small.width)))
    file = io.BytesIO()
    # Colours in full resolution: half would blur the borders of classes.
    small.save(file, "JPEG", quality=PICTURE_QUALITY, subsampling="4:4:4")
    return _uri("image/jpeg", file.getvalue())


def _charts(report: Report) -> list[dict[str, str]]:
    """Draw the curves that there are."""
    curves = report.curves
    found = []
    for caption, drawn, label in (
        ("Losses", curves.losses, "loss"),
        ("Learning rate", curves.learning_rate, "learning rate"),
        ("Validation", curves.validation, "%"),
    ):
        drawn = tuple(curve for curve in drawn if curve.values)
        if drawn:
            logarithmic = label == "loss" and _wide(drawn)
            light, dark = (
                _uri("image/svg+xml", chart(drawn, label, logarithmic=logarithmic, dark=d).encode())
                for d in (False, True)
            )
            alt = f"{caption}: {describe(drawn)}"
            found.append({"caption": caption, "light": light, "dark": dark, "alt": alt})
    return found


def _wide(curves: tuple[Curve, ...]) -> bool:
    """Whether values are above 0 and differ so much that the small ones would not be seen."""
    values = [value for curve in curves for value in curve.values]
    return min(values) > 0 and max(values) > 20 * min(values)


def _uri(kind: str, content: bytes) -> Markup:
    """Return content as a data: address, which has no letter to escape."""
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")


def _number(value: float | None) -> str:
    """Format a number of a table."""
    return "–" if value is None or value != value else f"{value:.2f}"
