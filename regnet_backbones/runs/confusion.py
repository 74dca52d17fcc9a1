"""Confusion matrices: counts by truth (rows) and prediction (columns), and numbers of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Confusion:
    """A matrix of `results.json`.

    Attributes:
        labels: names of rows and columns; of objects "background" is the last.
        counts: by truth, and by prediction.
        unit: what is counted, "objects" or "pixels".
    """

    labels: Sequence[str]
    counts: Sequence[Sequence[int]]
    unit: str


def class_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return `iou`, `dice`, `precision` and `recall` of each class, from 0 to 1.

    Args:
        counts: pixels by truth and prediction (C, C).

    Returns:
        By name (C,); NaN where nothing is counted: a class that is in neither truth nor prediction,
        for `precision` in no prediction, for `recall` in no truth.
    """
    right, truth, found = counts.diagonal(), counts.sum(1), counts.sum(0)
    parts = {
        "iou": (right, truth + found - right),
        "dice": (2 * right, truth + found),
        "precision": (right, found),
        "recall": (right, truth),
    }
    return {name: ratios(part, whole) for name, (part, whole) in parts.items()}


def ratios(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return `part / whole` of counts (C,), NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def mean_of(values: np.ndarray) -> float | None:
    """Return the mean of the values that are not NaN, None without any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
