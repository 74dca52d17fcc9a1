"""Spaces of the paper and samples of them, against the law and the costs of single networks."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from design_restated import numpy_widths, pycls_samples, runs

from regnet_backbones.design import SPACES, Bounds, complexity, get_space, sample
from regnet_backbones.design.searching import NO_NETWORK, draw
from regnet_backbones.design.spaces import draw_designs
from regnet_backbones.errors import UserError

# Section 3.3 of the paper, and pycls's sampler for the constrained spaces.
RANGES = {
    "RegNetX": {
        "depth": range(4, 64),
        "w_0": range(8, 249, 8),
        "w_a": [k / 10 for k in range(80, 2560)],
        "w_m": [k / 1000 for k in range(1500, 3001)],
        "group_width": [1, 2, 4, 8, 16, 32],
        "bottleneck_multiplier": [0.25, 0.5, 1],
    },
    "RegNetX_constrained": {
        "depth": range(12, 29),
        "w_0": range(8, 257, 8),
        "w_a": [k / 10 for k in range(80, 2561)],
        "w_m": [k / 1000 for k in range(2000, 3001)],
        "group_width": range(8, 129, 8),
        "bottleneck_multiplier": [1],
    },
}
MF_400 = Bounds(flops=(380e6, 420e6))


def drawn(space, name, count=20_000):
    return space.ranges[name].draw(np.random.default_rng(0), count)


def share(values, highest):
    return (np.asarray(values) <= highest).mean()


def test_the_spaces_of_the_paper():
    assert list(SPACES) == ["RegNetX", "RegNetY", "RegNetX_constrained", "RegNetY_constrained"]
    for name, space in SPACES.items():
        assert space.name == name
        assert space.se_ratio == (0.25 if "Y" in name else 0)
        assert space.stem_width == 32
        assert space.within_trends == name.endswith("constrained")
        found = {name: list(each.values) for name, each in space.ranges.items()}
        assert found == {n: list(v) for n, v in RANGES[name.replace("Y", "X")].items()}


def test_ends_are_as_likely_as_the_rest():
    # pycls draws w_0 with log-uniform density from 4, half the lowest, to 256: six doublings.
    w_0 = drawn(get_space("RegNetX_constrained"), "w_0")
    assert share(w_0, 8) == pytest.approx(1 / 6, abs=0.02)
    assert share(w_0, 32) == pytest.approx(3 / 6, abs=0.02)
    assert 1 - share(w_0, 248) == pytest.approx(math.log2(256 / 248) / 6, abs=0.005)


def test_densities():
    space = get_space("RegNetX")
    assert share(drawn(space, "w_m"), math.sqrt(1.5 * 3)) == pytest.approx(1 / 2, abs=0.02)
    assert share(drawn(space, "depth"), 33) == pytest.approx(1 / 2, abs=0.02)
    assert share(drawn(space, "group_width"), 2) == pytest.approx(2 / 6, abs=0.02)


def test_narrowed_spaces():
    space = get_space("RegNetX").narrowed(
        depth=(12, 20),
        w_0=(24, math.inf),
        group_width=(8, 16),
        bottleneck_multiplier=(1, 1),
        w_a=None,
    )
    assert space.ranges["depth"].values == tuple(range(12, 21))
    assert space.ranges["w_0"].values == tuple(range(24, 249, 8))
    assert space.ranges["group_width"].values == (8, 16)
    assert space.name == (
        "RegNetX (depth 12 to 20, w_0 24 to 248, group_width 8 to 16, bottleneck_multiplier 1)"
    )
    # The other ranges are as they were, and so is the space that it was made of.
    assert space.w_m == get_space("RegNetX").w_m
    assert get_space("RegNetX").depth.values[0] == 4
    assert get_space("RegNetY").narrowed() is get_space("RegNetY")
    # From (8, 64], three doublings: the density stays.
    w_0 = get_space("RegNetX_constrained").narrowed(w_0=(16, 64))
    assert share(drawn(w_0, "w_0"), 16) == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("RegNetX", {"depth": (12, 100)}, r"depth must be \(lowest, highest\) within 4 to 63"),
        ("RegNetX", {"depth": (1, 10)}, "within 4 to 63"),
        ("RegNetX", {"w_0": (25, 31)}, "w_0 must .* such as 8, 16"),
        ("RegNetX", {"depth": (20, 12)}, "depth"),
        ("RegNetX", {"w_m": (math.nan, 3)}, "w_m"),
    ],
)
def test_impossible_narrowing(name, changes, message):
    with pytest.raises(UserError, match=message):
        get_space(name).narrowed(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stem_width": 0}, "stem_width"),
        ({"se_ratio": 2}, "se_ratio"),
        ({"stem_width": 1}, "se_ratio must .* for 1 channels, got 0.25"),
    ],
)
def test_constants_that_no_network_can_have(changes, message):
    with pytest.raises(UserError, match=message):
        replace(get_space("RegNetY"), **changes)


def test_spaces_are_found_in_any_case():
    assert get_space("regnetx_CONSTRAINED") is SPACES["RegNetX_constrained"]
    with pytest.raises(UserError, match="'regnet-x'; did you mean 'RegNetX'.*known are RegNetX"):
        get_space("regnet-x")


@pytest.mark.parametrize("name", ["RegNetX", "RegNetX_constrained"])
def test_networks_are_those_that_pycls_samples(name):
    space, found = get_space(name), Counter()
    rng = np.random.default_rng(5)
    columns = {each: values.draw(rng, 3000) for each, values in space.ranges.items()}
    designs = draw_designs(space, np.random.default_rng(5), 3000)
    for i, design in enumerate(designs):
        law = [columns[each][i].item() for each in ("w_0", "w_a", "w_m", "depth")]
        kept, widths = pycls_samples(*law), runs(numpy_widths(*law))
        if design is not None:
            assert kept
            assert [stage.depth for stage in design.stages] == [depth for _, depth in widths]
            assert [design.w_0, design.w_a, design.w_m, design.depth] == law
        found[kept, design is not None] += 1
    # Seldom a bottleneck of which no width fits.
    assert found[True, True] > 250
    assert found[True, False] < 5


def judge(space, design, bounds):
    """State again what is rejected."""
    if design is None:
        return NO_NETWORK
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


CASES = {
    "params and activations": (
        *("RegNetY", {}),
        *(Bounds(params=(4e6, 20e6), activations=(3e6, 12e6)), 25),
    ),
    "all, at another size": (
        *("RegNetX", {}),
        *(Bounds((1e9, 20e9), (2e6, 30e6), (30e6, 150e6), (800, 1333), None), 10),
    ),
    "trends": ("RegNetX_constrained", {}, Bounds(flops=(0, 6e9)), 30),
    "trends, at another size": (
        *("RegNetY_constrained", {}),
        *(Bounds(params=(0, 10e6), image_size=64, num_classes=10), 20),
    ),
    "few networks": (
        "RegNetX_constrained",
        {"depth": (12, 13), "w_0": (24, 32), "w_a": (30, 40), "group_width": (8, 16)},
        *(Bounds(), 60),
    ),
}


def test_samples_are_within_bounds_and_see_every_reason():
    seen = set()
    for case, (name, changes, bounds, count) in CASES.items():
        space = get_space(name).narrowed(**changes)
        found = sample(space, count, bounds=bounds, seed=7)
        rng, designs, rejections = np.random.default_rng(7), [], Counter()
        while len(designs) < count:
            for design in draw_designs(space, rng, 4096):
                reason = judge(space, design, bounds)
                if reason is None and any(design.stages == other.stages for other in designs):
                    reason = "drawn before"
                if reason is None:
                    designs.append(design)
                else:
                    rejections[reason] += 1
                if len(designs) == count:
                    break
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
        *("above the paper's params trend", "above the paper's activations trend"),
        *(NO_NETWORK, "drawn before"),
    }


def test_a_sample_is_repeatable_and_begins_with_a_shorter_one():
    found = sample(get_space("regnetx"), 5, bounds=MF_400, seed=3)
    assert (len(found.kept), found.measured) == (5, ())
    assert len({candidate.design.stages for candidate in found.kept}) == 5
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
    assert "the last 3,000 draws of RegNetX" in message
    assert "params 1e+09 to inf at 224" in message
    assert f"{NO_NETWORK} 2," in message


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"flops": (5, 1)}, "flops"), ({"params": (-1, 1)}, "params")],
)
def test_bounds_that_mean_nothing(changes, name):
    with pytest.raises(UserError, match=f"{name} must be"):
        Bounds(**changes)


@pytest.mark.parametrize("count", [0, -1, 2.0, True])
def test_counts_that_mean_nothing(count):
    with pytest.raises(UserError, match="count"):
        sample(get_space("RegNetX"), count)
