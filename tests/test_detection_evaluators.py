"""Evaluators by dataset and model, checks before a training, tables, panoptic pictures."""

import re

import numpy as np
import pytest
import torch
from demo_datasets import looked_for_in
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from load_tool import load_tool
from PIL import Image

from regnet_backbones import config_path, shapes
from regnet_backbones.adapters.detectron2 import rgb2id
from regnet_backbones.detection import evaluation
from regnet_backbones.detection.config import default_config
from regnet_backbones.detection.evaluation import (
    build_evaluators,
    check_best_metric,
    check_evaluators,
    results_tables,
)
from regnet_backbones.detection.pictures import PredictionPictures
from regnet_backbones.detection.training.trainer import Trainer
from regnet_backbones.errors import UserError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Draw it where detectron2 looks for it."""
    root = tmp_path_factory.mktemp("datasets")
    with looked_for_in(root):
        spec = shapes.ShapesSpec(num_train=1, num_val=2, image_size=64)
        yield shapes.write(root / "shapes", spec)


def config(architecture, test, **keys):
    cfg = default_config()
    cfg.MODEL.META_ARCHITECTURE, cfg.DATASETS.TEST = architecture, (test,)
    cfg.merge_from_list([each for pair in keys.items() for each in pair])
    return cfg


# Which evaluators


@pytest.mark.parametrize(
    ("architecture", "name", "expected"),
    [
        ("GeneralizedRCNN", "shapes_val", "instances Coco"),
        ("FCOSDetector", "shapes_val", "instances Coco"),
        ("RetinaNet", "shapes_panoptic_val", "instances Coco"),
        ("SemanticSegmentor", "shapes_sem_seg_val", "sem_seg SemSeg"),
        ("SemanticSegmentor", "shapes_panoptic_val", "sem_seg SemSeg"),
        ("PanopticFPN", "shapes_val", "instances Coco"),
        ("PanopticFPN", "shapes_panoptic_separated_val", "panoptic_seg SemSeg Coco COCOPanoptic"),
        ("PanopticDeepLab", "shapes_panoptic_val", "panoptic_seg SemSeg Coco COCOPanoptic"),
        ("ModelOfOnesOwn", "shapes_panoptic_val", "panoptic_seg SemSeg Coco COCOPanoptic"),
    ],
)
def test_what_a_model_gives_is_measured_and_drawn(dataset, tmp_path, architecture, name, expected):
    cfg = config(architecture, name, OUTPUT_DIR=str(tmp_path))
    check_evaluators(cfg)
    pictures, *built = build_evaluators(cfg, name)._evaluators
    names = [type(each).__name__.removesuffix("Evaluator") for each in built]
    assert " ".join([pictures.output, *names]) == expected


NO_INSTANCES = {"MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES": False, "TEST.PICTURES": 0}


def test_instances_that_panoptic_deeplab_does_not_predict_are_not_measured(dataset, tmp_path):
    cfg = config("PanopticDeepLab", "", **NO_INSTANCES, OUTPUT_DIR=str(tmp_path))
    built = build_evaluators(cfg, "shapes_panoptic_val")._evaluators
    names = [type(each).__name__ for each in built]
    assert names == ["SemSegEvaluator", "COCOPanopticEvaluator"]


def test_cocos_combined_form_has_no_semantic_masks(tmp_path):
    name = f"combined_{tmp_path.name}"
    MetadataCatalog.get(name).set(
        evaluator_type="coco_panoptic_seg",
        thing_dataset_id_to_contiguous_id={1: 0},
        stuff_dataset_id_to_contiguous_id={2: 1},
    )
    cfg = config("PanopticDeepLab", name, **NO_INSTANCES, OUTPUT_DIR=str(tmp_path))
    built = build_evaluators(cfg, name)._evaluators
    assert [type(each).__name__ for each in built] == ["COCOPanopticEvaluator"]


# What can be seen before a training


@pytest.mark.parametrize(
    ("architecture", "name", "keys", "message"),
    [
        (
            "GeneralizedRCNN",
            "shapes_sem_seg_val",
            {},
            "shapes_sem_seg_val.*instances",
        ),
        (
            "GeneralizedRCNN",
            "shapes_keypoints_val",
            {"MODEL.KEYPOINT_ON": True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 5},
            "TEST.KEYPOINT_OKS_SIGMAS .* 5 keypoints, got 17",
        ),
        (
            "GeneralizedRCNN",
            "shapes_keypoints_val",
            {"MODEL.KEYPOINT_ON": True, "TEST.KEYPOINT_OKS_SIGMAS": [0.1] * 5},
            "TEST.KEYPOINT_OKS_SIGMAS .* 17 keypoints, got 5",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused(architecture, name, keys, message):
    with pytest.raises(ValueError, match=message):
        check_evaluators(config(architecture, name, **keys))


@pytest.mark.parametrize("metric", ["auto", "", "segm/AP", "bbox/AP-star", "val_total_loss"])
def test_a_metric_that_evaluations_give_is_allowed(metric):
    keys = {"MODEL.MASK_ON": True, "TEST.BEST_METRIC": metric}
    check_best_metric(config("GeneralizedRCNN", "shapes_val", **keys))


@pytest.mark.parametrize(
    "metric", ["bbox/ap", "AP", "keypoints/AP", "bbox/F1", "shapes_val/bbox/AP"]
)
def test_a_misspelt_metric_is_refused(metric):
    cfg = config("GeneralizedRCNN", "shapes_val", **{"TEST.BEST_METRIC": metric})
    with pytest.raises(UserError, match=r"TEST\.BEST_METRIC.*bbox/AP.*" + metric):
        check_best_metric(cfg)


def test_metrics_of_other_evaluations_are_not_known():
    metric = {"TEST.BEST_METRIC": "sem_seg/of_a_project"}
    check_best_metric(config("SemanticSegmentor", "shapes_sem_seg_val", **metric))
    both = config("GeneralizedRCNN", "shapes_val", **{"TEST.BEST_METRIC": "shapes_val/bbox/AP"})
    both.DATASETS.TEST = ("shapes_val", "shapes_train")
    check_best_metric(both)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("lvis_v1_val", "lvis"),
        ("cityscapes_fine_instance_seg_val", "cityscapesscripts"),
        ("cityscapes_fine_panoptic_val", "cityscapesscripts"),
    ],
)
def test_a_missing_package_is_named_before_a_model_is_built(monkeypatch, capsys, name, package):
    monkeypatch.setattr(evaluation, "find_spec", lambda name: None)
    monkeypatch.setattr(Trainer, "build_model", None)  # building one would be a TypeError
    quick = str(config_path("detectron2/quick/panoptic_fpn_regnet_small.yaml"))
    assert (
        load_tool("train_net").main(["--config-file", quick, "DATASETS.TEST", f"('{name}',)"]) == 2
    )
    assert f"`pip install {package}`" in capsys.readouterr().err


# Tables


def test_tables_have_the_metrics_of_each_task(tmp_path):
    panoptic = {"PQ": 61.04, "SQ": 80.0, "RQ": 76.3, "PQ_th": 50.0, "SQ_th": 70.0, "RQ_th": 71.4}
    results = {
        "sem_seg": {"mIoU": 40.0, "fwIoU": 41.0, "IoU-sky": 42.0, "mACC": 1, "ACC-sky": 2.0},
        "keypoints": {"AP": 33.3, "AP50": 55.5, "AP75": 34.0, "APm": 30.0, "APl": float("nan")},
        "panoptic_seg": {**panoptic, "PQ_st": 70.0, "SQ_st": None, "RQ_st": 88.0},
        "box_proposals": {"AR@100": 12.0, "AR@1000": 34.5},
    }
    rows = [line.split() for line in results_tables({"a": results}, tmp_path).splitlines()]
    assert ["a"] in rows
    assert ["keypoints", "33.3", "55.5", "34.0", "30.0", "nan"] in rows
    assert ["task,", "in", "%", *panoptic, "PQ_st", "SQ_st", "RQ_st"] in rows
    assert ["panoptic_seg", "61.0", "80.0", "76.3", "50.0", "70.0", "71.4", "70.0", "88.0"] in rows
    assert ["box_proposals", "12.0", "34.5"] in rows

    both = results_tables({"a": {"bbox": {"AP": 1.0}}, "b": {"bbox": {"AP": 2.0}}}, tmp_path)
    assert both.index("\na\n") < both.index(" 1.0") < both.index("\nb\n") < both.index(" 2.0")

    best = {"AP": 1.0, "F1": 50.0, "precision": 60.0, "recall": 42.86, "min_score": 0.4379}
    text = results_tables({"a": {"bbox": best}}, tmp_path)
    assert ["task,", "in", "%", "AP"] in [line.split() for line in text.splitlines()]
    assert re.search(r"^bbox: .* 50\.0, .* 60\.0, .* 42\.9, .* 0\.437$", text, re.MULTILINE)
    assert "F1" not in results_tables({"a": {"bbox": best | {"precision": None}}}, tmp_path)


# Pictures


def halves(sheet):
    """Return the left and the right picture of the first pair of a contact sheet."""
    pixels = np.asarray(Image.open(sheet)).astype(int)
    return pixels[4:322, 4:322], pixels[4:322, 326:644]


def test_true_segments_are_drawn_as_the_truth(dataset, tmp_path):
    """Though detectron2's evaluator changes the ids of what it was given."""
    name = "shapes_panoptic_val"
    cfg = config("PanopticFPN", name, OUTPUT_DIR=str(tmp_path))
    built = build_evaluators(cfg, name)
    built._evaluators = [built._evaluators[0], built._evaluators[-1]]
    built.reset()
    records = DatasetCatalog.get(name)
    for record in records:
        ids = rgb2id(np.asarray(Image.open(record["pan_seg_file_name"])))
        labels = np.zeros(ids.shape, int)
        for number, segment in enumerate(record["segments_info"]):
            labels[ids == segment["id"]] = 1000 * segment["category_id"] + number
        built.process([record], [{"panoptic_seg": (torch.from_numpy(labels), None)}])
    assert built.evaluate()["panoptic_seg"]["PQ"] == 100
    left, right = halves(tmp_path / "pictures" / f"{name}.png")
    plain = np.asarray(Image.open(records[0]["file_name"]).resize((318, 318), Image.BILINEAR))
    # Colours of things and their order are jittered; names and outlines are not.
    assert np.abs(left - right).mean() < 12
    assert np.abs(left - plain).mean() > 15


def test_keypoints_are_drawn_where_they_are(dataset, tmp_path):
    """Truth and a true prediction have the same red dots; without keypoints there are none."""
    name = "shapes_keypoints_val"
    record = DatasetCatalog.get(name)[0]
    keys = {"MODEL.KEYPOINT_ON": True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 5}
    keys |= {"TEST.KEYPOINT_OKS_SIGMAS": [0.05] * 5, "OUTPUT_DIR": str(tmp_path)}
    built = build_evaluators(config("GeneralizedRCNN", name, **keys), name)
    annotations = record["annotations"]
    boxes = torch.tensor([a["bbox"] for a in annotations])
    boxes[:, 2:] += boxes[:, :2]
    points = torch.tensor([a["keypoints"] for a in annotations]).float().view(-1, 5, 3)
    found = Instances((64, 64))
    found.pred_boxes, found.pred_keypoints = Boxes(boxes), points
    found.pred_classes = torch.tensor([a["category_id"] for a in annotations])
    found.scores = torch.ones(len(annotations))
    built.reset()
    built.process([record], [{"instances": found}])
    built.evaluate()

    def red(picture):
        return (picture[..., 0] > 230) & (picture[..., 1:] < 25).all(axis=-1)

    left, right = (red(half) for half in halves(tmp_path / "pictures" / f"{name}.png"))
    assert left.sum() > 5 * 10
    assert (left & right).sum() > 0.8 * left.sum()


def test_boxes_without_masks_are_drawn_next_to_masks(dataset, tmp_path, caplog):
    """Whichever annotation comes first."""
    drawer = PredictionPictures("shapes_val", "instances", tmp_path / "sheet.png", count=1)
    record = next(r for r in DatasetCatalog.get("shapes_val") if len(r["annotations"]) > 1)
    first, *others = record["annotations"]
    box = {key: value for key, value in first.items() if key != "segmentation"}
    for annotations in ([box, *others], [*others, box]):
        picture = drawer.draw({**record, "annotations": annotations}, {})
        truth, nothing = np.asarray(picture).astype(int)[:, :300], np.asarray(picture)[:, -300:]
        assert np.abs(truth - nothing).mean() > 5
    assert not caplog.records
