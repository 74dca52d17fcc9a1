"""Compare what a COCO json says, of entries that `coco.read_coco` has brought to their types.

Boxes are read in each way that exporters write them, `READINGS`. If another reading fits more
annotations than COCO's, the file is in that form. Nothing is drawn.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
from detectron2.structures.boxes import Boxes, matched_pairwise_iou

from regnet_backbones.data.coco import is_mask
from regnet_backbones.detection.data_checks import kinds
from regnet_backbones.detection.data_checks.coco import CocoSplit, Entry, drawable, extent_of
from regnet_backbones.detection.data_checks.kinds import Defect, Kind

# How four numbers are a box, by what they are written as: its left, top, right and bottom.
ORDERS = {
    "": lambda a, b, c, d: (a, b, a + c, b + d),
    "as corners [x1, y1, x2, y2]": lambda a, b, c, d: (a, b, c, d),
    "as [centre x, centre y, width, height]": lambda a, b, c, d: (
        *(a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    ),
}
RELATIVE = "as parts of the image's size (normalised, 0 to 1)"
# An order of the numbers, and what they are parts of; the first reading is COCO's.
COCOS, *READINGS = product(ORDERS, ("", RELATIVE))

# Overlap (IoU) with the polygons' extent from which a box fits; or its corners are as near.
FITS, NEAR = 0.6, 2.0

# Beyond the border by up to so many pixels, or this part of the image's side, is not yet outside.
ROUNDING, SLACK = 1.0, 0.02

# Polygons that reach so many sides of the image beyond it take minutes or all memory to draw.
FAR = 100

# Another reading is believed if it fits this part of the annotations, and so many more than COCO's.
NEARLY_ALL, PART, MORE = 0.95, 0.1, 3


def check_coco(split: CocoSplit, *, train: bool, masks: str) -> list[Defect]:
    """Return the defects of a json; `masks` is `INPUT.MASK_FORMAT`, or "" without masks."""
    content, source = split.content, str(split.json_file)
    images = {image["id"]: image for image in content["images"]}
    names = {number: image["file_name"] for number, image in images.items()}
    annotations = content["annotations"]
    found = [(kinds.SAME_FILE, name) for name, n in Counter(names.values()).items() if n > 1]
    classes = Counter(category["name"] for category in content["categories"])
    found += [(kinds.SAME_NAME, name) for name, n in classes.items() if n > 1]
    for entry in annotations:
        name = f"annotation {entry['id']} of {names[entry['image_id']]}"
        for kind, detail in _annotation_problems(entry, images[entry["image_id"]], train, masks):
            found.append((kind, kinds.place(name, detail)))
    objects = Counter((a["image_id"], a["category_id"], *a["bbox"]) for a in annotations)
    for (number, _, *box), n in objects.items():
        if n > 1:
            found.append((kinds.REPEATED, kinds.place(names[number], f"{n} times, bbox {box}")))
    single = [a for a in annotations if not a["iscrowd"]]
    found += _unlike(single, [images[a["image_id"]] for a in single])
    used = {a["category_id"] for a in annotations}
    unused = [c["name"] for c in content["categories"] if used and c["id"] not in used]
    found += [(kinds.UNUSED_CLASS, name) for name in unused]
    if train:
        if not any(_is_trained(a, images[a["image_id"]]) for a in single):
            crowds = len(annotations) - len(single)
            detail = f"{crowds:,} crowd regions, {len(single):,} other annotations"
            found.append((kinds.NOTHING, detail))
        with_objects = {a["image_id"] for a in single}
        found += [(kinds.EMPTY_IMAGE, names[i]) for i in names if i not in with_objects]
    elif not annotations:
        found.append((kinds.NOTHING_TO_SCORE, ""))
    return [Defect(kind, source, place) for kind, place in found]


def _is_outside(entry: Entry, image: Entry) -> bool:
    """Return whether a box has no area inside its image."""
    x, y, w, h = entry["bbox"]
    return min(x + w, image["width"]) <= max(x, 0) or min(y + h, image["height"]) <= max(y, 0)


def _is_trained(entry: Entry, image: Entry) -> bool:
    """Return whether detectron2 trains on the annotation of a single object."""
    masks = entry.get("segmentation")
    has_mask = not masks or isinstance(masks, dict) or bool(drawable(masks))
    return has_mask and not _is_outside(entry, image)


def _annotation_problems(
    entry: Entry, image: Entry, train: bool, masks: str
) -> Iterator[tuple[Kind, str]]:
    """Find what is wrong with an annotation: kinds, and what was found."""
    (x, y, w, h), width, height = entry["bbox"], image["width"], image["height"]
    detail = f"bbox {entry['bbox']} in {width}x{height}"
    if entry.get("ignore"):
        yield kinds.IGNORED, ""
    if _is_outside(entry, image):
        yield kinds.OUTSIDE, detail
    elif max(-x, -y, x + w - width, y + h - height) > ROUNDING:
        yield kinds.CLIPPED_BOX, detail
    if entry["iscrowd"]:
        yield kinds.CROWD, ""
    segmentation, size = entry.get("segmentation"), [height, width]
    drawn = masks and not (train and entry["iscrowd"])
    if isinstance(segmentation, dict):
        if drawn and train and masks == "polygon":
            yield kinds.RLE_FOR_POLYGON, ""
        # Pictures of the truth decode masks that are not trained or scored, whatever their size.
        if not is_mask(segmentation, size if drawn else segmentation["size"]):
            yield kinds.BROKEN_RLE, f"size {segmentation['size']}, image {size}"
    elif segmentation:
        kept, lengths = drawable(segmentation), [len(polygon) for polygon in segmentation]
        detail = f"values: {', '.join(map(str, lengths))}"
        if len(kept) < len(segmentation):
            yield kinds.DROPPED_POLYGON, detail
        if drawn and not train and (not kept or lengths[0] == 4):
            yield kinds.NO_POLYGON, detail
    elif drawn:
        yield kinds.NO_MASK, ""


def _unlike(entries: list[Entry], images: list[Entry]) -> Iterator[tuple[Kind, str]]:
    """Find boxes that are not what they should be; `images` are those of the annotations."""
    if not entries:
        return
    boxes = np.array([entry["bbox"] for entry in entries], float)
    polygons = [drawable(entry.get("segmentation")) for entry in entries]
    extents = np.array([extent_of(p) if p else (np.nan,) * 4 for p in polygons])
    sizes = np.array([(image["width"], image["height"]) for image in images], float)
    limits = FAR * np.tile(sizes, 2)
    for number in np.flatnonzero((np.abs(extents) > limits).any(axis=1)):
        yield kinds.FAR_POLYGON, _place(entries[number], images[number], extents[number])
    straight = _fits(COCOS, boxes, extents, sizes).sum()
    fits = {reading: _fits(reading, boxes, extents, sizes).sum() for reading in READINGS}
    best, total = max(fits, key=lambda reading: fits[reading]), len(boxes)
    if fits[best] >= max(NEARLY_ALL * total, straight + max(MORE, PART * total)):
        cause = ", ".join(filter(None, best))
        detail = f"{cause}: {fits[best]:,} of {total:,} annotations fit so, {straight:,} as COCO's"
        yield kinds.OTHER_FORM, detail
        return
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    for number in np.flatnonzero(~np.isnan(extents[:, 0]) & ~_match(corners, extents)):
        yield kinds.UNLIKE_MASK, _place(entries[number], images[number], extents[number])


def _place(entry: Entry, image: Entry, extent: np.ndarray) -> str:
    name = f"annotation {entry['id']} of {image['file_name']}"
    return kinds.place(name, f"bbox {entry['bbox']}, polygons in {extent.tolist()}")


def _fits(
    reading: tuple[str, str], boxes: np.ndarray, extents: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """Return for each annotation whether its box is a box so, in its image, on its polygons."""
    order, unit = reading
    sizes = np.tile(sizes, 2)
    if unit == RELATIVE:  # some exporters write only boxes so, or only polygons
        boxes, extents = (
            np.where((values <= 1).all(axis=1, keepdims=True), values * sizes, values)
            for values in (boxes, extents)
        )
    corners = np.stack(ORDERS[order](*boxes.T), axis=1)
    room = np.maximum(ROUNDING, SLACK * sizes)
    inside = ((corners >= -room) & (corners <= sizes + room)).all(axis=1)
    sides = corners[:, 2:] - corners[:, :2]
    sensible = (sides > 0).all(axis=1) & (sides > 1).any(axis=1)
    return inside & sensible & (np.isnan(extents[:, 0]) | _match(corners, extents))


def _match(corners: np.ndarray, extents: np.ndarray) -> np.ndarray:
    """Return whether boxes are on extents, up to rounding."""
    pair = (Boxes(torch.from_numpy(values)) for values in (corners, extents))
    overlaps = matched_pairwise_iou(*pair).numpy() >= FITS
    return overlaps | (np.abs(corners - extents) <= NEAR).all(axis=1)
