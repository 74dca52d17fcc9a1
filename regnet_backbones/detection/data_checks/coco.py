"""Read a COCO instance json: what has one meaning is taken as that, the rest is named.

`TYPES` has every value that detectron2 and pycocotools read, with its one type. `read_coco` brings
a json to these types and settles what depends on other entries: ids, boxes and areas that are
missing, and file names. Its result, read again, has nothing more to be corrected.
"""

import os
import re
import unicodedata
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np

from regnet_backbones.detection.data_checks import kinds
from regnet_backbones.detection.data_checks.kinds import Defect, Kind, shown
from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.files import read_json

Entry = dict[str, object]
Content = dict[str, list[Entry]]
# What a step of `read_coco` finds: a kind, the list and the entry that it is in, what it is.
Found = Iterator[tuple[Kind, str, Entry, str]]

LISTS = ("images", "annotations", "categories")

# Coordinates beyond this mean nothing, and would take memory when they are drawn.
LARGEST = 1e6

FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1, None: 0, 0: 0, 1: 1}

# Texts that can be the number that another entry has as a number.
NUMBER = re.compile(r"0|-?[1-9][0-9]{0,15}")

# What a converter raises on a value that it cannot take.
REFUSED = (TypeError, ValueError, KeyError, OverflowError)


def _only(value: object, allowed: bool) -> object:
    if not allowed:
        raise ValueError
    return value


def _whole(value: object, least: float = -(2**53) + 1, largest: float = 2**53 - 1) -> int:
    number = int(value)
    same = type(value) is not bool and number == value
    return _only(number, same and least <= number <= largest)


_size = partial(_whole, least=1, largest=LARGEST)


def _text(value: object) -> str:
    _only(value, isinstance(value, str) and bool(value.strip()))
    value.encode()  # half a surrogate pair can be neither written nor found
    return value


def _identity(value: object) -> int | str:
    return _text(value) if isinstance(value, str) else _whole(value)


def _flag(value: object) -> int:
    return FLAGS[value.strip().lower() if isinstance(value, str) else value]


def _numbers(value: object, least: float = -LARGEST, largest: float = LARGEST) -> list[float]:
    plain = isinstance(value, list) and set(map(type, value)) <= {int, float}
    return _only(value, plain and all(least <= number <= largest for number in value))


def _box(value: object) -> list[float]:
    return _only(value, len(_numbers(value)) == 4 and min(value[2:]) >= 0)


def _segmentation(value: object) -> list[list[float]] | Entry:
    if isinstance(value, dict):  # an RLE
        size, counts = value["size"], value["counts"]
        runs = [0] if isinstance(counts, str) else counts
        _only(runs, set(map(type, runs)) <= {int} and 0 <= min(runs) <= max(runs) < 2**32)
        height, width = map(_size, size)
        return value if set(map(type, size)) == {int} else {**value, "size": [height, width]}
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
    ("images", "coco_url", _text, "text"),  # LVIS has it instead of the file name
    ("images", "width height", _size, "a whole number of pixels, 1 or more"),
    ("categories", "id", _identity, "a whole number or text"),
    ("categories", "name", _text, "text in quotes"),
    ("annotations", "image_id category_id", _identity, "a whole number or text"),
    ("annotations", "bbox", _box, "[x, y, width, height] in pixels, none of the sides negative"),
    ("annotations", "area", lambda value: _numbers([value], 0, LARGEST**2)[0],
     "a finite number of pixels, 0 or more"),
    ("annotations", "iscrowd ignore", _flag, "0 or 1"),
    ("annotations", "segmentation", _segmentation,
     "polygons of finite numbers, [[x1, y1, x2, y2, x3, y3, ...], ...], or an RLE with 'size' and "
     "'counts' (to train boxes only, remove it and set MODEL.MASK_ON False)"),
    ("annotations", "keypoints", lambda value: _only(value, len(_numbers(value)) % 3 == 0),
     "x, y and visibility of each keypoint in turn"),
    ("annotations", "num_keypoints", _whole, "a whole number"),
)  # fmt: skip


@dataclass(frozen=True)
class CocoSplit:
    """A COCO instance json that was read, and the folder of its images.

    Attributes:
        json_file: a file in the format of COCO's `instances_*.json`.
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
    json_file: str | Path,
    needed: Collection[str] = LISTS,
    *,
    optional: Collection[str] = (),
    source: str = "",
    image_root: str | Path | None = None,
    by_url: bool = False,
    keep_root: bool = False,
) -> CocoSplit:
    """Read a COCO json, bring it to one type for each value, and derive what is missing.

    Images and categories that are `needed` must not be empty; `optional` lists are empty if the
    file has none. Messages name `source`. Images are looked for in `image_root`, `by_url` where
    their `coco_url` says, as LVIS has it. `keep_root` keeps a category that is only the root of the
    others.
    """
    source = source or str(json_file)
    root: tuple[int | str, str] | None = None
    content = read_lists(json_file, needed, optional, source)
    names = {_as_text(i.get("id")): image_name(i) for i in content.get("images", ())}
    defects: list[Defect] = []
    with open(json_file, "rb") as file:
        if file.read(len(BOM_UTF8)) == BOM_UTF8:
            defects.append(Defect(kinds.BOM, source))
    steps = [partial(_take_types, content, "file_name" if by_url else "coco_url")]
    steps.append(partial(_settle_ids, content))
    if not keep_root:
        steps.append(partial(_leave_out_root, content))
    steps.append(partial(_settle_annotations, content.get("annotations", [])))
    if image_root is not None:
        steps.append(partial(_find_files, content, partial(image_path, image_root, by_url)))
    for step in steps:
        for kind, place, entry, detail in step():
            defects.append(_defect(kind, source, place, entry, detail, names))
            root = (entry["id"], entry["name"]) if kind is kinds.ROOT else root
        if any(defect.kind.severity == "error" for defect in defects):
            break
    folder = None if image_root is None else Path(image_root)
    return CocoSplit(Path(json_file), folder, content, tuple(defects), root)


def read_lists(
    json_file: str | Path, needed: Collection[str], optional: Collection[str], source: str = ""
) -> Content:
    """Read lists of a COCO json as they are; the arguments are those of `read_coco`."""
    if not Path(json_file).is_file():
        raise MissingFileError(f"no annotation file '{json_file}'")
    content, source = read_json(json_file), source or str(json_file)
    problem = f"'{source}' is not in COCO's instance format"
    content = content if isinstance(content, dict) else {}
    lacking = [key for key in needed if key not in content]
    if lacking:
        raise UserError(f"{problem}: it has no {', '.join(lacking)}")
    content = {key: content.get(key, []) for key in (*needed, *optional)}
    for key, entries in content.items():
        wrong = [e for e in entries if type(e) is not dict] if type(entries) is list else [entries]
        if wrong:
            raise UserError(f"{problem}: {key} must be a list of objects, got {shown(wrong[0])}")
        if key in needed and key != "annotations" and not entries:
            raise UserError(f"'{source}' has no {key}: the list is empty")
    return content


def image_path(image_root: str | Path, by_url: bool, image: Mapping) -> str:
    """Return where an image is: `by_url`, as LVIS has it, where the end of its URL says."""
    if by_url:
        return str(image_root) + "/".join(image["coco_url"].split("/")[-2:])
    return os.path.join(image_root, image["file_name"])


def image_name(image: Mapping) -> str:
    """Name an image."""
    name = image.get("file_name", image.get("coco_url"))
    return name if isinstance(name, str) else f"image {shown(image.get('id'))}"


def drawable(segmentation: Sequence[Sequence[float]] | Mapping | None) -> list[Sequence[float]]:
    """Return the polygons that detectron2 keeps: of 3 points or more, of x and y in turn."""
    polygons = [] if isinstance(segmentation, dict) else segmentation or ()
    return [polygon for polygon in polygons if len(polygon) % 2 == 0 and len(polygon) >= 6]


def extent_of(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float] | None:
    """Return left, top, right and bottom of polygons; None of none."""
    if not polygons:
        return None
    xs, ys = [x for p in polygons for x in p[::2]], [y for p in polygons for y in p[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def runs_of(counts: list[int] | str) -> np.ndarray | None:
    """Return the runs of an RLE, as pycocotools' `rleFrString` reads them; None if it cannot.

    A character holds 5 bits of a number, the lowest first, and whether more follow; the sign is the
    highest bit of the last. From the fourth run on, a number is the difference to the run before
    the last.
    """
    if isinstance(counts, list):
        return np.array(counts)
    codes = np.frombuffer(counts.encode(errors="replace"), np.uint8).astype(np.int64) - 48
    last = codes & 32 == 0
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or not last[-1]:
        return None
    starts = np.flatnonzero(np.r_[True, last[:-1]])
    places = np.arange(len(codes)) - np.repeat(starts, np.diff([*starts, len(codes)]))
    if places.max() > 10:  # more than 2 ** 55
        return None
    runs = np.add.reduceat((codes & 31) << 5 * places, starts)
    runs -= (codes[last] >> 4) << 5 * (places[last] + 1)
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    return runs


def _defect(
    kind: Kind, source: str, place: str, entry: Entry, detail: str, names: Mapping[str, str]
) -> Defect:
    """Return a defect of an entry; `names` are those of the images by their ids as text."""
    if place == "images":
        return Defect(kind, source, image_name(entry), detail=detail)
    if place == "annotations":
        image = names.get(_as_text(entry.get("image_id")), "")
        return Defect(kind, source, image, entry.get("id", "without id"), detail)
    named = f"category {shown(entry['id'])}: {detail}" if "id" in entry else detail
    return Defect(kind, source, detail=named)


def _take_types(content: Content, unread: str) -> Found:
    """Take every value in its type, but that of a key which is not read."""
    rows = ((place, key, *row) for place, keys, *row in TYPES for key in keys.split())
    for place, key, take, allowed in rows:
        required = place != "annotations" or key in ("image_id", "category_id")
        for entry in content.get(place, ()) if key != unread else ():
            value = entry.get(key)
            if value is None and not (required or (take is _flag and key in entry)):
                continue
            what = f"'{key}' in '{place}'"
            try:
                taken = take(value)
                if taken is value:
                    continue
                readers = None if taken == value else ()
                kind = kinds.repair(f"{what} should be {allowed}", readers)
            except REFUSED:
                text = f"{what} must be {allowed}; correct or remove the entry"
                taken, kind = value, kinds.error(text)
            yield kind, place, entry, f"{key} {shown(value) if key in entry else 'missing'}"
            entry[key] = taken


def _settle_ids(content: Content) -> Found:
    """Make ids one type where they mean the same, and check that references find them."""
    for place, reference in (("images", "image_id"), ("categories", "category_id")):
        entries = content.get(place, [])
        holders = [(place, "id", entry) for entry in entries]
        holders += [("annotations", reference, entry) for entry in content.get("annotations", [])]
        if len({type(entry[key]) for _, key, entry in holders}) > 1:
            for where, key, entry in holders:
                if isinstance(entry[key], str) and NUMBER.fullmatch(entry[key]):
                    yield kinds.NUMBER_AS_TEXT, where, entry, f"{key} {shown(entry[key])}"
                    entry[key] = int(entry[key])
        counts = Counter(entry["id"] for entry in entries)
        mixed = len(set(map(type, counts))) > 1
        for where, key, entry in holders if entries else ():
            value, kind = entry[key], None
            if key == reference:
                kind = None if value in counts else kinds.UNDEFINED_ID
            elif counts[value] > 1:
                kind = kinds.DOUBLE_ID
            elif mixed and isinstance(value, str):
                kind = kinds.MIXED_IDS
            if kind is not None:
                yield kind, where, entry, f"{key} {shown(value)}"


def _leave_out_root(content: Content) -> Found:
    """Leave out a category that nothing but the others' `supercategory` names."""
    categories = content.get("categories", [])
    used = {a["category_id"] for a in content.get("annotations", ())}
    for root in categories if len(categories) > 1 else ():
        others = [c.get("supercategory") for c in categories if c is not root]
        if root["id"] not in used and all(name == root["name"] for name in others):
            yield kinds.ROOT, "categories", root, root["name"]
            categories[:] = [c for c in categories if c is not root]
            return


def _settle_annotations(annotations: list[Entry]) -> Found:
    """Derive boxes, areas and flags that are missing, and number the annotations."""
    place, kept = "annotations", []
    for entry in annotations:
        masks, box = entry.get("segmentation"), entry.get("bbox")
        if box is not None and masks == [box]:
            yield kinds.BOX_AS_MASK, place, entry, ""
            masks = entry["segmentation"] = []
        if box is None:
            extent = extent_of(drawable(masks))
            yield kinds.NO_BOX if extent is None else kinds.BOX_OF_POLYGONS, place, entry, ""
            if extent is None:
                continue
            left, top, right, bottom = extent
            box = entry["bbox"] = [left, top, right - left, bottom - top]
        if not masks and box[2] == box[3] == 0:
            yield kinds.EMPTY_OBJECT, place, entry, f"bbox {shown(box)}"
            continue
        if "iscrowd" not in entry:
            yield kinds.NO_CROWD_FLAG, place, entry, ""
            entry["iscrowd"] = 0
        area = entry.get("area")
        if area is None or (area == 0 and box[2] * box[3] > 0):
            yield kinds.NO_AREA if area is None else kinds.ZERO_AREA, place, entry, ""
            entry["area"] = _area_of(masks) or box[2] * box[3]
        kept.append(entry)
    annotations[:] = kept
    counts = Counter(a["id"] for a in annotations if type(a.get("id")) is int)
    is_wrong = False
    for entry in annotations:
        number = entry.get("id")
        if number is None:
            kind = kinds.NO_ID
        elif type(number) is not int or number == 0 or abs(number) >= 2**53:
            kind = kinds.ZERO_ID
        elif counts[number] > 1:
            kind = kinds.ID_TWICE
        else:
            continue
        is_wrong = True
        yield kind, place, entry, ""
    for number, entry in enumerate(annotations if is_wrong else (), 1):
        entry["id"] = number


def _area_of(segmentation: Sequence[Sequence[float]] | Mapping | None) -> float:
    """Return the pixels of a segmentation, 0 if it cannot be decoded."""
    if isinstance(segmentation, dict):
        runs = runs_of(segmentation["counts"])
        return 0 if runs is None else int(runs[1::2].sum())
    points = [
        (np.array(polygon[::2]), np.array(polygon[1::2])) for polygon in drawable(segmentation)
    ]
    return float(sum(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2 for x, y in points))


def _find_files(content: Content, path_of: Callable[[Entry], str]) -> Found:
    """Look for the images on the disk; each folder is listed once."""
    images = content["images"]
    listed: dict[str, set[str]] = {}

    def is_there(path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        return name in listed[folder]

    parts = [image.get("file_name", "").replace("\\", "/").split("/") for image in images]
    # Left out of all names, so that no two images become one.
    folders = zip(*(part[:-1] for part in parts), strict=False)
    shared = len([*takewhile(lambda names: len({*names}) == 1, folders)])
    for image, part in zip(images, parts, strict=True):
        if is_there(path_of(image)):
            continue
        plain = ["/".join(part[left_out:]) for left_out in range(shared + 1)]
        others = [unicodedata.normalize(form, name) for name in plain for form in ("NFC", "NFD")]
        for name in (*plain, *others):
            if is_there(path_of({**image, "file_name": name})):
                yield kinds.OTHER_SPELLING, "images", image, f"on the disk {shown(name)}"
                image["file_name"] = name
                break
        else:
            folder = os.path.split(path_of(image))[0]
            yield kinds.IMAGE_MISSING, "images", image, f"not in '{folder}'"


def _as_text(identity: object) -> str:
    """Return an id as a text, the same for a number and its text."""
    return identity if isinstance(identity, str) else shown(identity)
