"""Panoptic segment ids as colours, and panoptic quality (PQ).

Kirillov et al., Panoptic Segmentation (CVPR 2019), section 4. Ids, files and results are in COCO's
panoptic format, and `pq_compute` is called and answers as panopticapi's evaluation does.

A predicted and a true segment of one category match when their intersection over union exceeds
0.5: then no other segment can match either. Void pixels of the truth count for nobody; crowd
regions are not to be found, and what lies in them or in void is not a false positive.
"""

import json
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

VOID = 0
OFFSET = 256**3  # ids are 24 bits: three colour channels, the lowest first


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
    is_thing = {c["id"]: bool(c["isthing"]) for c in truth["categories"]}
    # Of each category: summed IoU of its matches, their number, false positives, false negatives.
    iou, tp, fp, fn = Counter(), Counter(), Counter(), Counter()
    for annotation in truth["annotations"]:
        if annotation["image_id"] not in predictions:
            raise ValueError(
                f"{pred_json_file} lacks a prediction of image {annotation['image_id']}"
            )
        true_ids, true_category = _read(annotation, true_folder, is_thing)
        ids, category = _read(predictions[annotation["image_id"]], predicted_folder, is_thing)
        crowds = {s["id"] for s in annotation["segments_info"] if s.get("iscrowd", 0)}
        overlap = {divmod(pair, OFFSET): n for pair, n in _pixels(true_ids * OFFSET + ids)}
        true_area, area = dict(_pixels(true_ids)), dict(_pixels(ids))
        missed, wrong = set(true_category) - crowds, set(category)
        for (t, p), intersection in overlap.items():
            if VOID in (t, p) or t in crowds or true_category[t] != category[p]:
                continue
            union = true_area[t] + area[p] - intersection - overlap.get((VOID, p), 0)
            if intersection / union > 0.5:
                iou[category[p]] += intersection / union
                tp[category[p]] += 1
                missed.discard(t)
                wrong.discard(p)
        fn.update(true_category[t] for t in missed)
        for p in wrong:
            excused = [VOID, *(t for t in crowds if true_category[t] == category[p])]
            fp[category[p]] += sum(overlap.get((t, p), 0) for t in excused) <= 0.5 * area[p]
    per_class = {}
    for c in is_thing:
        halves = tp[c] + 0.5 * fp[c] + 0.5 * fn[c]
        # Quality, and its factors: of the segmentation, and of the recognition.
        sq, rq = iou[c] / max(tp[c], 1), tp[c] / (halves or 1)
        per_class[c] = {"pq": sq * rq, "sq": sq, "rq": rq}
    result: dict[str, dict] = {"per_class": per_class}
    seen = [c for c in is_thing if tp[c] + fp[c] + fn[c]]
    for name, kinds in (("All", (True, False)), ("Things", (True,)), ("Stuff", (False,))):
        group = [per_class[c] for c in seen if is_thing[c] in kinds]
        result[name] = {"n": len(group)}
        for key in ("pq", "sq", "rq"):
            result[name][key] = sum(q[key] for q in group) / len(group) if group else np.nan
    return result


def _read(annotation: dict, folder: Path, known: dict) -> tuple[np.ndarray, dict[int, int]]:
    """Read the ids of an image per pixel, and the category of each id; they must agree."""
    path = folder / annotation["file_name"]
    with Image.open(path) as image:
        ids = rgb2id(np.asarray(image.convert("RGB"))).astype(np.int64)
    category = {s["id"]: s["category_id"] for s in annotation["segments_info"]}
    drawn = set(np.unique(ids).tolist()) - {VOID}
    if drawn != set(category):
        raise ValueError(f"{path} has ids {sorted(drawn)}, its segments_info {sorted(category)}")
    if not set(category.values()) <= set(known):
        raise ValueError(f"categories of {path} must be among {sorted(known)}, got {category}")
    return ids, category


def _pixels(labels: np.ndarray) -> list[tuple[int, int]]:
    """Count the pixels of each label that occurs."""
    values, numbers = np.unique(labels, return_counts=True)
    return list(zip(values.tolist(), numbers.tolist(), strict=True))
