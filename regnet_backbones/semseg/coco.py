"""Masks of classes from COCO jsons: painted from instances, or read from panoptic PNGs.

Where instances overlap, the smaller one is seen: they are painted by their areas in pixels, the
largest first, and of two equal ones the later one is on top. A crowd region is of its class, too.
Pixels of no instance are "background", class 0; panoptic jsons leave some unlabelled (black), which
are ignored. Classes are the categories in the order of their ids.

Each instance is kept as a run-length encoding, some hundred bytes; masks are painted when they are
read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from reprlib import repr as shortened
from types import ModuleType

import numpy as np
from PIL import Image

from regnet_backbones.data.coco import (
    TOO_LARGE,
    CocoJson,
    id_text,
    is_mask,
    read_coco_json,
    root_category,
)
from regnet_backbones.errors import MissingPackageError, UserError
from regnet_backbones.runs.image_files import UNREADABLE
from regnet_backbones.semseg.labels import IGNORE, Labels, check_class_names

BACKGROUND = "background"


@dataclass(frozen=True)
class PaintedMask:
    """The mask of an image as instances, from the lowest to the topmost."""

    name: str  # in messages
    size: tuple[int, int]  # width and height in pixels
    counts: tuple[bytes, ...]  # COCO's compressed run-length encodings
    classes: tuple[int, ...]  # of each
    empty: int  # the class of pixels of no instance, or `IGNORE`

    def values(self) -> np.ndarray:
        """Paint the mask: classes and `IGNORE`, uint8 (H, W)."""
        height_width = [self.size[1], self.size[0]]
        mask = np.full(height_width, self.empty, np.uint8)
        for counts, number in zip(self.counts, self.classes, strict=True):
            inside = _coco_mask().decode({"size": height_width, "counts": counts})
            mask[inside.astype(bool)] = number
        return mask


@dataclass(frozen=True)
class PanopticMask:
    """The mask of an image as a PNG of COCO's panoptic form, and the class of each segment's id."""

    name: str
    size: tuple[int, int]
    path: Path
    classes: Mapping[int, int]
    empty: int

    def values(self) -> np.ndarray:
        """Read the mask: classes and `IGNORE`, uint8 (H, W)."""
        try:
            with Image.open(self.path) as image:
                colors = np.asarray(image.convert("RGB"), np.int64)
        except UNREADABLE as error:
            raise UserError(f"'{self.path}' cannot be read ({error}); replace it") from error
        if colors.shape[1::-1] != self.size:
            found, wanted = ("{}x{}".format(*size) for size in (colors.shape[1::-1], self.size))
            raise UserError(f"'{self.path}' is {found} pixels, expected {wanted} as in its json")
        ids, places = np.unique(colors @ (1, 256, 256**2), return_inverse=True)
        table = {0: self.empty} | dict(self.classes)
        if unknown := [number for number in ids.tolist() if number not in table]:
            raise UserError(f"'{self.path}' has segment ids that its json lacks: {unknown[:8]}")
        found = np.array([table[number] for number in ids.tolist()], np.uint8)
        return found[places].reshape(colors.shape[:2])


def coco_labels(json_file: Path, background: bool | None, num_classes: int | None) -> Labels:
    """Return the classes of a json: its categories, after the background if that is a class.

    Pixels of no instance are one if `background` is True, or None and the json not panoptic.
    """
    content, panoptic = _read(json_file)
    names = tuple(category["name"] for category in content["categories"])
    if background is None:
        background = not panoptic
    if background and BACKGROUND not in [name.lower() for name in names]:
        names = (BACKGROUND, *names)
    names = check_class_names(names, num_classes)
    return Labels(names, {IGNORE: IGNORE} | {k: k for k in range(len(names))})


def coco_masks(
    json_file: Path,
    image_root: Path,
    labels: Labels,
    *,
    background: bool | None = None,
    panoptic_root: Path | None = None,
) -> tuple[tuple[Path, ...], tuple[PaintedMask | PanopticMask, ...]]:
    """Return the images of a json in its order, and their masks; `labels` is of `coco_labels`."""
    content, panoptic = _read(json_file)
    categories, names = content["categories"], list(labels.class_names)
    theirs, first = [category["name"] for category in categories], len(names) - len(categories)
    if first not in (0, 1) or names[first:] != theirs:
        given = ", ".join(theirs)
        wanted = ", ".join(name for name in names if name.lower() != BACKGROUND)
        raise UserError(f"'{json_file}': 'categories' must be {wanted}, got {given}")
    classes = {id_text(category["id"]): k for k, category in enumerate(categories, first)}
    if panoptic != (panoptic_root is not None):
        kind, todo = ("panoptic", "set") if panoptic else ("not panoptic", "leave out")
        raise UserError(f"'{json_file}' is {kind}; {todo} --data.train_masks and --data.val_masks")
    ignored = panoptic if background is None else not background
    empty = IGNORE if ignored else [name.lower() for name in names].index(BACKGROUND)
    by_image: dict[str, list[dict]] = {id_text(image["id"]): [] for image in content["images"]}
    for entry in content["annotations"]:
        number = id_text(entry.get("image_id"))
        if number not in by_image:
            raise UserError(f"'{json_file}' has annotations of an image it does not list: {number}")
        by_image[number].append(entry)
    masks: list[PaintedMask | PanopticMask] = []
    for image in content["images"]:
        name = f"image {image['id']} of '{json_file}'"
        size, entries = _size(image, name), by_image[id_text(image["id"])]
        if panoptic_root is None:
            masks.append(_painted(name, size, entries, classes, empty))
        else:
            file, table = _segments(name, entries, classes)
            masks.append(PanopticMask(name, size, panoptic_root / file, table, empty))
    return tuple(image_root / image["file_name"] for image in content["images"]), tuple(masks)


@cache
def _coco_mask() -> ModuleType:
    try:
        from pycocotools import mask
    except ModuleNotFoundError as error:
        text = "layout 'coco' needs pycocotools: `pip install 'regnet-backbones[coco]'`"
        raise MissingPackageError(text, name=error.name) from error
    return mask


def _read(json_file: Path) -> tuple[CocoJson, bool]:
    """Read a json, and whether it is panoptic; its categories are by id, without a root."""
    content, used = read_coco_json(json_file), set()
    for entry in content["annotations"]:
        segments = entry.get("segments_info", [entry])
        if not isinstance(segments, list) or not all(isinstance(each, dict) for each in segments):
            found = f"got {shortened(segments)} for image {entry.get('image_id')}"
            raise UserError(f"'{json_file}': segments_info must be a list of objects, {found}")
        used |= {id_text(each.get("category_id")) for each in segments}
    root = root_category(content["categories"], used)
    kept = [category for category in content["categories"] if category is not root]
    try:
        content["categories"] = sorted(kept, key=lambda category: int(category["id"]))
    except (ValueError, OverflowError) as error:
        raise UserError(f"'{json_file}': ids of categories must be numbers: {error}") from error
    return content, any("segments_info" in entry for entry in content["annotations"])


def _size(image: Mapping, name: str) -> tuple[int, int]:
    size = image.get("width"), image.get("height")
    if not all(type(n) in (int, float) and 0 < n < TOO_LARGE and n == int(n) for n in size):
        raise UserError(f"{name} must have width and height in pixels, got {size}")
    return int(size[0]), int(size[1])


def _class_of(entry: Mapping, classes: Mapping[str, int], name: str) -> int:
    number = id_text(entry.get("category_id"))
    if number not in classes:
        raise UserError(f"{name}: category_id {number[:40]} is not one of the categories")
    return classes[number]


def _painted(
    name: str, size: tuple[int, int], entries: list[dict], classes: Mapping[str, int], empty: int
) -> PaintedMask:
    """Return the instances of an image by area, the largest first."""
    found = []
    for entry in entries:
        place = f"annotation {entry.get('id')} of {name}"
        rle = _rle(entry.get("segmentation"), size, place)
        found.append((int(_coco_mask().area(rle)), rle["counts"], _class_of(entry, classes, place)))
    found.sort(key=lambda item: -item[0])  # stable: of equal ones the later one stays later
    counts, numbers = (tuple(item[k] for item in found) for k in (1, 2))
    return PaintedMask(name, size, counts, numbers, empty)


def _rle(segmentation: object, size: tuple[int, int], place: str) -> dict:
    """Return polygons or an RLE, plain or compressed, as a compressed RLE."""
    width, height = size
    if isinstance(segmentation, dict):
        if not is_mask(segmentation, [height, width]):
            needed = f"the size [{height}, {width}] and counts that add up to its pixels"
            raise UserError(f"{place}: an RLE must have {needed}, got {shortened(segmentation)}")
        if isinstance(counts := segmentation["counts"], str):
            return {"size": [height, width], "counts": counts.encode()}
        return _coco_mask().frPyObjects(segmentation, height, width)
    polygons = segmentation if isinstance(segmentation, list) else []
    if polygons and not isinstance(polygons[0], list):  # one, without the outer list
        polygons = [polygons]
    if not polygons:
        raise UserError(f"{place} has no segmentation; a segmenter needs polygons or an RLE")
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise UserError(f"{place}: a polygon must be [x1, y1, x2, y2, ...] of 3 or more points")
        for value, side in zip(polygon, [width, height] * (len(polygon) // 2), strict=True):
            # Coordinates far outside are slow to paint, and no pixels.
            if type(value) not in (int, float) or not -side <= value <= 2 * side:
                needed = f"finite numbers, not far outside of {width}x{height} pixels"
                raise UserError(f"{place}: coordinates must be {needed}, got {shortened(value)}")
    return _coco_mask().merge(_coco_mask().frPyObjects(polygons, height, width))


def _segments(
    name: str, entries: list[dict], classes: Mapping[str, int]
) -> tuple[str, dict[int, int]]:
    """Return the PNG and the classes by id of the one annotation that an image must have."""
    segments = entries[0].get("segments_info") if len(entries) == 1 else None
    if segments is None or not isinstance(entries[0].get("file_name"), str):
        raise UserError(f"{name} must have one annotation, with file_name and segments_info")
    table = {}
    for segment in segments:
        place = f"segment {segment.get('id')} of {name}"
        if type(segment.get("id")) is not int:
            raise UserError(f"{place}: the id must be a whole number")
        table[segment["id"]] = _class_of(segment, classes, place)
    return entries[0]["file_name"], table
