"""What the values in mask files mean: the one place that turns labels and colours into classes.

A value is a label, or in masks drawn in colours R * 65536 + G * 256 + B.
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from regnet_backbones.files import read_text

logger = logging.getLogger(__name__)

# Label of pixels that count nowhere, in every mask that is handed out.
IGNORE = 255

# How label maps and colour tables name such pixels.
IGNORED = "ignore"

# `ignore_label` of masks in which every pixel has a class.
NOTHING_IGNORED = -1

# Names of the two classes of binary segmentation that has no names of its own.
BINARY = ("background", "object")

# How many names, labels or colours a message lists.
LISTED = 8

LARGEST_LABEL = 2**16 - 1
NUMBERS = r"(?P<red>\d{1,3})[\s,]+(?P<green>\d{1,3})[\s,]+(?P<blue>\d{1,3})"
# A line of a colour table: "road 128 64 128", "128 64 128 road", or CVAT's "road:128,64,128::".
COLOR_LINES = (
    re.compile(rf"(?P<name>\S.*?)[\s,:]+{NUMBERS}\s*(?::.*)?"),
    re.compile(rf"{NUMBERS}[\s,:]+(?P<name>.*\S)"),
)
MAP_LINE = re.compile(r"([^\s:,=]*)[\s:,=]*(.*)")


@dataclass(frozen=True)
class Labels:
    """The classes of a dataset, and which class each value in its masks is.

    Args:
        class_names: names of classes 0, 1, ...
        classes: class, or `IGNORE`, of each value. All other values are errors.
        in_color: whether the values are colours.
        binary: whether 1 and 255 are two ways to write the object, of which masks have one.

    Raises:
        ValueError: the number of classes is not 1 to 255, two have one name, or a value has a class
            that does not exist.
    """

    class_names: tuple[str, ...]
    classes: Mapping[int, int]
    in_color: bool = False
    binary: bool = False

    def __post_init__(self) -> None:
        check_class_names(self.class_names)
        last = self.num_classes - 1
        strays = sorted({c for c in self.classes.values() if c != IGNORE and not 0 <= c <= last})
        if strays:
            raise ValueError(
                f"a label map gives classes 0 to {last} or {IGNORED}, got {first_of(strays)}"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, without the ignored label."""
        return len(self.class_names)

    def classes_of(self, values: np.ndarray) -> np.ndarray:
        """Return the classes of values, int16; -1 for values that are errors.

        Args:
            values: of a mask, whole numbers of any type.
        """
        table = _lookup_table(tuple(self.classes.items()))
        if values.dtype == np.uint8:
            return table[values]
        known = (values >= 0) & (values < len(table))
        return np.where(known, table[np.where(known, values, 0)], np.int16(-1))

    def strays(self, counted: Mapping[int, int]) -> str | None:
        """Return which values of a mask are errors, and which are allowed; None if none is.

        Args:
            counted: pixels by value.
        """
        strays = {value: n for value, n in counted.items() if value not in self.classes}
        if not strays:
            return None
        if self.in_color:
            return (
                f"has colours that are not in the table: {counts_text(strays, in_color=True)}; add "
                f"them to the file of --data.colors, named '{IGNORED}' if they count nowhere"
            )
        void = self.classes.get(IGNORE) == IGNORE
        known = sorted(v for v in self.classes if v != IGNORE or not void)
        in_order = known == list(range(len(known)))
        allowed = f"0 to {known[-1]}" if in_order else first_of(known)
        also = f", and {IGNORE} for pixels that count nowhere" if void else ""
        found = first_of([str(value) for value in sorted(strays)])
        return (
            f"has labels that the dataset does not define: {found}; allowed are {allowed}{also}; "
            "correct the mask, the number of classes, or --data.label_map"
        )


@dataclass(frozen=True)
class LabelCounts:
    """What the masks of a split hold.

    Attributes:
        pixels: number of pixels by value.
        classes: number of pixels by class and `IGNORE`.
        masks: number of masks that have a class, or ignored pixels.
        looked_at: number of masks that were counted.
    """

    pixels: Counter[int]
    classes: Counter[int]
    masks: Counter[int]
    looked_at: int

    @classmethod
    def of(cls, counted: Sequence[Mapping[int, int]], labels: Labels) -> "LabelCounts":
        """Return the sums over masks.

        Args:
            counted: of each mask, pixels by value.
            labels: what the values mean.
        """
        pixels, classes, masks = Counter[int](), Counter[int](), Counter[int]()
        for mask in counted:
            pixels.update(mask)
            masks.update({labels.classes[value] for value in mask if value in labels.classes})
        for value in pixels.keys() & labels.classes.keys():
            classes[labels.classes[value]] += pixels[value]
        return cls(pixels, classes, masks, len(counted))


def count_values(values: np.ndarray) -> dict[int, int]:
    """Return the number of pixels by value."""
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def counts_text(counted: Mapping[int, int], *, in_color: bool) -> str:
    """List values with their pixels, the most frequent first."""
    shown = []
    for value, count in sorted(counted.items(), key=lambda item: -item[1]):
        color = f"({value >> 16}, {value >> 8 & 255}, {value & 255})"
        shown.append(f"{color if in_color else value}: {count:,} pixels")
    return first_of(shown)


def packed(colors: np.ndarray) -> np.ndarray:
    """Return the values of colours (..., 3)."""
    return colors.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def check_counts(labels: Labels, counts: LabelCounts, *, train: bool) -> None:
    """Check that the masks of a split, as they are counted, have something to learn or measure.

    Args:
        labels: of the dataset.
        counts: of the split.
        train: whether it is the training split.

    Raises:
        ValueError: all pixels are ignored; in training masks, all others are of one class; or
            binary masks write their object in both ways.
    """
    kind = "training" if train else "validation"
    held = f"the {counts.looked_at:,} {kind} masks hold "
    held += counts_text(counts.pixels, in_color=labels.in_color)
    two_ways = labels.binary and labels.classes[IGNORE] == 1
    if two_ways and {1, IGNORE} <= counts.pixels.keys():
        raise ValueError(
            f"{held}: object is either 1 or 255. If 255 is ignored: --data.ignore_label 255; if "
            "both are object: --data.label_map '{0: 0, 1: 1, 255: 1}'"
        )
    present = [k for k in range(labels.num_classes) if counts.classes[k]]
    if len(present) < min(2, labels.num_classes):
        only = f"only class '{labels.class_names[present[0]]}'" if present else "no class"
        says = f"{held}: {only} has pixels that are not ignored"
        if counts.pixels.keys() == {0, IGNORE} and not labels.binary and not labels.in_color:
            says += "; masks of 0 and 255 are read with --data.num_classes 1 (background, object)"
        else:
            says += "; correct the masks, or what their labels mean (--data.label_map)"
        if train or not present:
            raise ValueError(says)
        logger.warning("%s. Its mean IoU says little", says)
    absent = [labels.class_names[k] for k in range(labels.num_classes) if k not in present]
    if absent and train:
        logger.warning(
            "%d of %d classes are in none of the %d training masks that were looked at: %s",
            *(len(absent), labels.num_classes, counts.looked_at, first_of(absent)),
        )


def advice(labels: Labels, counts: LabelCounts) -> str:
    """Say what all masks hold, for an error about some, and what that may mean."""
    found = sorted(counts.pixels)
    held = f"in the {counts.looked_at:,} masks that were read: "
    held += counts_text(counts.pixels, in_color=labels.in_color)
    begin_with_1 = [v for v in found if v != IGNORE] == list(range(1, labels.num_classes + 1))
    if begin_with_1 and not labels.in_color:
        shift = ", ".join(f"{k + 1}: {k}" for k in range(labels.num_classes))
        return f"{held}. 0 is missing: labels that begin with 1 need --data.label_map '{{{shift}}}'"
    if len(found) == 2 and not labels.in_color:
        return f"{held}. For two classes: --data.label_map '{{{found[0]}: 0, {found[1]}: 1}}'"
    return held


def folder_labels(
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    *,
    ignore_label: int | None = None,
    label_map: Mapping[int, int | str] | None = None,
    colors: Mapping[int, str] | None = None,
) -> Labels:
    """Return what the labels of a user's own masks mean.

    One class, or two names without a number, is binary segmentation: 0 is the background, 1 or 255
    the object, and nothing is ignored unless `ignore_label` is.

    Args:
        num_classes: their number, 1 for background and object.
        class_names: their names in order; those of `colors`, or of a map to names, if None.
        ignore_label: label of pixels that count nowhere; `NOTHING_IGNORED` for none, None for 255.
        label_map: class, its name, or "ignore", of each label; None for labels that are classes.
        colors: name of the class, or "ignore", of each colour.

    Raises:
        ValueError: the arguments contradict each other, or do not say what the classes are.
    """
    if colors is not None and not (ignore_label is label_map is None):
        raise ValueError(
            "--data.colors says what every colour means, and cannot be combined with "
            f"--data.label_map or --data.ignore_label; name ignored colours '{IGNORED}' in it"
        )
    if ignore_label is not None and not NOTHING_IGNORED <= ignore_label <= LARGEST_LABEL:
        raise ValueError(
            f"--data.ignore_label must be a label, or {NOTHING_IGNORED} if none is ignored, got "
            f"{ignore_label}"
        )
    given: dict[int, int | str] | None = None
    if colors is not None or label_map is not None:
        given = {value: _meaning(m) for value, m in (colors or label_map or {}).items()}
    texts = [m for m in (given or {}).values() if isinstance(m, str) and m != IGNORED]
    if class_names is None and texts:
        class_names = tuple(dict.fromkeys(texts))
    names = _names(num_classes, class_names)
    binary = given is None and len(names) == 2 and num_classes in (None, 1)
    if given is None:
        given = {k: k for k in range(len(names))}
        if binary and ignore_label != IGNORE:
            given[IGNORE] = 1
    if ignore_label is None and colors is None and IGNORE not in given:
        given[IGNORE] = IGNORED
    elif ignore_label in given:
        others = [k for k in given if k not in (ignore_label, IGNORE)]
        example = ", ".join([f"{ignore_label}: {IGNORED}", *(f"{k}: ..." for k in others[:2])])
        raise ValueError(
            f"--data.ignore_label {ignore_label} is the label of a class, too; say what every "
            f"label means with --data.label_map '{{{example}, ...}}', and leave it out"
        )
    elif ignore_label not in (None, NOTHING_IGNORED):
        given[ignore_label] = IGNORED
    unknown = sorted(set(texts) - set(names))
    if unknown:
        raise ValueError(
            f"{'--data.colors' if colors is not None else '--data.label_map'} names classes that "
            f"the class names do not have: {first_of(unknown)}"
        )
    place = {IGNORED: IGNORE} | {name: k for k, name in enumerate(names)}
    classes = {v: place[m] if isinstance(m, str) else m for v, m in given.items()}
    return Labels(names, classes, in_color=colors is not None, binary=binary)


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """Read the names of classes from a text file.

    Args:
        path: a file in UTF-8 with one name a line.

    Returns:
        Names of classes 0, 1, ...

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it has no names, or one twice.
    """
    return named(tuple(lines_of(path, "class file", "one class name a line")), path)


def parse_colors(lines: Sequence[str]) -> dict[int, str]:
    """Return the class name of each colour of a table.

    Args:
        lines: of the table, such as "road 128 64 128", "128 64 128 road", or CVAT's.

    Raises:
        ValueError: a line is not understood, or a colour comes twice.
    """
    table: dict[int, str] = {}
    for line in lines:
        found = next((match for p in COLOR_LINES if (match := p.fullmatch(line.strip()))), None)
        if found is None and not table and not any(c.isdigit() for c in line):
            continue  # the header of a table with commas
        rgb = [int(found[c]) for c in ("red", "green", "blue")] if found else [256]
        if found is None or max(rgb) > 255:
            raise ValueError(
                f"--data.colors: '{line[:80]}' is not 'NAME R G B' or 'R G B NAME' with numbers "
                "from 0 to 255, nor a line of CVAT's labelmap.txt"
            )
        color = rgb[0] << 16 | rgb[1] << 8 | rgb[2]
        if table.setdefault(color, found["name"]) != found["name"]:
            raise ValueError(
                f"--data.colors: '{table[color]}' and '{found['name']}' have one colour, {rgb}"
            )
    if not table:
        raise ValueError("--data.colors names no colour; give one 'NAME R G B' a line")
    return table


def read_label_map(
    given: str | Path | Mapping[int | str, int | str],
) -> dict[int, int | str]:
    """Return the class, its name, or "ignore", of labels, from a file or as they are.

    Args:
        given: a mapping, or a text file with `LABEL CLASS` or `LABEL: CLASS` a line.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line has no class, or a label comes twice or is not a label.
    """
    if isinstance(given, (str, Path)):
        lines = lines_of(given, "label map", "one 'LABEL CLASS' a line")
        pairs = [MAP_LINE.fullmatch(line).groups() for line in lines]
    else:
        pairs = list(given.items())
    found: dict[int, int | str] = {}
    for label, of in pairs:
        number = int(label) if str(label).isdecimal() else -1
        if not 0 <= number <= LARGEST_LABEL or number in found or of in ("", None):
            raise ValueError(
                f"--data.label_map gives labels, 0 to {LARGEST_LABEL}, a class each, got "
                f"{label!r} with {of!r}{' a second time' if number in found else ''}"
            )
        found[number] = _meaning(of)
    if not found:
        raise ValueError("--data.label_map is empty; give each label its class")
    return found


def numbered_class_names(num_classes: int) -> tuple[str, ...]:
    """Name classes that have no names."""
    return tuple(f"class {k}" for k in range(num_classes))


def check_class_names(names: Sequence[str]) -> None:
    """Raise ValueError unless there are 1 to 255 classes, all named differently."""
    if not 1 <= len(names) <= IGNORE:
        raise ValueError(
            f"the number of classes must be 1 to {IGNORE}, got {len(names)}; "
            f"label {IGNORE} is kept for ignored pixels"
        )
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"class names must differ, these come twice: {first_of(twice)}")


def check_number(num_classes: int | None, names: Sequence[str]) -> None:
    """Raise ValueError where a number of classes is given that is not that of their names."""
    if num_classes not in (None, len(names)):
        raise ValueError(
            f"num_classes is {num_classes}, but the dataset names {len(names)} classes; leave "
            "num_classes out, or correct the names"
        )


def named(names: tuple[str, ...], path: str | Path) -> tuple[str, ...]:
    """Return class names, or say which file has wrong ones."""
    try:
        check_class_names(names)
    except ValueError as error:
        raise ValueError(f"class file '{path}': {error}") from error
    return names


def lines_of(path: str | Path, kind: str, form: str) -> list[str]:
    """Read the lines of a text file that are neither blank nor comments.

    Args:
        path: the file.
        kind, form: what it is and holds, for messages.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no {kind} '{path}'; it has {form}")
    lines = (line.strip() for line in read_text(path).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def first_of(items: Sequence[object]) -> str:
    """Name the first few of many."""
    more = ", ..." if len(items) > LISTED else ""
    return ", ".join(str(item) for item in items[:LISTED]) + more


def _names(num_classes: int | None, names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the classes; of one class the object's, after the background."""
    if names is None and num_classes is None:
        raise ValueError(
            "layout 'folder' needs num_classes, or class_names_file with one name a line "
            "(or --data.colors for masks in colours)"
        )
    if num_classes is not None and not 1 <= num_classes <= IGNORE:
        raise ValueError(f"num_classes must be 1 to {IGNORE}, got {num_classes}")
    if names is None:
        names = BINARY if num_classes == 1 else numbered_class_names(num_classes)
    elif len(names) == 1:
        names = (BINARY[0], *names)
    check_class_names(names)
    if (num_classes, len(names)) != (1, 2):
        check_number(num_classes, names)
    return tuple(names)


def _meaning(given: int | str) -> int | str:
    """Return a class number, or a name."""
    return int(given) if isinstance(given, str) and given.isdecimal() else given


@lru_cache(maxsize=4)
def _lookup_table(classes: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Return the class of each value as int16, -1 for values that are errors."""
    table = np.full(max(IGNORE, *(value for value, _ in classes)) + 1, -1, np.int16)
    for value, of in classes:
        table[value] = of
    return table
