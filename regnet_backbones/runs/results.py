"""What an evaluation of either kind of model writes, and how a report reads it.

results.json             kind, checkpoint and its hash, results, settings, versions, confusion
images.json              the score of each image, speed, size of the model
pictures/best_1.jpg ...  truth next to prediction of the best and the worst images

`results` of a detector are in percent by dataset, task and metric, `min_score` from 0 to 1; those
of a segmenter are from 0 to 1. `confusion` has the matrices (`runs.confusion.Confusion`) of a
detector by dataset and task, that of a segmenter as `segmentation`. Older files have neither these
nor the hash.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median

from PIL import Image

from regnet_backbones.files import read_json, sha256, whole_file, write_whole
from regnet_backbones.runs.colors import Color
from regnet_backbones.runs.confusion import Confusion
from regnet_backbones.runs.trained import Kind, Trained

RESULTS_NAME = "results.json"
IMAGES_NAME = "images.json"
PICTURES_FOLDER = "pictures"
BEST, WORST = "best_{}.jpg", "worst_{}.jpg"  # counted from 1, the most extreme first

JPEG_OPTIONS = {"quality": 90, "subsampling": "4:4:4"}
SHOWN = 6  # of the best, and of the worst images
WARMUP = 2  # images that are slower: memory is allocated, and kernels are chosen

# Packages whose versions decide what a number means.
VERSIONED: dict[Kind, tuple[str, ...]] = {
    "detector": ("regnet_backbones", "torch", "detectron2"),
    "segmenter": ("regnet_backbones", "torch", "lightning", "segmentation_models_pytorch"),
}

# Results of a segmenter by their keys in results.json, of all classes together and of each.
SEGMENTATION = {
    **{"miou": "mIoU", "accuracy": "pixel accuracy"},
    **{"mdice": "mean Dice", "boundary_miou": "boundary mIoU"},
}
SEGMENTATION_BY_CLASS = {
    **{"iou": "IoU", "dice": "Dice", "precision": "precision", "recall": "recall"},
    "boundary_iou": "boundary IoU",
}

# Settings that decide results apart from data and config, and values without effect.
HOW = (
    *("short_side", "window", "window_stride", "flip", "scales", "precision", "optimization"),
    *("engine", "exported"),
)
USUAL = (None, False, [1.0], "32-true", "torch")

# How numbers of single classes begin.
PER_CLASS = (
    *("AP-", "IoU-", "ACC-", "F1-", "Dice-", "precision-", "recall-", "min_score-"),
    "boundary IoU-",
)

# By task and name of the metric, in percent; `min_score` from 0 to 1.
Results = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Table:
    """Numbers by row and column; None where one is not defined."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


@dataclass(frozen=True)
class ImageScore:
    """How good the prediction of an image is, and of how many objects, if there are objects."""

    file: str
    score: float | None  # from 0 to 1, higher is better; None if there is nothing to score
    found: int | None = None
    missed: int | None = None
    made_up: int | None = None

    @property
    def note(self) -> str:
        """What the score is made of."""
        if self.found is None:
            return ""
        return f"{self.found} found, {self.missed} missed, {self.made_up} made up"


@dataclass(frozen=True)
class ImageResults:
    """The content of `images.json`."""

    score: str  # what it is
    panels: tuple[str, ...]  # what a picture shows, from left to right
    available: int  # images of the dataset
    images: tuple[ImageScore, ...]  # those that were evaluated, in the order of the dataset
    best: tuple[int, ...] = ()  # places in `images` of those with a picture, most extreme first
    worst: tuple[int, ...] = ()
    milliseconds: float | None = None  # median of an image, None if nothing was timed
    machine: str = ""  # on which that was
    parameters: int = 0  # of the model
    legend: Mapping[str, Color] = field(default_factory=dict)  # where pictures name no classes

    @property
    def complete(self) -> bool:
        """Whether all images of the dataset were evaluated."""
        return len(self.images) >= self.available


@dataclass(frozen=True)
class WrittenEvaluation:
    """What `write_results` and `write_images` have written."""

    folder: Path
    written: float  # when, in seconds since 1970
    checkpoint: str  # name of the file
    results: Mapping[str, object]
    settings: Mapping[str, object]
    versions: Mapping[str, str]
    images: ImageResults
    confusion: Mapping[str, object] = field(default_factory=dict)
    sha256: str | None = None  # of the checkpoint

    @property
    def how(self) -> str:
        """What else than checkpoint, data and config decided the results, "" if nothing."""
        given = {key: self.settings.get(key) for key in HOW}
        return ", ".join(f"{key} {value}" for key, value in given.items() if value not in USUAL)

    def is_of(self, checkpoint: Path) -> bool:
        """Return whether it is of a checkpoint, and not of another one of the same name."""
        if self.checkpoint != checkpoint.name:
            return False
        if self.sha256 is None:
            return self.written >= checkpoint.stat().st_mtime
        return self.sha256 == sha256(checkpoint)


class ScoredImages:
    """Scores of images as they are predicted, and what draws the best and the worst so far."""

    def __init__(self, *, pictures: bool = True):
        self.scores: list[ImageScore] = []
        self._drawers: dict[ImageScore, Callable[[], Image.Image]] = {}
        self._pictures = pictures

    def add(self, score: ImageScore, draw: Callable[[], Image.Image]) -> None:
        """Add an image; `draw` makes its picture, if it is to be shown in the end."""
        self.scores.append(score)
        if not self._pictures or score.score is None:
            return
        self._drawers[score] = draw
        kept = set().union(*best_and_worst(list(self._drawers)))
        self._drawers = {each: drawer for each, drawer in self._drawers.items() if each in kept}

    def draw(
        self, folder: str | Path, everyone: Sequence[ImageScore]
    ) -> dict[str, tuple[int, ...]]:
        """Draw this process's part of the best and worst; return these fields of `ImageResults`."""
        chosen = best_and_worst(everyone) if self._pictures else ([], [])
        for name, scores in zip((BEST, WORST), chosen, strict=True):
            for number, score in enumerate(scores, 1):
                if score in self._drawers:
                    path = Path(folder) / PICTURES_FOLDER / name.format(number)
                    picture = self._drawers[score]().convert("RGB")
                    write_whole(path, partial(picture.save, format="JPEG", **JPEG_OPTIONS))
        best, worst = (tuple(everyone.index(score) for score in scores) for scores in chosen)
        return {"best": best, "worst": worst}


def best_and_worst(
    scores: Sequence[ImageScore], *, count: int = SHOWN
) -> tuple[list[ImageScore], list[ImageScore]]:
    """Choose up to `count` of each, the most extreme first, of many objects first; no overlap."""

    def objects(score: ImageScore) -> int:
        return (score.found or 0) + (score.missed or 0)

    scored = [score for score in scores if score.score is not None]
    ranked = sorted(scored, key=lambda score: (-score.score, -objects(score)))
    worst = min(count, len(ranked) // 2)
    best = min(count, len(ranked) - worst)
    lowest = sorted(ranked[best:], key=lambda score: (score.score, -objects(score)))
    return ranked[:best], lowest[:worst]


def median_milliseconds(seconds: Sequence[float]) -> float | None:
    """Return the median time of an image, the first ones left out if there are more."""
    counted = seconds[WARMUP:] or seconds
    return 1000 * median(counted) if counted else None


def score_text(score: float) -> str:
    """Format a threshold of scores, rounded down: what has the score is not below the text."""
    return f"{math.floor(1000 * score) / 1000:.3f}"


def tables_of(results: Results) -> tuple[tuple[Table, ...], Table | None]:
    """Return results as tables, one for tasks with the same metrics, and that of single classes."""
    by_columns: dict[tuple[str, ...], list] = {}
    per_class: dict[str, dict[str, float | None]] = {}
    for task, metrics in results.items():
        whole = {name: v for name, v in metrics.items() if not name.startswith(PER_CLASS)}
        by_columns.setdefault(tuple(whole), []).append((task, tuple(whole.values())))
        for name, value in metrics.items():
            if name not in whole:
                kind, _, of_class = name.partition("-")
                per_class.setdefault(f"{task} {kind}", {})[of_class] = value
    summary = tuple(Table(columns, tuple(rows)) for columns, rows in by_columns.items())
    if not per_class:
        return summary, None
    names = dict.fromkeys(name for values in per_class.values() for name in values)
    rows = tuple((name, tuple(v.get(name) for v in per_class.values())) for name in names)
    return summary, Table(tuple(per_class), rows)


def write_results(
    folder: str | Path,
    trained: Trained,
    *,
    results: Mapping[str, object],
    settings: Mapping[str, object],
    confusion: Mapping[str, object] | None = None,
) -> None:
    """Write `results.json`: `settings` decide the results apart from checkpoint and data."""
    content = {
        "kind": trained.kind,
        "checkpoint": str(trained.checkpoint),
        "checkpoint_sha256": sha256(trained.checkpoint),
        "results": results,
        "settings": settings,
        "versions": {name: import_module(name).__version__ for name in VERSIONED[trained.kind]},
        "confusion": confusion or {},
    }
    write_json(Path(folder) / RESULTS_NAME, content)


def write_images(folder: str | Path, images: ImageResults) -> None:
    """Write `images.json`; `results.json` comes after it: then both are there."""
    write_json(Path(folder) / IMAGES_NAME, asdict(images))


def read_evaluation(folder: str | Path) -> WrittenEvaluation | None:
    """Return what an evaluation has written to its output folder, None if there is none."""
    path, images = Path(folder) / RESULTS_NAME, Path(folder) / IMAGES_NAME
    if not (path.is_file() and images.is_file()):
        return None
    content, found = read_json(path), read_json(images)
    found |= {key: tuple(found[key]) for key in ("panels", "best", "worst")}
    found["images"] = tuple(ImageScore(**entry) for entry in found["images"])
    found["legend"] = {name: tuple(color) for name, color in found["legend"].items()}
    return WrittenEvaluation(
        folder=Path(folder),
        written=path.stat().st_mtime,
        checkpoint=Path(content["checkpoint"]).name,
        **{key: content[key] for key in ("results", "settings", "versions")},
        confusion=content.get("confusion", {}),
        sha256=content.get("checkpoint_sha256"),
        images=ImageResults(**found),
    )


def write_json(path: str | Path, content: Mapping[str, object] | Sequence[object]) -> None:
    """Write JSON whole or not at all; numbers that JSON has not (NaN, infinite) become null."""
    text = json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"
    write_whole(Path(path), lambda file: file.write(text.encode()))


@contextmanager
def json_list(path: str | Path) -> Iterator[Callable[[object], None]]:
    """Write a JSON list as `write_json` does, entry by entry: hand out what appends one."""
    with whole_file(Path(path)) as file:
        before = b"["

        def append(entry: object) -> None:
            nonlocal before
            file.write(before + json.dumps(_plain(entry), indent=2, allow_nan=False).encode())
            before = b",\n"

        yield append
        file.write(b"[]\n" if before == b"[" else b"]\n")


def _plain(value: object) -> object:
    if isinstance(value, Confusion):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
