"""Defects of a dataset, their kinds and places, and a report of them."""

from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import Repr
from typing import Literal

Severity = Literal["error", "repair", "note"]

# How many defects of a kind a summary names.
LISTED = 3
# What a paragraph of a summary begins with, and in which order.
TITLES: dict[Severity, str] = {"error": "error", "repair": "corrected", "note": "note"}

# Values of a user in messages: enough to find them, whatever their length and depth.
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
            corrected in a copy of your own json, and in other datasets an error or a note.
        text: what is wrong, and what to do or what happens if it stays.
        readers: of a repair, what fails on the value as it is (flags of `Use`, such as "test"): ()
            is every run, None is no run.
    """

    severity: Severity
    text: str
    readers: tuple[str, ...] | None = ()


@dataclass(frozen=True)
class Use:
    """What a dataset is for: some defects matter in training only, others in evaluation only."""

    train: bool = False
    test: bool = False
    masks: bool = False  # segmentations are used
    polygons: bool = True  # masks are trained as polygons
    keypoints: int | None = None  # how many an instance has; None uses none
    min_keypoints: int = 0  # visible ones that an image needs to be trained on
    crowds: bool = True  # the evaluation reads `iscrowd`, as COCO's does and LVIS' does not
    unique_ids: bool = True  # detectron2 refuses a json with the same annotation id twice


@dataclass(frozen=True)
class Defect:
    """A defect and its place."""

    kind: Kind
    dataset: str  # its name, or its file
    image: str = ""
    annotation: int | str | None = None
    detail: str = ""  # what was found

    @property
    def place(self) -> str:
        """The annotation, the image, and what was found."""
        annotation = "" if self.annotation is None else f"annotation {shown(self.annotation)}"
        place = " of ".join(part for part in (annotation, self.image) if part)
        return f"{place} ({self.detail})" if place and self.detail else place or self.detail

    def in_file(self, use: Use) -> "Defect | None":
        """Return what a repair is in a file that is used as it is: None if nothing reads it."""
        readers = self.kind.readers
        if self.kind.severity != "repair":
            return self
        if readers is not None and not all(getattr(use, flag) for flag in readers):
            return None
        return replace(self, kind=Kind("note" if readers is None else "error", self.kind.text))


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
        """Write the summary and every defect to a text file, in a folder that is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = self.summary() or "no defects"
        if self.defects:
            text += f"\n\nAll of them\n\n{self.summary(None)}\n"
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
