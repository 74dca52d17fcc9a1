"""The demo dataset: five kinds of drawn shapes, for training and testing without a download.

Coordinates are COCO's: the pixel in column x and row y is the square [x, x + 1] x [y, y + 1].
"""

from regnet_backbones.shapes.drawing import BACKGROUND, SPLITS, Sample, ShapesSpec, draw
from regnet_backbones.shapes.files import ShapesDataset, check_drawn, write
from regnet_backbones.shapes.geometry import CATEGORIES, FLIP_MAP, KEYPOINTS, SKELETON, trace

__all__ = [
    "BACKGROUND",
    "CATEGORIES",
    "FLIP_MAP",
    "KEYPOINTS",
    "SKELETON",
    "SPLITS",
    "Sample",
    "ShapesDataset",
    "ShapesSpec",
    "check_drawn",
    "draw",
    "trace",
    "write",
]
