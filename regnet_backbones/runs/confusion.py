"""Confusion matrices: counts by truth (rows) and prediction (columns), and numbers of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Confusion:
    """A matrix of `results.json`."""

    labels: Sequence[str]  # names of rows and columns; of objects "background" is the last
    counts: Sequence[Sequence[int]]  # by truth, and by prediction
    unit: str  # what is counted, "objects" or "pixels"


def class_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return `iou`, `dice`, `precision` and `recall` (C,), from 0 to 1, of pixels (C, C).

    They are NaN where nothing is counted: a class that is in neither truth nor prediction.
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
