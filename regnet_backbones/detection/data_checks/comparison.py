"""Compare boxes with polygons and images: are they what COCO's format says?

Boxes are read in each way that exporters write them, `READINGS`. Where another reading fits more
annotations than the right one, the file is in that form.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from regnet_backbones.detection.data_checks import coco_kinds as kinds
from regnet_backbones.detection.data_checks.defects import Kind, error, note

# How four numbers are a box; each returns left, top, right and bottom.
ORDERS = {
    "": lambda a, b, c, d: (a, b, a + c, b + d),
    "corners [x1, y1, x2, y2]": lambda a, b, c, d: (a, b, c, d),
    "[centre x, centre y, width, height]": lambda a, b, c, d: (
        *(a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    ),
}

# Overlap (IoU) with the polygons' extent from which a box fits: the right reading is given more
# room, as boxes of hidden parts have it. Corners within ROUNDED pixels fit, too.
FITS, FITS_OTHERWISE, ROUNDED = 0.5, 0.7, 2.0

# Beyond the border by this part of the image's side is not yet outside.
SLACK = 0.02

# A reading is believed where this part of the annotations speaks against COCO's; where only the
# border does, this many of them, and where the reading fits nearly all.
PART, OUTSIDE, NEARLY_ALL = 0.1, 3, 0.99


@dataclass(frozen=True)
class Geometry:
    """What annotations of single objects say of their places.

    Args:
        boxes: as the file has them, (N, 4).
        extents: left, top, right and bottom of polygons, NaN without polygons, (N, 4).
        sizes: width and height of the images, (N, 2).
    """

    boxes: np.ndarray
    extents: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class Reading:
    """A way to read boxes and polygons; the defaults are COCO's."""

    order: str = ""
    relative: bool = False
    swapped: bool = False
    relative_polygons: bool = False
    swapped_polygons: bool = False
    shifted: bool = False

    @property
    def changes(self) -> int:
        """In how many ways it differs from COCO's; a shift would explain too much."""
        plain = (self.relative, self.swapped, self.relative_polygons, self.swapped_polygons)
        return bool(self.order) + sum(plain) + 5 * self.shifted

    @property
    def name(self) -> str:
        """What it takes boxes and polygons for."""
        order = f"as {self.order}" if self.order else ""
        parts = {
            "boxes": (order, self.relative, self.swapped),
            "polygons": ("", self.relative_polygons, self.swapped_polygons),
        }
        texts = []
        for subject, (order, relative, swapped) in parts.items():
            found = [order] if order else []
            found += ["as parts of the image's size (normalised, 0 to 1)"] if relative else []
            found += ["with x and y exchanged"] if swapped else []
            texts += [f"{subject} written {' '.join(found)}"] if found else []
        return " and ".join(texts) or "polygons shifted against their boxes"

    def fits(self, geometry: Geometry, least: float) -> np.ndarray:
        """Return for each annotation whether its box is a box so, in its image, on its polygons."""
        scale = np.tile(geometry.sizes, 2)
        boxes = _exchanged(geometry.boxes) if self.swapped else geometry.boxes
        extents = _exchanged(geometry.extents) if self.swapped_polygons else geometry.extents
        boxes = boxes * scale if self.relative else boxes
        extents = extents * scale if self.relative_polygons else extents
        corners = np.stack(ORDERS[self.order](*boxes.T), axis=1)
        if self.shifted:
            extents = extents - np.tile(extents[:, :2] - corners[:, :2], 2)
        masked = ~np.isnan(extents[:, 0])
        room = np.maximum(kinds.ROUNDING, SLACK * scale)
        placed = [corners, np.where(masked[:, None], extents, corners)]
        inside = [((c >= -room) & (c <= scale + room)).all(axis=1) for c in placed]
        sides = corners[:, 2:] - corners[:, :2]
        sensible = (sides > 0).all(axis=1) & (sides > 1).any(axis=1)
        on_mask = masked & _match(corners, extents, least)
        return inside[0] & inside[1] & sensible & (on_mask | (~masked & (not self.shifted)))


READINGS = sorted(
    [
        *map(Reading, *zip(*product(ORDERS, *[(False, True)] * 4), strict=True)),
        Reading(shifted=True),
    ],
    key=lambda reading: reading.changes,
)


def compare(geometry: Geometry) -> Iterator[tuple[int, Kind]]:
    """Find boxes that are not what they should be.

    Yields:
        The number of an annotation, and the kind of its defect: an error where most annotations
        have the same cause.
    """
    if not len(geometry.boxes):
        return
    straight = Reading().fits(geometry, FITS)
    sides = geometry.boxes[:, 2:]
    tiny = (sides <= 1).all(axis=1)
    corners = np.concatenate([geometry.boxes[:, :2], geometry.boxes[:, :2] + sides], axis=1)
    unlike = ~np.isnan(geometry.extents[:, 0]) & ~_match(corners, geometry.extents, FITS)
    # Each of these is evidence by itself; a box beyond the border is not.
    odd = unlike | (tiny & (geometry.boxes <= 1).all(axis=1))
    named = np.zeros(len(straight), bool)
    many_outside = (~straight).sum() >= max(OUTSIDE, PART * len(straight))
    if odd.any() or many_outside:
        found = [reading.fits(geometry, FITS_OTHERWISE) for reading in READINGS[1:]]
        # Of those that explain as many, the one that fits most of the others, too.
        best = max(found, key=lambda fits: ((fits & ~straight).sum(), fits.sum()))
        sure = odd.mean() >= PART and best.sum() > straight.sum()
        sure = bool(sure or (many_outside and best.mean() >= NEARLY_ALL))
        named = ~straight & best & (odd | sure)
        if named.any():
            causes = _causes(READINGS[1:], found, named)
            kind = _kind(causes, sure, int(straight.sum()), int(best.sum()), len(straight))
            yield from ((int(number), kind) for number in np.flatnonzero(named))
    yield from ((int(n), kinds.UNLIKE_MASK) for n in np.flatnonzero(unlike & ~named))
    yield from ((int(n), kinds.ONE_PIXEL) for n in np.flatnonzero(tiny & ~unlike & ~named))


def _kind(causes: str, sure: bool, straight: int, best: int, count: int) -> Kind:
    """Return the kind of boxes or polygons that are in another form."""
    problem = (
        f"boxes do not fit their images or polygons; the likely cause is {causes}: so {best:,} of "
        f"{count:,} annotations fit, and {straight:,} as COCO's [x, y, width, height] in pixels"
    )
    fix = "correct the file, or what exported it"
    return error(problem, fix) if sure else note(problem, fix)


def _causes(readings: Sequence[Reading], found: list[np.ndarray], named: np.ndarray) -> str:
    """Name the simplest readings that fit all of the named annotations."""
    fitting = [r for r, fits in zip(readings, found, strict=True) if fits[named].all()]
    return ", or ".join(r.name for r in fitting if r.changes == fitting[0].changes)


def _exchanged(values: np.ndarray) -> np.ndarray:
    """Exchange x and y."""
    return values[:, [1, 0, 3, 2]]


def _match(corners: np.ndarray, extents: np.ndarray, least: float) -> np.ndarray:
    """Return whether boxes are on extents, up to rounding."""
    common = np.minimum(corners[:, 2:], extents[:, 2:]) - np.maximum(corners[:, :2], extents[:, :2])
    both = common.clip(0).prod(axis=1)
    areas = [(c[:, 2:] - c[:, :2]).clip(0).prod(axis=1) for c in (corners, extents)]
    union = np.maximum(areas[0] + areas[1] - both, 1e-9)
    return (both >= least * union) | (np.abs(corners - extents) <= ROUNDED).all(axis=1)
