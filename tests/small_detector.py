"""A small detector for tests, of random weights."""

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from regnet_backbones import config_path
from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.detection.config import read_config

SIDE = 64  # pixels that images are resized to
FOUR_BLOCKS = ["MODEL.REGNET.WA", "60.0", "MODEL.REGNET.DEPTH", "4"]  # for the quick configs


def save_detector(folder, config="mask_rcnn_regnet_small_fpn.yaml", *opts):
    """Leave what a training would have left, and return the folder."""
    torch.manual_seed(0)
    few = ["TEST.DETECTIONS_PER_IMAGE", "5", "INPUT.MIN_SIZE_TEST", str(SIDE)]
    path = config_path("detectron2/quick") / config
    cfg = read_config(path, ["MODEL.DEVICE", "cpu", *few, *opts])
    import_projects(cfg)
    DetectionCheckpointer(build_model(cfg), save_dir=str(folder)).save("model_final")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder
