"""Empirical distribution functions (EDF): design spaces compared by all of their networks.

Source: "Designing Network Design Spaces" (arXiv 2003.13678), section 3.1, after "On Network Design
Spaces for Visual Recognition" (arXiv 1905.13214). For networks of errors e_i

    F(e) = share of the networks whose error is at most e

A space is better where its curve is higher: a larger share of its networks is as good as that. The
paper's formula counts errors below e, its authors' plots (pycls `pycls/sweep/plotting.py`) those up
to e, as here; the two differ at the errors themselves alone. Any other number of a network will do
in place of its error, latency for one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Real

import numpy as np
from scipy.stats import binom, ks_2samp, mannwhitneyu

from regnet_backbones.errors import UserError


@dataclass(frozen=True)
class Edf:
    """An EDF with a pointwise bootstrap band: `low`, `shares` and `high` at each of the values.

    Of n values drawn again from the n there are, the number that are at most x is binomial, with n
    trials and the share F(x). The band holds the quantiles of that distribution: what percentiles
    of resampled curves tend to with ever more resamples, free of their noise and of a seed. As with
    any bootstrap, nothing is known beyond the extremes: the band ends in 1.

    Attributes:
        values: in ascending order, equal ones repeated.
        shares: of the values that are at most each of them, in [0, 1].
        low: lower end of the band at each value.
        high: upper end of the band at each value.
        confidence: of the band, pointwise.
    """

    values: tuple[float, ...]
    shares: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    confidence: float

    def quantile(self, q: float) -> float:
        """Return the q-quantile, linear between neighbours; 0 gives the lowest value."""
        return float(np.quantile(self.values, q))

    def interval(self, q: float) -> tuple[float, float]:
        """Return the two values between which the band passes the share q.

        This is the bootstrap's percentile interval of the q-quantile, exact as the band is.
        """
        low, high = np.searchsorted(self.high, q), np.searchsorted(self.low, q)
        return self.values[low], self.values[high]


@dataclass(frozen=True)
class Summary:
    """What a table says of an EDF.

    Attributes:
        count: of the values.
        lowest: value.
        median: of the values.
        median_low: lower end of the median's bootstrap interval.
        median_high: upper end of it.
        mean: of the values.
    """

    count: int
    lowest: float
    median: float
    median_low: float
    median_high: float
    mean: float


@dataclass(frozen=True)
class Comparison:
    """Two EDFs next to each other.

    Attributes:
        distance: the largest vertical distance between the curves (Kolmogorov-Smirnov's statistic).
        p_value: the probability of one as large between two samples of the same distribution; where
            values are equal the true one is lower.
        share_smaller: of the pairs, those in which the value of the first is the smaller one (Mann
            and Whitney's), equal ones counted half: 0.5 where neither tends to be.
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
        ValueError: there are no values, one is not a finite number, or the confidence is not
            between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise UserError(f"confidence must be between 0 and 1, such as 0.95, got {confidence!r}")
    ordered = np.sort(_checked(values))
    shares = np.searchsorted(ordered, ordered, side="right") / len(ordered)
    tails = np.array([[1 - confidence], [1 + confidence]]) / 2
    low, high = binom.ppf(tails, len(ordered), shares) / len(ordered)
    return Edf(*(tuple(each.tolist()) for each in (ordered, shares, low, high)), confidence)


def summarize(curve: Edf) -> Summary:
    """Return the numbers of an EDF for a table.

    Args:
        curve: the EDF.
    """
    values = curve.values
    median, band = curve.quantile(0.5), curve.interval(0.5)
    return Summary(len(values), values[0], median, *band, float(np.mean(values)))


def compare(a: Edf, b: Edf) -> Comparison:
    """Return what distinguishes two EDFs.

    Args:
        a: one of them.
        b: the other one.
    """
    test = ks_2samp(a.values, b.values)
    # Pairs in which b's is the larger.
    pairs = mannwhitneyu(b.values, a.values).statistic
    share_smaller = pairs / (len(a.values) * len(b.values))
    return Comparison(float(test.statistic), float(test.pvalue), float(share_smaller))


def column(rows: Sequence[object], name: str) -> list[float]:
    """Return the values of a column of result rows.

    Args:
        rows: mappings from names to values; or bare numbers, which are the column by themselves,
            whatever its name.
        name: the column.

    Raises:
        ValueError: there is no such column of numbers (the message lists those there are), or rows
            have no number in it (it counts them and names the first).
    """
    objects = [row for row in rows if isinstance(row, Mapping)]
    if not objects:
        return _checked(rows)
    if len(objects) < len(rows):
        i = next(i for i, row in enumerate(rows) if not isinstance(row, Mapping))
        raise UserError(
            f"rows must be all objects or all numbers, got objects and, as rows[{i}], {rows[i]!r}"
        )
    numeric = list(dict.fromkeys(key for row in objects for key in row if _is_number(row[key])))
    if name not in numeric:
        near = get_close_matches(name, numeric, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        known = ", ".join(numeric) or "none"
        raise UserError(f"no column '{name}' of numbers; {hint}There are: {known}")
    missing = [i for i, row in enumerate(objects) if row.get(name) is None]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(rows)} rows have no '{name}', the first of them is "
            f"rows[{missing[0]}]; add it to them or leave them out"
        )
    return _checked([row[name] for row in objects], f"'{name}' of rows")


def _checked(values: Sequence[object], what: str = "values") -> list[float]:
    """Return values as floats, or raise for what is not a finite number."""
    if not len(values):
        raise UserError("there are no values, a distribution takes one or more")
    for i, value in enumerate(values):
        if not _is_number(value) or not math.isfinite(value):
            raise UserError(f"{what}[{i}] must be a finite number, got {value!r}; leave it out")
    return [float(value) for value in values]


def _is_number(value: object) -> bool:
    """Return whether this is a number, of numpy too."""
    return isinstance(value, Real) and not isinstance(value, bool)
