"""Geometry of shapes: their outlines, the keypoints of an outline, polygons around a mask.

Keypoints are the four ends of a shape and its centre, where the eye would put them: a mirrored
shape has the mirrored ones with "left" and "right" exchanged.
"""

import numpy as np

CATEGORIES = ("circle", "square", "triangle", "star", "cross")

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


def outline(rng: np.random.Generator, name: str) -> np.ndarray:
    """Return the outline of a shape, about one unit large around the origin."""
    if name == "circle":
        return 0.5 * _polar(40)
    if name == "square":
        return np.sqrt(0.5) * _polar(4, start=np.pi / 4)
    if name == "triangle":
        return 0.58 * _polar(3, start=-np.pi / 2)
    if name == "star":
        radii = np.tile([0.55, 0.55 * rng.uniform(0.4, 0.5)], 5)
        return radii[:, None] * _polar(10, start=-np.pi / 2)
    arm = 0.5 * rng.uniform(0.28, 0.4)  # half the width of the bars of a cross
    corner = np.array([(0.5, -arm), (0.5, arm), (arm, arm)])
    quarter_turn = np.array([(0, 1), (-1, 0)])
    return np.concatenate([corner @ np.linalg.matrix_power(quarter_turn, k) for k in range(4)])


def _polar(count: int, start: float = 0.0) -> np.ndarray:
    """Points on the unit circle."""
    angle = start + 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def locate(name: str, outline: np.ndarray) -> np.ndarray:
    """Return the keypoints (5, 2) of x, y of an outline (points, 2) of a category."""
    center = outline.mean(axis=0)
    if name == "circle":
        # An ellipse of the matrix A has its end in direction d at A A' d / |A' d|, and its points,
        # evenly spaced in their angle, the covariance A A' / 2.
        along = _DIRECTIONS @ (2 * np.cov(outline.T, bias=True))
        ends = center + along / np.sqrt((along * _DIRECTIONS).sum(axis=1, keepdims=True))
    else:
        ends = np.array([outline[list(points)].mean(axis=0) for points in _ENDS[name]])
    return np.concatenate([ends, [center]])


def with_visibility(points: np.ndarray, instances: np.ndarray, number: int) -> np.ndarray:
    """Return keypoints (5, 2) of an instance of `instances` (H, W) with COCO's flag (5, 3)."""
    height, width = instances.shape
    x, y = np.floor(points).astype(int).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    over = instances[y.clip(0, height - 1), x.clip(0, width - 1)] > number
    flags = np.where(over, HIDDEN, VISIBLE)
    return np.where(inside[:, None], np.column_stack([points, flags]), NOT_LABELLED)


def trace(mask: np.ndarray) -> list[np.ndarray]:
    """Return polygons (points, 2) along the pixel edges of a mask, without holes, that cover it.

    Args:
        mask: bool or integers (H, W), what is not 0 is in it.
    """
    loops = _boundary_loops(mask.astype(bool))
    for x, y in (loop.T for loop in loops):
        if x @ (np.roll(y, -1) - y) < 0:  # the area, which is negative of a hole
            # COCO polygons have no holes: cut the mask in two through this one, which opens it.
            cut = int(x.mean())
            right = [polygon + np.array([cut, 0]) for polygon in trace(mask[:, cut:])]
            return trace(mask[:, :cut]) + right
    return loops


def _boundary_loops(mask: np.ndarray) -> list[np.ndarray]:
    """Follow the pixel edges around a mask, clockwise on the screen, around holes the other way."""
    padded = np.pad(mask, 1)
    # The first corner of an edge and the step along it, which has the pixel on the right hand.
    edges: dict[tuple[int, ...], None] = {  # a dict, not a set, for its order
        (x + (dx + dy - 1) // 2, y + (dy - dx - 1) // 2, -dy, dx): None
        for dx, dy in _DIRECTIONS.tolist()
        for y, x in np.argwhere(padded & ~np.roll(padded, (-dy, -dx), (0, 1))).tolist()
    }
    remaining = dict(edges)
    loops = []
    while remaining:
        edge, loop = next(iter(remaining)), []
        while edge in remaining:
            del remaining[edge]
            x, y, dx, dy = edge
            # To the right first: where two pixels touch by a corner, stay with this one.
            ahead = [(x + dx, y + dy, *turn) for turn in ((-dy, dx), (dx, dy), (dy, -dx))]
            edge = next(each for each in ahead if each in edges)
            if edge[2:] != (dx, dy):
                loop.append(edge[:2])
        loops.append(np.array(loop))
    return loops
