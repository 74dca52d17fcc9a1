"""What a segmenter learns from, and how fast: its loss, and the learning rates of its parameters.

Over the steps rates follow DeepLab's "poly" decay (arXiv 1606.00915, section 4.1) after a linear
warm-up, which starts at `1 / (warmup_steps + 1)` of the rate, so that the first step moves the
weights.
"""

import logging
import math
from typing import Literal

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.losses import MULTICLASS_MODE, DiceLoss
from torch import distributed, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from regnet_backbones.errors import UserError
from regnet_backbones.semseg.labels import IGNORE

logger = logging.getLogger(__name__)

LossName = Literal["ce", "dice", "ce+dice"]


class SegmentationLoss(nn.Module):
    """Loss of the labelled pixels of a batch: cross entropy, SMP's Dice loss, or the sum of both.

    With several processes, all of which must call it, cross entropy is the mean over the labelled
    pixels of all of them; Dice is taken in each and averaged.
    """

    def __init__(self, name: LossName):
        super().__init__()
        self.name = name
        self.dice = DiceLoss(MULTICLASS_MODE, from_logits=True, ignore_index=IGNORE)

    def forward(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the loss in float32, 0 where no pixel has a label.

        Logits are (N, classes, H, W), the mask (N, H, W) with 255 where it is ignored.
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
    count, processes = (mask != IGNORE).sum(), 1
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(count)
        processes = distributed.get_world_size()
    return count.clamp(min=1) / processes


def parameter_groups(
    network: nn.Module, *, lr: float, encoder_lr_factor: float, weight_decay: float
) -> list[dict[str, object]]:
    """Return the trained parameters of a model of SMP in up to four named groups.

    They are of the encoder, at `encoder_lr_factor` of the rate, and last of the decoder; in each,
    norms and biases have no weight decay.
    """
    groups = {
        (part, decays): {
            "name": part if decays else f"{part}/no_decay",
            "lr": rate,
            "weight_decay": weight_decay if decays else 0.0,
            "params": [],
        }
        for part, rate in (("encoder", encoder_lr_factor * lr), ("decoder", lr))
        for decays in (False, True)
    }
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            part = "encoder" if name.startswith("encoder.") else "decoder"
            groups[part, parameter.ndim > 1]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def poly_with_warmup(
    optimizer: Optimizer, *, total_steps: float, warmup_steps: int = 0, power: float = 0.9
) -> LambdaLR:
    """Return the schedule of a run, to be stepped after every step of the optimizer.

    Every parameter group keeps its own rate as the peak. The state of the schedule is the step it
    is at; length and power are those of the run that goes on.
    """
    if not 1 <= total_steps < math.inf:
        raise UserError(
            "the learning rate decays to the end of the run, which must be after a step at least, "
            f"and is after {total_steps}; set max_steps or max_epochs of the trainer"
        )
    if warmup_steps >= total_steps:
        logger.warning(
            "warmup_steps=%d is the whole run of %d steps: the learning rate never gets to its "
            "peak; take fewer warm-up steps or a longer run",
            *(warmup_steps, total_steps),
        )
    return LambdaLR(optimizer, lambda step: poly_factor(step, total_steps, warmup_steps, power))


def poly_factor(step: int, total: float, warmup: int, power: float) -> float:
    """Return the rate of a step (from 0) as a part of the peak: 1 at `warmup`, 0 from `total`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if step >= total:
        return 0.0
    return (1 - (step - warmup) / (total - warmup)) ** power
