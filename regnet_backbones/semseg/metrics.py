"""Mean IoU, pixel accuracy and IoU of each class, from the pixels counted over all images."""

import math
from collections.abc import Mapping

import torch
from tabulate import tabulate
from torch.utils.data import DataLoader, DistributedSampler

# The names under which a validation logs them.
MIOU = "val/miou"
ACCURACY = "val/accuracy"
IOU = "val/iou/"


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


def as_results(values: Mapping[str, float]) -> dict[str, object]:
    """Return the metrics of `summarize` as a JSON file holds them, None for NaN."""
    found = {name: None if math.isnan(value) else value for name, value in values.items()}
    iou = {name.removeprefix(IOU): v for name, v in found.items() if name.startswith(IOU)}
    return {"miou": found[MIOU], "accuracy": found[ACCURACY], "iou": iou}


def results_table(results: Mapping[str, object], title: str) -> str:
    """Format results as a table, in percent."""
    rows = [("mIoU", results["miou"]), ("pixel accuracy", results["accuracy"])]
    rows += [(f"IoU {name}", value) for name, value in results["iou"].items()]
    percent = [(name, None if value is None else 100 * value) for name, value in rows]
    return tabulate(percent, headers=(title, "%"), floatfmt=".2f", missingval="-")
