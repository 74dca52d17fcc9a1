"""Predictions matched with objects: precision, recall and F1 of a detector, and what it confuses.

All numbers are at an IoU of 0.5 of boxes or masks. As in COCO's evaluation, `max_predictions` of an
image and class count; predictions, the surest first, take the free object of their class that they
overlap most; and a prediction without one that overlaps a crowd of its class counts nowhere.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from regnet_backbones.runs.confusion import Confusion

# Boxes or masks that overlap so much are of the same object.
MIN_IOU = 0.5
MAX_PREDICTIONS = 100  # of an image and class, in COCO

# Numbers of `count_objects` of all classes together.
BEST_F1 = ("F1", "precision", "recall", "min_score")

NOTHING = -1  # what a prediction takes that matches no object

Predictions = Sequence[Mapping[str, object]]  # in COCO's results format


def max_predictions(truth: COCO) -> int:
    """Return how many predictions of an image and class count: 100, as in COCO.

    If an image has more objects of a class, of which a detector could not find all, twice as many.
    """
    objects = Counter((each["image_id"], each["category_id"]) for each in truth.anns.values())
    most = max(objects.values(), default=0)
    return MAX_PREDICTIONS if most <= MAX_PREDICTIONS else 2 * most


def match(overlaps: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Return the object (P,) that each prediction takes, or `NOTHING`.

    `overlaps` (P, O) are the IoU of predictions, the surest first, 0 where two must not match; a
    crowd (O,) can be taken many times.
    """
    taken, free = np.full(len(overlaps), NOTHING), ~crowd
    for place in np.flatnonzero(overlaps.max(axis=1, initial=0) >= MIN_IOU):
        for allowed in (free, crowd):
            candidates = np.where(allowed, overlaps[place], 0)
            best = candidates.argmax()
            if candidates[best] >= MIN_IOU:
                taken[place] = best
                free[best] = False
                break
    return taken


def count_objects(
    truth: COCO,
    found: Predictions,
    task: str,
    class_names: Sequence[str],
    *,
    image_ids: Sequence[int] | None = None,
) -> tuple[dict[str, float], Confusion]:
    """Return precision and recall where F1 is best, and the confusion matrix there.

    Predictions are pooled over all images. `F1`, `precision` and `recall` in percent are those of
    predictions with a score of at least `min_score`, where F1 is highest (the highest of several).
    With more than one class, `F1-NAME` and so on are at a threshold of the class. Numbers are NaN
    for classes without objects.

    The confusion matrix is at the one threshold, with the matches above on its diagonal. Then the
    predictions left over, the surest first, take the free object of another class that they overlap
    most. Objects that nothing takes are predicted as background, and predictions that take nothing
    have background as their truth. Rows add up to the objects, columns to the predictions.

    `task` is "bbox" or "segm"; `class_names` are in the order of category ids.
    """
    of_class = {category: index for index, category in enumerate(sorted(truth.getCatIds()))}
    by_image = defaultdict(list)
    for each in found:
        by_image[each["image_id"]].append(each)
    image_ids = truth.getImgIds() if image_ids is None else image_ids
    args = (task, of_class, max_predictions(truth))
    images = [_Image(truth, image, by_image[image], *args) for image in image_ids]
    scores, labels, right = (
        np.concatenate([getattr(image, name)[~image.in_crowd] for image in images])
        for name in ("scores", "labels", "right")
    )
    objects = np.concatenate([image.truth[~image.crowd] for image in images])
    numbers = _best_f1(scores, right, len(objects))
    threshold, background = numbers["min_score"], len(class_names)
    for index, name in enumerate(class_names if len(class_names) > 1 else ()):
        own = labels == index
        best = _best_f1(scores[own], right[own], np.count_nonzero(objects == index))
        numbers |= {f"{metric}-{name}": value for metric, value in best.items()}
    counts = np.zeros((background + 1, background + 1), dtype=int)
    for image in images:
        np.add.at(counts, image.pairs(threshold, background), 1)
    return numbers, Confusion((*class_names, "background"), counts.tolist(), "objects")


class _Image:
    """What is in an image (O objects), and what is found (P predictions, the surest first)."""

    def __init__(
        self,
        truth: COCO,
        image_id: int,
        found: Predictions,
        task: str,
        of_class: Mapping[int, int],
        most: int,
    ) -> None:
        objects = [each for each in truth.imgToAnns[image_id] if each["category_id"] in of_class]
        rank, found = defaultdict(count), sorted(found, key=lambda each: -each["score"])
        found = [each for each in found if next(rank[each["category_id"]]) < most]
        self.scores = np.array([each["score"] for each in found], dtype=float)
        self.labels, self.truth = (
            np.array([of_class[each["category_id"]] for each in group], dtype=int)
            for group in (found, objects)
        )
        self.crowd = np.array([bool(each.get("iscrowd", 0)) for each in objects], dtype=bool)
        self.overlaps = np.zeros((len(found), len(objects)))
        if found and objects:
            if task == "bbox":
                regions = [np.array([each["bbox"] for each in group]) for group in (found, objects)]
            else:
                regions = [each["segmentation"] for each in found], [*map(truth.annToRLE, objects)]
            self.overlaps = coco_masks.iou(*regions, self.crowd)
        same = self.labels[:, None] == self.truth
        self.taken = match(np.where(same, self.overlaps, 0), self.crowd)
        self.in_crowd = np.isin(self.taken, np.flatnonzero(self.crowd))
        self.right = (self.taken != NOTHING) & ~self.in_crowd

    def pairs(self, threshold: float, background: int) -> tuple[np.ndarray, np.ndarray]:
        """Return truth and prediction of all objects and predictions, at a threshold."""
        sure, free = self.scores >= threshold, ~self.crowd
        free[self.taken[sure & self.right]] = False
        left, counted = sure & (self.taken == NOTHING), sure & ~self.in_crowd
        taken = self.taken.copy()
        taken[left] = match(np.where(free, self.overlaps[left], 0), ~free)
        missed = np.setdiff1d(np.flatnonzero(~self.crowd), taken[counted])
        truth = np.append(self.truth, background)[taken[counted]]  # the last is that of NOTHING
        found = np.append(self.labels[counted], np.full(len(missed), background))
        return np.append(truth, self.truth[missed]), found


def _best_f1(scores: np.ndarray, right: np.ndarray, objects: int) -> dict[str, float]:
    """Return the best F1 over all thresholds, and what belongs to it; see `count_objects`."""
    if not objects:
        return dict.fromkeys(BEST_F1, np.nan)
    if not len(scores):
        return {"F1": 0.0, "precision": np.nan, "recall": 0.0, "min_score": np.nan}
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(right[order])
    kept = np.arange(1, len(scores) + 1)
    last = np.append(scores[1:] != scores[:-1], True)  # of predictions with the same score
    f1 = np.where(last, 2 * hits / (kept + objects), -1)
    best = f1.argmax()
    return {
        "F1": float(100 * f1[best]),
        "precision": float(100 * hits[best] / kept[best]),
        "recall": float(100 * hits[best] / objects),
        "min_score": float(scores[best]),
    }
