"""How the time of our extractor grows with what it computes and what it writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from statistics import linear_regression

from benchmarks.entries import OURS
from benchmarks.results import Result


@dataclass(frozen=True)
class Point:
    """A row of ours and what its call costs.

    Attributes:
        row: its name.
        training: forward and backward.
        variant: of the extractor.
        size: height and width.
        batch: images of a call.
        flops: multiply-adds of the forward pass of all its images.
        activations: elements in the outputs of its convolutions, of all its images.
        seconds: median time.
    """

    row: str
    training: bool
    variant: str
    size: tuple[int, int]
    batch: int
    flops: int
    activations: int
    seconds: float


@dataclass(frozen=True)
class Scaling:
    """The power of each cost that the time of a row grows with: 1 is in proportion.

    Attributes:
        row: its name.
        training: forward and backward.
        flops: exponent of the multiply-adds.
        activations: exponent of the activations.
    """

    row: str
    training: bool
    flops: float
    activations: float


def points(results: Sequence[Result]) -> list[Point]:
    """Return the measured rows of our extractor, of variants whose design is known."""
    found = []
    for result in results:
        case, cost = result.case, result.case.cost
        found += [
            Point(
                row=row.name,
                training=case.training,
                variant=case.variant,
                size=case.size,
                batch=case.batch,
                flops=case.batch * cost.flops,
                activations=case.batch * cost.activations,
                seconds=row.median,
            )
            for row in result.measured
            if cost is not None and row.family == OURS
        ]
    return found


def scaling(points: Sequence[Point]) -> list[Scaling]:
    """Fit, for each row with two costs or more, straight lines through the logarithms."""
    fitted = []
    for row, training in dict.fromkeys((point.row, point.training) for point in points):
        chosen = [point for point in points if (point.row, point.training) == (row, training)]
        if len({p.flops for p in chosen}) > 1 and len({p.activations for p in chosen}) > 1:
            seconds = [log(point.seconds) for point in chosen]
            flops = linear_regression([log(point.flops) for point in chosen], seconds)
            activations = linear_regression([log(point.activations) for point in chosen], seconds)
            fitted.append(Scaling(row, training, flops.slope, activations.slope))
    return fitted
