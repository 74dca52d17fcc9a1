"""Defects of a dataset: their kinds, their places, and a report of them."""

from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import Repr
from typing import Literal

# How many defects of a kind a summary names.
LISTED = 3

# Values of a user in messages: enough to find them, whatever their length and depth.
_REPR = Repr()
_REPR.maxstring = _REPR.maxother = 80
_REPR.maxlist = _REPR.maxdict = 6
_REPR.maxlevel = 3
shown = _REPR.repr

Severity = Literal["error", "note", "repair"]


@dataclass(frozen=True)
class Use:
    """What a dataset is for: some defects matter in training only, others in evaluation only.

    Args:
        train, test: whether it is trained on, and whether it is evaluated.
        masks: whether segmentations are used (`MODEL.MASK_ON`).
        polygons: whether masks are trained as polygons (`INPUT.MASK_FORMAT`).
        keypoints: how many an instance has (`MODEL.ROI_KEYPOINT_HEAD`); None uses none.
        min_keypoints: how many visible ones an image needs to be trained on.
        crowds: whether the evaluation reads `iscrowd`, as COCO's does and LVIS' does not.
        unique_ids: whether detectron2 refuses a json with the same annotation id twice.
    """

    train: bool = False
    test: bool = False
    masks: bool = False
    polygons: bool = True
    keypoints: int | None = None
    min_keypoints: int = 0
    crowds: bool = True
    unique_ids: bool = True


@dataclass(frozen=True)
class Kind:
    """A kind of defect.

    Attributes:
        severity: "error" stops a run or spoils its result; "note" is worth knowing; "repair" is
            corrected when a json of the user is read, see `Defect.in_file` for other datasets.
        problem: what is wrong.
        fix: what happens if it stays, and of an error what to do.
        done: of a repair, what is used instead.
        readers: of a repair, what a run does (such as "masks") if it fails on the value as it is:
            () is every run, None is no run.
    """

    severity: Severity
    problem: str
    fix: str
    done: str = ""
    readers: tuple[str, ...] | None = ()


def error(problem: str, fix: str) -> Kind:
    """Return a kind of severity "error"."""
    return Kind("error", problem, fix)


def note(problem: str, fix: str) -> Kind:
    """Return a kind of severity "note"."""
    return Kind("note", problem, fix)


def repair(problem: str, fix: str, done: str, readers: tuple[str, ...] | None = ()) -> Kind:
    """Return a kind of severity "repair"."""
    return Kind("repair", problem, fix, done, readers)


@dataclass(frozen=True)
class Defect:
    """A defect and its place.

    Args:
        kind: what is wrong and what to do.
        dataset: name of the dataset, or its file.
        image: file name of the image, if it belongs to one.
        annotation: id of the annotation, if it belongs to one.
        detail: what was found.
    """

    kind: Kind
    dataset: str
    image: str = ""
    annotation: int | str | None = None
    detail: str = ""

    @property
    def severity(self) -> Severity:
        """Whether it stops a training."""
        return self.kind.severity

    @property
    def place(self) -> str:
        """Name the annotation, the image, and what was found."""
        annotation = "" if self.annotation is None else f"annotation {shown(self.annotation)}"
        place = " of ".join(part for part in (annotation, self.image) if part)
        return f"{place} ({self.detail})" if place and self.detail else place or self.detail

    def repaired(self) -> "Defect":
        """Return the note that a repair was made."""
        if self.severity != "repair":
            return self
        return replace(self, kind=note(self.kind.problem, self.kind.done))

    def in_file(self, use: Use) -> "Defect | None":
        """Return what a repair is in a file that is used as it is: an error for those who read it.

        Args:
            use: what the dataset is for.

        Returns:
            A note of what fails no run, None of what fails others only.
        """
        readers = self.kind.readers
        if self.severity != "repair":
            return self
        if readers is not None and not all(getattr(use, flag) for flag in readers):
            return None
        make = note if readers is None else error
        return replace(self, kind=make(self.kind.problem, self.kind.fix))


@dataclass(frozen=True)
class Report:
    """What is wrong with datasets.

    Attributes:
        defects: in the order in which they were found.
    """

    defects: tuple[Defect, ...]

    @property
    def has_errors(self) -> bool:
        """Whether a training would stop or be spoiled."""
        return any(defect.severity == "error" for defect in self.defects)

    def of(self, severity: Severity) -> "Report":
        """Return the report of the defects of one severity.

        Args:
            severity: of the defects.
        """
        return Report(tuple(defect for defect in self.defects if defect.severity == severity))

    def summary(self, listed: int | None = LISTED) -> str:
        """Return a paragraph for each kind, errors first; "" for no defects.

        Args:
            listed: how many defects of a kind are named; None for all.
        """
        groups: dict[tuple[str, Kind], list[Defect]] = {}
        for defect in self.defects:
            groups.setdefault((defect.dataset, defect.kind), []).append(defect)
        lines = []
        for dataset, kind in sorted(groups, key=lambda key: key[1].severity != "error"):
            defects = groups[dataset, kind]
            times = f"{len(defects):,} time{'s' * (len(defects) > 1)}"
            lines.append(f"{kind.severity}: '{dataset}', {times}: {kind.problem}; {kind.fix}")
            lines += [f"    {defect.place}" for defect in defects[:listed] if defect.place]
            if listed is not None and len(defects) > listed:
                lines.append(f"    ... and {len(defects) - listed:,} more")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write the summary, and below it every defect.

        Args:
            path: a text file; a missing folder is made.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        text = self.summary() or "no defects"
        if self.defects:
            text += f"\n\nAll of them\n\n{self.summary(None)}\n"
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
