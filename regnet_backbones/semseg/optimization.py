"""A segmenter made fast for its training, or afterwards."""

import math
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only

from regnet_backbones.optimize.options import (
    Optimization,
    log_report,
    optimize_trained,
    optimize_training,
)
from regnet_backbones.semseg.datamodule import SegmentationData

if TYPE_CHECKING:
    from regnet_backbones.semseg.module import Segmenter

# Pixels of both sides, and images of a process, where the data do not say it.
SIDE, BATCH = 512, 2

# What a step computes in, by the precision of the trainer; the others are measured as float32.
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def optimize_for_training(segmenter: "Segmenter", *, compile: bool, channels_last: bool) -> None:
    """Make the training of a segmenter fast, in all processes, before DDP; its state dict stays.

    The memory format is measured unless it is to be `channels_last`.
    """
    trainer = segmenter.trainer
    side, batch = SIDE, BATCH
    if isinstance(trainer.datamodule, SegmentationData):
        side = trainer.datamodule.hparams["crop_size"]
        batch = max(1, trainer.datamodule.batch_size // trainer.world_size)
    segmenter.network.to(trainer.strategy.root_device)
    report = optimize_training(
        segmenter.network,
        Optimization(compile=compile, memory_format="channels_last" if channels_last else "auto"),
        image_size=_padded(side, segmenter.stride),
        batch_size=batch,
        autocast=AUTOCAST.get(trainer.precision),
        from_first=trainer.strategy.broadcast,
    )
    segmenter.use_memory_format(report.memory_format)
    if trainer.is_global_zero:
        log_report(report)


def optimize_segmenter(segmenter: "Segmenter", optimization: Optimization, *, side: int) -> None:
    """Replace the network of a segmenter, which is on its device, by a fast copy for inference.

    `side` are the pixels of both sides of a typical image, or window.
    """
    segmenter.network, report = optimize_trained(
        segmenter.network, optimization, image_size=_padded(side, segmenter.stride)
    )
    segmenter.use_memory_format(report.memory_format)
    if rank_zero_only.rank == 0:
        log_report(report)


class OptimizeBeforeValidation(Callback):
    """Do `optimize_segmenter` where the trainer has its device and has not begun."""

    def __init__(self, optimization: Optimization, *, side: int) -> None:
        self.optimization, self.side = optimization, side

    def setup(self, trainer: Trainer, pl_module: "Segmenter", stage: str) -> None:
        """Optimize the network."""
        optimize_segmenter(
            pl_module.to(trainer.strategy.root_device), self.optimization, side=self.side
        )


def typical_side(segmenter: "Segmenter", crop_size: int | None) -> int:
    """Return the pixels of both sides of what the network often sees."""
    return segmenter.inference.window or crop_size or SIDE


def _padded(side: int, stride: int) -> tuple[int, int]:
    """Return height and width of a square as the network gets it."""
    padded = math.ceil(side / stride) * stride
    return padded, padded
