"""What the values in mask files mean: labels, or colours as R * 65536 + G * 256 + B."""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from regnet_backbones.errors import UserError
from regnet_backbones.files import read_text

logger = logging.getLogger(__name__)

# Label of pixels that count nowhere, in every mask that is handed out, and its name in tables.
IGNORE, IGNORED = 255, "ignore"

LISTED = 8  # names, labels or colours in a message
LARGEST = 2**24 - 1

# By option that defines values: the form of a line, and patterns of its value and meaning.
LABEL_MAP, COLORS = "--data.label_map", "--data.colors"
RGB = r"(?P<value>\d{1,3}[\s,]+\d{1,3}[\s,]+\d{1,3})"
TABLES = {
    LABEL_MAP: ("LABEL CLASS", [r"(?P<value>\d{1,8})[\s:,=]+(?P<meaning>\S.*)"]),
    COLORS: (
        "NAME R G B",
        # "road 128 64 128" or CVAT's "road:128,64,128::", and "128 64 128 road".
        [rf"(?P<meaning>\S.*?)[\s,:]+{RGB}\s*(?::.*)?", rf"{RGB}[\s,:]+(?P<meaning>\S.*)"],
    ),
}
WAY_OUT = (
    "correct the masks, or set what their values mean: --data.num_classes 1 (the object is 1 or "
    f"255), --data.ignore_label 255, {LABEL_MAP} '{{LABEL: CLASS, ...}}' or {COLORS} FILE"
)


@dataclass(frozen=True)
class Labels:
    """The classes of a dataset, and which class or `IGNORE` each value in its masks is.

    Other values are errors. In `binary` ones 1 and 255 are the object, and masks have one of them.
    """

    class_names: tuple[str, ...]
    classes: Mapping[int, int]
    in_color: bool = False
    binary: bool = False

    def __post_init__(self) -> None:
        allowed = {*range(len(self.class_names)), IGNORE}
        wrong = {v: k for v, k in self.classes.items() if k not in allowed or not 0 <= v <= LARGEST}
        if wrong:
            names = f"classes (0 to {len(self.class_names) - 1}, names or {IGNORED})"
            raise UserError(f"{LABEL_MAP} must map labels from 0 on to {names}, got {wrong}")

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.full(max(IGNORE, *self.classes) + 2, -1, np.int16)
        table[list(self.classes)] = list(self.classes.values())
        return table

    def classes_of(self, values: np.ndarray) -> np.ndarray:
        """Return the classes of integer values, int16; -1 for values that are errors."""
        if values.dtype != np.uint8:
            values = np.clip(values.astype(np.int64), -1, len(self._table) - 1)
        return self._table[values]  # whose last item is for all values outside of it

    def strays(self, counted: Mapping[int, int]) -> str:
        """Describe which of the values of a mask, counted in pixels, are errors."""
        strays = {value: n for value, n in counted.items() if value not in self.classes}
        what, found = "colours" if self.in_color else "labels", values_text(strays, self.in_color)
        allowed = first_of([value_text(value, self.in_color) for value in sorted(self.classes)])
        return f"has undefined {what}: {found}; allowed are {allowed}; {WAY_OUT}"


class LabelCounts:
    """What the masks of a split hold: `pixels` by value, `classes` and `masks` by class."""

    def __init__(self, counted: Sequence[Mapping[int, int]], labels: Labels) -> None:
        self.labels, self.looked_at = labels, len(counted)
        self.pixels, self.classes, self.masks = Counter[int](), Counter[int](), Counter[int]()
        for mask in counted:
            self.pixels.update(mask)
            self.masks.update({labels.classes[value] for value in mask})
        for value, count in self.pixels.items():
            self.classes[labels.classes[value]] += count

    def check(self, *, train: bool) -> None:
        """Raise UserError if the masks of a split have nothing to learn, or nothing to measure."""
        names = self.labels.class_names
        absent = [name for k, name in enumerate(names) if not self.classes[k]]
        problem = ""
        if self.labels.binary and {1, IGNORE} <= self.pixels.keys():
            problem = "the object is both 1 and 255"
        elif len(names) - len(absent) < (2 if train else 1):
            problem = f"only {len(names) - len(absent)} of {len(names)} classes have pixels"
        if problem:
            masks = f"{self.looked_at:,} {'training' if train else 'validation'} masks"
            held = values_text(self.pixels, self.labels.in_color)
            raise UserError(f"{problem}: the {masks} hold {held}; {WAY_OUT}")
        if absent and train:
            text = "%d of %d classes are in none of the %d training masks that were read: %s"
            logger.warning(text, len(absent), len(names), self.looked_at, first_of(absent))


def folder_labels(
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    *,
    ignore_label: int | None = None,
    label_map: Mapping[int, int | str] | None = None,
    colors: Mapping[int, int | str] | None = None,
) -> Labels:
    """Return what the values in custom masks mean; for the arguments see `SegmentationData`.

    One class, or two names without a number, is binary segmentation: 1 and 255 are the object.
    """
    if colors is not None and not (ignore_label is label_map is None):
        raise UserError(f"{COLORS} cannot be combined with {LABEL_MAP} or --data.ignore_label")
    table = label_map if colors is None else colors
    words = [of for of in (table or {}).values() if isinstance(of, str) and of != IGNORED]
    names = tuple(class_names or dict.fromkeys(words))
    if not names:
        if num_classes is None or not 1 <= num_classes <= IGNORE:
            needed = f"num_classes from 1 to {IGNORE}, class_names_file or colors"
            raise UserError(f"layout 'folder' needs {needed}, got num_classes {num_classes}")
        names = ("object",) if num_classes == 1 else tuple(f"class {k}" for k in range(num_classes))
    if len(names) == 1:
        names = ("background", *names)
    two = len(names) == 2 and num_classes in (None, 1)
    check_class_names(names, None if two else num_classes)
    binary = two and table is None and ignore_label != IGNORE

    values = dict(enumerate(range(len(names)))) if table is None else dict(table)
    if binary:
        values[IGNORE] = 1
    if ignore_label is None and colors is None:
        values.setdefault(IGNORE, IGNORED)
    elif ignore_label not in (None, -1):
        values[ignore_label] = IGNORED
    places = {name: k for k, name in enumerate(names)} | {IGNORED: IGNORE}
    classes = {value: places.get(of, of) for value, of in values.items()}
    return Labels(names, classes, in_color=colors is not None, binary=binary)


def read_table(lines: Sequence[str], option: str) -> dict[int, int | str]:
    """Return what each label or colour means, from the lines of a table."""
    form, patterns = TABLES[option]
    table: dict[int, int | str] = {}
    for line in lines:
        found = next((m for p in patterns if (m := re.fullmatch(p, line.strip()))), None)
        numbers = [int(n) for n in re.findall(r"\d+", found["value"])] if found else []
        value = sum(n << 8 * k for k, n in enumerate(reversed(numbers)))
        if found is None or value in table or (option == COLORS and max(numbers) > 255):
            raise UserError(f"{option} needs '{form}', each value once, got {line[:80]!r}")
        of = found["meaning"].strip()
        table[value] = int(of) if of.removeprefix("-").isdecimal() else of
    return table


def check_class_names(names: Sequence[str], num_classes: int | None = None) -> tuple[str, ...]:
    """Return names, which must be 1 to 255, different, and as many as `num_classes` if given."""
    if not 1 <= len(names) <= IGNORE:
        raise UserError(f"the number of classes must be 1 to {IGNORE}, got {len(names)}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"class names must differ, given twice: {first_of(twice)}")
    if num_classes not in (None, len(names)):
        raise UserError(f"num_classes must be {len(names)}, the class names, got {num_classes}")
    return tuple(names)


def lines_of(path: Path) -> list[str]:
    """Read the lines of a text file that are neither blank nor comments."""
    lines = (line.strip() for line in read_text(path).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def packed(colors: np.ndarray) -> np.ndarray:
    """Return the values of colours (..., 3)."""
    return colors.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def count_values(values: np.ndarray) -> dict[int, int]:
    """Return the number of pixels by value."""
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def value_text(value: int, in_color: bool) -> str:
    """Return a value as people write it."""
    return str((value >> 16, value >> 8 & 255, value & 255) if in_color else value)


def values_text(counted: Mapping[int, int], in_color: bool) -> str:
    """List values with their pixels, the most frequent first."""
    ranked = sorted(counted.items(), key=lambda item: -item[1])
    return first_of([f"{value_text(v, in_color)}: {count:,} pixels" for v, count in ranked])


def first_of(items: Sequence[str]) -> str:
    """Name the first few of many."""
    return ", ".join([*items[:LISTED], "..."] if len(items) > LISTED else items)
