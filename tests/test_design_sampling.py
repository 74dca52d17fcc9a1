import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from design_restated import pycls_samples
from regnet_backbones.design.anynet import AnyNetDesign
from regnet_backbones.design.ranges import powers_of_two, uniform
from regnet_backbones.design.sampling import Bounds, draw, sample

from regnet_backbones.design.cost import complexity
from regnet_backbones.design.law import RegNetDesign
from regnet_backbones.design.spaces import get_space

MF_400 = Bounds(flops=(380e6, 420e6))


def build(space, numbers):
    """Return the design or, from the words of the error, why there is none."""
    constants = {"se_ratio": space.se_ratio, "stem_width": space.stem_width}
    try:
        if "AnyNet" in space.name:
            return AnyNetDesign.of(*numbers, **constants)
        *line, multiplier = numbers
        if not pycls_samples(*line[:4]):
            return "not four stages"
        return RegNetDesign(*line, bottleneck_multiplier=multiplier, **constants)
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
    rng, designs, rejections, seen = random.Random(seed), [], Counter(), set()
    while len(designs) < count:
        design = build(space, space.draw(rng))
        reason = design if isinstance(design, str) else judge(space, design, bounds)
        if reason is None and design.stages in seen:
            reason = "drawn before"
        if reason is not None:
            rejections[reason] += 1
            continue
        seen.add(design.stages)
        designs.append(design)
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
    "unbounded": ("RegNetX", {"depth": (12, 16)}, Bounds(), 60),
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


@pytest.mark.parametrize("case", CASES)
def test_against_a_naive_sampler(case):
    name, changes, bounds, count = CASES[case]
    space = get_space(name).narrowed(**changes)
    designs, rejections = sample_slowly(space, count, bounds, seed=7)
    found = sample(space, count, bounds=bounds, seed=7)
    assert [candidate.design for candidate in found.candidates] == designs
    assert found.rejections == rejections
    assert found.drawn == count + sum(rejections.values())
    for candidate in found.candidates:
        assert candidate.cost == complexity(candidate.design, bounds.image_size, bounds.num_classes)
        assert (candidate.latency_ms, candidate.memory_mib) == (None, None)


def test_wide_bottlenecks_that_fit_no_groups():
    space = replace(
        get_space("RegNetX"), bottleneck_multiplier=powers_of_two(2, 8), group_width=uniform(1, 40)
    )
    designs, rejections = sample_slowly(space, 30, Bounds(), seed=1)
    found = sample(space, 30, seed=1)
    assert [candidate.design for candidate in found.candidates] == designs
    assert found.rejections == rejections
    assert rejections["groups do not fit"] > 10


def test_the_cases_see_every_reason():
    seen = set()
    for name, changes, bounds, count in CASES.values():
        space = get_space(name).narrowed(**changes)
        seen |= set(sample(space, count, bounds=bounds, seed=7).rejections)
    assert seen >= {
        *("flops too low", "flops too high", "params too low", "params too high"),
        *("activations too low", "activations too high"),
        "not four stages",
        "no channel for squeeze-and-excitation",
        "above the paper's params trend",
        "above the paper's activations trend",
        "drawn before",
    }


def test_a_sample():
    calls = []
    found = sample(get_space("regnetx"), 5, bounds=MF_400, seed=3, progress=calls.append)
    assert (found.space, found.seed, len(found.candidates)) == ("RegNetX", 3, 5)
    assert calls == [1, 2, 3, 4, 5]
    assert all(380e6 <= candidate.cost.flops <= 420e6 for candidate in found.candidates)
    assert len({candidate.design.stages for candidate in found.candidates}) == 5
    assert sample(get_space("RegNetX"), 5, bounds=MF_400, seed=3) == found
    other = sample(get_space("RegNetX"), 5, bounds=MF_400, seed=4)
    assert other.candidates != found.candidates


def test_a_longer_sample_begins_with_the_shorter():
    space = get_space("AnyNetX_A")
    short, long = (sample(space, count, bounds=MF_400).candidates for count in (3, 6))
    assert long[:3] == short


def test_draws_go_on_without_end_and_count():
    rejections = Counter({"latency too high": 2})
    stream = draw(get_space("AnyNetX_E"), bounds=MF_400, seed=1, rejections=rejections)
    found = [next(stream) for _ in range(4)]
    assert [c.design for c in found] == [
        c.design for c in sample(get_space("AnyNetX_E"), 4, bounds=MF_400, seed=1).candidates
    ]
    assert rejections["latency too high"] == 2
    assert set(rejections) == {"latency too high", "flops too low", "flops too high"}


def test_bounds_that_nothing_meets():
    bounds = Bounds(flops=(380e6, 420e6), params=(1e9, math.inf))
    with pytest.raises(ValueError) as raised:
        sample(get_space("RegNetX"), 1, bounds=bounds, max_draws=3000)
    message = str(raised.value)
    assert "the last 3,000 draws from RegNetX gave nothing new within flops 3.8e+08 to " in message
    assert "params 1e+09 to inf at 224" in message
    assert "rejected so far: not four stages 2," in message
    assert message.endswith("widen the bounds, or draw from another space")


def test_a_space_that_runs_out():
    space = get_space("AnyNetX_C").narrowed(width=(8, 8), depth=(1, 2), group_width=(1, 1))
    space = space.narrowed(bottleneck_multiplier=(1, 1))
    found = sample(space, 16, seed=0)
    assert len({c.design for c in found.candidates}) == 16  # two depths in four stages
    assert set(found.rejections) == {"drawn before"}
    with pytest.raises(ValueError, match="gave nothing new .*rejected so far: drawn before "):
        sample(space, 17, max_draws=500)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flops": (5, 1)}, "flops must be .*0 <= lowest <= highest, got"),
        ({"params": (-1, 1)}, "params must be .*0 <= lowest <= highest, got"),
        ({"activations": 5e6}, r"activations must be \(lowest, highest\), got 5000000"),
        ({"flops": (math.nan, 1)}, "flops must be .*0 <= lowest <= highest, got"),
        ({"image_size": 0}, "image_size must be a positive integer"),
        ({"num_classes": 0}, "num_classes must be a positive integer"),
    ],
)
def test_bounds_that_mean_nothing(changes, message):
    with pytest.raises(ValueError, match=message):
        Bounds(**changes)


@pytest.mark.parametrize("count", [0, -1, 2.0, True])
def test_counts_that_mean_nothing(count):
    with pytest.raises(ValueError, match="count must be a positive integer, got"):
        sample(get_space("RegNetX"), count)
