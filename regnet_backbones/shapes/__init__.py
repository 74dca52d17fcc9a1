"""The demo dataset: five kinds of drawn shapes, for training and testing without a download.

- `drawing.py`: `draw`, one image and its masks and polygons; `ShapesSpec`, what to draw.
- `tracing.py`: `trace`, polygons around a binary mask.
- `files.py`: `write`, the dataset on disk in COCO's and ADE20K's formats; `ShapesDataset`, where.

Coordinates are COCO's: the pixel in column x and row y is the square [x, x + 1] x [y, y + 1].
"""

from regnet_backbones.shapes.drawing import (
    BACKGROUND,
    CATEGORIES,
    SPLITS,
    Sample,
    ShapesSpec,
    draw,
)
from regnet_backbones.shapes.files import FORMAT, SPEC_FILE, ShapesDataset, write
from regnet_backbones.shapes.tracing import trace

__all__ = [
    "BACKGROUND",
    "CATEGORIES",
    "FORMAT",
    "SPEC_FILE",
    "SPLITS",
    "Sample",
    "ShapesDataset",
    "ShapesSpec",
    "draw",
    "trace",
    "write",
]
