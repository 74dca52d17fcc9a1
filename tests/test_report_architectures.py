"""The report of detectron2's other architectures: each is scored by what it gives."""

import numpy as np
import pytest
import torch
from demo_datasets import looked_for_in
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from load_tool import load_tool
from PIL import Image
from report_pages import Page, read_detector
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from regnet_backbones import config_path, shapes
from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.detection.config import read_config

SIDE = 64
IMAGES = 2


@pytest.fixture(scope="module", autouse=True)
def datasets(tmp_path_factory):
    """Draw the demo's dataset where detectron2 looks for it."""
    folder = tmp_path_factory.mktemp("datasets")
    spec = shapes.ShapesSpec(num_train=1, num_val=IMAGES, image_size=SIDE)
    shapes.write(folder / "shapes", spec)
    with looked_for_in(folder):
        yield


def save_run(folder, config):
    """Leave what a training would have left, of random weights; return model and config."""
    torch.manual_seed(0)
    opts = ["INPUT.MIN_SIZE_TEST", str(SIDE), "MODEL.DEVICE", "cpu", "TEST.PICTURES", "1"]
    opts += ["TEST.DETECTIONS_PER_IMAGE", "5", "DATALOADER.NUM_WORKERS", "0"]
    cfg = read_config(config_path("detectron2/quick") / config, opts)
    import_projects(cfg)
    model = build_model(cfg).eval()
    DetectionCheckpointer(model, save_dir=str(folder)).save("model_final")
    (folder / "config.yaml").write_text(cfg.dump())
    return model, cfg


@pytest.mark.parametrize(
    ("config", "title", "tasks", "score"),
    [
        ("retinanet_regnet_small_fpn.yaml", "RetinaNet", ["bbox"], "boxes"),
        ("keypoint_rcnn_regnet_small_fpn.yaml", "Keypoint R-CNN", ["bbox", "keypoints"], "boxes"),
        ("panoptic_fpn_regnet_small.yaml", "PanopticFPN", None, "boxes"),
        ("panoptic_deeplab_regnet_small_shapes.yaml", "PanopticDeepLab", None, "F1"),
    ],
)
def test_each_is_evaluated_and_shown(config, title, tasks, score, tmp_path, capsys):
    save_run(tmp_path, config)
    assert load_tool("report").main([str(tmp_path), "--device", "cpu"]) == 0
    page = Page((tmp_path / "report.html").read_text())
    assert page.text_of("h1") == [f"{title} on a RegNet by numbers"]
    report = read_detector(tmp_path, "report")
    assert score in report.images.score
    assert sum(map(len, report.pictures.values())) == IMAGES
    found = [task for table in report.metrics.summary for task, _ in table.rows]
    assert tasks is None or found == tasks
    assert all(row in [r[0] for r in page.rows()] for row in found)


def test_the_score_of_a_semantic_segmentation_is_that_of_torchmetrics(tmp_path):
    model, cfg = save_run(tmp_path, "semantic_fpn_regnet_small_shapes.yaml")
    assert load_tool("evaluate").main([str(tmp_path), "--device", "cpu"]) == 0
    report = read_detector(tmp_path, "evaluation")
    shown = {score.file: score.score for score in report.images.images}
    assert len(shown) == IMAGES
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    truths, predictions = [], []
    for record in DatasetCatalog.get(cfg.DATASETS.TEST[0]):
        bgr = torch.from_numpy(read_image(record["file_name"], "BGR").copy()).permute(2, 0, 1)
        image = bgr.flip(0) if cfg.INPUT.FORMAT == "RGB" else bgr
        with torch.no_grad():
            (output,) = model([{"image": image, "height": SIDE, "width": SIDE}])
        prediction = output["sem_seg"].argmax(0)
        truth = torch.from_numpy(np.array(Image.open(record["sem_seg_file_name"]))).long()
        iou = MulticlassJaccardIndex(classes, average="none", ignore_index=255)(prediction, truth)
        labelled = truth != 255
        present = set(truth[labelled].tolist()) | set(prediction[labelled].tolist())
        expected = iou[sorted(present)].mean().item()
        name = record["file_name"].rpartition("/")[2]
        assert shown[name] == pytest.approx(expected, rel=1e-4)
        truths.append(truth)
        predictions.append(prediction)
    pair = torch.stack(predictions), torch.stack(truths)
    options = {"num_classes": classes, "ignore_index": 255}
    confusion = report.metrics.confusion["sem_seg"]
    assert confusion.counts == multiclass_confusion_matrix(*pair, **options).tolist()
    dice = multiclass_f1_score(*pair, **options, average="none")
    columns, rows = report.metrics.per_class.columns, report.metrics.per_class.rows
    found = [values[columns.index("sem_seg Dice")] for _, values in rows]
    assert [value or 0 for value in found] == pytest.approx((100 * dice).tolist(), rel=1e-4)
