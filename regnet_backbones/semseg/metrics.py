"""Mean IoU, pixel accuracy and IoU of each class, from the pixels counted over all images."""

import math

import torch
from torch.utils.data import DataLoader, DistributedSampler
from torchmetrics.classification import MulticlassConfusionMatrix

from regnet_backbones.semseg.layouts import IGNORE

# The names under which a validation logs them.
MIOU = "val/miou"
ACCURACY = "val/accuracy"
IOU = "val/iou/"


def confusion_matrix(num_classes: int) -> MulticlassConfusionMatrix:
    """Return what counts pixels by truth (rows) and prediction, except ignored ones."""
    # The checks of torchmetrics sort every mask, and see less than the dataset's.
    return MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE, validate_args=False)


def count_new(loader: object, batch_idx: int, size: int) -> int:
    """Return how many of the `size` images of a validation batch are not repetitions.

    A `DistributedSampler` gives every process as many images as any, and repeats the first ones
    for that. They would count twice. `batch_idx` counts the batches of this process from 0.
    """
    if not isinstance(loader, DataLoader) or not isinstance(loader.sampler, DistributedSampler):
        return size
    sampler = loader.sampler
    before = batch_idx * (loader.batch_size or size)
    left = len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas)) - before
    return max(0, min(size, left))


def summarize(matrix: torch.Tensor, class_names: tuple[str, ...]) -> dict[str, float]:
    """Return the metrics, from 0 to 1, of a confusion matrix (truth, prediction) as logged.

    The mean is over the classes that are in truth or prediction; the others are NaN, and so is
    everything where no pixel has a label.
    """
    matrix = matrix.cpu().double()
    right = matrix.diagonal()
    iou = right / (matrix.sum(0) + matrix.sum(1) - right)
    metrics = {MIOU: iou.nanmean().item(), ACCURACY: (right.sum() / matrix.sum()).item()}
    by_class = zip(class_names, iou.tolist(), strict=True)
    return metrics | {f"{IOU}{name}": value for name, value in by_class}


def finite(value: float | None) -> float | None:
    """Return a number, None for what is none."""
    return None if value is None or math.isnan(value) else value
