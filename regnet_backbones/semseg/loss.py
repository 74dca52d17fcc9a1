"""Losses of a segmenter: cross entropy, Dice, and their sum."""

from typing import Literal

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.losses import MULTICLASS_MODE, DiceLoss
from torch import distributed, nn

from regnet_backbones.semseg.layouts import IGNORE

LossName = Literal["ce", "dice", "ce+dice"]


class SegmentationLoss(nn.Module):
    """Loss of the labelled pixels of a batch.

    With several processes cross entropy is the mean over the labelled pixels of all of them, Dice
    is taken in each and averaged.

    Args:
        name: "ce" cross entropy, "dice" Dice loss (SMP's), "ce+dice" the sum of both.
    """

    def __init__(self, name: LossName):
        super().__init__()
        self.name = name
        self.dice = DiceLoss(MULTICLASS_MODE, from_logits=True, ignore_index=IGNORE)

    def forward(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the loss in float32; 0 where no pixel has a label.

        In a distributed run every process must call it.

        Args:
            logits: (N, classes, H, W).
            mask: classes (N, H, W), 255 is ignored.
        """
        logits = logits.float()
        loss = logits.new_zeros(())
        if self.name != "dice":
            entropy = F.cross_entropy(logits, mask, ignore_index=IGNORE, reduction="sum")
            loss = loss + entropy / _labelled_pixels(mask)
        if self.name != "ce":
            loss = loss + self.dice(logits, mask)
        return loss


def _labelled_pixels(mask: torch.Tensor) -> torch.Tensor:
    """Return the number of labelled pixels, at least 1; of several processes their mean.

    Gradients are averaged over the processes: divided by this, every labelled pixel of the whole
    batch has the same weight.
    """
    count = (mask != IGNORE).sum()
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(count)
        return count.clamp(min=1) / distributed.get_world_size()
    return count.clamp(min=1)
