"""IoU, Dice, precision and recall of each class, from the pixels counted over all images."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch.utils.data import DataLoader, DistributedSampler

from regnet_backbones.runs.confusion import class_scores, mean_of, ratios
from regnet_backbones.runs.results import SEGMENTATION
from regnet_backbones.semseg.labels import IGNORE

# How far boundaries reach into a class, as a part of the image's diagonal.
BOUNDARY = 0.02


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


def results_of(matrix: torch.Tensor, class_names: Sequence[str]) -> dict[str, object]:
    """Return the results, from 0 to 1, of a confusion matrix (truth, prediction).

    Those of a class are None where nothing is counted; `miou` and `mdice` are means of the others.
    """
    counts = matrix.cpu().numpy()
    scores, total = class_scores(counts), counts.sum()
    accuracy = float(counts.trace() / total) if total else None
    means = {"miou": mean_of(scores["iou"]), "accuracy": accuracy, "mdice": mean_of(scores["dice"])}
    return means | {name: _by_class(values, class_names) for name, values in scores.items()}


def _by_class(values: np.ndarray, class_names: Sequence[str]) -> dict[str, float | None]:
    found = [None if math.isnan(value) else value for value in values.tolist()]
    return dict(zip(class_names, found, strict=True))


def boundary_counts(
    prediction: torch.Tensor, truth: torch.Tensor, num_classes: int
) -> torch.Tensor:
    """Count the boundary pixels of each class (Cheng et al., arXiv:2103.16562).

    Return pixels in both boundaries, and in either (2, C), of classes (N, H, W): their ratio is the
    boundary IoU. The boundary of a class is what an erosion of its mask by `BOUNDARY` of the
    image's diagonal removes, at the end of the image, too. Ignored pixels make no boundary.
    """
    ignored = truth == IGNORE
    found, there = (boundaries(each, ignored) & ~ignored for each in (prediction, truth))
    both = found & there & (prediction == truth)
    chosen = (truth[both], truth[there], prediction[found])
    both, there, found = (torch.bincount(each, minlength=num_classes) for each in chosen)
    return torch.stack([both, there + found - both])


def boundary_results(counts: torch.Tensor, class_names: Sequence[str]) -> dict[str, object]:
    """Return `boundary_iou` by class of `boundary_counts`, and `boundary_miou`, the mean."""
    both, either = counts.cpu().numpy()
    iou = ratios(both, either)
    return {"boundary_miou": mean_of(iou), "boundary_iou": _by_class(iou, class_names)}


def boundaries(labels: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
    """Return which pixels have another class, or the end of the image, nearby.

    A pixel is inside of its class if the largest and the smallest of the `labels` (N, H, W) in the
    square around it are the same, without the `ignored` ones; so one pass does for all classes.
    """
    reach = max(1, round(BOUNDARY * math.hypot(*labels.shape[-2:])))
    padding, small = [reach] * 4, labels.to(torch.int16)
    largest = F.pad(small.masked_fill(ignored, -1), padding, value=-1)
    smallest = F.pad(small.masked_fill(ignored, 255), padding, value=-1)
    size = 2 * reach + 1
    return _filtered(torch.maximum, largest, size) != _filtered(torch.minimum, smallest, size)


def _filtered(
    reduce: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, size: int
) -> torch.Tensor:
    """Reduce squares of `size` pixels, in steps that double: ten of them for a size of 30."""
    for dim in (-1, -2):
        width = 1
        while width < size:
            step = min(width, size - width)
            kept = x.shape[dim] - step
            x = reduce(x.narrow(dim, 0, kept), x.narrow(dim, step, kept))
            width += step
    return x


def results_table(results: Mapping[str, object], title: str) -> str:
    """Format results as a table, in percent."""
    rows = {name: results[key] for key, name in SEGMENTATION.items() if key in results}
    rows |= {f"IoU {name}": value for name, value in results["iou"].items()}
    percent = [(name, None if value is None else 100 * value) for name, value in rows.items()]
    return tabulate(percent, headers=(title, "%"), floatfmt=".2f", missingval="-")
