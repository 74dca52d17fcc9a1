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
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np

from regnet_backbones.detection.data_checks import kinds
from regnet_backbones.detection.data_checks.defects import Defect, shown
from regnet_backbones.detection.data_checks.kinds import Kind, error, repair
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
    if value == []:
        return value
    # The sum finds NaN, which minimum and maximum may miss.
    return _only(
        value, plain and least <= min(value) <= max(value) <= largest and sum(value) < 1e300
    )


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


# List, key, what returns a value in its one type or raises one of `REFUSED`, and what it may be.
# Images and categories must have all of theirs, annotations their references.
IDENTITY, PIXELS = "a whole number or text", "a whole number of pixels, 1 or more"
TYPES: tuple[tuple[str, str, Callable[[object], object], str], ...] = (
    ("images", "id", _identity, IDENTITY),
    ("images", "file_name", _text, "text, the file below the image folder"),
    ("images", "coco_url", _text, "text"),  # LVIS has it instead of the file name
    ("images", "width", _size, PIXELS),
    ("images", "height", _size, PIXELS),
    ("categories", "id", _identity, IDENTITY),
    ("categories", "name", _text, "text in quotes"),
    ("annotations", "image_id", _identity, IDENTITY),
    ("annotations", "category_id", _identity, IDENTITY),
    (
        *("annotations", "bbox", lambda v: _only(v, len(_numbers(v)) == 4 and min(v[2:]) >= 0)),
        "[x, y, width, height] in pixels, none of the sides negative",
    ),
    (
        *("annotations", "area", lambda v: _numbers([v], 0, LARGEST**2)[0]),
        "a finite number of pixels, 0 or more",
    ),
    ("annotations", "iscrowd", _flag, "0 or 1"),
    ("annotations", "ignore", _flag, "0 or 1"),
    (
        *("annotations", "segmentation", _segmentation),
        "polygons of finite numbers, [[x1, y1, x2, y2, x3, y3, ...], ...], or an RLE with 'size' "
        "and 'counts' (to train boxes only, remove it and set MODEL.MASK_ON False)",
    ),
    (
        *("annotations", "keypoints", lambda v: _only(v, len(_numbers(v)) % 3 == 0)),
        "x, y and visibility of each keypoint in turn",
    ),
    ("annotations", "num_keypoints", _whole, "a whole number"),
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

    @property
    def categories(self) -> dict[int | str, str]:
        """Names by id, in the order of the ids, which is detectron2's."""
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
) -> Coco:
    """Read a COCO json, bring it to one type for each value, and derive what is missing.

    Images and categories that are `needed` must not be empty; `optional` lists are empty if the
    file has none. Messages name `source`. Images are looked for in `image_root`, `by_url` where
    their `coco_url` says, as LVIS has it. `keep_root` keeps a category that is only the root of the
    others.
    """
    source, root = source or str(json_file), None
    content = read_lists(json_file, needed, optional=optional, source=source)
    found = _Found(content, source)
    with open(json_file, "rb") as file:
        if file.read(len(BOM_UTF8)) == BOM_UTF8:
            found.defects.append(Defect(kinds.BOM, source))
    _take_types(content, "file_name" if by_url else "coco_url", found)
    if not found.errors:
        _settle_ids(content, "images", "image_id", found)
        _settle_ids(content, "categories", "category_id", found)
    if not found.errors:
        root = None if keep_root else _leave_out_root(content, found)
        _settle_annotations(content.get("annotations", []), found)
    if not found.errors and image_root is not None:
        _find_files(content["images"], partial(image_path, image_root, by_url), found)
    return Coco(content, tuple(found.defects), root)


def read_lists(
    json_file: str | Path,
    needed: Collection[str],
    *,
    optional: Collection[str] = (),
    source: str = "",
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


class _Found:
    """The defects that the steps of `read_coco` find."""

    def __init__(self, content: Content, source: str):
        self.source = source
        self.defects: list[Defect] = []
        # By ids as text, which may still be of any type.
        self._names = {_as_text(i.get("id")): image_name(i) for i in content.get("images", ())}

    @property
    def errors(self) -> bool:
        return any(defect.severity == "error" for defect in self.defects)

    def add(self, kind: Kind, place: str, entry: Entry, detail: str = "") -> None:
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


def _take_types(content: Content, unread: str, found: _Found) -> None:
    """Take every value in its type, but that of a key which is not read."""
    for place, name, take, allowed in TYPES:
        required = place != "annotations" or name in ("image_id", "category_id")
        what = f"'{name}' in '{place}'"
        for entry in content.get(place, ()) if name != unread else ():
            value = entry.get(name)
            if value is None and not (required or (take is _flag and name in entry)):
                continue
            try:
                taken = take(value)
                if taken is value:
                    continue
                kind = repair(f"{what} should be {allowed}", None if taken == value else ())
            except REFUSED:
                taken, kind = value, error(f"{what} must be {allowed}; correct or remove the entry")
            given = shown(value) if name in entry else "missing"
            found.add(kind, place, entry, f"{name} {given}")
            entry[name] = taken


def _settle_ids(content: Content, place: str, reference: str, found: _Found) -> None:
    """Make ids one type where they mean the same, and check that references find them."""
    entries = content.get(place, [])
    holders = [(place, "id", entry) for entry in entries]
    holders += [("annotations", reference, entry) for entry in content.get("annotations", [])]
    if len({type(entry[key]) for _, key, entry in holders}) > 1:
        for where, key, entry in holders:
            if isinstance(entry[key], str) and NUMBER.fullmatch(entry[key]):
                found.add(kinds.NUMBER_AS_TEXT, where, entry, f"{key} {shown(entry[key])}")
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
            found.add(kind, where, entry, f"{key} {shown(value)}")


def _leave_out_root(content: Content, found: _Found) -> tuple[int | str, str] | None:
    """Leave out a category that nothing but the others' `supercategory` names."""
    categories = content.get("categories", [])
    used = {a["category_id"] for a in content.get("annotations", ())}
    for root in categories if len(categories) > 1 else ():
        others = [c.get("supercategory") for c in categories if c is not root]
        if root["id"] not in used and all(name == root["name"] for name in others):
            found.add(kinds.ROOT, "categories", root, root["name"])
            categories[:] = [c for c in categories if c is not root]
            return root["id"], root["name"]
    return None


def _settle_annotations(annotations: list[Entry], found: _Found) -> None:
    """Derive boxes, areas and flags that are missing, and number the annotations."""
    annotations[:] = [entry for entry in annotations if _settle_annotation(entry, found)]
    counts = Counter(a["id"] for a in annotations if type(a.get("id")) is int)
    wrong = []
    for entry in annotations:
        number = entry.get("id")
        if number is None:
            wrong.append((kinds.NO_ID, entry))
        elif type(number) is not int or number == 0 or abs(number) >= 2**53:
            wrong.append((kinds.ZERO_ID, entry))
        elif counts[number] > 1:
            wrong.append((kinds.ID_TWICE, entry))
    for kind, entry in wrong:
        found.add(kind, "annotations", entry)
    for number, entry in enumerate(annotations if wrong else (), 1):
        entry["id"] = number


def _settle_annotation(entry: Entry, found: _Found) -> bool:
    """Derive what an annotation lacks, and return whether it is one."""
    masks, box, place = entry.get("segmentation"), entry.get("bbox"), "annotations"
    if box is not None and masks == [box]:
        found.add(kinds.BOX_AS_MASK, place, entry)
        masks = entry["segmentation"] = []
    if box is None:
        extent = extent_of(drawable(masks))
        found.add(kinds.NO_BOX if extent is None else kinds.BOX_OF_POLYGONS, place, entry)
        if extent is None:
            return False
        left, top, right, bottom = extent
        box = entry["bbox"] = [left, top, right - left, bottom - top]
    if not masks and box[2] == box[3] == 0:
        found.add(kinds.EMPTY_OBJECT, place, entry, f"bbox {shown(box)}")
        return False
    if "iscrowd" not in entry:
        found.add(kinds.NO_CROWD_FLAG, place, entry)
        entry["iscrowd"] = 0
    area = entry.get("area")
    if area is None or (area == 0 and box[2] * box[3] > 0):
        found.add(kinds.NO_AREA if area is None else kinds.ZERO_AREA, place, entry)
        entry["area"] = _area_of(masks) or box[2] * box[3]
    return True


def _area_of(segmentation: Sequence[Sequence[float]] | Mapping | None) -> float:
    """Return the pixels of a segmentation, 0 if it cannot be decoded."""
    if isinstance(segmentation, dict):
        return sum((runs_of(segmentation["counts"]) or ())[1::2])
    points = [
        (np.array(polygon[::2]), np.array(polygon[1::2])) for polygon in drawable(segmentation)
    ]
    return float(sum(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2 for x, y in points))


def _find_files(images: list[Entry], path_of: Callable[[Entry], str], found: _Found) -> None:
    """Look for the images on the disk; each folder is listed once."""
    listed: dict[str, set[str]] = {}

    def is_there(path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        return name in listed[folder]

    folders = [_slashes(i.get("file_name", "")).split("/")[:-1] for i in images]
    # Left out of all names, so that no two images become one.
    shared = len([*takewhile(lambda parts: len({*parts}) == 1, zip(*folders, strict=False))])
    for image in images:
        if is_there(path_of(image)):
            continue
        for name in _other_spellings(image.get("file_name", ""), shared):
            if is_there(path_of({**image, "file_name": name})):
                found.add(kinds.OTHER_SPELLING, "images", image, f"on the disk {shown(name)}")
                image["file_name"] = name
                break
        else:
            folder = os.path.split(path_of(image))[0]
            found.add(kinds.IMAGE_MISSING, "images", image, f"not in '{folder}'")


def _other_spellings(name: str, shared: int) -> Iterator[str]:
    """Yield what a file may be called, without up to as many folders as all names share."""
    parts = _slashes(name).split("/")
    for left_out in range(shared + 1):
        spelling = "/".join(parts[left_out:])
        yield spelling
        yield from (unicodedata.normalize(form, spelling) for form in ("NFC", "NFD"))


def _as_text(identity: object) -> str:
    """Return an id as a text, the same for a number and its text."""
    return identity if isinstance(identity, str) else shown(identity)


def _slashes(name: str) -> str:
    return name.replace("\\", "/")
