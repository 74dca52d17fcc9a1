"""A look at training data before the first step: a table by class, and one picture of them.

And pictures of a training, to any logger.

A run does not depend on it: random numbers are as before, and what fails is a warning.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tabulate import tabulate

from regnet_backbones.files import write_whole
from regnet_backbones.runs.resume import seeded

logger = logging.getLogger(__name__)

PICTURE = "data.png"  # in the folder of a run
PICTURES, COLUMNS = 6, 3  # training images that it shows
SIDE, MARGIN = 320, 4  # in pixels
ROWS = 40  # that a longer table shows, half of them from its end


def show(
    folder: Path, *, table: Callable[[], str], picture: Callable[[], Image.Image] | None
) -> None:
    """Print a table of the training data, and draw a picture of them to `data.png` in a folder."""

    def draw() -> None:
        if picture is not None:
            drawn = picture()
            write_whole(folder / PICTURE, lambda file: drawn.save(file, "PNG"))
            print(f"training images as the network gets them: {folder / PICTURE}")

    for what, make in (("table", lambda: print(table())), ("picture", draw)):
        try:
            with seeded(0):
                make()
        except Exception as error:  # whatever it is, the run does not need it
            logger.warning("no %s of the training data: %s: %s", what, type(error).__name__, error)


def table_of(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format rows, numbers with separators; of many the first and the last ones."""
    shown: list[list[object]] = [
        [f"{v:,}" if isinstance(v, int) else v for v in row] for row in rows
    ]
    if len(shown) > ROWS:
        left_out: list[object] = [f"... {len(shown) - ROWS:,} more", *[""] * (len(headers) - 1)]
        shown = [*shown[: ROWS // 2], left_out, *shown[-ROWS // 2 :]]
    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(shown, headers=headers, colalign=align, disable_numparse=True)


def mosaic(pictures: Sequence[Image.Image]) -> Image.Image:
    """Lay pictures out in rows, each as high as `SIDE`."""
    tiles = [ImageOps.contain(picture, (2 * SIDE, SIDE)) for picture in pictures]
    columns = min(COLUMNS, len(tiles))
    width = max(tile.width for tile in tiles) + MARGIN
    height = max(tile.height for tile in tiles) + MARGIN
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    for index, tile in enumerate(tiles):
        place = (index % columns * width + MARGIN, index // columns * height + MARGIN)
        sheet.paste(tile, place)
    return sheet


def log_picture(log: object, name: str, picture: Image.Image, step: int) -> None:
    """Give a picture to a logger of Lightning, if it takes any: TensorBoard, W&B and MLflow do."""
    if hasattr(log, "log_image"):
        log.log_image(key=name, images=[picture], step=step)
    elif hasattr(log.experiment, "add_image"):
        log.experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")
    elif hasattr(log, "run_id") and hasattr(log.experiment, "log_image"):
        log.experiment.log_image(log.run_id, picture, artifact_file=f"{name}/{step}.png")
