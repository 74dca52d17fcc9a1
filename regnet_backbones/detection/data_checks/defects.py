"""What is wrong with a dataset: kinds of defects, the defects, and a report of all of them.

An error stops a training or spoils its result; a note is what detectron2 copes with, and how.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# How many defects of a kind are named where not all are.
LISTED = 3


@dataclass(frozen=True)
class Kind:
    """A kind of defect: a row of `coco_kinds` or `image_kinds`.

    Attributes:
        severity: "error" stops a training or spoils its result, "note" is what detectron2 copes
            with.
        problem: what is wrong, in a sentence whose subject is the place of the defect.
        fix: what happens if it stays, and of an error what to do.
    """

    severity: Literal["error", "note"]
    problem: str
    fix: str


def error(problem: str, fix: str) -> Kind:
    """Return a kind of defect that stops a training or spoils its result."""
    return Kind("error", problem, fix)


def note(problem: str, fix: str) -> Kind:
    """Return a kind of defect that detectron2 copes with; `fix` says how."""
    return Kind("note", problem, fix)


@dataclass(frozen=True)
class Use:
    """What a dataset is for: some defects matter in training only, others in evaluation only.

    Args:
        train, test: whether it is trained on, and whether it is evaluated.
        masks: whether segmentations are used (`MODEL.MASK_ON`).
        polygons: whether masks are trained as polygons (`INPUT.MASK_FORMAT`).
        keypoints: how many an instance has (`MODEL.ROI_KEYPOINT_HEAD`); None uses none.
        evaluated_keys: what the evaluation reads of an annotation beside what training reads.
        unique_ids: whether detectron2 refuses a json with the same annotation id twice.
    """

    train: bool = False
    test: bool = False
    masks: bool = False
    polygons: bool = True
    keypoints: int | None = None
    evaluated_keys: tuple[str, ...] = ()
    unique_ids: bool = True


@dataclass(frozen=True)
class Defect:
    """A defect and its place.

    Args:
        kind: what is wrong and what to do.
        dataset: name of the dataset, or its file.
        image: file name of the image, where it belongs to one.
        annotation: id of the annotation, where it belongs to one.
        detail: what was found.
    """

    kind: Kind
    dataset: str
    image: str = ""
    annotation: int | str | None = None
    detail: str = ""

    @property
    def severity(self) -> Literal["error", "note"]:
        """Whether it stops a training."""
        return self.kind.severity

    @property
    def place(self) -> str:
        """Name the annotation, the image, and what was found."""
        annotation = "" if self.annotation is None else f"annotation {self.annotation}"
        place = " of ".join(part for part in (annotation, self.image) if part)
        return f"{place} ({self.detail})" if place and self.detail else place or self.detail


@dataclass(frozen=True)
class Report:
    """What is wrong with datasets.

    Attributes:
        defects: all that were found, in the order in which they were.
    """

    defects: tuple[Defect, ...]

    @property
    def has_errors(self) -> bool:
        """Whether a training would stop or be spoiled."""
        return any(defect.severity == "error" for defect in self.defects)

    def errors(self) -> "Report":
        """Return the report of those defects that are errors."""
        return Report(tuple(defect for defect in self.defects if defect.severity == "error"))

    def summary(self) -> str:
        """Return a paragraph for each kind, with its count and the first few; "" for no defects."""
        return self._format(LISTED)

    def full(self) -> str:
        """Return a paragraph for each kind that names every defect."""
        return self._format(None)

    def write(self, path: Path) -> None:
        """Write the summary, and below it every defect.

        Args:
            path: a text file; its folder is made where there is none.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        summary = self.summary() or "no defects"
        path.write_text(f"{summary}\n\nAll of them\n\n{self.full()}\n" if self.defects else summary)

    def _format(self, listed: int | None) -> str:
        groups = _grouped(self.defects)
        errors_first = sorted(groups, key=lambda key: key[1].severity != "error")
        return "\n".join(
            _paragraph(dataset, kind, groups[dataset, kind], listed)
            for dataset, kind in errors_first
        )


def _grouped(defects: Iterable[Defect]) -> dict[tuple[str, Kind], list[Defect]]:
    """Group defects by dataset and kind."""
    groups: dict[tuple[str, Kind], list[Defect]] = {}
    for defect in defects:
        groups.setdefault((defect.dataset, defect.kind), []).append(defect)
    return groups


def _paragraph(dataset: str, kind: Kind, defects: list[Defect], listed: int | None) -> str:
    """Format the defects of a kind: what, how many, what to do, and which."""
    places = [f"    {defect.place}" for defect in defects[:listed] if defect.place]
    if listed is not None and len(defects) > listed:
        places.append(f"    ... and {len(defects) - listed:,} more")
    head = f"{kind.severity}: '{dataset}', {len(defects):,} times: {kind.problem}; {kind.fix}"
    return "\n".join([head, *places])
