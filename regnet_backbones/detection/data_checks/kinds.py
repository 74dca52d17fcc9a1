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

# How many defects of a kind a summary names.
LISTED = 3
# In the order of a summary.
SEVERITIES = ("error", "corrected", "note")

# Values of a user in messages: enough to find them, whatever their length.
_REPR = Repr()
_REPR.maxstring = _REPR.maxother = 80
shown = _REPR.repr


@dataclass(frozen=True)
class Kind:
    """A kind of defect: what is wrong, and what to do or what happens if it stays.

    An "error" stops a run or spoils its result; a "corrected" one is fixed in a copy of the json.
    """

    severity: Literal["error", "corrected", "note"]
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
        lines = []
        for dataset, kind in sorted(groups, key=lambda key: SEVERITIES.index(key[1].severity)):
            defects = groups[dataset, kind]
            times = f"{len(defects):,} time{'s' * (len(defects) > 1)}"
            lines.append(f"{kind.severity}: '{dataset}', {times}: {kind.text}")
            lines += [f"    {defect.place}" for defect in defects[:listed] if defect.place]
            if listed is not None and len(defects) > listed:
                lines.append(f"    ... and {len(defects) - listed:,} more")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write every defect to a text file, in a folder that is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = self.summary(None) or "no defects"
        path.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")


def place(name: str, detail: str = "") -> str:
    """Return where a defect is, and what was found there."""
    return f"{name} ({detail})" if detail else name


error, note, repair = partial(Kind, "error"), partial(Kind, "note"), partial(Kind, "corrected")

# Found in reading a json, see `coco`
BOM = repair("the file begins with a byte order mark; save it as UTF-8 without one")
IMAGE_MISSING = error("an image is not on the disk; correct its 'file_name' or the image folder")
OTHER_SPELLING = repair("a 'file_name' is spelled differently from the file; write the file's name")
DOUBLE_ID = error("an image or a category has an id that is used twice; make ids unique")
MIXED_IDS = error("an image or a category has text as id, others a number; write numbers in all")
NUMBER_AS_TEXT = repair("an id is text in one place and a number in another; write numbers")
UNDEFINED_ID = error("an annotation has an image_id or category_id that the file does not define")
ROOT = repair("an unused category is only the 'supercategory' of the others; remove it")
ANNOTATION_ID = repair("an annotation's id is missing, repeated, 0 or not a number; write 1, 2, 3")
BOX_AS_MASK = repair("a 'segmentation' repeats the bbox; leave it out, or write polygons")
NO_BOX = error("an annotation has no bbox; write [x, y, width, height] in pixels")
BOX_OF_POLYGONS = repair("an annotation has polygons and no bbox; write the box around them")
EMPTY_OBJECT = repair("an annotation has an empty bbox and no segmentation; remove it")
NO_CROWD_FLAG = repair("an annotation has no iscrowd; write 0")
NO_AREA = repair("an annotation has no area, or 0; write that of its bbox")

# Found in comparing what a json says, see `annotations`
NOTHING = error(
    "there is nothing to train on: all annotations are crowd regions, outside their image, or have "
    "no polygon of 3 points; set iscrowd 0 for objects, or train boxes only (MODEL.MASK_ON False)"
)
NOTHING_TO_SCORE = note("there are no annotations; the evaluation has nothing to score")
UNUSED_CLASS = note("a category has no annotation; it is not learned, or not measured")
SAME_NAME = note(
    "categories have the same name; results by class show only one of them; rename the others, or "
    "make them one category"
)
SAME_FILE = note("a file is listed as several images; each counts, with its own annotations")
IN_BOTH = note("a file is in training and validation data; validation results are misleading")
REPEATED = note("an annotation repeats another one (image, category, bbox); both are used")
OTHER_FORM = error("boxes are not [x, y, width, height] in pixels; correct them, or the exporter")
UNLIKE_MASK = note("bbox and polygons of an annotation do not match; one of them is wrong")
FAR_POLYGON = error(
    "polygons are over 100 image sides away from their image; correct or remove them"
)
IGNORED = error("an annotation has 'ignore', which detectron2 does not support; use iscrowd 1")
OUTSIDE = note("a bbox has no area in its image; training drops it, evaluation misses it")
CLIPPED_BOX = note("a bbox is over 1 pixel beyond the border; it is clipped in training only")
CROWD = note("an annotation is a crowd region (iscrowd 1); training and evaluation ignore it")
EMPTY_IMAGE = note("an image has no objects; see DATALOADER.FILTER_EMPTY_ANNOTATIONS")
NO_MASK = error("an annotation has no segmentation; add it, or set MODEL.MASK_ON False")
DROPPED_POLYGON = note("a polygon has under 3 points or an odd number of values; it is ignored")
NO_POLYGON = error("no polygon of 3 points, or the first one has 2; correct or remove them")
RLE_FOR_POLYGON = error("a segmentation is an RLE; set INPUT.MASK_FORMAT bitmask")
BROKEN_RLE = error("an RLE does not fit its image's size, or its counts are wrong; encode it again")

# Found in loading a dataset and opening its files, see `datasets`
UNLOADABLE = error("the dataset cannot be loaded; check its folder below DETECTRON2_DATASETS")
TOO_MANY_CLASSES = error("the dataset has more classes than the model; set the number of classes")
UNREADABLE_FILE = error("a file is damaged or incomplete; download it again, or remove it")
WRONG_SIZE = error("an image has another size than in its annotations; correct one of them")
DEEP_IMAGE = error("an image cannot be used as it is")
TURNED = note("an image is turned by its EXIF data; check that its annotations are, too")
MASK_SIZE = error("a mask has another size than its image; save both in one size")
MASK_COLOURS = error("a mask's values change when read as grey; save its labels as grey 8-bit PNG")
MASK_LABELS = error("a mask has labels beyond MODEL.SEM_SEG_HEAD.NUM_CLASSES and IGNORE_VALUE")
