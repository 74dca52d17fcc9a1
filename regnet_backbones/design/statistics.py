"""Empirical distribution functions (EDF): design spaces compared by all of their networks.

Source: "Designing Network Design Spaces" (arXiv 2003.13678), section 3.1. F(e) is the share of the
networks whose error, or any other number, is at most e, as in the authors' plots (pycls
`pycls/sweep/plotting.py`). A space is better where its curve is higher.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from scipy.stats import binom, ks_2samp, mannwhitneyu

from regnet_backbones.errors import UserError


@dataclass(frozen=True)
class Edf:
    """An EDF with a pointwise bootstrap band.

    The band has the quantiles of a binomial distribution with n trials and the share F(x), to which
    percentiles of resampled curves tend.

    Attributes:
        values: in ascending order, equal ones repeated.
        shares: of the values that are at most each of them, in [0, 1].
        low: lower end of the band at each value.
        high: upper end of the band at each value.
    """

    values: tuple[float, ...]
    shares: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def quantile(self, q: float) -> float:
        """Return the q-quantile, linear between neighbours.

        Args:
            q: a share, 0 to 1; 0.5 gives the median.
        """
        return float(np.quantile(self.values, q))

    def interval(self, q: float) -> tuple[float, float]:
        """Return the bootstrap's percentile interval of the q-quantile, from the band.

        Args:
            q: a share, 0 to 1.
        """
        low, high = np.searchsorted(self.high, q), np.searchsorted(self.low, q)
        return self.values[low], self.values[high]


@dataclass(frozen=True)
class Comparison:
    """Two EDFs compared.

    Attributes:
        distance: the largest vertical distance between the curves (Kolmogorov-Smirnov's statistic).
        p_value: the probability of such a distance between samples of the same distribution; lower
            where values are equal.
        share_smaller: share of the pairs whose first value is smaller (Mann-Whitney), equal ones
            counted half: 0.5 if neither tends to be smaller.
    """

    distance: float
    p_value: float
    share_smaller: float


def edf(values: Sequence[float], *, confidence: float = 0.95) -> Edf:
    """Return the EDF of values.

    Args:
        values: numbers in any order.
        confidence: of the band, pointwise.

    Raises:
        ValueError: there are no values, or a number is out of range.
    """
    if not 0 < confidence < 1:
        raise UserError(f"confidence must be between 0 and 1, such as 0.95, got {confidence!r}")
    ordered = np.sort(_checked(values, "values"))
    shares = np.searchsorted(ordered, ordered, side="right") / len(ordered)
    tails = np.array([[1 - confidence], [1 + confidence]]) / 2
    low, high = binom.ppf(tails, len(ordered), shares) / len(ordered)
    return Edf(*(tuple(each.tolist()) for each in (ordered, shares, low, high)))


def compare(a: Edf, b: Edf) -> Comparison:
    """Return what distinguishes two EDFs.

    Args:
        a: one of them.
        b: the other one.
    """
    test = ks_2samp(a.values, b.values)
    pairs = mannwhitneyu(b.values, a.values).statistic  # in which b's is the larger
    share_smaller = pairs / (len(a.values) * len(b.values))
    return Comparison(float(test.statistic), float(test.pvalue), float(share_smaller))


def column(rows: Sequence[object], name: str) -> list[float]:
    """Return the values of a column of result rows.

    Args:
        rows: mappings from names to values.
        name: the column.

    Raises:
        ValueError: no such column, or a row has no number in it.
    """
    columns = dict.fromkeys(key for row in rows if isinstance(row, Mapping) for key in row)
    if name not in columns:
        raise UserError(f"no column '{name}'; there are {', '.join(columns) or 'none'}")
    values = [row.get(name) if isinstance(row, Mapping) else None for row in rows]
    return _checked(values, f"'{name}' of rows")


def _checked(values: Sequence[Any], what: str) -> list[float]:
    """Return values as floats, or raise for what is not a finite number."""
    if not len(values):
        raise UserError("a distribution needs one value or more, got none")
    for i, value in enumerate(values):
        if not isinstance(value, Real) or not math.isfinite(value):
            raise UserError(f"{what}[{i}] must be a finite number, got {value!r}; remove it")
    return [float(value) for value in values]
