"""A search measures what is drawn, keeps what is within the limits, and counts the rest."""

import random
from itertools import count as numbers
from types import SimpleNamespace

import pytest

from regnet_backbones.design import (
    Bounds,
    Candidate,
    Complexity,
    Found,
    UnbuildableError,
    best,
    get_space,
    pareto_front,
    sample,
    search,
    searching,
)
from regnet_backbones.errors import UserError


def measurement(latency_ms, memory_mib=1.0):
    return SimpleNamespace(latency_ms=latency_ms, memory_mib=memory_mib)


def candidate(name, flops, *, params=0, activations=0, **measured):
    return Candidate(name, Complexity(flops, params, activations), **measured)


@pytest.fixture
def draws(monkeypatch):
    """Return a function that lets candidates of given flops be drawn, named 0, 1, 2 and so on.

    Before each one draw is rejected; an error instead of flops is raised.
    """

    def let_be_drawn(*all_flops):
        def draw(space, *, bounds, seed, rejections, reject):
            for name, flops in enumerate(all_flops):
                rejections[searching.NO_NETWORK] += 1
                if isinstance(flops, BaseException):
                    raise flops
                drawn = candidate(name, flops)
                if reason := reject(drawn):
                    rejections[reason] += 1
                else:
                    yield drawn

        monkeypatch.setattr(searching, "draw", draw)

    return let_be_drawn


def designs(candidates):
    return [each.design for each in candidates]


def run(count, measure, **options):
    return search(None, count, measure=measure, **options)


def test_what_is_within_the_limits_is_kept_and_the_rest_counted(draws):
    draws(*[100] * 6)
    numbers_of = {0: (9, 9), 1: (10, 20), 2: (11, 21), 3: (10, 21), 4: None, 5: (1, 1)}

    def measure(design):
        if numbers_of[design] is None:
            raise MemoryError("none left")
        return measurement(*numbers_of[design])

    told = []
    found = run(
        3,
        measure,
        latency_ms=10,
        memory_mib=20,
        progress=lambda found: told.append((len(found.kept), len(found.measured), found.drawn)),
    )
    assert designs(found.kept) == [0, 1, 5]
    assert designs(found.measured) == [0, 1, 2, 3, 5]
    assert (found.kept[1].latency_ms, found.kept[1].memory_mib) == (10, 20)
    assert found.rejections == {
        searching.NO_NETWORK: 6,
        "latency too high": 1,
        "memory too high": 1,
        "out of memory": 1,
    }
    assert found.drawn == 12
    # Kept, measured and drawn, with the one that was rejected before each.
    assert told == [(1, 1, 2), (2, 2, 4), (2, 3, 6), (2, 4, 8), (2, 4, 10), (3, 5, 12)]


def test_a_design_that_timm_would_build_otherwise_is_counted_and_no_end_of_the_search(draws):
    draws(100, 100, 100)

    def measure(design):
        if design == 1:
            raise UnbuildableError("other stages")
        return measurement(1.0)

    found = run(2, measure)
    assert designs(found.kept) == [0, 2]
    assert found.rejections["timm builds other stages"] == 1


@pytest.mark.parametrize(("options", "expected"), [({}, 8), ({"max_measured": 3}, 3)])
def test_it_ends_after_so_many_measurements(draws, options, expected):
    """Four times as many as shall be kept unless said otherwise, those out of memory included."""
    draws(*[100] * 20)
    asked = []

    def measure(design):
        asked.append(design)
        if design == 1:
            raise MemoryError
        return measurement(5.0)

    found = run(2, measure, latency_ms=4, **options)
    assert asked == list(range(expected))
    assert found.kept == ()
    assert found.rejections["latency too high"] == expected - 1


def test_what_is_far_too_large_is_not_measured_after_five_measurements(draws):
    """Of the first five the second is the fastest, 2000 multiply-adds in 10 ms.

    So 1100 take 5.5 ms at its speed, and 4.4 ms with the margin, which is over the limit; 900 would
    take 3.6 ms.
    """
    first = [4000, 2000, 300, 200, 100]
    draws(*first, 1100, 900, 100)
    milliseconds = [40.0, 10.0, 3.0, 2.0, 1.0, None, 9.0, 1.0]
    found = run(4, lambda design: measurement(milliseconds[design]), latency_ms=4.0)
    assert designs(found.measured) == [0, 1, 2, 3, 4, 6, 7]
    assert designs(found.kept) == [2, 3, 4, 7]
    assert found.rejections["latency too high"] == 3
    assert found.rejections["latency too high, by the best speed so far"] == 1


def test_more_multiply_adds_than_those_of_the_best_speed_are_not_held_against_a_network(draws):
    """Where starting kernels takes the time it need not grow: 10 ms, however large."""
    draws(100, 100, 100, 100, 100, 10_000, 100_000)
    found = run(7, lambda design: measurement(10.0), latency_ms=10.0)
    assert len(found.kept) == 7


def test_without_a_limit_of_latency_everything_is_measured(draws):
    draws(*[100] * 5, 10**9)
    found = run(6, lambda design: measurement(5.0), memory_mib=1.0)
    assert len(found.kept) == len(found.measured) == 6


def test_a_space_without_further_networks_ends_the_search(draws, caplog):
    draws(100, UserError("all were drawn before"))
    found = run(9, lambda design: measurement(1.0))
    assert designs(found.kept) == [0]
    assert "the search ends early: all were drawn before" in caplog.text


def test_errors_that_are_the_users_are_raised(draws):
    draws(UserError("nothing meets the bounds"))
    with pytest.raises(UserError, match="nothing meets the bounds"):
        run(9, lambda design: measurement(1.0))
    draws(100, 100)

    def refuse(design):
        raise UserError("no RegNet")

    with pytest.raises(UserError, match="no RegNet"):
        run(9, refuse)


@pytest.mark.parametrize("options", [{"count": 0}, {"count": 1, "max_measured": -1}])
def test_there_must_be_something_to_measure(options):
    with pytest.raises(UserError, match=f"{list(options)[-1]} must be a positive integer"):
        run(measure=None, **options)


def test_networks_of_a_real_space_are_those_of_a_sample():
    space, bounds = get_space("RegNetY"), Bounds(flops=(3e8, 5e8))
    sampled = sample(space, 6, bounds=bounds, seed=3)
    times = numbers(1)
    found = search(
        space,
        5,
        bounds=bounds,
        seed=3,
        latency_ms=5.5,
        measure=lambda design: measurement(next(times)),
    )
    assert designs(found.kept) == designs(sampled.kept)[:5]
    assert [each.cost for each in found.kept] == [each.cost for each in sampled.kept[:5]]
    assert found.drawn <= sampled.drawn


# What was found


FOUND = Found(
    kept=(
        candidate("small", 1, params=5, activations=2, latency_ms=3.0, memory_mib=9.0),
        candidate("large", 9, params=6, activations=1, latency_ms=4.0, memory_mib=8.0),
        candidate("third", 5, params=7, activations=3, latency_ms=2.0, memory_mib=7.0),
    ),
    rejections={},
    measured=(candidate("too slow", 99, latency_ms=99.0, memory_mib=1.0),),
)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("flops", ["large", "third", "small"]),
        ("params", ["third", "large", "small"]),
        ("activations", ["third", "small", "large"]),
        ("latency_ms", ["third", "small", "large"]),
        ("memory_mib", ["third", "large", "small"]),
    ],
)
def test_the_best_have_most_capacity_or_take_least(by, expected):
    assert designs(best(FOUND, by=by, count=9)) == expected
    assert designs(best(FOUND, by=by)) == expected[:1]


def test_the_best_of_an_unknown_order_or_of_nothing():
    with pytest.raises(UserError, match="by must be one of flops, params, .*, got 'latency'"):
        best(FOUND, by="latency")
    assert best(Found((), {})) == ()


@pytest.mark.parametrize("coordinates", [1, 2, 3])
@pytest.mark.parametrize("highest", [3, 100])  # many equal coordinates and points, or few
def test_the_pareto_front_is_that_of_brute_force(coordinates, highest):
    rng = random.Random(0)
    for size in (0, 1, 2, 10, 60):
        points = [[rng.randrange(highest) for _ in range(coordinates)] for _ in range(size)]
        expected = [
            i
            for i, point in enumerate(points)
            if not any(
                other != point and all(a <= b for a, b in zip(other, point, strict=True))
                for other in points
            )
        ]
        assert pareto_front(points) == expected


def test_a_front_by_hand():
    """Equal points stay; (2, 5) is as fast as (2, 4) and larger, (4, 2) as large and slower."""
    assert pareto_front([(2, 5), (3, 2), (2, 4), (1, 9), (4, 2), (2, 4)]) == [1, 2, 3, 5]
