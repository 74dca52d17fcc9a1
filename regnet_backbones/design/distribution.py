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
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Real
from statistics import fmean
from typing import TypeGuard

from regnet_backbones.errors import UserError

# Up to so many pairs of values the p-value is exact; counting its paths takes about a second.
EXACT_PAIRS = 4_000_000

# Standard deviations below the mean of a binomial distribution without any mass to speak of.
NEGLIGIBLE = 10


@dataclass(frozen=True)
class Edf:
    """An EDF with a pointwise bootstrap band: `low`, `shares` and `high` at each of the values.

    Drawing n values anew from the n there are, the number of drawn ones that are at most x is
    binomial, with n trials and the share F(x). The band holds the quantiles of that distribution:
    what percentiles of resampled curves tend to with ever more resamples, free of their noise and
    of a seed. As with any bootstrap, nothing is known beyond the extremes: the band ends in 1.

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

    def at(self, x: float) -> float:
        """Return the share of values that are at most a number.

        Args:
            x: the number.
        """
        return bisect_right(self.values, x) / len(self.values)

    def quantile(self, q: float) -> float:
        """Return the q-quantile, linear between neighbours, as numpy and pandas do by default.

        Args:
            q: in [0, 1]; 0 gives the lowest value, 0.5 the median.

        Raises:
            ValueError: q is not in [0, 1].
        """
        _check_share("q", q)
        position = q * (len(self.values) - 1)
        below = self.values[math.floor(position)]
        return below + (self.values[math.ceil(position)] - below) * (position % 1)

    def interval(self, q: float) -> tuple[float, float]:
        """Return the two values between which the band passes the share q.

        This is the bootstrap's percentile interval of the q-quantile, exact as the band is.

        Args:
            q: in [0, 1].

        Raises:
            ValueError: q is not in [0, 1].
        """
        _check_share("q", q)
        return self.values[bisect_left(self.high, q)], self.values[bisect_left(self.low, q)]


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
    """Two EDFs beside each other.

    Attributes:
        a: one of them.
        b: the other one.
        distance: the largest vertical distance between the curves (Kolmogorov-Smirnov's statistic).
        p_value: the probability of one as large between two samples of the same distribution; where
            values are equal the true one is lower.
        share_smaller: of the pairs, those in which the value of `a` is the smaller one (Mann and
            Whitney's), equal ones counted half: 0.5 where neither tends to be.
    """

    a: Summary
    b: Summary
    distance: float
    p_value: float
    share_smaller: float


def edf(values: Sequence[float], *, confidence: float = 0.95) -> Edf:
    """Return the EDF of values.

    Args:
        values: numbers in any order.
        confidence: of the band, pointwise.

    Raises:
        ValueError: there are no values, one is no finite number, or the confidence is not between
            0 and 1.
    """
    if not 0 < confidence < 1:
        raise UserError(f"confidence must be between 0 and 1, such as 0.95, got {confidence!r}")
    ordered = sorted(_checked(values))
    n = len(ordered)
    counts = [bisect_right(ordered, value) for value in ordered]
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    bands = {count: _binomial_quantiles(n, count / n, tails) for count in set(counts)}
    return Edf(
        values=tuple(ordered),
        shares=tuple(count / n for count in counts),
        low=tuple(bands[count][0] / n for count in counts),
        high=tuple(bands[count][1] / n for count in counts),
        confidence=confidence,
    )


def summarize(curve: Edf) -> Summary:
    """Return the numbers of an EDF for a table.

    Args:
        curve: the EDF.
    """
    return Summary(
        len(curve.values),
        curve.values[0],
        curve.quantile(0.5),
        *curve.interval(0.5),
        fmean(curve.values),
    )


def compare(a: Edf, b: Edf) -> Comparison:
    """Return what tells two EDFs apart.

    Args:
        a: one of them.
        b: the other one.
    """
    m, n = len(a.values), len(b.values)
    # In units of 1 / (m * n), where the distance is a whole number.
    distance = max(
        abs(bisect_right(a.values, x) * n - bisect_right(b.values, x) * m)
        for x in {*a.values, *b.values}
    )
    p_value = _exact_p_value if m * n <= EXACT_PAIRS else _asymptotic_p_value
    above = sum(n - (bisect_left(b.values, x) + bisect_right(b.values, x)) / 2 for x in a.values)
    return Comparison(
        a=summarize(a),
        b=summarize(b),
        distance=distance / (m * n),
        p_value=p_value(m, n, distance),
        share_smaller=above / (m * n),
    )


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
        others = [i for i, row in enumerate(rows) if not isinstance(row, Mapping)]
        raise UserError(
            f"rows must be all objects or all numbers, got objects and, as rows[{others[0]}], "
            f"{rows[others[0]]!r}"
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
            f"rows[{missing[0]}]; give it to them or leave them out"
        )
    return _checked([row[name] for row in objects], f"'{name}' of rows")


def _checked(values: Sequence[object], what: str = "values") -> list[float]:
    """Return values as floats, or raise for what is no finite number."""
    if not len(values):
        raise UserError("there are no values, a distribution takes one or more")
    numbers = []
    for i, value in enumerate(values):
        if not _is_number(value) or not math.isfinite(value):
            raise UserError(f"{what}[{i}] must be a finite number, got {value!r}; leave it out")
        numbers.append(float(value))
    return numbers


def _check_share(name: str, share: float) -> None:
    """Raise for what is no share of a whole."""
    if not 0 <= share <= 1:
        raise UserError(f"{name} must be in [0, 1], got {share!r}")


def _is_number(value: object) -> TypeGuard[Real]:
    """Tell numbers, those of numpy too, from everything else."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _binomial_quantiles(n: int, share: float, tails: tuple[float, float]) -> list[int]:
    """Return the smallest counts with at least so much mass up to them, for ascending tails."""
    if share == 1:
        return [n for _ in tails]
    # The mass of neighbours in turn, from where there is none to the last tail.
    deviation = math.sqrt(n * share * (1 - share))
    count = max(0, math.floor(n * share - NEGLIGIBLE * (deviation + 1)))
    mass = math.exp(
        _log_choose(n, count) + count * math.log(share) + (n - count) * math.log1p(-share)
    )
    total, found, odds = mass, [], share / (1 - share)
    for tail in tails:
        while total < tail and count < n:
            mass *= (n - count) / (count + 1) * odds
            count += 1
            total += mass
        found.append(count)
    return found


def _log_choose(n: int, k: int) -> float:
    """Return the logarithm of the number of ways to choose k of n."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _exact_p_value(m: int, n: int, distance: int) -> float:
    """Return the share of the orders of m + n values whose curves come as far from each other.

    Such an order is a path from (0, 0) to (m, n), a step in i for a value of the first sample and
    in j for one of the second; the curves are abs(i * n - j * m) apart. Walked at random, with the
    remaining values equally likely, what leaves the strip below `distance` is the p-value.
    """
    left = 0.0
    arriving = {0: 1.0}  # at the points (i, j) of this row by j, from the row before
    for i in range(m + 1):
        first = max(0, (i * n - distance) // m + 1)
        last = min(n, (i * n + distance - 1) // m)
        left += sum(mass for j, mass in arriving.items() if j < first)
        leaving, along = {}, 0.0
        for j in range(first, last + 1):
            mass = arriving.get(j, 0.0) + along
            remaining = max(1, m - i + n - j)
            along = mass * (n - j) / remaining
            leaving[j] = mass * (m - i) / remaining
        left += along
        arriving = leaving
    return min(1.0, left)


def _asymptotic_p_value(m: int, n: int, distance: int) -> float:
    """Return the p-value for many values: Kolmogorov's limit with Stephens's correction."""
    root = math.sqrt(m * n / (m + n))
    x = (root + 0.12 + 0.11 / root) * distance / (m * n)
    if x < 0.2:  # where the series takes ever more terms to say 1
        return 1.0
    terms = ((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 100))
    return min(1.0, max(0.0, 2 * sum(terms)))
