"""Panoptic segment ids as colours, and panoptic quality (PQ).

Kirillov et al., Panoptic Segmentation (CVPR 2019), section 4. Ids, files and results are in COCO's
panoptic format, and `pq_compute` is called and answers as panopticapi's evaluation does.

A predicted and a true segment of one category match when their intersection over union exceeds
0.5: then no other segment can match either. Void pixels of the truth count for nobody; crowd
regions are not to be found, and what lies in them or in void is not a false positive.
"""

import json
import os
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from PIL import Image

VOID = 0
MATCH_IOU = 0.5
OFFSET = 256**3  # ids are 24 bits: three colour channels, the lowest first


@dataclass
class CategoryCount:
    """Matches of one category: their number, their summed IoU, and the misses on both sides."""

    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0

    @property
    def is_seen(self) -> bool:
        """Tell whether the category occurs, in truth or prediction."""
        return self.tp + self.fp + self.fn > 0

    def quality(self) -> dict[str, float]:
        """Return PQ and its factors: segmentation quality SQ and recognition quality RQ."""
        if not self.is_seen:
            return {"pq": 0.0, "sq": 0.0, "rq": 0.0}
        halves = self.tp + 0.5 * self.fp + 0.5 * self.fn
        sq = self.iou / self.tp if self.tp else 0.0
        return {"pq": self.iou / halves, "sq": sq, "rq": self.tp / halves}


def rgb2id(color: np.ndarray | list[int] | tuple[int, int, int]) -> np.ndarray | int:
    """Turn colours `(..., 3)` into int32 ids, one colour into an int: R + 256 G + 256^2 B."""
    channels = np.asarray(color).astype(np.int32)
    ids = channels[..., 0] + 256 * channels[..., 1] + 256**2 * channels[..., 2]
    return ids if ids.ndim else int(ids)


def id2rgb(ids: np.ndarray | int) -> np.ndarray | list[int]:
    """Turn ids into uint8 colours `(..., 3)`, one id into a list of three."""
    rest = np.asarray(ids).astype(np.int64)
    colors = np.stack([rest % 256, rest // 256 % 256, rest // 256**2 % 256], axis=-1)
    colors = colors.astype(np.uint8)
    return colors if rest.ndim else colors.tolist()


def pq_compute(
    gt_json_file: str,
    pred_json_file: str,
    gt_folder: str | None = None,
    pred_folder: str | None = None,
) -> dict[str, dict]:
    """Compare two COCO panoptic files; folders default to the file names without `.json`.

    Returns `{"All" | "Things" | "Stuff": {"pq", "sq", "rq", "n"}, "per_class": {id: {...}}}`, in
    [0, 1], averaged over the `n` categories that occur; NaN where none does.
    """
    truth, prediction = _read_json(gt_json_file), _read_json(pred_json_file)
    gt_folder = gt_folder or gt_json_file.replace(".json", "")
    pred_folder = pred_folder or pred_json_file.replace(".json", "")
    predictions = {a["image_id"]: a for a in prediction["annotations"]}
    things = {c["id"]: bool(c["isthing"]) for c in truth["categories"]}

    counts: dict[int, CategoryCount] = defaultdict(CategoryCount)
    for annotation in truth["annotations"]:
        if annotation["image_id"] not in predictions:
            raise ValueError(
                f"{pred_json_file} has no prediction for image {annotation['image_id']}: "
                "every image of the ground truth needs one, if without segments"
            )
        predicted = predictions[annotation["image_id"]]
        _count_image(
            _Segmentation.read(annotation, gt_folder, things),
            _Segmentation.read(predicted, pred_folder, things),
            counts,
        )
    return _summarize(counts, things)


@dataclass(frozen=True)
class _Segmentation:
    """One image: ids per pixel, and the category and crowd flag of each id."""

    ids: np.ndarray
    category: dict[int, int]
    crowds: frozenset[int]

    @classmethod
    def read(cls, annotation: dict, folder: str, things: dict[int, bool]) -> "_Segmentation":
        path = os.path.join(folder, annotation["file_name"])
        with Image.open(path) as image:
            ids = rgb2id(np.asarray(image.convert("RGB")))
        segments = annotation["segments_info"]
        category = {s["id"]: s["category_id"] for s in segments}
        _check_segments(path, set(np.unique(ids).tolist()) - {VOID}, category, things)
        return cls(ids, category, frozenset(s["id"] for s in segments if s.get("iscrowd", 0)))


def _check_segments(path: str, drawn: set[int], category: dict, things: dict) -> None:
    """Check that the picture and its list of segments name the same ids, of known categories."""
    if drawn != set(category):
        raise ValueError(
            f"{path} and its segments_info disagree: only in the picture "
            f"{sorted(drawn - set(category))}, only in the list {sorted(set(category) - drawn)}"
        )
    unknown = sorted(set(category.values()) - set(things))
    if unknown:
        raise ValueError(
            f"{path} has segments of categories {unknown}, the ground truth defines "
            f"{sorted(things)}: map the model's categories to the dataset's ids"
        )


def _count_image(
    truth: _Segmentation, predicted: _Segmentation, counts: dict[int, CategoryCount]
) -> None:
    """Match the segments of one image and add up what matches and what does not."""
    overlap = _overlaps(truth.ids, predicted.ids)
    true_area, predicted_area = _areas(truth.ids), _areas(predicted.ids)
    matched_truth, matched_predicted = set(), set()
    for (t, p), intersection in overlap.items():
        if VOID in (t, p) or t in truth.crowds or truth.category[t] != predicted.category[p]:
            continue
        void = overlap.get((VOID, p), 0)
        iou = intersection / (true_area[t] + predicted_area[p] - intersection - void)
        if iou > MATCH_IOU:
            counts[truth.category[t]].tp += 1
            counts[truth.category[t]].iou += iou
            matched_truth.add(t)
            matched_predicted.add(p)

    for t, category in truth.category.items():
        if t not in matched_truth and t not in truth.crowds:
            counts[category].fn += 1
    for p, category in predicted.category.items():
        crowds = [t for t in truth.crowds if truth.category[t] == category]
        excused = sum(overlap.get((t, p), 0) for t in [VOID, *crowds])
        if p not in matched_predicted and excused <= 0.5 * predicted_area[p]:
            counts[category].fp += 1


def _overlaps(truth: np.ndarray, predicted: np.ndarray) -> dict[tuple[int, int], int]:
    """Count the pixels of each pair of ids that occurs."""
    if truth.shape != predicted.shape:
        raise ValueError(
            f"prediction of {predicted.shape} pixels for a ground truth of {truth.shape}: "
            "predict at the size of the image"
        )
    pairs, pixels = np.unique(truth.astype(np.int64) * OFFSET + predicted, return_counts=True)
    return {
        divmod(pair, OFFSET): n for pair, n in zip(pairs.tolist(), pixels.tolist(), strict=True)
    }


def _areas(ids: np.ndarray) -> dict[int, int]:
    labels, pixels = np.unique(ids, return_counts=True)
    return dict(zip(labels.tolist(), pixels.tolist(), strict=True))


def _summarize(counts: dict[int, CategoryCount], things: dict[int, bool]) -> dict[str, dict]:
    per_class = {category: counts[category].quality() for category in things}
    seen = [category for category in things if counts[category].is_seen]
    groups = {
        "All": seen,
        "Things": [category for category in seen if things[category]],
        "Stuff": [category for category in seen if not things[category]],
    }
    averages = {name: _average([per_class[c] for c in group]) for name, group in groups.items()}
    return {**averages, "per_class": per_class}


def _average(qualities: list[dict[str, float]]) -> dict[str, float]:
    n = len(qualities)
    mean = {key: sum(q[key] for q in qualities) / n if n else np.nan for key in ("pq", "sq", "rq")}
    return {**mean, "n": n}


def _read_json(path: str) -> dict:
    with open(path) as file:
        return json.load(file)
