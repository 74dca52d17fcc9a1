import random
from fractions import Fraction
from itertools import combinations
from math import nan

import numpy as np
import pytest
import scipy.stats
from regnet_backbones.design.distribution import column, compare, edf, summarize

TEN = [5, 3, 8, 1, 3, 9, 7, 2, 6, 4]

PAIRS = [
    (1, 1, 0),
    (1, 6, 2),
    (5, 7, 0),
    (40, 40, 1),
    (64, 96, 0.2),
    (300, 500, 0.3),
    (200, 200, 4),
]


def draw(count, seed, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, count)


def draw_pair(m, n, shift, digits=None):
    a, b = draw(m, 1), draw(n, 2, shift)
    return (a, b) if digits is None else (a.round(digits), b.round(digits))


def test_shares_quantiles_and_numbers_of_ten_values():
    curve = edf(TEN)
    assert curve.values == (1, 2, 3, 3, 4, 5, 6, 7, 8, 9)
    assert curve.shares == (0.1, 0.2, 0.4, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
    assert [curve.at(x) for x in (0.9, 1, 2.9, 3, 8.5, 9, 100)] == [0, 0.1, 0.2, 0.4, 0.9, 1, 1]
    assert [curve.quantile(q) for q in (0, 0.5, 1)] == [1, 4.5, 9]
    summary = summarize(curve)
    assert (summary.count, summary.lowest, summary.median, summary.mean) == (10, 1, 4.5, 4.8)
    assert summary.median_low <= 4.5 <= summary.median_high


@pytest.mark.parametrize("count", [1, 2, 10, 101])
def test_quantiles_and_shares_are_those_of_numpy_and_scipy(count):
    values = draw(count, 3).round(1)
    curve = edf(values)
    shares = np.linspace(0, 1, 23)
    assert [curve.quantile(q) for q in shares] == pytest.approx(np.quantile(values, shares))
    theirs = scipy.stats.ecdf(values).cdf
    assert curve.shares == pytest.approx(theirs.evaluate(curve.values))
    assert [curve.at(x) for x in shares] == pytest.approx(theirs.evaluate(shares))


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("count", [1, 2, 3, 17, 60, 500, 5000])
def test_the_band_is_that_of_the_binomial_distribution(count, confidence):
    curve = edf(range(count), confidence=confidence)
    shares = np.arange(1, count + 1) / count
    for ours, tail in ((curve.low, (1 - confidence) / 2), (curve.high, (1 + confidence) / 2)):
        theirs = scipy.stats.binom.ppf(tail, count, shares)
        assert np.multiply(ours, count) == pytest.approx(theirs)


def test_the_band_is_what_resampling_finds():
    values = np.sort(draw(200, 4).round(1))
    resampled = np.random.default_rng(5).choice(values, (4000, 200))
    counts = (resampled[:, :, None] <= values[None, None, ::10]).sum(axis=1)
    low, high = np.percentile(counts, [2.5, 97.5], axis=0, method="inverted_cdf")
    curve = edf(values)
    # In networks of 200: 4000 percentiles are within one of what ever more would give.
    assert np.multiply(curve.low, 200)[::10] == pytest.approx(low, abs=1)
    assert np.multiply(curve.high, 200)[::10] == pytest.approx(high, abs=1)


@pytest.mark.parametrize("count", [31, 101, 400])
def test_the_interval_of_the_median_is_what_resampling_finds(count):
    values = np.sort(draw(count, 6))
    medians = np.median(np.random.default_rng(7).choice(values, (8000, count)), axis=1)
    ours = edf(values).interval(0.5)
    # To within a neighbour: both are values of the sample, or half way between two of an even one.
    for end, theirs in zip(ours, np.percentile(medians, [2.5, 97.5]), strict=True):
        assert abs(np.searchsorted(values, end) - np.searchsorted(values, theirs)) <= 1


def test_intervals_of_all_quantiles_lie_around_them():
    curve = edf(draw(150, 8))
    for q in np.linspace(0, 1, 41):
        low, high = curve.interval(q)
        assert curve.values[0] <= low <= curve.quantile(q) <= high <= curve.values[-1]


@pytest.mark.parametrize(("m", "n", "shift"), PAIRS)
def test_distance_and_p_value_are_those_of_scipy(m, n, shift):
    a, b = draw_pair(m, n, shift)
    ours, theirs = compare(edf(a), edf(b)), scipy.stats.ks_2samp(a, b, method="exact")
    assert ours.distance == pytest.approx(theirs.statistic)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)


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


def test_the_p_value_of_very_many_values_is_close_to_scipys_exact_one():
    a, b = draw_pair(2500, 3000, 0.05)
    theirs = scipy.stats.ks_2samp(a, b, method="exact").pvalue
    assert 0.01 < theirs < 0.9
    assert compare(edf(a), edf(b)).p_value == pytest.approx(theirs, rel=0.02)
    same = edf(range(2001))
    assert compare(same, same).p_value == 1
    apart = compare(same, edf(range(5000, 7001)))
    assert (apart.distance, apart.share_smaller) == (1, 1)
    assert apart.p_value < 1e-100


@pytest.mark.parametrize("digits", [None, 0], ids=["all unlike", "many equal"])
@pytest.mark.parametrize(("m", "n", "shift"), PAIRS)
def test_the_share_of_smaller_ones_is_that_of_mann_and_whitney(m, n, shift, digits):
    a, b = draw_pair(m, n, shift, digits)
    ours = compare(edf(a), edf(b))
    pairs = scipy.stats.mannwhitneyu(b, a).statistic  # in which b's is the larger
    assert ours.share_smaller == pytest.approx(pairs / (m * n))
    assert ours.distance == pytest.approx(scipy.stats.ks_2samp(a, b).statistic)


def test_a_comparison_has_both_summaries_and_turns_around():
    a, b = edf(TEN), edf([4, 4, 10])
    there, back = compare(a, b), compare(b, a)
    assert (there.a, there.b) == (summarize(a), summarize(b)) == (back.b, back.a)
    # Of 10 x 3 pairs: 4 below and 1 equal to each of the fours, all 10 below 10.
    assert there.share_smaller == (2 * 4.5 + 10) / 30
    assert there.share_smaller + back.share_smaller == pytest.approx(1)
    assert (there.distance, there.p_value) == (back.distance, pytest.approx(back.p_value))


def test_the_order_of_values_does_not_matter():
    shuffled = random.Random(0).sample(TEN, len(TEN))
    assert edf(shuffled) == edf(TEN)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "there are no values"),
        ([1.0, nan], "values[1] must be a finite number, got nan; leave it out"),
        ([float("inf"), 2], "values[0] must be a finite number, got inf"),
        ([1, 2, "3"], "values[2] must be a finite number, got '3'"),
        ([None], "values[0] must be a finite number, got None"),
        ([True], "values[0] must be a finite number, got True"),
    ],
)
def test_what_is_no_number_is_refused_by_its_place(values, message):
    with pytest.raises(ValueError) as error:
        edf(values)
    assert message in str(error.value)


def test_shares_beyond_their_range_are_refused():
    for confidence in (0, 1, 95, nan):
        with pytest.raises(ValueError, match="confidence must be between 0 and 1, such as 0.95"):
            edf(TEN, confidence=confidence)
    for method in (edf(TEN).quantile, edf(TEN).interval):
        with pytest.raises(ValueError, match=r"q must be in \[0, 1\], got 50"):
            method(50)


def test_a_column_of_rows_and_bare_numbers():
    rows = [
        {"space": "RegNetX", "w_0": 24, "error": 40.5, "preact": False},
        {"space": "RegNetX", "w_0": 32, "error": np.float32(39.5), "preact": False},
    ]
    assert column(rows, "error") == [40.5, 39.5]
    assert column(rows, "w_0") == [24, 32]
    assert column([40.5, 39], "error") == [40.5, 39]


ROWS = [{"id": "a", "flops": 1e9, "latency_ms": 3.5}, {"id": "b", "flops": 2e9, "stages": [1, 2]}]


@pytest.mark.parametrize(
    ("rows", "name", "message"),
    [
        (
            ROWS,
            "latency",
            "no column 'latency' of numbers; did you mean 'latency_ms'? There are: flops, latenc",
        ),
        (ROWS, "id", "no column 'id' of numbers; There are: flops, latency_ms"),
        ([{"id": "a"}], "error", "There are: none"),
        (
            [*ROWS, {"latency_ms": None}],
            "latency_ms",
            "2 of 3 rows have no 'latency_ms', the first of them is rows[1]",
        ),
        (
            [{"error": 4}, {"error": "5"}],
            "error",
            "'error' of rows[1] must be a finite number, got '5'",
        ),
        ([{"error": 4}, {"error": nan}], "error", "'error' of rows[1] must be a finite number"),
        ([3, {"error": 4}], "error", "all objects or all numbers, got objects and, as rows[0], 3"),
        ([3, "x"], "error", "values[1] must be a finite number, got 'x'"),
        ([], "error", "there are no values"),
    ],
)
def test_columns_that_are_not_whole_are_refused(rows, name, message):
    with pytest.raises(ValueError) as error:
        column(rows, name)
    assert message in str(error.value)
