"""Mean IoU, pixel accuracy and IoU of each class, from the pixels counted over all images."""

import math
from collections.abc import Mapping

import torch
from tabulate import tabulate
from torch.utils.data import DataLoader, DistributedSampler


def count_new(loader: object, batch_idx: int, size: int) -> int:
    """Return how many of the `size` images of a process's validation batch are not repetitions.

    A `DistributedSampler` repeats the first images so that all processes have as many.
    """
    if not isinstance(loader, DataLoader) or not isinstance(loader.sampler, DistributedSampler):
        return size
    sampler = loader.sampler
    before = batch_idx * (loader.batch_size or size)
    left = len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas)) - before
    return max(0, min(size, left))


def results_of(matrix: torch.Tensor, class_names: tuple[str, ...]) -> dict[str, object]:
    """Return the results, from 0 to 1, of a confusion matrix (truth, prediction).

    `iou` by class is None where a class is in neither truth nor prediction; `miou` is the mean of
    the others; `accuracy` that of all labelled pixels. All is None where no pixel has a label.
    """
    matrix = matrix.cpu().double()
    right = matrix.diagonal()
    iou = right / (matrix.sum(0) + matrix.sum(1) - right)
    values = torch.stack([iou.nanmean(), right.sum() / matrix.sum(), *iou]).tolist()
    miou, accuracy, *of_classes = (None if math.isnan(value) else value for value in values)
    by_class = dict(zip(class_names, of_classes, strict=True))
    return {"miou": miou, "accuracy": accuracy, "iou": by_class}


def results_table(results: Mapping[str, object], title: str) -> str:
    """Format results as a table, in percent."""
    rows = {"mIoU": results["miou"], "pixel accuracy": results["accuracy"]}
    rows |= {f"IoU {name}": value for name, value in results["iou"].items()}
    percent = [(name, None if value is None else 100 * value) for name, value in rows.items()]
    return tabulate(percent, headers=(title, "%"), floatfmt=".2f", missingval="-")
