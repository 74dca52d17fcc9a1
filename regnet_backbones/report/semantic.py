"""Pixels of one image, counted by truth and prediction."""

import torch


def count_pixels(
    truth: torch.Tensor, prediction: torch.Tensor, *, classes: int, ignore: int
) -> torch.Tensor:
    """Return the confusion matrix (truth, prediction) of an image, int64 (classes, classes).

    Args:
        truth, prediction: classes of the pixels, integers (H, W).
        classes: their number.
        ignore: pixels of this truth count nowhere.
    """
    counted = truth != ignore
    pairs = truth[counted].long() * classes + prediction[counted].long()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def mean_iou(matrix: torch.Tensor) -> float | None:
    """Return the mean IoU over the classes in truth or prediction, None where there are none."""
    matrix = matrix.double()
    right = matrix.diagonal()
    union = matrix.sum(0) + matrix.sum(1) - right
    present = union > 0
    return (right[present] / union[present]).mean().item() if present.any() else None
