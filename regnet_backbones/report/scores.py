"""How good the prediction of one image is, and which images are the best and the worst."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# Of each, on a page.
SHOWN = 6

# Objects that overlap so much are the same.
MIN_IOU = 0.5


@dataclass(frozen=True)
class Score:
    """The score of an image, from 0 to 1, None where there is nothing to score.

    Attributes:
        index: of the image among the validation images.
        value: higher is better.
        note: what the score is made of.
        size: decides between equal scores: of a larger one, the image says more.
    """

    index: int
    value: float | None
    note: str = ""
    size: int = 0


@dataclass(frozen=True)
class Matches:
    """How many objects of an image were found, made up, and missed."""

    found: int = 0
    made_up: int = 0
    missed: int = 0

    @property
    def f1(self) -> float | None:
        """The harmonic mean of precision and recall; None where nothing is there nor predicted."""
        total = 2 * self.found + self.made_up + self.missed
        return 2 * self.found / total if total else None

    def score(self, index: int) -> Score:
        """Return the score of an image."""
        note = f"{self.found} found, {self.missed} missed, {self.made_up} made up"
        return Score(index, self.f1, note, self.found + self.missed)


def match_instances(
    truth: COCO,
    results: Sequence[Mapping[str, object]],
    image_ids: Sequence[int],
    *,
    kind: Literal["bbox", "segm"],
) -> dict[int, Matches]:
    """Match predictions with the truth as COCO's evaluation does, at an IoU of 0.5.

    Crowds count neither as missed nor, when they are met, as made up. Each image is counted by
    itself, whatever its classes.

    Args:
        truth: the annotations.
        results: predictions as COCO results, only those that count.
        image_ids: the images that were predicted.
        kind: whether boxes or masks must overlap.

    Returns:
        Matches by image id.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress
        found = truth.loadRes([dict(entry) for entry in results]) if results else COCO()
        evaluation = COCOeval(truth, found, kind)
        parameters = evaluation.params
        parameters.imgIds = list(image_ids)
        parameters.iouThrs = np.array([MIN_IOU])
        parameters.areaRng, parameters.areaRngLbl = [parameters.areaRng[0]], ["all"]
        parameters.maxDets = [max(1, len(results))]
        evaluation.evaluate()
    counts = {image_id: Matches() for image_id in image_ids}
    for of_class in filter(None, evaluation.evalImgs):
        matched = of_class["dtMatches"][0] > 0
        counted = ~of_class["dtIgnore"][0].astype(bool)
        objects = int((~np.asarray(of_class["gtIgnore"], dtype=bool)).sum())
        hits = int((matched & counted).sum())
        before = counts[of_class["image_id"]]
        counts[of_class["image_id"]] = Matches(
            before.found + hits,
            before.made_up + int((~matched & counted).sum()),
            before.missed + objects - hits,
        )
    return counts


def best_and_worst(
    scores: Sequence[Score], *, count: int = SHOWN
) -> tuple[list[Score], list[Score]]:
    """Choose images to show, the best and the worst one first; none is in both.

    Args:
        scores: of all images; those without a value are left out.
        count: how many of each, as far as there are so many.
    """
    ranked = sorted(
        (score for score in scores if score.value is not None),
        key=lambda score: (-score.value, -score.size, score.index),
    )
    worst = min(count, len(ranked) // 2)
    best = min(count, len(ranked) - worst)
    lowest = sorted(ranked[best:], key=lambda score: (score.value, -score.size, score.index))
    return ranked[:best], lowest[:worst]
