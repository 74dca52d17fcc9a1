"""Read a COCO instance json: what has one meaning is taken as that, the rest is named.

`TYPES` has every value that detectron2 and pycocotools read, with its one type. `read_coco` brings
a json to these types and settles what depends on other entries: ids, boxes and areas that are
missing, and file names. Its result, read again, has nothing more to be corrected.
"""

import math
import os
import unicodedata
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from pathlib import Path

from regnet_backbones.data.coco import read_lists, root_category
from regnet_backbones.detection.data_checks import kinds
from regnet_backbones.detection.data_checks.kinds import Defect, Kind, shown

Entry = dict[str, object]
Content = dict[str, list[Entry]]
# What a step of `read_coco` finds: a kind, the list and the entry that it is in, what it is.
Found = Iterator[tuple[Kind, str, Entry, str]]

LISTS = {"images": "image", "annotations": "annotation", "categories": "category"}

# What a converter raises on a value that it cannot take.
REFUSED = (TypeError, ValueError, KeyError, OverflowError)


def _only(value: object, allowed: bool) -> object:
    if not allowed:
        raise ValueError
    return value


def _whole(value: object) -> int:
    return _only(int(value), type(value) in (int, float) and int(value) == value)


def _text(value: object) -> str:
    return _only(value, isinstance(value, str) and bool(value.strip()))


def _identity(value: object) -> int | str:
    return _text(value) if isinstance(value, str) else _whole(value)


def _numbers(value: object) -> list[float]:
    plain = isinstance(value, list) and set(map(type, value)) <= {int, float}
    return _only(value, plain and all(map(math.isfinite, value)))


def _box(value: object) -> list[float]:
    return _only(value, len(_numbers(value)) == 4 and min(value[2:]) >= 0)


def _segmentation(value: object) -> list[list[float]] | Entry:
    if isinstance(value, dict):  # an RLE
        counts = [] if isinstance(value["counts"], str) else value["counts"]
        height, width = value["size"]
        return _only(value, all(type(n) is int and n >= 0 for n in [height, width, *counts]))
    _only(value, isinstance(value, list))
    if len(value) >= 6 and len(value) % 2 == 0 and not isinstance(value[0], list):
        return [_numbers(value)]
    for polygon in value:
        _numbers(polygon)
    return value


# List, keys, what returns a value in its one type or raises one of `REFUSED`, and what it may be.
# Images and categories must have all of theirs, annotations their references.
TYPES: tuple[tuple[str, str, Callable[[object], object], str], ...] = (
    ("images", "id", _identity, "a whole number or text"),
    ("images", "file_name", _text, "text, the file below the image folder"),
    ("images", "width height", lambda value: _only(_whole(value), value >= 1),
     "a whole number of pixels, 1 or more"),
    ("categories", "id", _identity, "a whole number or text"),
    ("categories", "name", _text, "text in quotes"),
    ("annotations", "image_id category_id", _identity, "a whole number or text"),
    ("annotations", "bbox", _box, "[x, y, width, height] in pixels, none of the sides negative"),
    ("annotations", "area", lambda value: _only(value, _numbers([value])[0] >= 0),
     "a finite number of pixels, 0 or more"),
    ("annotations", "iscrowd ignore", lambda value: {None: 0, 0: 0, 1: 1}[value],
     "0 or 1"),
    ("annotations", "segmentation", _segmentation,
     "polygons of finite numbers, [[x1, y1, x2, y2, x3, y3, ...], ...], or an RLE with 'size' and "
     "'counts' (to train boxes only, remove it and set MODEL.MASK_ON False)"),
)  # fmt: skip


@dataclass(frozen=True)
class CocoSplit:
    """A COCO instance json that was read, and the folder of its images.

    Attributes:
        json_file: a file in the format of COCO's `instances_*.json`; an absolute path.
        image_root: the folder that the json's `file_name`s are relative to; None if not looked for.
        content: the lists of the json, corrected.
        defects: errors, and the repairs that were made in the content.
        root: id and name of the category that was left out as the root of the others.
    """

    json_file: Path
    image_root: Path | None
    content: Content = field(repr=False)
    defects: tuple[Defect, ...] = field(repr=False)
    root: tuple[int | str, str] | None = None

    @property
    def categories(self) -> dict[int | str, str]:
        """Names of the classes by id, in the order of the ids, which is detectron2's."""
        entries = sorted(self.content["categories"], key=lambda entry: entry["id"])
        return {entry["id"]: entry["name"] for entry in entries}


def read_coco(
    json_file: str | Path, *, image_root: str | Path | None = None, keep_root: bool = False
) -> CocoSplit:
    """Read a COCO json, bring each value to its type, and derive what is missing.

    Without `image_root` only categories are read; `keep_root` keeps the root of all others.
    """
    path = Path(json_file).absolute()
    needed = ("categories",) if image_root is None else LISTS
    read = read_lists(json_file, needed)
    content = {key: read[key] if key in needed else [] for key in LISTS}
    defects, root = [], None
    with path.open("rb") as file:
        if file.read(len(BOM_UTF8)) == BOM_UTF8:
            defects.append(Defect(kinds.BOM, str(path)))
    steps = [
        _take_types(content),
        _settle_ids(content),
        () if keep_root else _leave_out_root(content),
        _settle_annotations(content["annotations"]),
        () if image_root is None else _find_files(content["images"], image_root),
    ]
    for step in steps:
        for kind, where, entry, detail in step:
            name = f"{LISTS[where]} {shown(entry.get('id', 'without id'))}"
            if where == "annotations":
                name += f" of image {shown(entry.get('image_id'))}"
            defects.append(Defect(kind, str(path), kinds.place(name, detail)))
            root = (entry["id"], entry["name"]) if kind is kinds.ROOT else root
        if any(defect.kind.severity == "error" for defect in defects):
            break
    folder = None if image_root is None else Path(image_root).absolute()
    return CocoSplit(path, folder, content, tuple(defects), root)


def drawable(segmentation: Sequence[Sequence[float]] | Mapping | None) -> list[Sequence[float]]:
    """Return the polygons that detectron2 keeps: of 3 points or more, of x and y in turn."""
    polygons = [] if isinstance(segmentation, dict) else segmentation or ()
    return [polygon for polygon in polygons if len(polygon) % 2 == 0 and len(polygon) >= 6]


def extent_of(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of polygons."""
    xs, ys = [x for p in polygons for x in p[::2]], [y for p in polygons for y in p[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _take_types(content: Content) -> Found:
    """Take every value in its type."""
    rows = ((place, key, *row) for place, keys, *row in TYPES for key in keys.split())
    for place, key, take, allowed in rows:
        required = place != "annotations" or key in ("image_id", "category_id")
        for entry in content[place]:
            value = entry.get(key)
            is_null = value is None and key not in ("iscrowd", "ignore")
            if not required and (is_null or key not in entry):
                continue
            what = f"'{key}' in '{place}'"
            try:
                taken = take(value)
                if taken is value:
                    continue
                kind = kinds.repair(f"{what} should be {allowed}")
            except REFUSED:
                text = f"{what} must be {allowed}; correct or remove the entry"
                taken, kind = value, kinds.error(text)
            yield kind, place, entry, f"{key} {shown(value) if key in entry else 'missing'}"
            entry[key] = taken


def _settle_ids(content: Content) -> Found:
    """Check that ids are given once and in one type, and that references find them."""
    for place, reference in (("images", "image_id"), ("categories", "category_id")):
        entries = content[place]
        counts = Counter(entry["id"] for entry in entries)
        by_text = {str(number): number for number in counts}
        mixed = len({*map(type, counts)}) > 1
        for entry in entries:
            if counts[entry["id"]] > 1:
                yield kinds.DOUBLE_ID, place, entry, f"id {shown(entry['id'])}"
            if mixed and isinstance(entry["id"], str):
                yield kinds.MIXED_IDS, place, entry, ""
        for entry in content["annotations"]:
            value = entry[reference]
            if value not in counts:
                found = str(value) in by_text
                kind = kinds.NUMBER_AS_TEXT if found else kinds.UNDEFINED_ID
                yield kind, "annotations", entry, f"{reference} {shown(value)}"
                entry[reference] = by_text.get(str(value), value)


def _leave_out_root(content: Content) -> Found:
    """Leave out a category that nothing but the others' `supercategory` names."""
    used = {str(annotation["category_id"]) for annotation in content["annotations"]}
    if root := root_category(content["categories"], used):
        yield kinds.ROOT, "categories", root, root["name"]
        content["categories"].remove(root)


def _settle_annotations(annotations: list[Entry]) -> Found:
    """Derive boxes, areas and flags that are missing, and number the annotations."""
    place, kept = "annotations", []
    for entry in annotations:
        masks, box = entry.get("segmentation"), entry.get("bbox")
        if box is not None and masks == [box]:
            yield kinds.BOX_AS_MASK, place, entry, ""
            masks = entry["segmentation"] = []
        if box is None:
            polygons = drawable(masks)
            yield kinds.BOX_OF_POLYGONS if polygons else kinds.NO_BOX, place, entry, ""
            if not polygons:
                continue
            left, top, right, bottom = extent_of(polygons)
            box = entry["bbox"] = [left, top, right - left, bottom - top]
        if not masks and box[2] == box[3] == 0:
            yield kinds.EMPTY_OBJECT, place, entry, f"bbox {shown(box)}"
            continue
        if "iscrowd" not in entry:
            yield kinds.NO_CROWD_FLAG, place, entry, ""
            entry["iscrowd"] = 0
        area = entry.get("area")
        if area is None or (area == 0 and box[2] * box[3] > 0):
            yield kinds.NO_AREA, place, entry, f"area {area}"
            entry["area"] = box[2] * box[3]
        kept.append(entry)
    annotations[:] = kept
    ids = [entry["id"] if type(entry.get("id")) is int else 0 for entry in annotations]
    counts = Counter(ids)
    wrong = [e for e, n in zip(annotations, ids, strict=True) if n == 0 or counts[n] > 1]
    for entry in wrong:
        yield kinds.ANNOTATION_ID, place, entry, ""
    for number, entry in enumerate(annotations if wrong else (), 1):
        entry["id"] = number


def _find_files(images: Sequence[Entry], image_root: str | Path) -> Found:
    """Look for the images on the disk."""

    @cache
    def files_in(folder: str) -> set[str]:
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()

    def is_there(name: str) -> bool:
        folder, file = os.path.split(os.path.join(image_root, name))
        return file in files_in(folder)

    parts = [image["file_name"].replace("\\", "/").split("/") for image in images]
    # Folders are left out of all names or of none, so that no two images become one.
    folders = zip(*(part[:-1] for part in parts), strict=False)
    shared = len([*takewhile(lambda names: len({*names}) == 1, folders)])
    for image, part in zip(images, parts, strict=True):
        if is_there(image["file_name"]):
            continue
        plain = ["/".join(part[left_out:]) for left_out in range(shared + 1)]
        others = [unicodedata.normalize(form, name) for name in plain for form in ("NFC", "NFD")]
        name = next(filter(is_there, (*plain, *others)), None)
        if name is None:
            path = os.path.join(image_root, image["file_name"])
            yield kinds.IMAGE_MISSING, "images", image, f"there is no '{path}'"
        else:
            detail = f"{image['file_name']} is on the disk as {name}"
            yield kinds.OTHER_SPELLING, "images", image, detail
            image["file_name"] = name
