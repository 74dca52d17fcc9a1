"""What the values in mask files mean: the one place that turns labels and colours into classes.

A value is a label, or in masks drawn in colours R * 65536 + G * 256 + B.
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.files import read_text

logger = logging.getLogger(__name__)

# Label of pixels that count nowhere, in every mask that is handed out.
IGNORE = 255

# How label maps and colour tables name such pixels.
IGNORED = "ignore"

# `ignore_label` of masks in which every pixel has a class.
NOTHING_IGNORED = -1

# Names of the two classes of binary segmentation without names.
BINARY = ("background", "object")

# How many names, labels or colours a message lists.
LISTED = 8

LARGEST_LABEL, LARGEST_COLOR = 2**16 - 1, 2**24 - 1

# The options that say what values mean: the form of a line, and patterns of its value and meaning.
LABEL_MAP, COLORS = "--data.label_map", "--data.colors"
RGB = r"(?P<value>\d{1,3}[\s,]+\d{1,3}[\s,]+\d{1,3})"
TABLES = {
    LABEL_MAP: ("LABEL CLASS", [r"(?P<value>\d{1,9})[\s:,=]+(?P<meaning>\S.*)"]),
    COLORS: (
        "NAME R G B",
        # "road 128 64 128" or CVAT's "road:128,64,128::", and "128 64 128 road".
        [rf"(?P<meaning>\S.*?)[\s,:]+{RGB}\s*(?::.*)?", rf"{RGB}[\s,:]+(?P<meaning>\S.*)"],
    ),
}


@dataclass(frozen=True)
class Labels:
    """The classes of a dataset, and which class each value in its masks is.

    Args:
        class_names: names of classes 0, 1, ...
        classes: class, or `IGNORE`, of each value. All other values are errors.
        in_color: whether the values are colours.
        binary: whether 1 and 255 are two ways to write the object, of which masks have one.
    """

    class_names: tuple[str, ...]
    classes: Mapping[int, int]
    in_color: bool = False
    binary: bool = False

    def __post_init__(self) -> None:
        check_class_names(self.class_names)
        last, largest = self.num_classes - 1, LARGEST_COLOR if self.in_color else LARGEST_LABEL
        wrong = [
            f"{value}: {of}"
            for value, of in self.classes.items()
            if not 0 <= value <= largest or not (0 <= of <= last or of == IGNORE)
        ]
        if wrong:
            raise UserError(
                f"labels are 0 to {largest}, and classes 0 to {last} or {IGNORED}, got "
                f"{first_of(wrong)}; correct {LABEL_MAP} or --data.ignore_label"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, without the ignored label."""
        return len(self.class_names)

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.full(max(IGNORE, *self.classes) + 1, -1, np.int16)
        table[list(self.classes)] = list(self.classes.values())
        return table

    def classes_of(self, values: np.ndarray) -> np.ndarray:
        """Return the classes of integer values, int16; -1 for values that are errors."""
        if values.dtype == np.uint8:
            return self._table[values]
        known = (values >= 0) & (values < len(self._table))
        return np.where(known, self._table[np.where(known, values, 0)], np.int16(-1))

    def strays(self, counted: Mapping[int, int]) -> str | None:
        """Say which of the values of a mask, counted in pixels, are errors; None if none is."""
        strays = {value: n for value, n in counted.items() if value not in self.classes}
        if not strays:
            return None
        what, option = ("colours", COLORS) if self.in_color else ("labels", LABEL_MAP)
        known = sorted(value for value, of in self.classes.items() if of != IGNORE)
        allowed = first_of([_shown(value, self.in_color) for value in known])
        if len(known) > 1 and known[-1] - known[0] == len(known) - 1:
            allowed = f"{known[0]} to {known[-1]}"
        ignored = [_shown(v, self.in_color) for v, of in self.classes.items() if of == IGNORE]
        return (
            f"has {what} that the dataset does not define: {counts_text(strays, self.in_color)}; "
            f"allowed are {allowed} (ignored: {first_of(ignored) or 'none'}); correct the mask, "
            f"the number of classes, or {option}"
        )


class LabelCounts:
    """What the masks of a split hold: `pixels` by value, `classes` and `masks` by class.

    Args:
        counted: of each mask that was looked at, pixels by value.
        labels: what the values mean.
    """

    def __init__(self, counted: Sequence[Mapping[int, int]], labels: Labels) -> None:
        self.labels, self.looked_at = labels, len(counted)
        self.pixels, self.classes, self.masks = Counter[int](), Counter[int](), Counter[int]()
        for mask in counted:
            self.pixels.update(mask)
            self.masks.update({labels.classes[v] for v in mask if v in labels.classes})
        for value in self.pixels.keys() & labels.classes.keys():
            self.classes[labels.classes[value]] += self.pixels[value]

    def explain(self, kind: str, problem: str = "") -> str:
        """Say what the masks hold, what is wrong with that, and what is likely to help."""
        labels = self.labels
        found = sorted(v for v in self.pixels if labels.classes.get(v) != IGNORE)
        way_out = f"correct the masks, or what values mean ({LABEL_MAP}, {COLORS})"
        if labels.binary and {1, IGNORE} <= self.pixels.keys():
            way_out = (
                "if 255 is ignored, take --data.ignore_label 255; if both are the object, "
                f"{LABEL_MAP} '{{0: 0, 1: 1, 255: 1}}'"
            )
        elif self.pixels.keys() == {0, IGNORE} and not labels.in_color:
            way_out = "masks of 0 and 255 are read with --data.num_classes 1 (background, object)"
        elif len(found) == labels.num_classes and not labels.in_color:
            table = first_of([f"{value}: {k}" for k, value in enumerate(found)])
            way_out = f"labels other than 0, 1, 2, ... need {LABEL_MAP} '{{{table}}}'"
        held = counts_text(self.pixels, labels.in_color)
        return (
            f"the {self.looked_at:,} {kind} masks hold {held}{problem and ': '}{problem}; {way_out}"
        )


def check_counts(counts: LabelCounts, *, train: bool) -> None:
    """Raise UserError if the masks of a split have nothing to learn or measure.

    In training masks that means fewer than two classes; in validation masks, no labelled pixel.
    """
    labels, kind = counts.labels, "training" if train else "validation"
    if labels.binary and {1, IGNORE} <= counts.pixels.keys():
        raise UserError(counts.explain(kind, "object is both 1 and 255"))
    present = [name for k, name in enumerate(labels.class_names) if counts.classes[k]]
    if len(present) < min(2, labels.num_classes):
        only = f"only class '{present[0]}'" if present else "no class"
        text = counts.explain(kind, f"{only} has pixels that are not ignored")
        if train or not present:
            raise UserError(text)
        logger.warning("%s. The mean IoU of one class means little", text)
    absent = [name for name in labels.class_names if name not in present]
    if absent and train:
        logger.warning(
            "%d of %d classes are in none of the %d training masks that were looked at: %s",
            *(len(absent), labels.num_classes, counts.looked_at, first_of(absent)),
        )


def folder_labels(
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    *,
    ignore_label: int | None = None,
    label_map: Mapping[int, int | str] | None = None,
    colors: Mapping[int, int | str] | None = None,
) -> Labels:
    """Return what the values in custom masks mean.

    One class, or two names without a number, is binary segmentation: 0 is the background, 1 or 255
    the object, and nothing is ignored unless `ignore_label` is. Arguments are those of
    `SegmentationData`, `label_map` and `colors` as `read_table` returns them.
    """
    if colors is not None and not (ignore_label is label_map is None):
        raise UserError(
            f"{COLORS} cannot be combined with {LABEL_MAP} or --data.ignore_label; name ignored "
            f"colours '{IGNORED}' in it"
        )
    option, table = (LABEL_MAP, label_map) if colors is None else (COLORS, colors)
    words = [of for of in (table or {}).values() if isinstance(of, str) and of != IGNORED]
    names = tuple(dict.fromkeys(words) if class_names is None else class_names)
    if class_names is None and not words:
        names = numbered_class_names(num_classes)
    elif len(names) == 1:
        names = (BINARY[0], *names)
    two = len(names) == 2 and num_classes in (None, 1)
    check_class_names(names, None if two else num_classes)
    binary = two and table is None and ignore_label != IGNORE

    values = dict(enumerate(range(len(names)))) if table is None else dict(table)
    if binary:
        values[IGNORE] = 1
    if ignore_label is None and colors is None:
        values.setdefault(IGNORE, IGNORED)
    elif ignore_label in values:
        raise UserError(
            f"--data.ignore_label {ignore_label} is the label of a class, too; leave it out, and "
            f"give {LABEL_MAP} '{{{ignore_label}: {IGNORED}, ...}}' with the class of each label"
        )
    elif ignore_label not in (None, NOTHING_IGNORED):
        values[ignore_label] = IGNORED
    places = {name: k for k, name in enumerate(names)} | {IGNORED: IGNORE}
    if unknown := sorted(set(words) - places.keys()):
        raise UserError(
            f"{option} names classes that the class names do not have: {first_of(unknown)}"
        )
    classes = {value: places.get(of, of) for value, of in values.items()}
    return Labels(names, classes, in_color=colors is not None, binary=binary)


def read_table(
    given: str | Path | Sequence[str] | Mapping[int | str, int | str], option: str
) -> dict[int, int | str]:
    """Return what each label or colour means: a class, its name, or "ignore".

    Given are a text file, its lines, or a mapping, as of an option, `LABEL_MAP` or `COLORS`.
    """
    if isinstance(given, str | Path):
        given = lines_of(given, f"file of {option}")
    elif isinstance(given, Mapping):
        given = [f"{value}: {'' if of is None else of}" for value, of in given.items()]
    form, patterns = TABLES[option]
    table: dict[int, int | str] = {}
    for line in given:
        found = next((m for p in patterns if (m := re.fullmatch(p, line.strip()))), None)
        if found is None and not table and not any(c.isdigit() for c in line):
            continue  # the header of a table with commas
        numbers = [int(n) for n in re.findall(r"\d+", found["value"])] if found else []
        if found is None or (option == COLORS and max(numbers) > 255):
            raise UserError(f"{option}: {line[:80]!r} is not '{form}', with numbers from 0 on")
        value = numbers[0] if option == LABEL_MAP else int(packed(np.array(numbers)))
        of = found["meaning"].strip()
        of = int(of) if of.removeprefix("-").isdecimal() else of
        if table.setdefault(value, of) != of:
            raise UserError(f"{option}: {line[:80]!r} is a second meaning; '{table[value]}' is one")
    if not table:
        raise UserError(f"{option} is empty; give one '{form}' a line")
    return table


def numbered_class_names(num_classes: int | None) -> tuple[str, ...]:
    """Name classes that have no names."""
    if num_classes is None or not 1 <= num_classes <= IGNORE:
        raise UserError(
            f"layout 'folder' needs num_classes from 1 to {IGNORE}, class_names_file, or {COLORS}, "
            f"got num_classes {num_classes}"
        )
    return BINARY if num_classes == 1 else tuple(f"class {k}" for k in range(num_classes))


def check_class_names(
    names: Sequence[str], num_classes: int | None = None, *, source: str = "the dataset"
) -> tuple[str, ...]:
    """Return names, which must be 1 to 255, different, and of that number where there is one."""
    if not 1 <= len(names) <= IGNORE:
        raise UserError(f"{source} must name 1 to {IGNORE} classes, got {len(names)}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{source} gives several classes one name: {first_of(twice)}")
    if num_classes not in (None, len(names)):
        raise UserError(
            f"num_classes is {num_classes}, but {source} names {len(names)} classes; correct one "
            "of them"
        )
    return tuple(names)


def lines_of(path: str | Path, kind: str) -> list[str]:
    """Read the lines of a text file that are neither blank nor comments."""
    if not Path(path).is_file():
        raise MissingFileError(f"no {kind} '{path}'; correct the path")
    lines = (line.strip() for line in read_text(path).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def packed(colors: np.ndarray) -> np.ndarray:
    """Return the values of colours (..., 3)."""
    return colors.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def count_values(values: np.ndarray) -> dict[int, int]:
    """Return the number of pixels by value."""
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def counts_text(counted: Mapping[int, int], in_color: bool) -> str:
    """List values with their pixels, the most frequent first."""
    by_pixels = sorted(counted.items(), key=lambda item: -item[1])
    return first_of([f"{_shown(v, in_color)}: {count:,} pixels" for v, count in by_pixels])


def first_of(items: Sequence[object]) -> str:
    """Name the first few of many."""
    more = ", ..." if len(items) > LISTED else ""
    return ", ".join(str(item) for item in items[:LISTED]) + more


def _shown(value: int, in_color: bool) -> str:
    """Return a value as people write it."""
    return f"({value >> 16}, {value >> 8 & 255}, {value & 255})" if in_color else str(value)
