"""Read a COCO instance json: what has one meaning is taken as that, the rest is named.

`KEYS` has every value that detectron2 and pycocotools read, with its one type. `read_coco` brings a
json to these types and settles what depends on other entries: ids, boxes and areas that are
missing, and file names. Its result, read again, has nothing more to be corrected.
"""

import os
import re
import unicodedata
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np

from regnet_backbones.detection.data_checks import kinds
from regnet_backbones.detection.data_checks.defects import Defect, Kind, error, repair, shown
from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.files import read_json

Entry = dict[str, object]
Content = dict[str, list[Entry]]

LISTS = ("images", "annotations", "categories")

# Coordinates beyond this mean nothing, and would take memory when they are drawn.
LARGEST = 1e6

FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1, None: 0, 0: 0, 1: 1}

# Texts that can be the number that another entry has as a number.
NUMBER = re.compile(r"0|-?[1-9][0-9]{0,15}")

# What is done about a value of another type, and what to do about one that means nothing.
MEANT, CORRECT = "the value that is meant is used", "correct the values, or remove their entries"

# What a converter raises on a value that it cannot take.
REFUSED = (TypeError, ValueError, KeyError, OverflowError)


def _only(value: object, allowed: bool) -> object:
    if not allowed:
        raise ValueError
    return value


def _whole(value: object) -> int:
    number = int(value)
    return _only(number, type(value) is not bool and number == value and abs(number) < 2**53)


def _size(value: object) -> int:
    return _only(_whole(value), 1 <= _whole(value) <= LARGEST)


def _text(value: object) -> str:
    _only(value, isinstance(value, str) and bool(value.strip()))
    value.encode()  # half a surrogate pair can be neither written nor found
    return value


def _identity(value: object) -> int | str:
    return _text(value) if isinstance(value, str) else _whole(value)


def _flag(value: object) -> int:
    return FLAGS[value.strip().lower() if isinstance(value, str) else value]


def _are_numbers(values: list, largest: float = LARGEST) -> bool:
    """Return whether all are finite numbers of a sensible size; the sum alone finds NaN."""
    if not values or not set(map(type, values)) <= {int, float}:
        return not values
    return min(values) >= -largest and max(values) <= largest and sum(values) < 1e300


def _area(value: object) -> float:
    return _only(value, _are_numbers([value], LARGEST**2) and value >= 0)


def _numbers(value: object) -> list[float]:
    return _only(value, isinstance(value, list) and _are_numbers(value))


def _box(value: object) -> list[float]:
    return _only(value, len(_numbers(value)) == 4 and min(value[2:]) >= 0)


def _keypoints(value: object) -> list[float]:
    return _only(value, len(_numbers(value)) % 3 == 0)


def _segmentation(value: object) -> list[list[float]] | Entry:
    if is_rle(value):
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


@dataclass(frozen=True)
class Key:
    """A value of a COCO json.

    Attributes:
        place: the list whose entries have it.
        name: of the key.
        take: returns a value in its one type, or raises one of `REFUSED`.
        allowed: what it may be, for the message.
        required: whether an entry without it is an error; what others lack is derived.
        null: whether null is a value to take, and not the same as no value.
    """

    place: str
    name: str
    take: Callable[[object], object]
    allowed: str
    required: bool = False
    null: bool = False


IDENTITY, PIXELS = "a whole number or a text", "a whole number of pixels, 1 or more"
KEYS = (
    Key("images", "id", _identity, IDENTITY, required=True),
    Key("images", "file_name", _text, "a text, the file below the image folder", required=True),
    Key("images", "coco_url", _text, "a text", required=True),  # LVIS has it for the file name
    Key("images", "width", _size, PIXELS, required=True),
    Key("images", "height", _size, PIXELS, required=True),
    Key("categories", "id", _identity, IDENTITY, required=True),
    Key("categories", "name", _text, "a text in quotes", required=True),
    Key("annotations", "image_id", _identity, IDENTITY, required=True),
    Key("annotations", "category_id", _identity, IDENTITY, required=True),
    Key("annotations", "bbox", _box, "[x, y, width, height], pixels, width and height not below 0"),
    Key("annotations", "area", _area, "a finite number of pixels, 0 or more"),
    Key("annotations", "iscrowd", _flag, "0 or 1", null=True),
    Key("annotations", "ignore", _flag, "0 or 1", null=True),
    Key(
        *("annotations", "segmentation", _segmentation),
        "polygons of finite numbers, [[x1, y1, x2, y2, x3, y3, ...], ...], or an RLE with 'size' "
        "and 'counts' (to train boxes only, remove it and set MODEL.MASK_ON False)",
    ),
    Key("annotations", "keypoints", _keypoints, "x, y and visibility of each keypoint in turn"),
    Key("annotations", "num_keypoints", _whole, "a whole number"),
)


@dataclass(frozen=True)
class Coco:
    """A COCO json that was read.

    Attributes:
        content: its lists, corrected.
        defects: errors, and the repairs that were made in the content.
        root: id and name of the category that was left out, see `kinds.ROOT`.
    """

    content: Content
    defects: tuple[Defect, ...]
    root: tuple[int | str, str] | None = None


def read_lists(
    json_file: str | Path,
    needed: Collection[str] = LISTS,
    *,
    optional: Collection[str] = (),
    source: str = "",
) -> Content:
    """Read lists of a COCO json as they are.

    Args:
        json_file: the file.
        needed: which lists; images and categories must not be empty.
        optional: lists that are empty if the file has none.
        source: name of the file for messages, if not its path.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: a list is missing, or is not a list of objects.
    """
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
            raise UserError(
                f"{problem}: {key} must be a list of objects with keys and values, got "
                f"{shown(wrong[0])}"
            )
        if key in needed and key != "annotations" and not entries:
            raise UserError(f"'{source}' has no {key}: the list is empty")
    return content


def read_coco(
    json_file: str | Path,
    needed: Collection[str] = LISTS,
    *,
    optional: Collection[str] = (),
    source: str = "",
    image_root: str | Path | None = None,
    by_url: bool = False,
    keep_root: bool = False,
) -> Coco:
    """Read a COCO json, bring it to one type for each value, and derive what is missing.

    Args:
        json_file, needed, optional, source: as `read_lists` takes them.
        image_root: the folder of the images; None does not look for them.
        by_url: whether images are found by their `coco_url`, as LVIS has it.
        keep_root: whether a category that is only the root of the others stays.
    """
    content = read_lists(json_file, needed, optional=optional, source=source)
    reader = _Reader(content, source or str(json_file))
    with open(json_file, "rb") as file:
        if file.read(len(BOM_UTF8)) == BOM_UTF8:
            reader.defects.append(Defect(kinds.BOM, reader.source))
    root = None
    reader.take_all("file_name" if by_url else "coco_url")
    if not reader.has_errors:
        reader.settle_ids("images", "image_id")
        reader.settle_ids("categories", "category_id")
    if not reader.has_errors:
        root = None if keep_root else reader.leave_out_root()
        reader.settle_annotations()
    if not reader.has_errors and image_root is not None:
        reader.find_files(lambda image: image_path(image, image_root, by_url=by_url))
    return Coco(content, tuple(reader.defects), root)


def image_path(image: Mapping, image_root: str | Path, *, by_url: bool = False) -> str:
    """Return where an image is: `by_url`, as LVIS has it, where the end of its URL says."""
    if by_url:
        return str(image_root) + "/".join(image["coco_url"].split("/")[-2:])
    return os.path.join(image_root, image["file_name"])


def image_name(image: Mapping) -> str:
    """Name an image."""
    name = image.get("file_name", image.get("coco_url"))
    return name if isinstance(name, str) else f"image {shown(image.get('id'))}"


def is_rle(segmentation: object) -> bool:
    """Return whether a segmentation has the form of an RLE."""
    return isinstance(segmentation, dict)


def drawable(polygons: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """Return the polygons that detectron2 keeps: of 3 points or more, of x and y in turn."""
    return [polygon for polygon in polygons if len(polygon) % 2 == 0 and len(polygon) >= 6]


def extent_of(
    segmentation: Sequence[Sequence[float]] | Mapping | None,
) -> tuple[float, float, float, float] | None:
    """Return left, top, right and bottom of polygons; None of an RLE, or if none can be drawn."""
    kept = [] if is_rle(segmentation) else drawable(segmentation or ())
    if not kept:
        return None
    xs, ys = [x for p in kept for x in p[::2]], [y for p in kept for y in p[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def area_of(segmentation: Sequence[Sequence[float]] | Mapping | None) -> float:
    """Return the pixels of a segmentation, 0 if it cannot be decoded."""
    if is_rle(segmentation):
        return sum((runs_of(segmentation["counts"]) or ())[1::2])
    area = 0.0
    for polygon in drawable(segmentation or ()):
        x, y = np.array(polygon[::2]), np.array(polygon[1::2])
        area += abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    return float(area)


def runs_of(counts: list[int] | str) -> list[int] | None:
    """Return the runs of an RLE, as pycocotools' `rleFrString` reads them; None if it cannot.

    A character holds 5 bits of a number, the lowest first, and whether more follow; the sign is the
    highest bit of the last. From the fourth run on, a number is the difference to the run before
    the last.
    """
    if isinstance(counts, list):
        return counts
    runs, number, bits = [], 0, 0
    for code in counts.encode(errors="replace"):
        if not 48 <= code < 112 or bits > 50:
            return None
        code -= 48
        number |= (code & 31) << bits
        bits += 5
        if not code & 32:
            number -= (code >> 4) << bits
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number, bits = 0, 0
    return None if bits or not runs else runs


class _Reader:
    """The steps of `read_coco`, and what they find."""

    def __init__(self, content: Content, source: str):
        self._content, self.source = content, source
        self.defects: list[Defect] = []
        # By ids as text, which may still be of any type.
        self._names = {_as_text(i.get("id")): image_name(i) for i in content.get("images", ())}

    @property
    def has_errors(self) -> bool:
        return any(defect.severity == "error" for defect in self.defects)

    def _add(self, kind: Kind, place: str, entry: Entry, detail: str = "") -> None:
        """Add a defect of an entry."""
        image, annotation = "", None
        if place == "images":
            image = image_name(entry)
        elif place == "annotations":
            image = self._names.get(_as_text(entry.get("image_id")), "")
            annotation = entry.get("id", "without id")
        elif "id" in entry:
            detail = f"category {shown(entry['id'])}: {detail}"
        self.defects.append(Defect(kind, self.source, image, annotation, detail))

    def take_all(self, unread: str) -> None:
        """Take every value of `KEYS` in its type, but that of a name."""
        for key in KEYS:
            for entry in self._content.get(key.place, ()) if key.name != unread else ():
                value = entry.get(key.name)
                if value is None and not (key.required or (key.null and key.name in entry)):
                    continue
                what = f"'{key.name}' in '{key.place}'"
                try:
                    taken = key.take(value)
                    if taken is value:
                        continue
                    readers = None if taken == value else ()
                    kind = repair(f"{what} should be {key.allowed}", "write it so", MEANT, readers)
                except REFUSED:
                    taken, kind = value, error(f"{what} must be {key.allowed}", CORRECT)
                found = shown(value) if key.name in entry else "missing"
                self._add(kind, key.place, entry, f"{key.name} {found}")
                entry[key.name] = taken

    def settle_ids(self, place: str, reference: str) -> None:
        """Make ids of one type of those that are meant, and check that references find them."""
        entries, annotations = self._content.get(place, []), self._content.get("annotations", [])
        holders = [(place, "id", entry) for entry in entries]
        holders += [("annotations", reference, entry) for entry in annotations]
        if len({type(entry[key]) for _, key, entry in holders}) > 1:
            for where, key, entry in holders:
                if isinstance(entry[key], str) and NUMBER.fullmatch(entry[key]):
                    self._add(kinds.NUMBER_AS_TEXT, where, entry, f"{key} {shown(entry[key])}")
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
                self._add(kind, where, entry, f"{key} {shown(value)}")

    def leave_out_root(self) -> tuple[int | str, str] | None:
        """Leave out a category that nothing but the others' `supercategory` names."""
        categories = self._content.get("categories", [])
        used = {a["category_id"] for a in self._content.get("annotations", ())}
        for root in categories if len(categories) > 1 else ():
            others = [c.get("supercategory") for c in categories if c is not root]
            if root["id"] not in used and all(name == root["name"] for name in others):
                self._add(kinds.ROOT, "categories", root, root["name"])
                categories[:] = [c for c in categories if c is not root]
                return root["id"], root["name"]
        return None

    def settle_annotations(self) -> None:
        """Derive boxes, areas and flags that are missing, and number the annotations."""
        annotations, kept = self._content.get("annotations", []), []

        def add(kind: Kind, detail: str = "") -> None:
            self._add(kind, "annotations", entry, detail)

        for entry in annotations:
            masks, box = entry.get("segmentation"), entry.get("bbox")
            if box is not None and masks == [box]:
                add(kinds.BOX_AS_MASK)
                masks = entry["segmentation"] = []
            if box is None:
                extent = extent_of(masks)
                add(kinds.NO_BOX if extent is None else kinds.BOX_OF_POLYGONS)
                if extent is None:
                    continue
                left, top, right, bottom = extent
                box = entry["bbox"] = [left, top, right - left, bottom - top]
            if not masks and box[2] == box[3] == 0:
                add(kinds.EMPTY_OBJECT, f"bbox {shown(box)}, no segmentation")
                continue
            if "iscrowd" not in entry:
                add(kinds.NO_CROWD_FLAG)
                entry["iscrowd"] = 0
            area = entry.get("area")
            if area is None or (area == 0 and box[2] * box[3] > 0):
                add(kinds.NO_AREA if area is None else kinds.ZERO_AREA)
                entry["area"] = area_of(masks) or box[2] * box[3]
            kept.append(entry)
        annotations[:] = kept
        counts = Counter(a["id"] for a in kept if type(a.get("id")) is int)
        found = len(self.defects)
        for entry in kept:
            number = entry.get("id")
            if number is None:
                add(kinds.NO_ID)
            elif type(number) is not int or number == 0 or abs(number) >= 2**53:
                add(kinds.ZERO_ID)
            elif counts[number] > 1:
                add(kinds.ID_TWICE)
        if len(self.defects) > found:
            for number, entry in enumerate(kept, 1):
                entry["id"] = number

    def find_files(self, path_of: Callable[[Entry], str]) -> None:
        """Look for the images on the disk; each folder is listed once."""
        listed: dict[str, set[str]] = {}

        def is_there(path: str) -> bool:
            folder, name = os.path.split(path)
            if folder not in listed:
                listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
            return name in listed[folder]

        images = self._content["images"]
        folders = [_slashes(i.get("file_name", "")).split("/")[:-1] for i in images]
        # Left out of all names, so that no two images become one.
        shared = len([*takewhile(lambda parts: len({*parts}) == 1, zip(*folders, strict=False))])
        for image in images:
            if is_there(path_of(image)):
                continue
            for name in _other_spellings(image.get("file_name", ""), shared):
                if is_there(path_of({**image, "file_name": name})):
                    self._add(kinds.OTHER_SPELLING, "images", image, f"on the disk {shown(name)}")
                    image["file_name"] = name
                    break
            else:
                folder = os.path.split(path_of(image))[0]
                self._add(kinds.IMAGE_MISSING, "images", image, f"not in '{folder}'")


def _as_text(identity: object) -> str:
    """Return an id as a text, the same for a number and its text."""
    return identity if isinstance(identity, str) else shown(identity)


def _slashes(name: str) -> str:
    return name.replace("\\", "/")


def _other_spellings(name: str, shared: int) -> Iterator[str]:
    """Yield what a file may be called, without up to as many folders as all names share."""
    parts = _slashes(name).split("/")
    for left_out in range(shared + 1):
        spelling = "/".join(parts[left_out:])
        yield spelling
        yield from (unicodedata.normalize(form, spelling) for form in ("NFC", "NFD"))
