"""Ranges of numbers to draw from: evenly, or evenly in their logarithm.

Source: pycls `pycls/sweep/random.py`, whose quantised draws give the ends of a range the
probability that they would have inside it. Here a range is the list of its values, each with a
weight: 1, or the logarithm of its ratio to the value below it. One call of `random()`, the one
method whose stream Python guarantees, makes one draw.
"""

import math
import random
from bisect import bisect
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from numbers import Real
from typing import Generic, TypeVar

from regnet_backbones.errors import UserError

Interval = tuple[float, float]  # lowest and highest, both included
Number = int | float

N = TypeVar("N", bound=Number)


@dataclass(frozen=True)
class Range(Generic[N]):
    """Values and how likely each is.

    Attributes:
        values: in ascending order.
        weights: of each value, above 0; only their ratios count.

    Raises:
        ValueError: there are no values, they do not ascend, or weights are not above 0.
    """

    values: tuple[N, ...] = field(repr=False)
    weights: tuple[float, ...] = field(repr=False)

    def __post_init__(self) -> None:
        """Raise for what is no distribution."""
        if not self.values or list(self.values) != sorted(set(self.values)):
            raise UserError(f"a range needs ascending values, got {_shorten(self.values)}")
        if len(self.weights) != len(self.values) or min(self.weights) <= 0:
            raise UserError(
                f"a range needs a weight above 0 for each value, got {_shorten(self.weights)} for "
                f"{_shorten(self.values)}"
            )

    def __str__(self) -> str:
        """Write the ends: "8 to 256", or the one value."""
        low, high = (format(value, "g") for value in (self.lowest, self.highest))
        return low if low == high else f"{low} to {high}"

    @property
    def lowest(self) -> N:
        """The lowest value."""
        return self.values[0]

    @property
    def highest(self) -> N:
        """The highest value."""
        return self.values[-1]

    @cached_property
    def cumulative(self) -> tuple[float, ...]:
        """Probability of each value or a lower one."""
        sums = tuple(accumulate(self.weights))
        return tuple(s / sums[-1] for s in sums)

    @cached_property
    def _ascending_sums(self) -> tuple[tuple[float, ...], ...]:
        """Sums for `draw_ascending`: of the weights of all rows of 1, 2, 3 ... values.

        Row by row, for each value, the weight of the rows that begin with it or a lower one.
        """
        sums = [tuple(accumulate(self.weights))]
        for _ in range(_LONGEST_ROW - 1):
            before = (0.0, *sums[-1])
            rows = (
                weight * (before[-1] - below)
                for weight, below in zip(self.weights, before[:-1], strict=True)
            )
            sums.append(tuple(accumulate(rows)))
        return tuple(sums)

    def draw(self, rng: random.Random) -> N:
        """Return a value that is drawn.

        Args:
            rng: makes one draw.
        """
        return self.values[bisect(self.cumulative, rng.random())]

    def draw_ascending(self, rng: random.Random, count: int) -> list[N]:
        """Return drawn values of which none is below the one before it.

        The distribution is that of independent draws of which only the ascending are kept, without
        the many that would not be.

        Args:
            rng: makes one draw a value.
            count: how many, up to 4.
        """
        drawn: list[N] = []
        first = 0
        for remaining in range(count, 0, -1):
            sums = self._ascending_sums[remaining - 1]
            below = sums[first - 1] if first else 0.0
            target = below + rng.random() * (sums[-1] - below)
            first = min(bisect(sums, target, first), len(sums) - 1)
            drawn.append(self.values[first])
        return drawn

    def narrowed(self, interval: Interval) -> "Range[N]":
        """Return the values within an interval, as likely among themselves as before.

        Args:
            interval: lowest and highest, both included.

        Raises:
            ValueError: the interval is no part of the range, or holds none of its values.
        """
        low, high = checked_interval(interval)
        if 0 < low < self.lowest or self.highest < high < math.inf:
            raise UserError(f"must be within {self}, got {interval!r}")
        kept = [i for i, value in enumerate(self.values) if low <= value <= high]
        if not kept:
            near = min(bisect(self.values, low), len(self.values) - 1)
            raise UserError(
                f"has no value in {interval!r}; the nearest are "
                f"{_shorten(self.values[max(0, near - 1) : near + 1])}"
            )
        first, last = kept[0], kept[-1] + 1
        return Range(self.values[first:last], self.weights[first:last])


# The most values that `draw_ascending` draws: the stages of a network.
_LONGEST_ROW = 4


def uniform(lowest: int, highest: int) -> Range[int]:
    """All integers from lowest to highest, each as likely as the others."""
    values = tuple(range(lowest, highest + 1))
    return Range(values, (1.0,) * len(values))


def log_uniform(lowest: Number, highest: Number, *, step: Number) -> Range:
    """Multiples of a step, with a density that falls as one over the value.

    `step` is a whole number, or one over a whole number, such as 0.1.
    """
    values: tuple[Number, ...]
    if step >= 1:
        values = tuple(range(int(lowest), int(highest) + 1, int(step)))
    else:
        parts = round(1 / step)
        ends = round(lowest * parts), round(highest * parts)
        values = tuple(k / parts for k in range(ends[0], ends[1] + 1))
    return _log_weighted(values, step)


def powers_of_two(lowest: Number, highest: Number) -> Range:
    """Powers of two from lowest to highest, which are two of them; each is as likely."""
    values = [lowest]
    while values[-1] < highest:
        values.append(values[-1] * 2)
    return _log_weighted(tuple(values), highest)


def _log_weighted(values: tuple[Number, ...], step: Number) -> Range:
    """Weigh values by the logarithm of their ratio to the one below.

    That of the lowest is a step below it, or half of it where the step would leave less.
    """
    before = (max(values[0] - step, values[0] / 2), *values[:-1])
    weights = tuple(math.log(v / b) for v, b in zip(values, before, strict=True))
    return Range(values, weights)


def checked_interval(interval: Interval) -> Interval:
    """Return lowest and highest; raise for what is no interval."""
    pair = isinstance(interval, tuple | list) and len(interval) == 2
    if not pair or not all(isinstance(end, Real) for end in interval):
        raise UserError(f"must be (lowest, highest), got {interval!r}")
    low, high = interval
    if not 0 <= low <= high:
        raise UserError(f"must be (lowest, highest) with 0 <= lowest <= highest, got {interval!r}")
    return low, high


def _shorten(values: tuple[Number, ...], limit: int = 8) -> str:
    """List the first values."""
    listed = ", ".join(format(value, "g") for value in values[:limit])
    return listed + (", ..." if len(values) > limit else "")
