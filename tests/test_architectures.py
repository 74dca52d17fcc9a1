"""Every architecture that detectron2 has: trained, resumed, evaluated and shown on the demo data.

The quick configs at a smaller size, through the tools, as a user would run them.
"""

import json
from statistics import mean

import pytest
import torch
from demo_datasets import looked_for_in
from load_tool import load_tool
from PIL import Image
from small_detector import FOUR_BLOCKS

from regnet_backbones import config_path, shapes
from regnet_backbones.detection.training.trainer import Trainer

QUICK = config_path("detectron2/quick")

# Config, the metric it is judged by, and what is predicted of an image.
ROWS = [
    ("faster_rcnn_regnet_small_fpn", "bbox/AP", "instances"),
    ("mask_rcnn_regnet_small_fpn", "segm/AP", "instances"),
    ("cascade_mask_rcnn_regnet_small_fpn", "segm/AP", "instances"),
    ("keypoint_rcnn_regnet_small_fpn", "keypoints/AP", "instances"),
    ("retinanet_regnet_small_fpn", "bbox/AP", "instances"),
    ("fcos_regnet_small_fpn", "bbox/AP", "instances"),
    ("mask_rcnn_regnet_small_dc5", "segm/AP", "instances"),
    ("mask_rcnn_regnet_small_c4", "segm/AP", "instances"),
    ("point_rend_regnet_small_fpn", "segm/AP", "instances"),
    ("panoptic_fpn_regnet_small", "panoptic_seg/PQ", "panoptic_seg"),
    ("panoptic_deeplab_regnet_small_shapes", "panoptic_seg/PQ", "panoptic_seg"),
    ("semantic_fpn_regnet_small_shapes", "sem_seg/mIoU", "sem_seg"),
    ("deeplab_v3_regnet_small_shapes", "sem_seg/mIoU", "sem_seg"),
    ("deeplab_v3_plus_regnet_small_shapes", "sem_seg/mIoU", "sem_seg"),
    ("point_rend_semantic_regnet_small_shapes", "sem_seg/mIoU", "sem_seg"),
]
SIDE, STEPS, RESUMED_STEPS = 64, 20, 21


def tool(name):
    return load_tool(name).main


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Draw a small demo dataset, and let detectron2 find it."""
    root = tmp_path_factory.mktemp("datasets")
    spec = shapes.ShapesSpec(num_train=2, num_val=2, image_size=SIDE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes.drawing, "MIN_SIZE", 0.35)
        dataset = shapes.write(root / "shapes", spec)
    with looked_for_in(root):
        yield dataset


@pytest.fixture
def losses(monkeypatch):
    """Return the total losses of a training, one of each step."""
    found, after_step = [], Trainer.after_step

    def note(self):
        # RetinaNet and FCOS divide by a running mean, which falls from a high value.
        divisor = float(getattr(self.model, "loss_normalizer", 1))
        found.append(self.storage.latest()["total_loss"][0] * divisor)
        after_step(self)

    monkeypatch.setattr(Trainer, "after_step", note)
    return found


def options(output, steps):
    return [
        *("OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", str(steps), "MODEL.DEVICE", "cpu"),
        *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "0", "SOLVER.BASE_LR", "0.002"),
        *("SOLVER.CHECKPOINT_PERIOD", str(STEPS), "TEST.EVAL_PERIOD", "0", "TEST.PICTURES", "1"),
        *("INPUT.MIN_SIZE_TRAIN", f"({SIDE},)", "INPUT.MIN_SIZE_TEST", str(SIDE)),
        *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "100", "MODEL.RPN.POST_NMS_TOPK_TEST", "50"),
        *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16", "TEST.DETECTIONS_PER_IMAGE", "20"),
        *("DATALOADER.NUM_WORKERS", "0", *FOUR_BLOCKS),
    ]


def metrics(output):
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


@pytest.mark.parametrize(("name", "metric", "kind"), ROWS, ids=[row[0] for row in ROWS])
def test_an_architecture_from_training_to_prediction(name, metric, kind, drawn, losses, tmp_path):
    train, output = ["--config-file", str(QUICK / f"{name}.yaml")], tmp_path / "run"
    assert tool("train_net")([*train, *options(output, STEPS)]) == 0
    assert mean(losses[-5:]) < 0.9 * mean(losses[:5])
    assert metric in metrics(output)[-1]
    (sheet,) = (output / "pictures").glob("*.png")
    assert Image.open(sheet).width > 2 * SIDE

    assert tool("train_net")([*train, "--resume", *options(output, RESUMED_STEPS)]) == 0
    assert f"Starting training from iteration {STEPS}" in (output / "log.txt").read_text()
    state = torch.load(output / "model_final.pth", weights_only=True)
    assert state["iteration"] == RESUMED_STEPS - 1
    trained = metrics(output)[-1]

    evaluated = tmp_path / "evaluated"
    assert tool("evaluate")([str(output), "--output", str(evaluated)]) == 0
    results = json.loads((evaluated / "results.json").read_text())["results"]
    ((_, tasks),) = results.items()
    task, key = metric.split("/")
    assert tasks[task][key] == pytest.approx(trained[metric], nan_ok=True)

    predicted = tmp_path / "predicted"
    images = str(drawn.images("val"))
    assert tool("predict")([str(output), images, "--output", str(predicted)]) == 0
    assert len(list((predicted / "overlays").iterdir())) == 2
    assert (predicted / "panoptic.json").is_file() is (kind == "panoptic_seg")
    if kind != "panoptic_seg":  # Panoptic-DeepLab may see no instance yet
        assert (predicted / "predictions.json").is_file() is (kind == "instances")
    assert (predicted / "labels").is_dir() is (kind != "instances")
