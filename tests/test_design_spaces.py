"""Spaces of the paper and samples of them, against the law and the costs of single networks."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from design_restated import anynet, numpy_widths, pycls_samples, runs

from regnet_backbones.design import SPACES, Bounds, RegNetDesign, complexity, get_space, sample
from regnet_backbones.design.searching import draw
from regnet_backbones.design.spaces import (
    GROUPS_DO_NOT_FIT,
    NOT_FOUR_STAGES,
    Range,
    log_uniform,
    powers_of_two,
    uniform,
)
from regnet_backbones.errors import UserError

ANYNETS = ["AnyNetX_A", "AnyNetX_B", "AnyNetX_C", "AnyNetX_D", "AnyNetX_E"]
REGNETS = ["RegNetX", "RegNetY", "RegNetX_constrained", "RegNetY_constrained"]
POWERS_TO_32 = {1, 2, 4, 8, 16, 32}

# Section 3.3 of the paper, and pycls's sampler for the constrained spaces.
REGNET_RANGES = {
    "RegNetX": {
        "depth": range(4, 64),
        "w_0": range(8, 249, 8),
        "w_a": [k / 10 for k in range(80, 2560)],
        "w_m": [k / 1000 for k in range(1500, 3001)],
        "group_width": POWERS_TO_32,
        "bottleneck_multiplier": {0.25, 0.5, 1},
    },
    "RegNetX_constrained": {
        "depth": range(12, 29),
        "w_0": range(8, 257, 8),
        "w_a": [k / 10 for k in range(80, 2561)],
        "w_m": [k / 1000 for k in range(2000, 3001)],
        "group_width": range(8, 129, 8),
        "bottleneck_multiplier": {1},
    },
}
LAW = ("w_0", "w_a", "w_m", "depth")
MF_400 = Bounds(flops=(380e6, 420e6))


def draws(space, count, seed=0):
    space = get_space(space) if isinstance(space, str) else space
    return space.draw(np.random.default_rng(seed), count)


def numbers(name, count, seed=0):
    return draws(name, count, seed).numbers


def share(values, highest):
    return (np.asarray(values) <= highest).mean()


def test_the_spaces_of_the_paper():
    assert list(SPACES) == ANYNETS + REGNETS
    for name, space in SPACES.items():
        assert space.name == name
        assert space.se_ratio == (0.25 if "Y_" in name or name == "RegNetY" else 0)
        assert space.stem_width == 32
        assert space.within_trends == name.endswith("constrained")


@pytest.mark.parametrize("name", REGNET_RANGES)
def test_regnets_are_drawn_from_the_papers_ranges(name):
    drawn = numbers(name, 20_000)
    for number, allowed in REGNET_RANGES[name].items():
        assert set(drawn[number].tolist()) <= set(allowed)
        assert set(get_space(name).ranges[number].values) == set(allowed)


@pytest.mark.parametrize("name", ANYNETS)
def test_what_each_anynet_space_adds_to_the_one_before(name):
    drawn = numbers(name, 3000)
    assert set(drawn["width"].ravel().tolist()) <= set(range(8, 1025, 8))
    assert set(drawn["depth"].ravel().tolist()) <= set(range(1, 17))
    assert set(drawn["group_width"].ravel().tolist()) == POWERS_TO_32
    assert set(drawn["bottleneck_multiplier"].ravel().tolist()) == {0.25, 0.5, 1}
    rules = {
        "AnyNetX_B": drawn["bottleneck_multiplier"].shape == (3000, 1),
        "AnyNetX_C": drawn["group_width"].shape == (3000, 1),
        "AnyNetX_D": (np.diff(drawn["width"]) >= 0).all(),
        "AnyNetX_E": (np.diff(drawn["depth"]) >= 0).all(),
    }
    assert rules == {space: space <= name for space in rules}


def test_ends_are_as_likely_as_the_rest():
    # pycls draws w_0 with log-uniform density from 4, half the lowest, to 256: six doublings.
    w_0 = numbers("RegNetX_constrained", 20_000)["w_0"]
    assert share(w_0, 8) == pytest.approx(1 / 6, abs=0.02)
    assert share(w_0, 32) == pytest.approx(3 / 6, abs=0.02)
    assert 1 - share(w_0, 248) == pytest.approx(math.log2(256 / 248) / 6, abs=0.005)


def test_densities():
    drawn = numbers("AnyNetX_A", 5000)
    # Widths from (4, 1024], eight doublings; depths from (1/2, 16], five; six powers of two.
    assert share(drawn["width"], 64) == pytest.approx(4 / 8, abs=0.02)
    assert share(drawn["depth"], 4) == pytest.approx(3 / 5, abs=0.02)
    assert share(drawn["group_width"], 2) == pytest.approx(2 / 6, abs=0.02)
    drawn = numbers("RegNetX", 20_000)
    assert share(drawn["w_m"], math.sqrt(1.5 * 3)) == pytest.approx(1 / 2, abs=0.02)
    assert share(drawn["depth"], 33) == pytest.approx(1 / 2, abs=0.02)


def test_ascending_draws_are_the_ordered_among_independent_ones():
    rng = np.random.default_rng(0)
    three = Range((1, 2, 3), (1.0, 2.0, 3.0))
    found = Counter(map(tuple, three.draw_ascending(rng, (40_000, 2)).tolist()))
    # Products of the weights, 25 in all.
    expected = {(1, 1): 1, (1, 2): 2, (1, 3): 3, (2, 2): 4, (2, 3): 6, (3, 3): 9}
    assert set(found) == set(expected)
    for pair, weight in expected.items():
        assert found[pair] / 40_000 == pytest.approx(weight / 25, abs=0.02)
    depths = log_uniform(1, 16, step=1)
    independent = depths.draw(rng, (200_000, 4))
    kept = independent[(np.diff(independent) >= 0).all(axis=1)]
    rows = depths.draw_ascending(rng, (20_000, 4))
    for place, middle in enumerate((1, 2, 4, 8)):
        assert share(rows[:, place], middle) == pytest.approx(
            share(kept[:, place], middle), abs=0.03
        )


def test_narrowed_spaces():
    space = get_space("RegNetX").narrowed(
        depth=(12, 20),
        w_0=(24, math.inf),
        group_width=(8, 16),
        bottleneck_multiplier=(1, 1),
        stem_width=16,
        se_ratio=0.5,
        width=None,
    )
    drawn = space.draw(np.random.default_rng(0), 5000).numbers
    assert set(drawn["depth"]) == set(range(12, 21))
    assert set(drawn["w_0"]) <= set(range(24, 249, 8))
    assert set(drawn["group_width"]) == {8, 16}
    assert (space.stem_width, space.se_ratio) == (16, 0.5)
    assert space.name == (
        "RegNetX (depth 12 to 20, w_0 24 to 248, group_width 8 to 16, bottleneck_multiplier 1, "
        "se_ratio 0.5, stem_width 16)"
    )
    # The other ranges are as they were, and so is the space that it was made of.
    assert space.w_m == get_space("RegNetX").w_m
    assert get_space("RegNetX").depth.values[0] == 4
    assert get_space("AnyNetX_E").narrowed() is get_space("AnyNetX_E")
    # From (8, 64], three doublings: the density stays.
    w_0 = get_space("RegNetX_constrained").narrowed(w_0=(16, 64))
    assert share(draws(w_0, 10_000).numbers["w_0"], 16) == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("RegNetX", {"width": (8, 16)}, "RegNetX has no width; it draws depth, .*w_m"),
        ("AnyNetX_A", {"w_0": (8, 16)}, "AnyNetX_A has no w_0; it draws depth, .*, width"),
        ("RegNetX", {"depth": (12, 100)}, r"depth must be within 4 to 63"),
        ("RegNetX", {"depth": (1, 10)}, "depth must be within 4 to 63"),
        ("RegNetX", {"w_0": (25, 31)}, "w_0 has no value in .*nearest are 24, 32"),
        ("RegNetX", {"depth": (20, 12)}, "depth"),
        ("RegNetX", {"w_m": (math.nan, 3)}, "w_m"),
        ("RegNetX", {"depth": 16}, r"depth must be \(lowest, highest\) .*, got 16"),
        ("RegNetX", {"depth": ("4", "8")}, "depth"),
        ("RegNetX", {"stem_width": 0}, "stem_width"),
        ("RegNetX", {"se_ratio": 2}, "se_ratio"),
        ("RegNetY", {"stem_width": 2}, "se_ratio 0.25 of a stem of 2 channels rounds to 0"),
    ],
)
def test_narrowing_that_cannot_be(name, changes, message):
    with pytest.raises(UserError, match=message):
        get_space(name).narrowed(**changes)


def test_spaces_are_found_in_any_case():
    assert get_space("regnetx_CONSTRAINED") is SPACES["RegNetX_constrained"]
    with pytest.raises(UserError, match="'regnet-x'; did you mean 'RegNetX'.*known are AnyNetX_A"):
        get_space("regnet-x")


@pytest.mark.parametrize("name", ["RegNetX", "RegNetX_constrained"])
def test_stages_are_those_that_pycls_samples(name):
    drawn, found = draws(name, 6000, seed=5), Counter()
    for i, law in enumerate(zip(*(drawn.numbers[each].tolist() for each in LAW), strict=True)):
        widths, kept = runs(numpy_widths(*law)), pycls_samples(*law)
        assert (drawn.rejected[i] == NOT_FOUR_STAGES) is not kept
        if kept and drawn.rejected[i] != GROUPS_DO_NOT_FIT:
            assert drawn.depths[i].tolist() == [depth for _, depth in widths]
        found[len(widths) == 4, kept] += 1
    # Four stages, of which one skips a power of w_m or has two of them.
    assert found[True, True] > 500
    assert found[True, False] > 100
    assert not found[False, True]


def test_a_block_half_way_between_powers_is_the_even_ones():
    # The roots of these ratios are 1.25, 1.5, 1.125 and 2: whole numbers cross on a block.
    rows = [
        (w_0, w_a, w_m, depth)
        for w_m in (1.5625, 2.25, 1.265625, 4.0)
        for w_0 in range(8, 100, 8)
        for w_a in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 24.0, 100.0, 300.0)
        for depth in (4, 9, 17, 40)
    ]
    columns = dict(zip(LAW, map(np.array, zip(*rows, strict=True)), strict=True))
    columns |= {name: np.ones(len(rows)) for name in ("group_width", "bottleneck_multiplier")}
    rejected, halves = get_space("RegNetX").stages(columns).rejected, 0
    for (w_0, w_a, w_m, depth), reason in zip(rows, rejected, strict=True):
        kept = pycls_samples(w_0, w_a, w_m, depth)
        assert (reason == NOT_FOUR_STAGES) is not kept
        crossing = w_0 * (math.sqrt(w_m) - 1) / (w_a or 1)
        halves += kept and crossing == round(crossing)
    assert halves > 10


def build(space, drawn, i):
    """Return the design of a draw or, from the words of the error, why there is none."""
    constants = {"se_ratio": space.se_ratio, "stem_width": space.stem_width}
    row = {name: values[i].tolist() for name, values in drawn.numbers.items()}
    try:
        if "AnyNet" in space.name:
            names = "width", "depth", "group_width", "bottleneck_multiplier"
            columns = (row[name] if len(row[name]) == 4 else row[name] * 4 for name in names)
            return anynet(*columns, **constants)
        if not pycls_samples(*(row[name] for name in LAW)):
            return "not four stages"
        return RegNetDesign(**row, **constants)
    except ValueError as error:
        reasons = {
            "no width": "groups do not fit",
            "se_ratio": "no channel for squeeze-and-excitation",
        }
        return next(reason for words, reason in reasons.items() if words in str(error))


def judge(space, design, bounds):
    """State again what is rejected, on exact costs."""
    cost = complexity(design, bounds.image_size, bounds.num_classes)
    for name in ("flops", "params", "activations"):
        low, high = getattr(bounds, name) or (0, math.inf)
        if getattr(cost, name) < low:
            return f"{name} too low"
        if getattr(cost, name) > high:
            return f"{name} too high"
    if "constrained" in space.name:
        at_224 = complexity(design)
        giga = at_224.flops / 10**9
        if at_224.params > 3e6 + 5.5e6 * giga:
            return "above the paper's params trend"
        if at_224.activations > 6.5e6 * giga**0.5:
            return "above the paper's activations trend"
    return None


def sample_slowly(space, count, bounds, seed):
    """Build each draw, then judge it."""
    rng, designs, rejections, seen = np.random.default_rng(seed), [], Counter(), set()
    while True:
        drawn = space.draw(rng, 4096)
        for i in range(4096):
            design = build(space, drawn, i)
            reason = design if isinstance(design, str) else judge(space, design, bounds)
            if reason is None and design.stages in seen:
                reason = "drawn before"
            if reason is not None:
                rejections[reason] += 1
                continue
            seen.add(design.stages)
            designs.append(design)
            if len(designs) == count:
                return designs, rejections


CASES = {
    "flops": ("RegNetX", {}, Bounds(flops=(300e6, 600e6)), 12),
    "params and activations": (
        "RegNetY",
        {},
        Bounds(params=(4e6, 20e6), activations=(3e6, 12e6)),
        25,
    ),
    "all, at another size": (
        "RegNetX",
        {},
        Bounds((1e9, 20e9), (2e6, 30e6), (30e6, 150e6), (800, 1333), None),
        20,
    ),
    "trends": ("RegNetX_constrained", {}, Bounds(flops=(0, 6e9)), 40),
    "trends, at another size": (
        "RegNetY_constrained",
        {},
        Bounds(params=(0, 10e6), image_size=64, num_classes=10),
        40,
    ),
    "few networks": (
        "RegNetX_constrained",
        {"depth": (12, 13), "w_0": (24, 32), "w_a": (30, 40), "group_width": (8, 16)},
        Bounds(),
        60,
    ),
    "thin squeeze": ("RegNetX", {"se_ratio": 0.05, "w_0": (8, 16)}, Bounds(), 25),
    "AnyNet": ("AnyNetX_A", {}, Bounds(flops=(300e6, 600e6)), 40),
    "AnyNet in order": ("AnyNetX_E", {"se_ratio": 0.25}, Bounds(params=(0, 5e6)), 60),
}


def test_samples_are_those_of_a_naive_sampler_and_see_every_reason():
    cases = {
        case: (get_space(name).narrowed(**changes), bounds, count)
        for case, (name, changes, bounds, count) in CASES.items()
    }
    wide = {"bottleneck_multiplier": powers_of_two(2, 8), "group_width": uniform(1, 40)}
    cases["wide bottlenecks"] = (replace(get_space("RegNetX"), **wide), Bounds(), 30)
    seen = set()
    for case, (space, bounds, count) in cases.items():
        designs, rejections = sample_slowly(space, count, bounds, seed=7)
        found = sample(space, count, bounds=bounds, seed=7)
        assert [candidate.design for candidate in found.kept] == designs, case
        assert found.rejections == rejections, case
        assert found.drawn == count + sum(rejections.values())
        for each in found.kept:
            assert each.cost == complexity(each.design, bounds.image_size, bounds.num_classes)
            assert (each.latency_ms, each.memory_mib) == (None, None)
        seen |= set(rejections)
    assert seen == {
        *("flops too low", "flops too high", "params too low", "params too high"),
        *("activations too low", "activations too high"),
        "not four stages",
        "groups do not fit",
        "no channel for squeeze-and-excitation",
        "above the paper's params trend",
        "above the paper's activations trend",
        "drawn before",
    }


def test_a_sample_is_repeatable_and_begins_with_a_shorter_one():
    calls = []
    found = sample(get_space("regnetx"), 5, bounds=MF_400, seed=3, progress=calls.append)
    assert (len(found.kept), found.measured) == (5, ())
    assert calls == [1, 2, 3, 4, 5]
    assert len({candidate.design.stages for candidate in found.kept}) == 5
    assert sample(get_space("RegNetX"), 5, bounds=MF_400, seed=3) == found
    assert sample(get_space("RegNetX"), 3, bounds=MF_400, seed=3).kept == found.kept[:3]
    other = sample(get_space("RegNetX"), 5, bounds=MF_400, seed=4)
    assert other.kept != found.kept
    # Draws go on without end, and count next to what others counted.
    rejections = Counter({"latency too high": 2})
    stream = draw(get_space("RegNetX"), bounds=MF_400, seed=3, rejections=rejections)
    assert [next(stream) for _ in range(5)] == list(found.kept)
    assert rejections == found.rejections | {"latency too high": 2}


def test_bounds_that_nothing_meets():
    bounds = Bounds(flops=(380e6, 420e6), params=(1e9, math.inf))
    with pytest.raises(UserError) as raised:
        sample(get_space("RegNetX"), 1, bounds=bounds, max_draws=3000)
    message = str(raised.value)
    assert "the last 3,000 draws from RegNetX" in message
    assert "params 1e+09 to inf at 224" in message
    assert "not four stages 2," in message


def test_a_space_that_runs_out():
    space = get_space("AnyNetX_C").narrowed(width=(8, 8), depth=(1, 2), group_width=(1, 1))
    space = space.narrowed(bottleneck_multiplier=(1, 1))
    found = sample(space, 16, seed=0)
    assert len({c.design for c in found.kept}) == 16  # two depths in four stages
    assert set(found.rejections) == {"drawn before"}
    with pytest.raises(UserError, match="drawn before "):
        sample(space, 17, max_draws=500)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"flops": (5, 1)}, "flops"),
        ({"params": (-1, 1)}, "params"),
        ({"activations": 5e6}, "activations"),
        ({"flops": (math.nan, 1)}, "flops"),
        ({"image_size": 0}, "image_size"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_bounds_that_mean_nothing(changes, name):
    with pytest.raises(UserError, match=f"{name} must be"):
        Bounds(**changes)


@pytest.mark.parametrize("count", [0, -1, 2.0, True])
def test_counts_that_mean_nothing(count):
    with pytest.raises(UserError, match="count"):
        sample(get_space("RegNetX"), count)
