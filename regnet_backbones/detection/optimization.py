"""`OPTIMIZE` of a config: a detector made fast for its training, or afterwards."""

import math

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from regnet_backbones.detection.architectures import architecture_of
from regnet_backbones.optimize.options import (
    Optimization,
    log_report,
    optimize_trained,
    optimize_training,
)

# Of a typical image, as of most photographs.
ASPECT_RATIO = 4 / 3

# Pixels of the shorter side where images are taken in their own size: COCO's.
UNRESIZED = 480


def optimization_of(cfg: CfgNode) -> Optimization | None:
    """Return what `OPTIMIZE` asks for, None if it is not enabled."""
    node = cfg.OPTIMIZE
    if not node.ENABLED:
        return None
    return Optimization(dtype=node.DTYPE, compile=node.COMPILE, memory_format=node.MEMORY_FORMAT)


def optimize_detector(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Return a fast copy of a trained model if `OPTIMIZE` is enabled, else itself."""
    optimization = optimization_of(cfg)
    if optimization is None:
        return model
    size = typical_size(cfg, training=False, divisor=model.backbone.size_divisibility)
    model, report = optimize_trained(model, optimization, image_size=size)
    if comm.is_main_process():
        log_report(report)
    return model


def optimize_for_training(cfg: CfgNode, model: nn.Module) -> None:
    """Make the training of a model fast if `OPTIMIZE` is enabled; in all processes, before DDP."""
    optimization = optimization_of(cfg)
    if optimization is None:
        return
    report = optimize_training(
        model,
        optimization,
        image_size=typical_size(cfg, training=True, divisor=model.backbone.size_divisibility),
        batch_size=cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(),
        autocast=torch.float16 if cfg.SOLVER.AMP.ENABLED else None,  # that of AMPTrainer
        from_first=lambda text: comm.all_gather(text)[0],
    )
    if comm.is_main_process():
        log_report(report)


def typical_size(cfg: CfgNode, *, training: bool, divisor: int) -> tuple[int, int]:
    """Return height and width of an image as the backbone will often see it.

    `INPUT` says how images are resized, and what a segmenter crops: detectors crop before they
    resize, which leaves the size. The sides are padded to multiples of `divisor`; 0 for none.
    """
    sizes = cfg.INPUT
    crops = architecture_of(cfg).crops_resized and sizes.CROP.ENABLED
    if training and crops and sizes.CROP.TYPE == "absolute":
        sides = sizes.CROP.SIZE
    else:
        shorter = sizes.MIN_SIZE_TRAIN if training else sizes.MIN_SIZE_TEST
        longest = sizes.MAX_SIZE_TRAIN if training else sizes.MAX_SIZE_TEST
        # Several are chosen from, or from the range of two: the middle.
        height = min(float(np.mean(shorter)) or UNRESIZED, longest / ASPECT_RATIO)
        sides = (height, height * ASPECT_RATIO)
    divisor = max(1, divisor)
    height, width = (math.ceil(round(side) / divisor) * divisor for side in sides)
    return height, width
