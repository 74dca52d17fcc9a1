"""The demo dataset: five kinds of drawn shapes, for training and testing without a download.

- `drawing.py`: `draw`, one image, its masks, polygons and keypoints; `ShapesSpec`, what to draw.
- `tracing.py`: `trace`, polygons around a binary mask.
- `keypoints.py`: `KEYPOINTS`, the ends and the centre of a shape.
- `annotations.py`: what is known about the images, as COCO's json.
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
from regnet_backbones.shapes.files import FORMAT, SPEC_FILE, ShapesDataset, check_drawn, write
from regnet_backbones.shapes.keypoints import FLIP_MAP, KEYPOINTS, SKELETON
from regnet_backbones.shapes.tracing import trace

__all__ = [
    "BACKGROUND",
    "CATEGORIES",
    "FLIP_MAP",
    "FORMAT",
    "KEYPOINTS",
    "SKELETON",
    "SPEC_FILE",
    "SPLITS",
    "Sample",
    "ShapesDataset",
    "ShapesSpec",
    "check_drawn",
    "draw",
    "trace",
    "write",
]
