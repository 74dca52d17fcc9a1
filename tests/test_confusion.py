"""Precision, recall, F1 and confusion of detectors against COCOeval, supervision and by hand."""

import numpy as np
import pytest
import supervision as sv
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.functional import classification as torchmetrics

from regnet_backbones.detection.matching import MAX_PREDICTIONS, count_objects, max_predictions
from regnet_backbones.runs.confusion import class_scores, mean_of

NAMES = ("ant", "bee", "fly")
IDS = (3, 5, 8)


def coco(annotations, images):
    """Return truth as pycocotools reads it."""
    truth = COCO()
    truth.dataset = {
        "images": [{"id": k, "width": 200, "height": 200} for k in range(images)],
        "categories": [{"id": i, "name": name} for i, name in zip(IDS, NAMES, strict=True)],
        "annotations": [{"id": n, **each} for n, each in enumerate(annotations, 1)],
    }
    truth.createIndex()
    return truth


def thing(image, label, box, **more):
    x, y, width, height = box
    outline = [x, y, x + width, y, x + width, y + height, x, y + height]
    entry = {"image_id": image, "category_id": IDS[label], "bbox": list(box), "iscrowd": 0}
    return entry | {"segmentation": [outline], "area": width * height, **more}


def seen(image, label, box, score):
    return {"image_id": image, "category_id": IDS[label], "bbox": list(box), "score": score}


def random_scene(*, crowds, images=12):
    """Return truth, and predictions of it: moved, of other classes, twice, and made up."""
    draws = np.random.default_rng(0)
    annotations, found = [], []
    for image in range(images):
        for _ in range(9):
            label, box = int(draws.integers(3)), [*draws.integers(0, 150, 2), 30, 40]
            crowd = {"iscrowd": int(draws.random() < 0.2)} if crowds else {}
            annotations.append(thing(image, label, list(map(int, box)), **crowd))
            for _ in range(draws.integers(0, 3)):
                moved = (np.array(box) + draws.normal(0, 3, 4)).tolist()
                other = label if draws.random() < 0.7 else int(draws.integers(3))
                found.append(seen(image, other, moved, round(draws.random(), 2)))
        found.append(seen(image, 0, [160, 160, 20, 20], float(draws.random())))
    return coco(annotations, images), found


def pooled(truth, found):
    """Return scores, hits and number of objects by class of COCOeval's own matching."""
    evaluated = COCOeval(truth, truth.loadRes([{**each} for each in found]), "bbox")
    evaluated.params.iouThrs, evaluated.params.areaRng = np.array([0.5]), [[0, 1e10]]
    evaluated.evaluate()
    scores, hits, objects = ({i: [] for i in IDS} for _ in range(3))
    for entry in filter(None, evaluated.evalImgs):
        category, kept = entry["category_id"], ~np.bool_(entry["dtIgnore"][0])
        scores[category] += np.array(entry["dtScores"])[kept].tolist()
        hits[category] += (entry["dtMatches"][0] > 0)[kept].tolist()
        objects[category] += [1] * int((np.array(entry["gtIgnore"]) == 0).sum())
    return scores, hits, objects


def best_of(scores, hits, objects):
    """Return the best of all thresholds, each tried."""
    scores, hits = np.array(scores), np.array(hits)
    found = []
    for threshold in sorted(set(scores), reverse=True):
        sure = scores >= threshold
        right = hits[sure].sum()
        precision, recall = right / sure.sum(), right / len(objects)
        f1 = 2 * precision * recall / (precision + recall) if right else 0
        found.append((100 * f1, 100 * precision, 100 * recall, threshold))
    return max(found, key=lambda each: each[0])


@pytest.mark.parametrize("crowds", [False, True])
def test_the_best_f1_is_that_of_coco_evals_matches(crowds):
    truth, found = random_scene(crowds=crowds)
    numbers, confusion = count_objects(truth, found, "bbox", NAMES)
    names = ("F1", "precision", "recall", "min_score")
    scores, hits, objects = pooled(truth, found)
    for category, name in zip(IDS, NAMES, strict=True):
        expected = best_of(scores[category], hits[category], objects[category])
        assert [numbers[f"{each}-{name}"] for each in names] == pytest.approx(expected)
    together = [np.concatenate([*each.values()]) for each in (scores, hits, objects)]
    assert [numbers[each] for each in names] == pytest.approx(best_of(*together))
    assert 0 < numbers["precision"] < 100
    # What the matrix says is the same.
    counts = np.array(confusion.counts)
    right, whole = counts.trace(), counts[:, :-1].sum()
    assert 100 * right / whole == pytest.approx(numbers["precision"])
    assert 100 * right / counts[:-1].sum() == pytest.approx(numbers["recall"])
    assert counts[:-1].sum(1).tolist() == [len(objects[category]) for category in IDS]


def test_masks_are_matched_by_their_overlap():
    truth, found = random_scene(crowds=True)
    for each in found:
        x, y, width, height = each["bbox"]
        outline = [x, y, x + width, y, x + width, y + height, x, y + height]
        each["segmentation"] = truth.annToRLE({"image_id": 0, "segmentation": [outline]})
    boxes, masks = (count_objects(truth, found, task, NAMES)[0] for task in ("bbox", "segm"))
    assert masks == pytest.approx(boxes, abs=4)  # pixels are whole
    half = [{**each, "bbox": [0, 0, 1, 1]} for each in found]
    assert count_objects(truth, half, "segm", NAMES)[0] == masks


def test_the_confusion_matrix_is_that_of_supervision():
    draws = np.random.default_rng(1)
    annotations, found = [], []
    for image in range(20):  # objects apart, so that the order of matching does not matter
        for column in range(4):
            box, label = [50 * column, 0, 40, 40], int(draws.integers(3))
            annotations.append(thing(image, label, box))
            for shift in draws.choice([2, 5, 30], draws.integers(0, 3), replace=False):
                moved = [50 * column, int(shift), 40, 40]
                other = label if draws.random() < 0.6 else int(draws.integers(3))
                found.append(seen(image, other, moved, float(draws.random())))
    numbers, confusion = count_objects(coco(annotations, 20), found, "bbox", NAMES)

    def detections(each, image):
        of_image = [entry for entry in each if entry["image_id"] == image]
        boxes = np.array([entry["bbox"] for entry in of_image], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([IDS.index(entry["category_id"]) for entry in of_image], int)
        scores = np.array([entry.get("score", 1) for entry in of_image], np.float32)
        return sv.Detections(boxes, class_id=labels, confidence=scores)

    theirs = sv.ConfusionMatrix.from_detections(
        [detections(found, image) for image in range(20)],
        [detections(annotations, image) for image in range(20)],
        list(NAMES),
        conf_threshold=np.nextafter(np.float32(numbers["min_score"]), np.float32(0)),
        iou_threshold=0.5,
    )
    assert confusion.counts == theirs.matrix.tolist()
    assert confusion.labels == (*NAMES, "background")
    assert np.count_nonzero(theirs.matrix) > 10


def test_another_class_is_matched_after_the_own():
    box, same, other = [10, 10, 40, 40], [12, 10, 40, 40], [10, 14, 40, 40]
    truth = coco([thing(0, 0, box), thing(0, 1, other), thing(1, 2, box, iscrowd=1)], 2)
    found = [
        seen(0, 2, box, 0.9),  # the surest, but another class: gets what is left over
        seen(0, 0, same, 0.8),
        seen(1, 2, same, 0.7),  # of a crowd
        seen(1, 1, same, 0.6),  # of a crowd of another class
    ]
    numbers, confusion = count_objects(truth, found, "bbox", NAMES)
    assert (numbers["min_score"], numbers["F1"]) == (0.8, 50)
    assert confusion.counts == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert np.isnan(numbers["F1-fly"])  # a class without objects but crowds


def test_nothing_found_and_nothing_there():
    box = [10, 10, 40, 40]
    numbers, confusion = count_objects(coco([thing(0, 1, box)], 1), [], "bbox", NAMES)
    assert (numbers["F1"], numbers["recall"]) == (0, 0)
    assert np.isnan([numbers["precision"], numbers["min_score"]]).all()
    assert np.argwhere(confusion.counts).tolist() == [[1, 3]]
    numbers, confusion = count_objects(coco([], 1), [seen(0, 1, box, 0.5)], "bbox", NAMES)
    assert np.isnan(list(numbers.values())).all()


def test_of_an_image_and_class_a_hundred_predictions_count():
    box, elsewhere = [10, 10, 40, 40], [100, 100, 20, 20]
    found = [seen(0, 1, elsewhere, 0.9) for _ in range(MAX_PREDICTIONS)] + [seen(0, 1, box, 0.5)]
    assert count_objects(coco([thing(0, 1, box)], 1), found, "bbox", NAMES)[0]["F1"] == 0
    assert count_objects(coco([thing(0, 1, box)], 1), found[1:], "bbox", NAMES)[0]["F1"] > 0


def test_where_an_image_has_more_objects_more_predictions_count():
    boxes = [[2 * k, 0, 2, 2] for k in range(100)]
    boxes += [[0, 10, 2, 2]]
    truth = coco([thing(0, 1, box) for box in boxes], 1)
    assert max_predictions(truth) == 202
    found = [seen(0, 1, box, 0.9) for box in boxes]
    assert count_objects(truth, found, "bbox", NAMES)[0]["recall"] == 100
    assert max_predictions(coco([thing(0, k % 2, box) for k, box in enumerate(boxes)], 1)) == 100


def test_scores_of_pixels_are_those_of_torchmetrics():
    draws = torch.Generator().manual_seed(0)
    truth, found = torch.randint(0, 5, (2, 4000), generator=draws)
    found[truth == 2] = 1
    options = {"num_classes": 5, "average": "none"}
    scores = class_scores(torchmetrics.multiclass_confusion_matrix(found, truth, 5).numpy())
    assert scores["dice"] == pytest.approx(
        torchmetrics.multiclass_f1_score(found, truth, **options)
    )
    for name, function in (
        ("iou", torchmetrics.multiclass_jaccard_index),
        ("precision", torchmetrics.multiclass_precision),
        ("recall", torchmetrics.multiclass_recall),
    ):
        assert scores[name] == pytest.approx(function(found, truth, **options).numpy())
    absent = class_scores(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]]))
    assert absent["iou"] == pytest.approx([0.75, 0, np.nan], nan_ok=True)
    assert absent["precision"] == pytest.approx([1, 0, np.nan], nan_ok=True)
    assert absent["recall"] == pytest.approx([0.75, np.nan, np.nan], nan_ok=True)
    assert mean_of(absent["iou"]) == 0.375
    assert mean_of(absent["recall"][1:]) is None
