"""Outlines of binary masks: the pixel edges around them, followed into polygons."""

import numpy as np

# The four sides of a pixel: (dx, dy) to the neighbour, the side's first corner, the step along it.
# Steps run clockwise on the screen, the pixel on the right hand.
_SIDES = (
    ((0, -1), (0, 0), (1, 0)),
    ((1, 0), (1, 0), (0, 1)),
    ((0, 1), (1, 1), (-1, 0)),
    ((-1, 0), (0, 1), (0, -1)),
)


def trace(mask: np.ndarray) -> list[np.ndarray]:
    """Return outlines of a binary mask along pixel edges, without holes, that cover it exactly.

    Args:
        mask: bool or integers (H, W), what is not 0 is in it.

    Returns:
        Polygons, arrays (points, 2) of x, y.
    """
    loops = _boundary_loops(mask.astype(bool))
    hole = next((loop for loop in loops if _signed_area(loop) < 0), None)
    if hole is None:
        return loops
    # COCO polygons know no holes: cut the mask in two through this one, which opens it.
    cut = int(hole[:, 0].mean())
    right = [polygon + np.array([cut, 0]) for polygon in trace(mask[:, cut:])]
    return trace(mask[:, :cut]) + right


def _boundary_loops(mask: np.ndarray) -> list[np.ndarray]:
    """Follow the pixel edges around a mask; outer loops have positive area, holes negative."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    edges = {
        (x + corner_x, y + corner_y, step_x, step_y): None
        for (dx, dy), (corner_x, corner_y), (step_x, step_y) in _SIDES
        for y, x in np.argwhere(
            mask & ~padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        ).tolist()
    }
    remaining = dict(edges)  # a dict, not a set, for its order
    loops = []
    while remaining:
        edge = next(iter(remaining))
        loop = []
        while edge in remaining:
            del remaining[edge]
            following = _following(edge, edges)
            if following[2:] != edge[2:]:
                loop.append(following[:2])
            edge = following
        loops.append(np.array(loop))
    return loops


def _following(
    edge: tuple[int, int, int, int], edges: dict[tuple[int, int, int, int], None]
) -> tuple[int, int, int, int]:
    """Return the edge after this one; where two pixels touch by a corner, stay with this one."""
    x, y, dx, dy = edge
    turns = ((-dy, dx), (dx, dy), (dy, -dx))  # right first
    return next(e for turn in turns if (e := (x + dx, y + dy, *turn)) in edges)


def _signed_area(loop: np.ndarray) -> float:
    """Area by the shoelace formula, positive when clockwise on the screen."""
    x, y = loop.T
    return 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
