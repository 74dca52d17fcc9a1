"""COCO's numbers by faster-coco-eval and by pycocotools are the same, and each can be chosen."""

import itertools
import json
import logging

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools.cocoeval import COCOeval

from regnet_backbones.cli.models import EVALUATORS
from regnet_backbones.detection import coco_evaluator
from regnet_backbones.detection.coco_evaluator import CHOICES, CocoEvaluator, evaluator_name
from regnet_backbones.detection.config import default_config
from regnet_backbones.errors import MissingPackageError, UserError

NAME = "coco_evaluator_test"
SIZE = 160


@pytest.fixture
def dataset(tmp_path):
    """Register images with objects of three classes and sizes, a crowd region and an empty one."""
    draws = np.random.default_rng(0)
    images = [
        {"id": k, "file_name": f"{k}.png", "width": SIZE, "height": SIZE} for k in range(1, 9)
    ]
    annotations = []
    for image in images[:-1]:
        for number in range(6):
            side = int(draws.choice([12, 40, 110]))
            x, y = (int(v) for v in draws.integers(0, SIZE - side, 2))
            outline = [x, y, x + side, y, x + side, y + side, x, y + side]
            entry = {"id": len(annotations) + 1, "image_id": image["id"], "area": side**2}
            entry |= {"category_id": int(draws.choice([2, 5, 9])), "bbox": [x, y, side, side]}
            entry |= {"segmentation": [outline], "iscrowd": int(number == 5)}
            entry |= {"keypoints": [x, y, 2] * 17, "num_keypoints": 17}
            annotations.append(entry)
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": k, "name": str(k)} for k in (2, 5, 9)]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    MetadataCatalog.pop(NAME, None)
    MetadataCatalog.get(NAME).set(
        json_file=str(path),
        thing_classes=["2", "5", "9"],
        thing_dataset_id_to_contiguous_id={2: 0, 5: 1, 9: 2},
    )
    yield content
    MetadataCatalog.pop(NAME, None)


def predictions(content, *, keypoints=False):
    """Return what a model may find: objects moved a little, other classes, equal scores."""
    draws = np.random.default_rng(1)
    for image in content["images"]:
        found = [a for a in content["annotations"] if a["image_id"] == image["id"]] * 2
        instances = Instances((SIZE, SIZE))
        boxes = np.array([a["bbox"] for a in found], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes = (boxes + draws.normal(0, 4, boxes.shape)).clip(0, SIZE)
        instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
        instances.scores = torch.tensor(draws.random(len(found)).round(1))
        classes = [(2, 5, 9).index(a["category_id"]) for a in found]
        classes = [k if draws.random() < 0.8 else 0 for k in classes]
        instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
        masks = torch.zeros(len(found), SIZE, SIZE, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.round().astype(int), strict=True):
            mask[y0:y1, x0:x1] = True
        instances.pred_masks = masks
        if keypoints:
            points = np.array([a["keypoints"] for a in found], np.float32).reshape(-1, 17, 3)
            instances.pred_keypoints = torch.tensor(points + draws.normal(0, 1, points.shape))
        yield {"image_id": image["id"]}, {"instances": instances}


def evaluated(implementation, content, monkeypatch, *, counts_objects=False, **options):
    """Return the results of an evaluator, and the objects that computed them."""
    computed = []
    stock = CocoEvaluator._derive_coco_results

    def derive(self, coco_eval, task, **names):
        computed.append(coco_eval)
        return stock(self, coco_eval, task, **names)

    monkeypatch.setattr(CocoEvaluator, "_derive_coco_results", derive)
    chosen = {"implementation": implementation, "counts_objects": counts_objects}
    evaluator = CocoEvaluator(NAME, distributed=False, **chosen)
    evaluator.reset()
    for inputs, outputs in predictions(content, **options):
        evaluator.process([inputs], [outputs])
    results = evaluator.evaluate()
    monkeypatch.undo()
    return results, computed


def test_all_twelve_numbers_are_those_of_pycocotools(dataset, monkeypatch):
    theirs, plain = evaluated("pycocotools", dataset, monkeypatch)
    ours, faster = evaluated("faster-coco-eval", dataset, monkeypatch)
    assert [type(each) for each in plain] == [COCOeval, COCOeval]
    assert not any(isinstance(each, COCOeval) for each in faster)
    assert len(faster) == 2
    for one, other in zip(plain, faster, strict=True):
        assert len(one.stats) == 12
        assert 0 < one.stats[0] < 1
        np.testing.assert_allclose(other.stats, one.stats, rtol=0, atol=1e-12)
    assert ours.keys() == theirs.keys() == {"bbox", "segm"}
    for task in theirs:
        assert ours[task] == pytest.approx(theirs[task], nan_ok=True)
        assert {"AP-2", "AP-5", "AP-9"} <= ours[task].keys()


def test_objects_are_counted_the_same_with_each(dataset, monkeypatch):
    found = []
    for name in ("pycocotools", "faster-coco-eval"):
        found.append(evaluated(name, dataset, monkeypatch, counts_objects=True)[0])
    plain, _ = evaluated("pycocotools", dataset, monkeypatch)
    for task in ("bbox", "segm"):
        added = {k: v for k, v in found[0][task].items() if k not in plain[task]}
        assert {"F1", "precision", "recall", "min_score", "F1-2", "min_score-9"} <= added.keys()
        assert 0 < added["F1"] < 100
        assert {k: found[1][task][k] for k in added} == pytest.approx(added, nan_ok=True)


@pytest.mark.parametrize("implementation", ["pycocotools", "faster-coco-eval"])
def test_more_than_a_hundred_objects_of_an_image_can_be_found(dataset, implementation, monkeypatch):
    box = {"image_id": 1, "category_id": 5, "area": 36, "iscrowd": 0}
    places = [(8 * (k % 20), 8 * (k // 20)) for k in range(150)]
    dataset["annotations"] = [
        {**box, "id": k, "bbox": [x, y, 6, 6], "segmentation": [[x, y, x + 6, y, x, y + 6]]}
        for k, (x, y) in enumerate(places, 1)
    ]
    with open(MetadataCatalog.get(NAME).json_file, "w") as file:
        json.dump(dataset, file)
    corners = torch.tensor([[x, y, x + 6, y + 6] for x, y in places], dtype=torch.float32)
    found = Instances((SIZE, SIZE), pred_boxes=Boxes(corners), scores=torch.ones(150))
    found.pred_classes = torch.ones(150, dtype=torch.int64)
    results = [({"image_id": 1}, {"instances": found})]
    monkeypatch.setitem(globals(), "predictions", lambda _: results)
    numbers, computed = evaluated(implementation, dataset, monkeypatch)
    assert numbers["bbox"]["AP"] == numbers["bbox"]["AP-5"] == pytest.approx(100)
    assert isinstance(computed[0], COCOeval) == (implementation == "pycocotools")


def test_keypoints_are_pycocotools(dataset, monkeypatch):
    results, computed = evaluated("faster-coco-eval", dataset, monkeypatch, keypoints=True)
    assert results.keys() == {"bbox", "segm", "keypoints"}
    kinds = [isinstance(each, COCOeval) for each in computed]
    assert kinds == [False, True, False]  # tasks in the order of the alphabet


def test_ids_that_are_text_are_left_to_pycocotools(dataset, monkeypatch, caplog):
    path = MetadataCatalog.get(NAME).json_file
    for entry in itertools.chain(dataset["images"], dataset["annotations"]):
        key = "image_id" if "image_id" in entry else "id"
        entry[key] = f"image {entry[key]}"
    with open(path, "w") as file:
        json.dump(dataset, file)
    with caplog.at_level(logging.WARNING):
        evaluator = CocoEvaluator(NAME, implementation="faster-coco-eval", distributed=False)
    assert evaluator.implementation == "pycocotools"
    assert "pycocotools" in caplog.text
    _, computed = evaluated("faster-coco-eval", dataset, monkeypatch)
    assert all(type(each) is COCOeval for each in computed)


def test_the_evaluator_is_chosen_by_the_config(monkeypatch):
    cfg = default_config()
    assert cfg.TEST.EVALUATOR == "auto"
    assert CHOICES == EVALUATORS
    assert evaluator_name(cfg) == "faster-coco-eval"
    cfg.TEST.EVALUATOR = "pycocotools"
    assert evaluator_name(cfg) == "pycocotools"
    cfg.TEST.EVALUATOR = "cocoapi"
    with pytest.raises(UserError, match="TEST.EVALUATOR"):
        evaluator_name(cfg)
    monkeypatch.setattr(coco_evaluator, "find_spec", lambda name: None)
    cfg.TEST.EVALUATOR = "auto"
    assert evaluator_name(cfg) in ("pycocotools", "detectron2")
    cfg.TEST.EVALUATOR = "faster-coco-eval"
    with pytest.raises(MissingPackageError, match=r"\[coco\]"):
        evaluator_name(cfg)
