"""Panoptic segment ids as colours, and panoptic quality (PQ).

Kirillov et al., Panoptic Segmentation (CVPR 2019), section 4. Ids, files and results are in COCO's
panoptic format, and `pq_compute` is called and answers as panopticapi's evaluation does.

A predicted and a true segment of one category match when their intersection over union exceeds
0.5: then no other segment can match either. Void pixels of the truth count for nobody; crowd
regions are not to be found, and what lies in them or in void is not a false positive.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

VOID = 0
OFFSET = 256**3  # ids are 24 bits: three colour channels, the lowest first

# Of each category: summed IoU of its matches, their number, false positives, false negatives.
_Counts = dict[int, np.ndarray]
_IOU, _TP, _FP, _FN = range(4)


def rgb2id(color: np.ndarray | list[int] | tuple[int, int, int]) -> np.ndarray | int:
    """Turn colours `(..., 3)` into int32 ids, one colour into an int: R + 256 G + 256^2 B."""
    ids = np.asarray(color).astype(np.int32) @ np.array([1, 256, 256**2], np.int32)
    return ids if ids.ndim else int(ids)


def id2rgb(ids: np.ndarray | int) -> np.ndarray | list[int]:
    """Turn ids into uint8 colours `(..., 3)`, one id into a list of three."""
    channels = np.asarray(ids).astype(np.int64)[..., None] // [1, 256, 256**2] % 256
    colors = channels.astype(np.uint8)
    return colors if colors.ndim > 1 else colors.tolist()


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
    truth, prediction = (json.loads(Path(p).read_text()) for p in (gt_json_file, pred_json_file))
    true_folder = Path(gt_folder or gt_json_file.replace(".json", ""))
    predicted_folder = Path(pred_folder or pred_json_file.replace(".json", ""))
    predictions = {a["image_id"]: a for a in prediction["annotations"]}
    isthing = {c["id"]: bool(c["isthing"]) for c in truth["categories"]}
    counts: _Counts = {category: np.zeros(4) for category in isthing}
    for annotation in truth["annotations"]:
        if annotation["image_id"] not in predictions:
            raise ValueError(
                f"{pred_json_file} has no prediction for image {annotation['image_id']}: "
                "every image of the ground truth needs one, if without segments"
            )
        predicted = predictions[annotation["image_id"]]
        crowds = {s["id"] for s in annotation["segments_info"] if s.get("iscrowd", 0)}
        _count_image(
            *_read(annotation, true_folder, isthing),
            crowds,
            *_read(predicted, predicted_folder, isthing),
            counts,
        )
    seen = [category for category in isthing if counts[category].any()]
    per_class = {category: _quality(count) for category, count in counts.items()}
    groups = {
        "All": seen,
        "Things": [category for category in seen if isthing[category]],
        "Stuff": [category for category in seen if not isthing[category]],
    }
    averages = {name: _average([per_class[c] for c in group]) for name, group in groups.items()}
    return {**averages, "per_class": per_class}


def _read(
    annotation: Mapping, folder: Path, known: Mapping[int, bool]
) -> tuple[np.ndarray, dict[int, int]]:
    """Read the ids of an image per pixel, and the category of each id; they must agree."""
    path = folder / annotation["file_name"]
    with Image.open(path) as image:
        ids = rgb2id(np.asarray(image.convert("RGB")))
    category = {s["id"]: s["category_id"] for s in annotation["segments_info"]}
    drawn = set(np.unique(ids).tolist()) - {VOID}
    if drawn != set(category):
        raise ValueError(
            f"{path} and its segments_info disagree: only in the picture "
            f"{sorted(drawn - set(category))}, only in the list {sorted(set(category) - drawn)}"
        )
    if unknown := sorted(set(category.values()) - set(known)):
        raise ValueError(
            f"{path} has segments of categories {unknown}, the ground truth defines "
            f"{sorted(known)}: map the model's categories to the dataset's ids"
        )
    return ids, category


def _count_image(
    truth: np.ndarray,
    true_category: Mapping[int, int],
    crowds: set[int],
    predicted: np.ndarray,
    predicted_category: Mapping[int, int],
    counts: _Counts,
) -> None:
    """Match the segments of one image and add up what matches and what does not."""
    if truth.shape != predicted.shape:
        raise ValueError(
            f"prediction of {predicted.shape} pixels for a ground truth of {truth.shape}: "
            "predict at the size of the image"
        )
    overlap = {
        divmod(pair, OFFSET): n for pair, n in _pixels(truth.astype(np.int64) * OFFSET + predicted)
    }
    true_area, predicted_area = dict(_pixels(truth)), dict(_pixels(predicted))
    missed, wrong = set(true_category) - crowds, set(predicted_category)
    for (t, p), intersection in overlap.items():
        if VOID in (t, p) or t in crowds or true_category[t] != predicted_category[p]:
            continue
        void = overlap.get((VOID, p), 0)
        iou = intersection / (true_area[t] + predicted_area[p] - intersection - void)
        if iou > 0.5:
            counts[true_category[t]][[_IOU, _TP]] += iou, 1
            missed.discard(t)
            wrong.discard(p)
    for t in missed:
        counts[true_category[t]][_FN] += 1
    for p in wrong:
        category = predicted_category[p]
        excused = [VOID, *(t for t in crowds if true_category[t] == category)]
        if sum(overlap.get((t, p), 0) for t in excused) <= 0.5 * predicted_area[p]:
            counts[category][_FP] += 1


def _pixels(labels: np.ndarray) -> list[tuple[int, int]]:
    """Count the pixels of each label that occurs."""
    values, numbers = np.unique(labels, return_counts=True)
    return list(zip(values.tolist(), numbers.tolist(), strict=True))


def _quality(count: np.ndarray) -> dict[str, float]:
    """Return PQ of a category and its factors: segmentation quality SQ, recognition quality RQ."""
    iou, tp, fp, fn = count.tolist()
    halves = tp + 0.5 * fp + 0.5 * fn
    if not halves:
        return {"pq": 0.0, "sq": 0.0, "rq": 0.0}
    return {"pq": iou / halves, "sq": iou / tp if tp else 0.0, "rq": tp / halves}


def _average(qualities: list[dict[str, float]]) -> dict[str, float]:
    n = len(qualities)
    mean = {key: sum(q[key] for q in qualities) / n if n else np.nan for key in ("pq", "sq", "rq")}
    return {**mean, "n": n}
