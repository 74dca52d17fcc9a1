"""Compare what a COCO json says, of entries that `coco.read_coco` has brought to their types.

Boxes and polygons are read in each way that exporters write them, `READINGS`. If another reading
fits more annotations than COCO's, the file is in that form. Nothing is drawn.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from itertools import product

import numpy as np

from regnet_backbones.detection.data_checks import kinds
from regnet_backbones.detection.data_checks.coco import (
    Content,
    Entry,
    drawable,
    extent_of,
    image_name,
    runs_of,
)
from regnet_backbones.detection.data_checks.defects import Defect, Use
from regnet_backbones.detection.data_checks.kinds import Kind, error, note

# What takes an annotation out of a training.
DROPPING = (kinds.CROWD, kinds.DROPPED_BOX, kinds.DROPPED_ANNOTATION)

# How four numbers are a box, by what they are written as: its left, top, right and bottom.
ORDERS = {
    "": lambda a, b, c, d: (a, b, a + c, b + d),
    "as corners [x1, y1, x2, y2]": lambda a, b, c, d: (a, b, c, d),
    "as [centre x, centre y, width, height]": lambda a, b, c, d: (
        *(a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    ),
}
RELATIVE, SWAPPED = "as parts of the image's size (normalised, 0 to 1)", "with x and y exchanged"
SHIFTED = "shifted against their boxes"
WAYS = ((), (RELATIVE,), (SWAPPED,), (RELATIVE, SWAPPED))

# A reading: the order of a box, the ways that boxes and that polygons are written; the first one is
# COCO's.
Reading = tuple[str, tuple[str, ...], tuple[str, ...]]
COCOS, *READINGS = product(ORDERS, WAYS, WAYS)
READINGS.append(("", (), (SHIFTED,)))

# Overlap (IoU) with the polygons' extent from which a box fits: the right reading is given more
# room, as boxes of hidden parts have it. Corners within ROUNDED pixels fit, too.
FITS, FITS_OTHERWISE, ROUNDED = 0.5, 0.7, 2.0

# Beyond the border by this part of the image's side is not yet outside.
SLACK = 0.02

# A reading is believed if this part of the annotations speaks against COCO's; if only the border
# does, this many of them, and the reading must fit nearly all.
PART, OUTSIDE, NEARLY_ALL = 0.1, 3, 0.99


def check_coco(content: Content, *, source: str, use: Use) -> list[Defect]:
    """Return what is wrong or worth knowing in the lists of `read_coco`, in their order."""
    images, annotations, categories = (
        content[name] for name in ("images", "annotations", "categories")
    )
    by_id = {image["id"]: image for image in images}
    defects = [Defect(kinds.SAME_FILE, source, n) for n in _repeated(map(image_name, images))]
    names = _repeated(category["name"] for category in categories)
    defects += [Defect(kinds.SAME_NAME, source, detail=name) for name in names]

    def add(kind: Kind, entry: Entry, detail: str) -> None:
        name = image_name(by_id[entry["image_id"]])
        defects.append(Defect(kind, source, name, entry["id"], detail))

    trained = []
    for entry in annotations:
        problems = list(_annotation_problems(entry, by_id[entry["image_id"]], use))
        for kind, detail in problems:
            add(kind, entry, detail)
        if not any(kind in DROPPING for kind, _ in problems):
            trained.append(entry)
    what = ((a["image_id"], a["category_id"], tuple(a["bbox"])) for a in annotations)
    for image, _, box in _repeated(what):
        name = image_name(by_id[image])
        defects.append(Defect(kinds.REPEATED, source, name, detail=f"bbox {list(box)}"))
    single = [a for a in annotations if not a["iscrowd"]]
    extents = [extent_of(drawable(a.get("segmentation"))) for a in single]
    sizes = [(by_id[a["image_id"]]["width"], by_id[a["image_id"]]["height"]) for a in single]
    for number, kind in _unlike([a["bbox"] for a in single], extents, sizes):
        extent, (width, height) = extents[number], sizes[number]
        shape = f", polygons from {[*extent[:2]]} to {[*extent[2:]]}" if extent else ""
        add(kind, single[number], f"bbox {single[number]['bbox']} in {width}x{height}{shape}")
    used = {a["category_id"] for a in annotations}
    unused = [c["name"] for c in categories if used and c["id"] not in used]
    defects += [Defect(kinds.UNUSED_CLASS, source, detail=name) for name in unused]
    if not annotations and use.test:
        defects.append(Defect(kinds.NOTHING_TO_SCORE, source))
    if use.train:
        defects += _training_problems(content, trained, source, use)
    return defects


def _repeated(values: Iterable[Hashable]) -> Iterator[Hashable]:
    """Yield the values that came before."""
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            yield value
        seen.add(value)


def _annotation_problems(entry: Entry, image: Entry, use: Use) -> Iterator[tuple[Kind, str]]:
    """Find what is wrong with an annotation: kinds, and what was found."""
    (x, y, w, h), width, height = entry["bbox"], image["width"], image["height"]
    crowd, detail = bool(entry["iscrowd"]), f"bbox {entry['bbox']} in {width}x{height}"
    if entry.get("ignore"):
        yield kinds.IGNORED, ""
    if min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
        if use.test:
            yield kinds.UNREACHABLE_BOX, detail
        if use.train:
            yield kinds.DROPPED_BOX, detail
    elif max(-x, -y, x + w - width, y + h - height) > kinds.ROUNDING:
        yield kinds.CLIPPED_BOX, detail
    if crowd:
        yield kinds.CROWD, ""
    yield from _mask_problems(entry.get("segmentation"), (height, width), use, crowd=crowd)
    if use.keypoints is not None and (use.test or not crowd):
        values = entry.get("keypoints") or ()
        if len(values) != 3 * use.keypoints:
            yield kinds.KEYPOINTS, f"{len(values)} values, not {3 * use.keypoints}"
        elif use.test and entry.get("num_keypoints") is None:
            yield kinds.KEYPOINTS, "no num_keypoints"


def _mask_problems(
    masks: list[list[float]] | Entry | None, size: tuple[int, int], use: Use, *, crowd: bool
) -> Iterator[tuple[Kind, str]]:
    """Find what is wrong with a segmentation in an image of (height, width)."""
    # Masks of crowd regions are never drawn in training.
    drawn = use.masks and (use.test or not crowd)
    if isinstance(masks, dict):
        if drawn and use.train and use.polygons and not crowd:
            yield kinds.RLE_FOR_POLYGON, ""
        runs = runs_of(masks["counts"])
        if drawn and tuple(masks["size"]) != size:
            yield kinds.RLE_SIZE, f"size {masks['size']}, image {[*size]}"
        elif drawn and (runs is None or min(runs) < 0 or sum(runs) != size[0] * size[1]):
            yield kinds.BROKEN_RLE, ""
    elif masks:
        kept, lengths = drawable(masks), [len(polygon) for polygon in masks]
        detail = f"values: {', '.join(map(str, lengths))}"
        if kept and len(kept) < len(masks):
            yield kinds.DROPPED_POLYGON, detail
        elif not kept and use.train:
            yield kinds.DROPPED_ANNOTATION, detail
        if use.test and use.masks and (not kept or lengths[0] == 4):
            yield kinds.NO_POLYGON, detail
    elif drawn:
        yield kinds.NO_MASK, ""


def _training_problems(
    content: Content, trained: list[Entry], source: str, use: Use
) -> Iterator[Defect]:
    """Find images that have nothing to train on, and whether any has."""
    annotations, visible = content["annotations"], defaultdict(int)
    for entry in annotations if use.min_keypoints else ():
        flags = (entry.get("keypoints") or ())[2::3]
        visible[entry["image_id"]] += sum(flag > 0 for flag in flags)
    if not any(visible[a["image_id"]] >= use.min_keypoints for a in trained):
        found = Counter(bool(a["iscrowd"]) for a in annotations)
        detail = f"{found[True]:,} crowd regions, {found[False]:,} other annotations"
        yield Defect(kinds.NOTHING, source, detail=detail)
    with_objects = {a["image_id"] for a in annotations if not a["iscrowd"]}
    for image in content["images"]:
        if image["id"] not in with_objects:
            yield Defect(kinds.EMPTY_IMAGE, source, image_name(image))


def _fits(
    reading: Reading, boxes: np.ndarray, extents: np.ndarray, sizes: np.ndarray, least: float
) -> np.ndarray:
    """Return for each annotation whether its box is a box so, in its image, on its polygons."""
    order, of_boxes, of_polygons = reading
    corners = np.stack(ORDERS[order](*_pixels(boxes, of_boxes, sizes).T), axis=1)
    extents, shifted = _pixels(extents, of_polygons, sizes), SHIFTED in of_polygons
    if shifted:
        extents = extents - np.tile(extents[:, :2] - corners[:, :2], 2)
    masked = ~np.isnan(extents[:, 0])
    placed = np.hstack([corners, np.where(masked[:, None], extents, corners)])
    sizes = np.tile(sizes, 4)
    room = np.maximum(kinds.ROUNDING, SLACK * sizes)
    sides = corners[:, 2:] - corners[:, :2]
    inside = ((placed >= -room) & (placed <= sizes + room)).all(axis=1)
    sensible = (sides > 0).all(axis=1) & (sides > 1).any(axis=1)
    return inside & sensible & np.where(masked, _match(corners, extents, least), not shifted)


def _changes(reading: Reading) -> int:
    """Return in how many ways a reading differs from COCO's; a shift would explain too much."""
    order, of_boxes, of_polygons = reading
    return bool(order) + len(of_boxes) + len(of_polygons) + 5 * (SHIFTED in of_polygons)


def _name(reading: Reading) -> str:
    """Return what a reading takes boxes and polygons for."""
    order, of_boxes, of_polygons = reading
    parts = {"boxes": [*filter(None, [order]), *of_boxes], "polygons": of_polygons}
    return " and ".join(" ".join([what, *ways]) for what, ways in parts.items() if ways)


def _unlike(
    boxes: list[list[float]], extents: list[tuple | None], sizes: list[tuple[int, int]]
) -> Iterator[tuple[int, Kind]]:
    """Find boxes that are not what they should be: numbers of annotations, and kinds.

    Extents are left, top, right and bottom of polygons, sizes width and height of images.
    """
    if not boxes:
        return
    nothing = (float("nan"),) * 4
    told = np.array(boxes, float), np.array([e or nothing for e in extents]), np.array(sizes, float)
    boxes, extents, _ = told
    straight = _fits(COCOS, *told, FITS)
    tiny = (boxes[:, 2:] <= 1).all(axis=1)
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    unlike = ~np.isnan(extents[:, 0]) & ~_match(corners, extents, FITS)
    # Each of these is evidence by itself; a box beyond the border is not.
    odd = unlike | (boxes <= 1).all(axis=1)
    named = np.zeros(len(boxes), bool)
    many_outside = (~straight).sum() >= max(OUTSIDE, PART * len(boxes))
    if odd.any() or many_outside:
        found = [_fits(reading, *told, FITS_OTHERWISE) for reading in READINGS]
        # Of those that explain as many, the one that fits most of the others, too.
        best = max(found, key=lambda fits: ((fits & ~straight).sum(), fits.sum()))
        sure = bool(
            (odd.mean() >= PART and best.sum() > straight.sum())
            or (many_outside and best.mean() >= NEARLY_ALL)
        )
        named = ~straight & best & (odd | sure)
        fitting = [r for r, fits in zip(READINGS, found, strict=True) if fits[named].all()]
        fewest = min(map(_changes, fitting))
        causes = ", or ".join(_name(r) for r in fitting if _changes(r) == fewest)
        kind = (error if sure else note)(
            f"boxes do not fit their images or polygons; the likely cause is {causes}: then "
            f"{best.sum():,} of {len(boxes):,} annotations fit, and {straight.sum():,} as COCO's "
            "[x, y, width, height] in pixels; correct the file, or what exported it"
        )
        yield from ((int(number), kind) for number in np.flatnonzero(named))
    yield from ((int(n), kinds.UNLIKE_MASK) for n in np.flatnonzero(unlike & ~named))
    yield from ((int(n), kinds.ONE_PIXEL) for n in np.flatnonzero(tiny & ~unlike & ~named))


def _pixels(values: np.ndarray, ways: tuple[str, ...], sizes: np.ndarray) -> np.ndarray:
    """Return coordinates in pixels, x first, that are written in some ways."""
    values = values[:, [1, 0, 3, 2]] if SWAPPED in ways else values
    return values * np.tile(sizes, 2) if RELATIVE in ways else values


def _match(corners: np.ndarray, extents: np.ndarray, least: float) -> np.ndarray:
    """Return whether boxes are on extents, up to rounding."""
    common = np.minimum(corners[:, 2:], extents[:, 2:]) - np.maximum(corners[:, :2], extents[:, :2])
    both = common.clip(0).prod(axis=1)
    areas = [(c[:, 2:] - c[:, :2]).clip(0).prod(axis=1) for c in (corners, extents)]
    union = np.maximum(areas[0] + areas[1] - both, 1e-9)
    return (both >= least * union) | (np.abs(corners - extents) <= ROUNDED).all(axis=1)
