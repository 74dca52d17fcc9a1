"""DeepLabV3 and V3+ heads for images of any size.

Detectron2's own (`detectron2/projects/deeplab/semantic_seg.py`) are made for Cityscapes, whose
images are all of one size. They pool over windows as large as a training crop, and raise where the
image is no multiple of that; and their loss fails where sides are no multiple of the head's stride.
Parameters, their names and config keys of these are the same; they pool over the whole image, as
the papers have it.
"""

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.projects.deeplab import DeepLabV3Head, DeepLabV3PlusHead
from torch.nn import functional as F


class _AnySizeLoss:
    """The loss where the upsampled logits may be larger than the labels."""

    def losses(self, predictions: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the loss by name.

        Args:
            predictions: logits (N, classes, ceil(H / stride), ceil(W / stride)).
            targets: classes (N, H, W), the ignored label among them.
        """
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
    """Detectron2's `DeepLabV3Head` for images of any size.

    Args:
        cfg: a config.
        input_shape: of the backbone's maps, by name.
    """

    def __init__(self, cfg: CfgNode, input_shape: dict[str, ShapeSpec]):
        without_crop = cfg.clone()
        without_crop.defrost()
        without_crop.INPUT.CROP.ENABLED = False  # all that the head takes from it is the window
        super().__init__(without_crop, input_shape)
