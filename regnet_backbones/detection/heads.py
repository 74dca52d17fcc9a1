"""A DeepLabV3+ head for images of any size.

Detectron2's own (`detectron2/projects/deeplab/semantic_seg.py`) is made for Cityscapes, whose
images are all of one size. It pools over windows as large as a training crop, and raises where the
image is no multiple of that; and its loss fails where sides are no multiple of the head's stride.
"""

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.projects.deeplab import DeepLabV3PlusHead
from torch.nn import functional as F


@SEM_SEG_HEADS_REGISTRY.register()
class AnySizeDeepLabV3PlusHead(DeepLabV3PlusHead):
    """Detectron2's `DeepLabV3PlusHead`, pooling over the whole image as the paper has it.

    Parameters, their names and its config keys are the same.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, object]:
        """Return the arguments of the head of a config."""
        return {**super().from_config(cfg, input_shape), "train_size": None}

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
