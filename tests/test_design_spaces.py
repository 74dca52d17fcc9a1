import math
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import chain

import pytest
from design_restated import numpy_widths, pycls_samples, runs
from regnet_backbones.design.ranges import Range, log_uniform, powers_of_two, uniform
from regnet_backbones.design.space_kinds import (
    GROUPS_DO_NOT_FIT,
    NOT_FOUR_STAGES,
    RegNetNumbers,
)

from regnet_backbones.design.spaces import SPACES, get_space

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


def draws(name, count, seed=0):
    rng = random.Random(seed)
    return [get_space(name).draw(rng) for _ in range(count)]


def share(values, highest):
    values = list(values)
    return sum(value <= highest for value in values) / len(values)


def test_the_spaces_of_the_paper():
    assert list(SPACES) == ANYNETS + REGNETS
    for name, space in SPACES.items():
        assert space.name == name
        assert space.se_ratio == (0.25 if "Y_" in name or name == "RegNetY" else 0)
        assert space.within_trends == name.endswith("_constrained")
        assert space.stem_width == 32


@pytest.mark.parametrize("name", REGNETS)
def test_numbers_of_regnets(name):
    drawn = draws(name, 4000)
    for number, allowed in REGNET_RANGES[name.replace("Y", "X")].items():
        found = {getattr(numbers, number) for numbers in drawn}
        assert found <= set(allowed)
        if len(allowed) < 100:
            assert found == set(allowed)


@pytest.mark.parametrize("name", ANYNETS)
def test_numbers_of_anynets(name):
    drawn = draws(name, 2000)
    widths, depths, groups, multipliers = (
        {number for numbers in drawn for number in numbers[i]} for i in range(4)
    )
    assert widths <= set(range(8, 1025, 8))
    assert {8, 1024} <= widths
    assert depths == set(range(1, 17))
    assert groups == POWERS_TO_32
    assert multipliers == {0.25, 0.5, 1}
    assert all(len(numbers) == 4 for draw in drawn for numbers in draw)


@pytest.mark.parametrize("name", ANYNETS)
def test_what_each_space_adds_to_the_one_before(name):
    rules = {
        "AnyNetX_B": lambda n: len(set(n.bottleneck_multipliers)) == 1,
        "AnyNetX_C": lambda n: len(set(n.group_widths)) == 1,
        "AnyNetX_D": lambda n: n.widths == sorted(n.widths),
        "AnyNetX_E": lambda n: n.depths == sorted(n.depths),
    }
    drawn = draws(name, 300)
    for space, rule in rules.items():
        # Without the rule some draw breaks it.
        assert all(map(rule, drawn)) == (space <= name)


def test_ends_are_as_likely_as_the_rest():
    # pycls draws w_0 with log-uniform density from 4, half the lowest, to 256: six doublings.
    w_0 = [numbers.w_0 for numbers in draws("RegNetX_constrained", 6000)]
    assert share(w_0, 8) == pytest.approx(1 / 6, abs=0.03)
    assert share(w_0, 32) == pytest.approx(3 / 6, abs=0.03)
    assert 1 - share(w_0, 248) == pytest.approx(math.log2(256 / 248) / 6, abs=0.005)


def test_log_uniform_numbers():
    widths, depths, groups, _ = zip(*draws("AnyNetX_A", 1500), strict=True)
    # Widths from (4, 1024], eight doublings; depths from (1/2, 16], five; six powers of two.
    assert share(chain(*widths), 64) == pytest.approx(4 / 8, abs=0.04)
    assert share(chain(*depths), 4) == pytest.approx(3 / 5, abs=0.04)
    assert share(chain(*groups), 2) == pytest.approx(2 / 6, abs=0.04)
    w_m = [numbers.w_m for numbers in draws("RegNetX", 6000)]
    assert share(w_m, math.sqrt(1.5 * 3)) == pytest.approx(1 / 2, abs=0.04)


def test_depths_of_regnets_are_uniform():
    assert share((n.depth for n in draws("RegNetX", 6000)), 33) == pytest.approx(1 / 2, abs=0.04)


def test_ascending_draws_are_the_ordered_among_independent_ones():
    rng = random.Random(0)
    three = Range((1, 2, 3), (1.0, 2.0, 3.0))
    found = Counter(tuple(three.draw_ascending(rng, 2)) for _ in range(20_000))
    # Products of the weights, 25 in all.
    expected = {(1, 1): 1, (1, 2): 2, (1, 3): 3, (2, 2): 4, (2, 3): 6, (3, 3): 9}
    assert set(found) == set(expected)
    for pair, weight in expected.items():
        assert found[pair] / 20_000 == pytest.approx(weight / 25, abs=0.02)


def test_ascending_draws_against_rejection():
    depths = log_uniform(1, 16, step=1)
    rng = random.Random(1)
    kept = [
        row
        for row in ([depths.draw(rng) for _ in range(4)] for _ in range(60_000))
        if row == sorted(row)
    ]
    assert len(kept) > 2000
    rows = [depths.draw_ascending(rng, 4) for _ in range(8000)]
    for place, middle in enumerate((1, 2, 4, 8)):
        expected = share((row[place] for row in kept), middle)
        assert 0.1 < expected < 0.9
        assert share((row[place] for row in rows), middle) == pytest.approx(expected, abs=0.05)


def test_draws_do_not_depend_on_hash_randomisation():
    code = (
        "import random; from regnet_backbones.design.spaces import SPACES; "
        "print([space.draw(random.Random(3)) for space in SPACES.values()])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    here = str([space.draw(random.Random(3)) for space in SPACES.values()]) + "\n"
    assert outputs == {here}
    assert draws("RegNetX", 5, seed=3) != draws("RegNetX", 5, seed=4)


def test_narrowed_spaces():
    space = get_space("RegNetX").narrowed(
        depth=(12, 20),
        w_0=(24, math.inf),
        group_width=(8, 16),
        bottleneck_multiplier=(1, 1),
        stem_width=16,
        se_ratio=0.5,
    )
    rng = random.Random(0)
    drawn = [space.draw(rng) for _ in range(1000)]
    assert {n.depth for n in drawn} == set(range(12, 21))
    assert {n.w_0 for n in drawn} <= set(range(24, 249, 8))
    assert {n.group_width for n in drawn} == {8, 16}
    assert {n.bottleneck_multiplier for n in drawn} == {1}
    assert (space.stem_width, space.se_ratio) == (16, 0.5)
    assert space.name == (
        "RegNetX (depth 12 to 20, w_0 24 to 248, group_width 8 to 16, bottleneck_multiplier 1, "
        "se_ratio 0.5, stem_width 16)"
    )
    # The other ranges are as they were, and so is the space that it was made of.
    assert space.w_m == get_space("RegNetX").w_m
    assert get_space("RegNetX").depth.lowest == 4


def test_narrowing_keeps_the_density():
    space = get_space("RegNetX_constrained").narrowed(w_0=(16, 64))
    rng = random.Random(0)
    w_0 = [space.draw(rng).w_0 for _ in range(4000)]
    # From (8, 64], three doublings.
    assert share(w_0, 16) == pytest.approx(1 / 3, abs=0.04)


def test_narrowed_anynets():
    space = get_space("anynetx_e").narrowed(width=(32, 64), depth=(2, 2))
    rng = random.Random(0)
    drawn = [space.draw(rng) for _ in range(300)]
    assert {width for n in drawn for width in n.widths} == {32, 40, 48, 56, 64}
    assert all(n.depths == [2, 2, 2, 2] for n in drawn)
    assert all(n.widths == sorted(n.widths) for n in drawn)
    assert get_space("AnyNetX_E").narrowed() is get_space("AnyNetX_E")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("RegNetX", {"width": (8, 16)}, "RegNetX has no width; it draws depth, group_width, .*w_m"),
        ("AnyNetX_A", {"w_0": (8, 16)}, "AnyNetX_A has no w_0; it draws depth, .*, width"),
        ("RegNetX", {"depth": (12, 100)}, r"depth of RegNetX must be within 4 to 63, got \(12, 1"),
        ("RegNetX", {"depth": (1, 10)}, r"depth of RegNetX must be within 4 to 63, got \(1, 10\)"),
        ("RegNetX", {"w_0": (25, 31)}, r"w_0 of RegNetX has no value in .*nearest are 24, 32"),
        ("RegNetX", {"depth": (20, 12)}, "depth of RegNetX must be .* 0 <= lowest <= highest, got"),
        ("RegNetX", {"w_m": (math.nan, 3)}, "w_m of RegNetX must be .*0 <= lowest <= highest"),
        ("RegNetX", {"depth": 16}, r"depth of RegNetX must be \(lowest, highest\), got 16"),
        ("RegNetX", {"depth": ("4", "8")}, r"depth of RegNetX must be \(lowest, highest\), got"),
        ("RegNetX", {"stem_width": 0}, "stem_width must be a positive integer, got 0"),
        ("RegNetX", {"se_ratio": 2}, r"se_ratio must be a number in \[0, 1\], 0 for none, got 2"),
        ("RegNetY", {"stem_width": 2}, "se_ratio 0.25 of a stem of 2 channels rounds to 0"),
    ],
)
def test_narrowing_that_cannot_be(name, changes, message):
    with pytest.raises(ValueError, match=message):
        get_space(name).narrowed(**changes)


def test_ranges_can_be_replaced():
    wide = replace(get_space("RegNetX"), w_0=log_uniform(8, 512, step=8))
    assert wide.w_0.highest == 512
    with pytest.raises(ValueError, match="w_0 must be positive multiples of 8, got 10 to 20"):
        replace(wide, w_0=uniform(10, 20))
    with pytest.raises(ValueError, match="w_m must be above 1, got 1 to 2"):
        replace(wide, w_m=powers_of_two(1, 2))
    with pytest.raises(ValueError, match="a range needs ascending values, got 2, 1"):
        Range((2, 1), (1.0, 1.0))
    with pytest.raises(ValueError, match="a range needs a weight above 0 for each value, got 1"):
        Range((1, 2), (1.0,))


def test_spaces_are_found_in_any_case():
    assert get_space("regnetx_CONSTRAINED") is SPACES["RegNetX_constrained"]
    with pytest.raises(
        ValueError, match="unknown design space 'regnet-x'; did you mean 'RegNetX'.*known are Any"
    ):
        get_space("regnet-x")
    with pytest.raises(ValueError, match="unknown design space 'vgg16'; known are AnyNetX_A"):
        get_space("vgg16")


@pytest.mark.parametrize("name", ["RegNetX", "RegNetX_constrained"])
def test_stages_are_those_that_pycls_samples(name):
    space, found = get_space(name), Counter()
    for numbers in draws(name, 6000, seed=5):
        law = numbers[:4]
        widths, kept = runs(numpy_widths(*law)), pycls_samples(*law)
        stages = space.stages(numbers)
        assert (stages == NOT_FOUR_STAGES) is not kept
        if kept and stages != GROUPS_DO_NOT_FIT:
            assert [depth for _, depth, *_ in stages] == [depth for _, depth in widths]
        found[len(widths) == 4, kept] += 1
    # Four stages, of which one skips a power of w_m or has two of them.
    assert found[True, True] > 500
    assert found[True, False] > 100
    assert not found[False, True]


def test_a_block_half_way_between_powers_is_the_even_ones():
    # The roots of these ratios are 1.25, 1.5, 1.125 and 2: whole numbers cross on a block.
    space, halves = get_space("RegNetX"), 0
    for w_m in (1.5625, 2.25, 1.265625, 4.0):
        for w_0 in range(8, 100, 8):
            for w_a in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 24.0, 100.0, 300.0):
                for depth in (4, 9, 17, 40):
                    stages = space.stages(RegNetNumbers(w_0, w_a, w_m, depth, 1, 1.0))
                    kept = pycls_samples(w_0, w_a, w_m, depth)
                    assert (stages == NOT_FOUR_STAGES) is not kept
                    crossing = w_0 * (math.sqrt(w_m) - 1) / (w_a or 1)
                    halves += kept and crossing == round(crossing)
    assert halves > 10
