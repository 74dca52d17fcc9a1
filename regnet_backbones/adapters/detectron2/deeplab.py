"""DeepLab on images of any size, and its schedule for a training that may get longer.

Detectron2's own heads (`detectron2/projects/deeplab/semantic_seg.py`) are made for Cityscapes,
whose images are all of one size: they pool over windows as large as a training crop. These have the
same parameters, names and config keys, and pool over the whole image, as in the papers.
"""

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.projects.deeplab import DeepLabV3Head, DeepLabV3PlusHead
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from torch.nn import functional as F


class _AnySizeLoss:
    """The loss where the upsampled logits may be larger than the labels."""

    def losses(self, predictions: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the loss of logits (N, classes, ceil(H / stride), ...) for labels (N, H, W)."""
        height, width = targets.shape[-2:]
        logits = F.interpolate(
            predictions, scale_factor=self.common_stride, mode="bilinear", align_corners=False
        )[..., :height, :width]
        return {"loss_sem_seg": self.loss(logits, targets) * self.loss_weight}


@SEM_SEG_HEADS_REGISTRY.register()
class AnySizeDeepLabV3PlusHead(_AnySizeLoss, DeepLabV3PlusHead):
    """Detectron2's `DeepLabV3PlusHead` for images of any size."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, object]:
        """Return the arguments of the head of a config."""
        return {**super().from_config(cfg, input_shape), "train_size": None}


@SEM_SEG_HEADS_REGISTRY.register()
class AnySizeDeepLabV3Head(_AnySizeLoss, DeepLabV3Head):
    """Detectron2's `DeepLabV3Head` for images of any size."""

    def __init__(self, cfg: CfgNode, input_shape: dict[str, ShapeSpec]):
        without_crop = cfg.clone()
        without_crop.defrost()
        without_crop.INPUT.CROP.ENABLED = False  # all that the head takes from it is the window
        super().__init__(without_crop, input_shape)


class PolyLR(WarmupPolyLR):
    """DeepLab's schedule, whose state is the iteration alone, so that `MAX_ITER` may change."""

    def state_dict(self) -> dict[str, object]:
        """Return what `detectron2.solver.LRMultiplier` returns."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}


def build_poly_lr(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> PolyLR:
    """Build the schedule of `SOLVER`: warm-up, then (1 - iteration / MAX_ITER) ** POLY_LR_POWER."""
    solver = cfg.SOLVER
    return PolyLR(
        optimizer,
        solver.MAX_ITER,
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_iters=solver.WARMUP_ITERS,
        warmup_method=solver.WARMUP_METHOD,
        power=solver.get("POLY_LR_POWER", 0.9),
        constant_ending=solver.get("POLY_LR_CONSTANT_ENDING", 0.0),
    )
