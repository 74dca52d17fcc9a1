"""Defects of a dataset, the report of them, and every kind of defect, a row each.

The kinds were found by running detectron2: its loader of jsons raises or drops annotations when a
run starts, its mapper when an image is drawn, pycocotools after all images are evaluated. Values
of wrong types are kinds of their own, see `coco.TYPES`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from reprlib import Repr
from typing import Literal

Severity = Literal["error", "repair", "note"]

# How many defects of a kind a summary names.
LISTED = 3
# What a paragraph of a summary begins with, and in which order.
TITLES: dict[Severity, str] = {"error": "error", "repair": "corrected", "note": "note"}

# Values of a user in messages: enough to find them, whatever their length.
_REPR = Repr()
_REPR.maxstring = _REPR.maxother = 80
_REPR.maxlist = _REPR.maxdict = 6
_REPR.maxlevel = 3
shown = _REPR.repr


@dataclass(frozen=True)
class Kind:
    """A kind of defect.

    Attributes:
        severity: "error" stops a run or spoils its result; "note" is worth knowing; "repair" is
            corrected in a copy of the json.
        text: what is wrong, and what to do or what happens if it stays.
    """

    severity: Severity
    text: str


@dataclass(frozen=True)
class Defect:
    """A defect of a dataset (its name, or its file) and its place there."""

    kind: Kind
    dataset: str
    place: str = ""


@dataclass(frozen=True)
class Report:
    """All defects of the datasets of a run, in the order in which they were found."""

    defects: tuple[Defect, ...]

    @property
    def has_errors(self) -> bool:
        """Whether a run would stop, or its result be spoiled."""
        return bool(self.errors.defects)

    @property
    def errors(self) -> "Report":
        """The report of the errors alone."""
        return Report(tuple(defect for defect in self.defects if defect.kind.severity == "error"))

    def summary(self, listed: int | None = LISTED) -> str:
        """Return a paragraph for each kind, errors first, naming some defects or all of them."""
        groups: dict[tuple[str, Kind], list[Defect]] = {}
        for defect in self.defects:
            groups.setdefault((defect.dataset, defect.kind), []).append(defect)
        lines, order = [], list(TITLES)
        for dataset, kind in sorted(groups, key=lambda key: order.index(key[1].severity)):
            defects = groups[dataset, kind]
            times = f"{len(defects):,} time{'s' * (len(defects) > 1)}"
            lines.append(f"{TITLES[kind.severity]}: '{dataset}', {times}: {kind.text}")
            lines += [f"    {defect.place}" for defect in defects[:listed] if defect.place]
            if listed is not None and len(defects) > listed:
                lines.append(f"    ... and {len(defects) - listed:,} more")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write every defect to a text file, in a folder that is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = self.summary(None) or "no defects"
        path.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")


def place(image: str = "", annotation: object = None, detail: str = "") -> str:
    """Return where a defect is, and what was found there."""
    parts = [f"annotation {shown(annotation)}"] if annotation is not None else []
    where = " of ".join([*parts, image] if image else parts)
    return f"{where} ({detail})" if where and detail else where or detail


error, note, repair = partial(Kind, "error"), partial(Kind, "note"), partial(Kind, "repair")

# Found in reading a json, see `coco`
BOM = repair("the file begins with a byte order mark; save it as UTF-8 without one")
IMAGE_MISSING = error("an image is not on the disk; correct its 'file_name' or the image folder")
OTHER_SPELLING = repair("a 'file_name' is spelled differently from the file; write the file's name")
DOUBLE_ID = error("an id of images or categories is given twice; give each an id of its own")
NUMBER_AS_TEXT = repair("an id is text in one place and a number in another; write numbers")
UNDEFINED_ID = error("an annotation has an image_id or category_id that the file does not define")
ROOT = repair("a category is only the others' 'supercategory' and is unused; remove it")
ANNOTATION_ID = repair(
    "an annotation's id is missing, repeated, 0 or not a number; number them from 1",
)
BOX_AS_MASK = repair("a 'segmentation' repeats the bbox; leave it out, or write polygons")
NO_BOX = error("an annotation has no bbox; write [x, y, width, height] in pixels")
BOX_OF_POLYGONS = repair("an annotation has polygons and no bbox; write the box around them")
EMPTY_OBJECT = repair("an annotation has an empty bbox and no segmentation; remove it")
NO_CROWD_FLAG = repair("an annotation has no iscrowd; write 0")
NO_AREA = repair("an annotation has no area; write that of its mask or bbox")
ZERO_AREA = repair("an area is 0 and its bbox is not empty; write that of the mask or bbox")

# Found in comparing what a json says, see `annotations`
NOTHING = error(
    "there is nothing to train on: every annotation is a crowd region, has no box inside its image "
    "or no polygon of 3 points; set iscrowd 0 for single objects, or train boxes only (remove "
    "'segmentation', set MODEL.MASK_ON False)"
)
NOTHING_TO_SCORE = note("there are no annotations; the evaluation has nothing to score")
UNUSED_CLASS = note("a category has no annotation; it is not learned, or not measured")
SAME_FILE = note("a file is listed as several images; each counts, with its own annotations")
IN_BOTH = note("a file is in the training and in the validation data, whose results mislead then")
REPEATED = note("an annotation repeats another one (image, category, bbox); both are used")
OTHER_FORM = error(
    "boxes or polygons are not written as COCO's, [x, y, width, height] and [x1, y1, x2, y2, ...] "
    "in pixels; correct the file, or what exported it"
)
UNLIKE_MASK = note("the bbox and the polygons of an annotation do not fit; one of them is wrong")
IGNORED = error("an annotation has 'ignore', which detectron2 does not support; use iscrowd 1")
OUTSIDE = note(
    "a bbox has no area inside its image; it is not trained on, and counts as missed in evaluation"
)
CLIPPED_BOX = note("a bbox is over 1 pixel beyond the border; it is clipped in training only")
CROWD = note("an annotation is a crowd region (iscrowd 1); training and evaluation ignore it")
EMPTY_IMAGE = note("an image has no objects; see DATALOADER.FILTER_EMPTY_ANNOTATIONS")
NO_MASK = error("an annotation has no segmentation; add it, or set MODEL.MASK_ON False")
DROPPED_POLYGON = note(
    "a polygon has no 3 points or odd values; detectron2 does not train on it, nor on an "
    "annotation that has no other"
)
NO_POLYGON = error("no polygon of 3 points, or the first one has 2; correct or remove them")
RLE_FOR_POLYGON = error("a segmentation is an RLE; set INPUT.MASK_FORMAT bitmask")
BROKEN_RLE = error(
    "an RLE is not of its image's size [height, width], or its counts do not add up to height x "
    "width; encode the mask again"
)

# Found in loading a dataset and opening its files, see `datasets`
UNLOADABLE = error(
    "the dataset cannot be loaded; detectron2's own are looked for below DETECTRON2_DATASETS, else "
    "in the folder 'datasets'"
)
TOO_MANY_CLASSES = error("the dataset has more classes than the model; set the number of classes")
UNREADABLE_FILE = error("a file cannot be read to its end; fetch it again, or remove it")
WRONG_SIZE = error("an image is not of the size that its annotations say; correct one of them")
DEEP_IMAGE = error("an image cannot be used as it is")
TURNED = note("an image is turned by its EXIF data; check that its annotations are, too")
MASK_SIZE = error("a mask is not of the size of its image; save both in one size")
MASK_COLOURS = error("a mask's values change when read as grey; save its labels as grey 8-bit PNG")
MASK_LABELS = error("a mask has labels beyond MODEL.SEM_SEG_HEAD.NUM_CLASSES and IGNORE_VALUE")
