"""Every architecture that detectron2 has: trained, resumed, evaluated and shown on the demo data.

The quick configs at a smaller size, through the tools, as a user would run them.
"""

import json

import pytest
import torch
from demo_datasets import looked_for_in
from load_tool import load_tool
from PIL import Image

from regnet_backbones import config_path, shapes

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
SIDE, STEPS, RESUMED_STEPS = 64, 60, 62


def tool(name):
    return load_tool(name).main


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Draw a small demo dataset, and let detectron2 find it."""
    root = tmp_path_factory.mktemp("datasets")
    spec = shapes.ShapesSpec(num_train=4, num_val=4, image_size=SIDE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes.drawing, "MIN_SIZE", 0.35)
        dataset = shapes.write(root / "shapes", spec)
    with looked_for_in(root):
        yield dataset


def options(output, steps):
    return [
        *("OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", str(steps), "MODEL.DEVICE", "cpu"),
        *("SOLVER.IMS_PER_BATCH", "4", "SOLVER.WARMUP_ITERS", "10", "SOLVER.BASE_LR", "0.002"),
        *("SOLVER.CHECKPOINT_PERIOD", str(STEPS), "TEST.EVAL_PERIOD", "0", "TEST.PICTURES", "2"),
        *("INPUT.MIN_SIZE_TRAIN", f"({SIDE},)", "INPUT.MIN_SIZE_TEST", str(SIDE)),
    ]


def metrics(output):
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


@pytest.mark.parametrize(("name", "metric", "kind"), ROWS, ids=[row[0] for row in ROWS])
def test_an_architecture_from_training_to_prediction(name, metric, kind, drawn, tmp_path):
    train, output = ["--config-file", str(QUICK / f"{name}.yaml")], tmp_path / "run"
    assert tool("train_net")([*train, *options(output, STEPS)]) == 0
    lines = metrics(output)
    losses = [line["total_loss"] for line in lines if "total_loss" in line]
    assert len(losses) == STEPS // 20
    assert losses[-1] < 0.9 * losses[0]
    assert metric in lines[-1]
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
    assert len(list((predicted / "overlays").iterdir())) == 4
    assert (predicted / "predictions.json").is_file() is (kind != "sem_seg")
    assert (predicted / "labels").is_dir() is (kind != "instances")
