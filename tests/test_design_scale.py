"""Scaled designs against pycls's rule, which scales each stage on its own."""

from dataclasses import replace

import pytest
from design_restated import numpy_widths, runs, timm_stages

from regnet_backbones import zoo
from regnet_backbones.design import RegNetDesign, complexity, scale
from regnet_backbones.design.fitting import FAST
from regnet_backbones.errors import UserError

PAPER = [
    pytest.param(zoo.get(name).design, id=name)
    for name in zoo.names()
    if zoo.get(name).paper_name and zoo.get(name).design
]
X_200MF = RegNetDesign(24, 36.44, 2.49, 13, 8)

# Weights of depth, width, group width and resolution.
STRATEGIES = {FAST: (1, 8, 8, 1), "d": (1, 0, 0, 0), "dw": (1, 1, 0, 0), "dwr": (1, 1, 0, 1)}


def pycls_factors(weights, factor):
    d, w, g, r = weights
    total = d + w + r
    return (
        factor ** (d / total),
        factor ** (w / total / 2),
        factor ** (g / total / 2),
        factor ** (r / total / 2),
    )


def pycls_stages(design, depth, width, group_width):
    """Widths before the fitting to groups and depths of the stages, and the group width."""
    law = runs(numpy_widths(design.w_0, design.w_a, design.w_m, design.depth))
    depths = [max(1, round(n * depth)) for _, n in law]
    raw = [max(1, round(w * width / 8)) * 8 for w, _ in law]
    group = max(1, round(design.group_width * group_width))
    group = group if group <= 2 else 4 if group <= 5 else round(group / 8) * 8
    return raw, depths, group


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("design", PAPER[::3])
def test_against_stages_scaled_alone(design, strategy):
    factor = 4
    depth, width, group_width, resolution = pycls_factors(STRATEGIES[strategy], factor)
    scaled = scale(design, factor, strategy=strategy)
    assert (scaled.depth, scaled.width) == pytest.approx((depth, width))
    assert (scaled.group_width, scaled.resolution) == pytest.approx((group_width, resolution))
    assert scaled.image_size == round(224 * resolution / 4) * 4
    raw, depths, group = pycls_stages(design, depth, width, group_width)
    found = runs(scaled.design.block_widths.quantized)
    assert scaled.design.depth == sum(depths)
    # pycls also rounds group widths that it does not scale, such as 373.
    assert scaled.design.group_width == (design.group_width if group_width == 1 else group)
    # One law for four stages rounded on their own: seldom the same, at most 12 per cent wider or
    # narrower, or two multiples of 8, and 3 blocks deeper or shallower at four times the depth.
    for (got, blocks), wanted, wanted_blocks in zip(found, raw, depths, strict=True):
        assert got == pytest.approx(wanted, abs=16, rel=0.12)
        assert blocks == pytest.approx(wanted_blocks, abs=3)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("design", PAPER)
def test_multiply_adds_reached(design, factor):
    scaled = scale(replace(design, norm_group_width=0), factor)
    assert scaled.flops_factor == pytest.approx(factor, rel=0.15)
    before = complexity(design, 224).flops
    after = complexity(scaled.design, scaled.image_size).flops
    assert scaled.flops_factor == after / before


@pytest.mark.parametrize("factor", [0.5, 2])
@pytest.mark.parametrize("name", ["regnetx_002", "regnety_032", "regnetx_160"])
def test_timm_builds_what_is_scaled(name, factor):
    design = scale(zoo.get(name).design, factor).design
    assert timm_stages(design) == [(s.width, s.depth) for s in design.stages]


@pytest.mark.parametrize("strategy", [*STRATEGIES, "g", "r", "w2_g0"])
def test_scaled_by_1(strategy):
    scaled = scale(X_200MF, 1, strategy=strategy, image_size=250)
    assert scaled.design == X_200MF
    assert (scaled.image_size, scaled.flops_factor) == (250, 1)


def test_fast_scaling_by_hand():
    # d = 4**0.1 = 1.149, w = g = 4**0.4 = 1.741, r = 4**0.05 = 1.072: 224 * r = 240.1.
    scaled = scale(X_200MF, 4)
    assert scaled.image_size == 240
    # Depths 1, 1, 4, 7 become 1.1, 1.1, 4.6, 8.04.
    assert scaled.design.depth == 1 + 1 + 5 + 8
    assert scaled.design.group_width == 16  # 8 * 1.741 = 13.9 is 14, and that 16
    assert scaled.design.stem_width == 32
    # Widths 24, 56, 152, 368 become 41.8, 97.5, 264.6, 640.7.
    widths = [width for width, _ in runs(scaled.design.block_widths.quantized)]
    assert widths == pytest.approx([40, 96, 264, 640], abs=8)


def test_what_is_not_scaled_stays():
    design = replace(X_200MF, se_ratio=0.25, activation="silu", head_width=64, stem_width=24)
    scaled = scale(design, 2).design
    assert (scaled.se_ratio, scaled.activation) == (0.25, "silu")
    assert (scaled.head_width, scaled.stem_width) == (64, 24)


@pytest.mark.parametrize(
    ("group_width", "factor", "expected"),
    [(1, 1.4, 1), (1, 2, 2), (1, 3, 4), (1, 5, 4), (2, 3, 8), (8, 1.4, 8), (8, 2.6, 24)],
)
def test_group_widths(group_width, factor, expected):
    # Scaled alone, group widths take the factor as it is; nothing else changes.
    design = replace(X_200MF, group_width=group_width)
    scaled = scale(design, factor, strategy="g")
    assert scaled.design == replace(design, group_width=expected)
    assert (scaled.depth, scaled.width, scaled.resolution) == (1, 1, 1)


def test_resolution_alone():
    scaled = scale(X_200MF, 4, strategy="r", image_size=200)
    assert scaled.design == X_200MF
    assert (scaled.image_size, scaled.resolution) == (400, 2)


def test_letters_are_equal_weights():
    assert scale(X_200MF, 2, strategy="dw") == scale(X_200MF, 2, strategy="w3_d3")
    assert scale(X_200MF, 2, strategy="dw") == scale(X_200MF, 2, strategy="d0.5_w0.5_g0")


@pytest.mark.parametrize(
    ("factor", "options", "message"),
    [
        (0, {}, "factor"),
        (-2, {}, "factor"),
        (float("nan"), {}, "factor"),
        (float("inf"), {}, "factor"),
        (2, {"strategy": ""}, "strategy"),
        (2, {"strategy": "fast"}, "strategy"),
        (2, {"strategy": "dd"}, "different letters"),
        (2, {"strategy": "d1_d2"}, "different letters"),
        (2, {"strategy": "d1w2"}, "strategy"),
        (2, {"strategy": "d1_w-2"}, "strategy"),
        (2, {"strategy": "d0_w0"}, "weight above 0"),
        (2, {"image_size": 0}, "image_size"),
        (2, {"image_size": 224.0}, "image_size"),
    ],
)
def test_bad_input(factor, options, message):
    with pytest.raises(UserError, match=message):
        scale(X_200MF, factor, **options)


def test_impossible_designs_say_why():
    grouped = zoo.get("regnety_040_sgn").design
    message = "cannot be scaled by 2 with strategy 'wg': norm_group_width .*; use another"
    with pytest.raises(UserError, match=message):
        scale(grouped, 2, strategy="wg")
