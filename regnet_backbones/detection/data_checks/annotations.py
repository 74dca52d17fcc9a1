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
from regnet_backbones.detection.data_checks.kinds import Defect, Kind, Use

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
WAYS = ((), (RELATIVE,), (SWAPPED,), (RELATIVE, SWAPPED))

# A reading: the order of a box, the ways that boxes and that polygons are written; the first one is
# COCO's, and the more a reading differs from it, the later it comes.
Reading = tuple[str, tuple[str, ...], tuple[str, ...]]
COCOS, *READINGS = sorted(
    product(ORDERS, WAYS, WAYS), key=lambda r: bool(r[0]) + len(r[1]) + len(r[2])
)

# Overlap (IoU) with the polygons' extent from which a box fits: the right reading is given more
# room, as boxes of hidden parts have it. Corners within ROUNDED pixels fit, too.
FITS, FITS_OTHERWISE, ROUNDED = 0.5, 0.7, 2.0

# Beyond the border by up to so many pixels, or this part of the image's side, is not yet outside.
ROUNDING, SLACK = 1.0, 0.02

# Another reading is believed if it fits nearly all annotations, and this part of them and as many
# more than COCO's.
NEARLY_ALL, PART, MORE = 0.95, 0.1, 3


def check_coco(content: Content, *, source: str, use: Use) -> list[Defect]:
    """Return what is wrong or worth knowing in the lists of `read_coco`, in their order."""
    images, annotations, categories = (
        content[name] for name in ("images", "annotations", "categories")
    )
    by_id = {image["id"]: image for image in images}
    defects = [Defect(kinds.SAME_FILE, source, n) for n in _repeated(map(image_name, images))]
    names = _repeated(category["name"] for category in categories)
    defects += [Defect(kinds.SAME_NAME, source, detail=name) for name in names]

    trained = []
    for entry in annotations:
        image = by_id[entry["image_id"]]
        problems = list(_annotation_problems(entry, image, use))
        defects += [
            Defect(kind, source, image_name(image), entry["id"], detail)
            for kind, detail in problems
        ]
        if not any(kind in DROPPING for kind, _ in problems):
            trained.append(entry)
    what = ((a["image_id"], a["category_id"], tuple(a["bbox"])) for a in annotations)
    for image, _, box in _repeated(what):
        name = image_name(by_id[image])
        defects.append(Defect(kinds.REPEATED, source, name, detail=f"bbox {list(box)}"))
    single = [a for a in annotations if not a["iscrowd"]]
    defects += _unlike(single, [by_id[a["image_id"]] for a in single], source)
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
    elif max(-x, -y, x + w - width, y + h - height) > ROUNDING:
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
        elif drawn and (runs is None or runs.min() < 0 or runs.sum() != size[0] * size[1]):
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


def _unlike(entries: list[Entry], images: list[Entry], source: str) -> Iterator[Defect]:
    """Find boxes that are not what they should be; `images` are those of the annotations."""
    if not entries:
        return
    boxes = np.array([entry["bbox"] for entry in entries], float)
    nothing = (np.nan,) * 4
    extents = np.array([extent_of(drawable(e.get("segmentation"))) or nothing for e in entries])
    sizes = np.array([(image["width"], image["height"]) for image in images], float)
    straight = _fits(COCOS, boxes, extents, sizes, FITS).sum()
    fits = {r: _fits(r, boxes, extents, sizes, FITS_OTHERWISE).sum() for r in READINGS}
    best, total = max(fits, key=lambda reading: fits[reading]), len(boxes)
    if fits[best] >= max(NEARLY_ALL * total, straight + max(MORE, PART * total)):
        order, of_boxes, of_polygons = best
        parts = {"boxes": [*filter(None, [order]), *of_boxes], "polygons": of_polygons}
        cause = " and ".join(" ".join([what, *ways]) for what, ways in parts.items() if ways)
        detail = f"{cause}: {fits[best]:,} of {total:,} annotations fit so, {straight:,} as COCO's"
        yield Defect(kinds.OTHER_FORM, source, detail=detail)
        return
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    unlike = ~np.isnan(extents[:, 0]) & ~_match(corners, extents, FITS)
    tiny = (boxes[:, 2:] <= 1).all(axis=1) & ~unlike
    for where, kind in ((unlike, kinds.UNLIKE_MASK), (tiny, kinds.ONE_PIXEL)):
        for number in np.flatnonzero(where):
            entry, image = entries[number], images[number]
            detail = f"bbox {entry['bbox']} in {image['width']}x{image['height']}"
            if kind is kinds.UNLIKE_MASK:
                detail += f", polygons in {extents[number].tolist()}"
            yield Defect(kind, source, image_name(image), entry["id"], detail)


def _fits(
    reading: Reading, boxes: np.ndarray, extents: np.ndarray, sizes: np.ndarray, least: float
) -> np.ndarray:
    """Return for each annotation whether its box is a box so, in its image, on its polygons."""
    order, of_boxes, of_polygons = reading
    corners = np.stack(ORDERS[order](*_pixels(boxes, of_boxes, sizes).T), axis=1)
    extents = _pixels(extents, of_polygons, sizes)
    masked = ~np.isnan(extents[:, 0])
    placed = np.hstack([corners, np.where(masked[:, None], extents, corners)])
    sizes = np.tile(sizes, 4)
    room = np.maximum(ROUNDING, SLACK * sizes)
    sides = corners[:, 2:] - corners[:, :2]
    inside = ((placed >= -room) & (placed <= sizes + room)).all(axis=1)
    sensible = (sides > 0).all(axis=1) & (sides > 1).any(axis=1)
    return inside & sensible & (~masked | _match(corners, extents, least))


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
