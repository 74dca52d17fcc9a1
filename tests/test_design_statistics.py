"""Distribution functions, their bands and comparisons, and the columns that they are made of."""

from fractions import Fraction
from itertools import combinations
from math import nan

import numpy as np
import pytest

from regnet_backbones.design import column, compare, edf
from regnet_backbones.errors import UserError

TEN = [5, 3, 8, 1, 3, 9, 7, 2, 6, 4]
ROWS = [{"id": "a", "flops": 4, "latency_ms": 1.5}, {"id": "b", "flops": 6}]


def test_shares_quantiles_and_numbers_of_ten_values():
    curve = edf(TEN)
    assert curve.values == (1, 2, 3, 3, 4, 5, 6, 7, 8, 9)
    assert curve.shares == (0.1, 0.2, 0.4, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
    assert [curve.quantile(q) for q in (0, 0.5, 1)] == [1, 4.5, 9]
    low, high = curve.interval(0.5)
    assert low <= 4.5 <= high
    assert edf(sorted(TEN)) == curve


def test_the_band_is_what_resampling_finds():
    rng = np.random.default_rng(4)
    values = np.sort(rng.normal(0, 1, 200).round(1))
    resampled = rng.choice(values, (4000, 200))
    counts = (resampled[:, :, None] <= values[None, None, ::10]).sum(axis=1)
    low, high = np.percentile(counts, [2.5, 97.5], axis=0, method="inverted_cdf")
    curve = edf(values)
    # In networks of 200: 4000 percentiles are within one of what ever more would give.
    assert np.multiply(curve.low, 200)[::10] == pytest.approx(low, abs=1)
    assert np.multiply(curve.high, 200)[::10] == pytest.approx(high, abs=1)
    # To within a neighbour: both are values of the sample, or half way between two of them.
    medians = np.percentile(np.median(resampled, axis=1), [2.5, 97.5])
    for end, theirs in zip(curve.interval(0.5), medians, strict=True):
        assert abs(end - theirs) <= 0.1
    for q in np.linspace(0, 1, 41):
        low, high = curve.interval(q)
        assert curve.values[0] <= low <= curve.quantile(q) <= high <= curve.values[-1]


def test_the_p_value_of_three_and_four_values_is_a_share_of_all_orders():
    a, b = (1, 2, 4), (3, 5, 6, 7)  # the curves are 3/3 - 1/4 apart at 4

    def distance(chosen):
        shares = [
            (Fraction(sum(i <= x for i in chosen), 3), x + 1 - sum(i <= x for i in chosen))
            for x in range(7)
        ]
        return max(abs(of_a - Fraction(of_b, 4)) for of_a, of_b in shares)

    distances = [distance(chosen) for chosen in combinations(range(7), 3)]
    ours = compare(edf(a), edf(b))
    assert ours.distance == 0.75
    expected = sum(each >= Fraction(3, 4) for each in distances) / len(distances)
    assert ours.p_value == pytest.approx(expected)


def test_comparisons_turn_around():
    a, b = edf(TEN), edf([4, 4, 10])
    there, back = compare(a, b), compare(b, a)
    # Of 10 x 3 pairs: 4 below and 1 equal to each of the fours, all 10 below 10.
    assert there.share_smaller == (2 * 4.5 + 10) / 30
    assert there.share_smaller + back.share_smaller == pytest.approx(1)
    assert (there.distance, there.p_value) == (back.distance, pytest.approx(back.p_value))
    apart = compare(edf(range(2001)), edf(range(5000, 7001)))
    assert (apart.distance, apart.share_smaller) == (1, 1)
    assert apart.p_value < 1e-100


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "got none"),
        ([1.0, nan], r"values\[1\] .*got nan"),
        ([float("inf"), 2], r"values\[0\] .*got inf"),
        ([1, 2, "3"], r"values\[2\] .*got '3'"),
        ([None], r"values\[0\]"),
    ],
)
def test_what_is_not_a_number_is_refused_by_its_place(values, message):
    with pytest.raises(UserError, match=message):
        edf(values)


@pytest.mark.parametrize("confidence", [0, 1, 95, nan])
def test_confidences_beyond_their_range_are_refused(confidence):
    with pytest.raises(UserError, match="confidence"):
        edf(TEN, confidence=confidence)


def test_columns():
    assert column(ROWS, "flops") == [4, 6]


@pytest.mark.parametrize(
    ("rows", "name", "message"),
    [
        (ROWS, "latency", "no column 'latency'; there are id, flops, latency_ms"),
        ([{"id": "a"}], "error", "there are id"),
        (ROWS, "latency_ms", r"'latency_ms' of rows\[1\] .*got None"),
        ([{"error": 4}, {"error": "5"}], "error", r"'error' of rows\[1\] .*got '5'"),
        ([{"error": 4}, {"error": nan}], "error", r"'error' of rows\[1\]"),
        ([3, {"error": 4}], "error", r"'error' of rows\[0\] .*got None"),
        ([], "error", "no column 'error'; there are none"),
    ],
)
def test_columns_that_are_not_whole_are_refused(rows, name, message):
    with pytest.raises(UserError, match=message):
        column(rows, name)
