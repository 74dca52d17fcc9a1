"""Keypoints of a shape: its four ends and its centre.

Each is where the eye would put it, and a mirrored shape has the mirrored ones with "left" and
"right" exchanged. That holds while shapes lean less than 45 degrees, as they do by default.
"""

import numpy as np

KEYPOINTS = ("top", "right", "bottom", "left", "center")
FLIP_MAP = (("right", "left"),)
SKELETON = (("top", "center"), ("right", "center"), ("bottom", "center"), ("left", "center"))

# COCO's visibility flags.
NOT_LABELLED, HIDDEN, VISIBLE = 0, 1, 2

# Top, right, bottom and left of an outline: the points of it whose mean it is. A triangle's right
# and left are its lower corners; a star's bottom is the corner between its two lower tips.
_ENDS = {
    "square": ((2, 3), (3, 0), (0, 1), (1, 2)),
    "triangle": ((0,), (1,), (1, 2), (2,)),
    "star": ((0,), (2,), (5,), (8,)),
    "cross": ((9, 10), (0, 1), (3, 4), (6, 7)),
}
_DIRECTIONS = np.array([(0, -1), (1, 0), (0, 1), (-1, 0)])


def locate(name: str, outline: np.ndarray) -> np.ndarray:
    """Return the keypoints (5, 2) of x, y of an outline (points, 2) of a category."""
    center = outline.mean(axis=0)
    if name == "circle":
        ends = center + _ends_of_ellipse(outline)
    else:
        ends = np.array([outline[list(points)].mean(axis=0) for points in _ENDS[name]])
    return np.concatenate([ends, [center]])


def with_visibility(points: np.ndarray, instances: np.ndarray, number: int) -> np.ndarray:
    """Add COCO's flag to keypoints of an instance, and zero those outside of the image.

    Args:
        points: (5, 2) of x, y.
        instances: (H, W), the number of the instance that is seen in each pixel.
        number: of this instance; those with higher numbers lie over it.

    Returns:
        (5, 3) of x, y, flag.
    """
    height, width = instances.shape
    x, y = np.floor(points).astype(int).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    over = instances[y.clip(0, height - 1), x.clip(0, width - 1)] > number
    flags = np.where(over, HIDDEN, VISIBLE)
    return np.where(inside[:, None], np.column_stack([points, flags]), NOT_LABELLED)


def _ends_of_ellipse(outline: np.ndarray) -> np.ndarray:
    """Return the extreme points of an ellipse along the image's axes, from its centre.

    How far it leans shows in no picture of a round one, hence not along its own axes. An ellipse
    of the matrix A has its end in direction d at A A' d / |A' d|, and its points, evenly spaced in
    their angle, the covariance A A' / 2.
    """
    matrix = 2 * np.cov(outline.T, bias=True)
    along = _DIRECTIONS @ matrix
    return along / np.sqrt((along * _DIRECTIONS).sum(axis=1, keepdims=True))
