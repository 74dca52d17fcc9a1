"""LVIS and Cityscapes, evaluated by their own packages: the truth against itself is perfect."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import register_lvis_instances
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from regnet_backbones import shapes
from regnet_backbones.detection.config import default_config
from regnet_backbones.detection.evaluation import build_evaluators, results_tables

# Cityscapes' ids of classes, and its numbers of those that are evaluated.
ROAD, CAR = (7, 0), (26, 13)
SIZE = (256, 512)


@pytest.fixture
def registered():
    """Return a list of names that are forgotten in the end."""
    names = []
    yield names
    for name in names:
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def config(tmp_path, name, architecture="GeneralizedRCNN"):
    cfg = default_config()
    cfg.OUTPUT_DIR, cfg.DATASETS.TEST = str(tmp_path / "out"), (name,)
    cfg.MODEL.META_ARCHITECTURE, cfg.TEST.PICTURES = architecture, 0
    return cfg


def evaluate(cfg, records, predictions):
    """Evaluate predictions as a training does, and return the results."""
    evaluators = build_evaluators(cfg, cfg.DATASETS.TEST[0])
    evaluators.reset()
    for record, prediction in zip(records, predictions, strict=True):
        evaluators.process([record], [prediction])
    return evaluators.evaluate()


def test_lvis(tmp_path, registered):
    spec = shapes.ShapesSpec(num_train=1, num_val=3, image_size=64)
    dataset = shapes.write(tmp_path / "shapes", spec)
    content = json.loads(dataset.instances_json("val").read_text())
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/val/{image['file_name']}"
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    for category in content["categories"]:
        category["frequency"] = "f"
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    name = "lvis_v1_of_shapes"
    registered.append(name)
    root = str(dataset.images("val").parent) + "/"
    register_lvis_instances(name, {}, str(tmp_path / "lvis.json"), root)

    records = DatasetCatalog.get(name)
    predictions = []
    for record in records:
        found = Instances((64, 64))
        boxes = [
            BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)
            for a in record["annotations"]
        ]
        found.pred_boxes = Boxes(torch.tensor(boxes))
        found.scores = torch.ones(len(boxes))
        found.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        predictions.append({"instances": found})
    cfg = config(tmp_path, name)
    results = evaluate(cfg, records, predictions)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert "100.0" in results_tables(results, tmp_path)


@pytest.fixture
def city(tmp_path, monkeypatch):
    """Write a road with two cars on it in Cityscapes' form; return the record and the cars."""
    monkeypatch.chdir(tmp_path)  # where Cityscapes' scripts leave a file
    labels = np.full(SIZE, ROAD[0], np.uint8)
    instances = labels.astype(np.uint16)
    cars = np.zeros((2, *SIZE), bool)
    cars[0, 40:120, 30:200] = cars[1, 100:220, 260:460] = True
    for number, car in enumerate(cars):
        labels[car], instances[car] = CAR[0], CAR[0] * 1000 + number
    folder = tmp_path / "gtFine" / "ulm"
    folder.mkdir(parents=True)
    stem = "ulm_000000_000019"
    Image.fromarray(labels).save(folder / f"{stem}_gtFine_labelIds.png")
    Image.fromarray(instances).save(folder / f"{stem}_gtFine_instanceIds.png")
    return {"file_name": f"{stem}_leftImg8bit.png"}, cars


def test_cityscapes_instances(tmp_path, city, registered):
    record, cars = city
    name = "cityscapes_instances_of_one"
    registered.append(name)
    MetadataCatalog.get(name).set(
        evaluator_type="cityscapes_instance",
        thing_classes=["person", "car"],
        gt_dir=str(tmp_path / "gtFine"),
    )
    found = Instances(SIZE)
    found.pred_masks = torch.from_numpy(cars)
    found.scores, found.pred_classes = torch.ones(2), torch.tensor([1, 1])
    cfg = config(tmp_path, name)
    results = evaluate(cfg, [record], [{"instances": found}])
    # Of eight classes that have instances only this one is there.
    assert results["segm"] == pytest.approx({"AP": 100, "AP50": 100})
    assert "segm" in results_tables(results, tmp_path)
