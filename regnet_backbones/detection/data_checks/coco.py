"""Read a COCO instance json: what has one meaning is taken as that, the rest is named.

`KEYS` has every value that detectron2 and pycocotools read, with its one type. `normalise` brings a
json to these types and settles what depends on other entries: ids, boxes and areas that are
missing, and file names. Its result, read again, has nothing more to be corrected.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import takewhile
from pathlib import Path

from regnet_backbones.detection.data_checks import coco_kinds as kinds
from regnet_backbones.detection.data_checks.defects import Defect, Kind, error, repair, shown
from regnet_backbones.detection.data_checks.segmentations import area_of, extent_of, is_rle

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


def _whole(value: object) -> int:
    number = int(value)
    if isinstance(value, bool) or number != value or abs(number) >= 2**53:
        raise ValueError
    return number


def _size(value: object) -> int:
    if not 1 <= _whole(value) <= LARGEST:
        raise ValueError
    return _whole(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    value.encode()  # half a surrogate pair can be neither written nor found
    return value


def _identity(value: object) -> int | str:
    return _text(value) if isinstance(value, str) else _whole(value)


def _flag(value: object) -> int:
    return FLAGS[value.strip().lower() if isinstance(value, str) else value]


def _area(value: object) -> float:
    if not _are_numbers([value], LARGEST**2) or value < 0:
        raise ValueError
    return value


def _numbers(value: object) -> list[float]:
    if not isinstance(value, list) or not _are_numbers(value):
        raise ValueError
    return value


def _box(value: object) -> list[float]:
    if len(_numbers(value)) != 4 or min(value[2:]) < 0:
        raise ValueError
    return value


def _keypoints(value: object) -> list[float]:
    if len(_numbers(value)) % 3:
        raise ValueError
    return value


def _segmentation(value: object) -> list[list[float]] | Entry:
    if is_rle(value):
        (height, width), counts = map(_size, value["size"]), value["counts"]
        runs = [0] if isinstance(counts, str) else counts
        if not set(map(type, runs)) <= {int} or not 0 <= min(runs) <= max(runs) < 2**32:
            raise ValueError
        same = all(type(number) is int for number in value["size"])
        return value if same else {**value, "size": [height, width]}
    if not isinstance(value, list):
        raise ValueError
    if len(value) >= 6 and len(value) % 2 == 0 and not isinstance(value[0], list):
        return [_numbers(value)]
    for polygon in value:
        _numbers(polygon)
    return value


def _are_numbers(values: list, largest: float = LARGEST) -> bool:
    """Whether all are finite numbers of a sensible size."""
    if not set(map(type, values)) <= {int, float}:
        return False
    # The sum alone finds NaN.
    return not values or (
        min(values) >= -largest and max(values) <= largest and sum(values) < 1e300
    )


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

    @property
    def wrong(self) -> Kind:
        """The error of a value that means nothing."""
        problem = f"'{self.name}' in '{self.place}' must be {self.allowed}"
        return error(problem, "correct the values, or remove their entries")

    def other_type(self, *, harmless: bool) -> Kind:
        """Return the repair of a value that is written in another type."""
        problem = f"'{self.name}' in '{self.place}' should be {self.allowed}"
        done = "the value that is meant is used"
        return repair(problem, "write it so", done, "none" if harmless else "all")


IDENTITY = "a whole number or a text"
KEYS = (
    Key("images", "id", _identity, IDENTITY, required=True),
    Key("images", "file_name", _text, "a text, the file below the image folder", required=True),
    Key("images", "width", _size, "a whole number of pixels, 1 or more", required=True),
    Key("images", "height", _size, "a whole number of pixels, 1 or more", required=True),
    Key("categories", "id", _identity, IDENTITY, required=True),
    Key("categories", "name", _text, "a text in quotes", required=True),
    Key("annotations", "image_id", _identity, IDENTITY, required=True),
    Key("annotations", "category_id", _identity, IDENTITY, required=True),
    Key(
        *("annotations", "bbox", _box),
        "[x, y, width, height], four finite numbers of pixels: x and y of the upper left corner, "
        "width and height not negative",
    ),
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
BY_URL = Key("images", "coco_url", _text, "a text", required=True)


def coco_lists(
    content: object,
    source: str | Path,
    lists: Collection[str] = LISTS,
    *,
    lacking_annotations: bool = False,
) -> Content:
    """Return the lists of a COCO json.

    Args:
        content: of the file.
        source: its name, for the message.
        lists: which ones.
        lacking_annotations: whether a json without any is taken for one with an empty list, as the
            test splits of benchmarks are.

    Raises:
        ValueError: one is missing, or is not a list of objects.
    """
    if lacking_annotations and isinstance(content, dict):
        content = {"annotations": [], **content}
    lacking = [key for key in lists if not isinstance(content, dict) or key not in content]
    if lacking:
        raise ValueError(
            f"'{source}' is not in COCO's instance format: it has no {', '.join(lacking)}"
        )
    for key in lists:
        entries = content[key] if isinstance(content[key], list) else [content[key]]
        strange = [entry for entry in entries if not isinstance(entry, dict)]
        if strange or not isinstance(content[key], list):
            raise ValueError(
                f"'{source}' is not in COCO's instance format: {key} must be a list of objects "
                f"with keys and values, got {shown((strange or entries)[0])}"
            )
    return {key: content[key] for key in lists}


@dataclass(frozen=True)
class Normalised:
    """What became of a json.

    Attributes:
        defects: errors, and the repairs that were made in the content.
        root: id and name of the category that was left out, see `kinds.ROOT`.
    """

    defects: tuple[Defect, ...]
    root: tuple[int | str, str] | None = None


def normalise(
    content: Content,
    *,
    source: str,
    image_root: str | Path | None = None,
    by_url: bool = False,
    keep_root: bool = False,
) -> Normalised:
    """Bring a COCO json to one type for each value, and derive what is missing.

    Args:
        content: of `coco_lists`, changed in place.
        source: name of the dataset or the file, for the defects.
        image_root: the folder of the images; None does not look for them.
        by_url: whether images are found by their `coco_url`, as LVIS has it.
        keep_root: whether a category that is only the root of the others stays.
    """
    normaliser = _Normaliser(content, source)
    root = None
    normaliser.take_all(by_url)
    if not normaliser.has_errors:
        normaliser.settle_ids("images", "image_id", kinds.IMAGE_TWICE, kinds.NO_IMAGE)
        normaliser.settle_ids("categories", "category_id", kinds.CATEGORY_TWICE, kinds.NO_CATEGORY)
    if not normaliser.has_errors:
        root = None if keep_root else normaliser.leave_out_root()
        normaliser.settle_annotations()
    if not normaliser.has_errors and image_root is not None:
        normaliser.find_files(partial(image_path, image_root=image_root, by_url=by_url))
    return Normalised(tuple(normaliser.defects), root)


def image_path(image: Mapping, image_root: str | Path, *, by_url: bool = False) -> str:
    """Return where an image is: `by_url`, as LVIS has it, where the end of its URL says."""
    if by_url:
        return str(image_root) + "/".join(image["coco_url"].split("/")[-2:])
    return os.path.join(image_root, image["file_name"])


def image_name(image: Mapping) -> str:
    """Name an image."""
    name = image.get("file_name", image.get("coco_url"))
    return name if isinstance(name, str) else f"image {shown(image.get('id'))}"


class _Normaliser:
    """The steps of `normalise`, and what they find."""

    def __init__(self, content: Content, source: str):
        self._content, self._source = content, source
        self.defects: list[Defect] = []

    @property
    def has_errors(self) -> bool:
        return any(defect.severity == "error" for defect in self.defects)

    @cached_property
    def _names(self) -> dict[str, str]:
        """Names of images by their ids as text, which may still be of any type."""
        return {_as_text(i.get("id")): image_name(i) for i in self._content.get("images", ())}

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
        self.defects.append(Defect(kind, self._source, image, annotation, detail))

    def take_all(self, by_url: bool) -> None:
        """Take every value of `KEYS` in its type."""
        for key in KEYS:
            key = BY_URL if by_url and key.name == "file_name" else key
            for entry in self._content.get(key.place, ()):
                value = entry.get(key.name)
                if value is None and not (key.required or (key.null and key.name in entry)):
                    continue
                try:
                    taken = key.take(value)
                    if taken is value:
                        continue
                    kind = key.other_type(harmless=taken == value)
                except REFUSED:
                    taken, kind = value, key.wrong
                found = shown(value) if key.name in entry else "missing"
                self._add(kind, key.place, entry, f"{key.name} {found}")
                entry[key.name] = taken

    def settle_ids(self, place: str, reference: str, twice: Kind, undefined: Kind) -> None:
        """Make ids of one type of those that are meant, and check that references find them."""
        entries, annotations = self._content.get(place, []), self._content.get("annotations", [])
        holders = [(place, "id", e) for e in entries]
        holders += [("annotations", reference, a) for a in annotations]
        if len({type(entry[key]) for _, key, entry in holders}) > 1:
            for list_name, key, entry in holders:
                if isinstance(entry[key], str) and NUMBER.fullmatch(entry[key]):
                    self._add(kinds.NUMBER_AS_TEXT, list_name, entry, f"{key} {shown(entry[key])}")
                    entry[key] = int(entry[key])
        counts = Counter(entry["id"] for entry in entries)
        unsortable = len({*map(type, counts)}) > 1
        for entry in entries:
            if counts[entry["id"]] > 1:
                self._add(twice, place, entry, f"id {shown(entry['id'])}")
            elif unsortable and isinstance(entry["id"], str):
                self._add(kinds.TEXTS_AND_NUMBERS, place, entry, f"id {shown(entry['id'])}")
        for annotation in annotations if place in self._content else ():
            if annotation[reference] not in counts:
                detail = f"{reference} {shown(annotation[reference])}"
                self._add(undefined, "annotations", annotation, detail)

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
        kept = []
        for entry in self._content.get("annotations", ()):
            add = partial(self._add, place="annotations", entry=entry)
            masks, box = entry.get("segmentation"), entry.get("bbox")
            if isinstance(masks, list) and box is not None and masks == [box]:
                add(kinds.BOX_AS_MASK)
                masks = entry["segmentation"] = []
            if box is None:
                extent = None if is_rle(masks) else extent_of(masks or [])
                add(kinds.NO_BOX if extent is None else kinds.BOX_OF_POLYGONS)
                if extent is None:
                    continue
                left, top, right, bottom = extent
                box = entry["bbox"] = [left, top, right - left, bottom - top]
            if not masks and box[2] == box[3] == 0:
                add(kinds.EMPTY_OBJECT, detail=f"bbox {shown(box)}, no segmentation")
                continue
            if "iscrowd" not in entry:
                add(kinds.NO_CROWD_FLAG)
                entry["iscrowd"] = 0
            area = entry.get("area")
            if area is None or (area == 0 and box[2] * box[3] > 0):
                add(kinds.NO_AREA if area is None else kinds.ZERO_AREA)
                entry["area"] = area_of(masks or []) or box[2] * box[3]
            kept.append(entry)
        self._content.get("annotations", [])[:] = kept
        self._number(kept)

    def _number(self, annotations: list[Entry]) -> None:
        """Number annotations from 1, unless their ids are numbers that can be evaluated."""
        counts = Counter(a["id"] for a in annotations if type(a.get("id")) is int)
        found = len(self.defects)
        for entry in annotations:
            value = entry.get("id")
            if value is None:
                self._add(kinds.NO_ID, "annotations", entry)
            elif type(value) is not int or value == 0 or abs(value) >= 2**53:
                self._add(kinds.ZERO_ID, "annotations", entry)
            elif counts[value] > 1:
                self._add(kinds.ID_TWICE, "annotations", entry)
        if len(self.defects) > found:
            for number, entry in enumerate(annotations, 1):
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
