"""The paper's findings: designs that break one each, and what published models break."""

from dataclasses import replace

import pytest
from design_restated import anynet as free_stages

from regnet_backbones import zoo
from regnet_backbones.design import RegNetDesign, check_rules

# Widths 24, 56, 152, 368, depths 1, 1, 4, 7: breaks no rule.
X_200MF = RegNetDesign(24, 36.44, 2.49, 13, 8)
LAW_RULES = {"w_0", "w_a", "w_m"}
STAGE_RULES = {
    "stage widths",
    "stage depths",
    "bottleneck multiplier",
    "depth",
    "params",
    "activations",
}


def anynet(widths=(24, 56, 152, 368), depths=(1, 1, 4, 7), multipliers=(1.0,) * 4):
    return free_stages(widths, depths, multipliers=multipliers)


def broken(design):
    return {rule.name for rule in check_rules(design) if not rule.holds}


def rule(design, name):
    return {found.name: found for found in check_rules(design)}[name]


def test_rules_of_each_kind_of_design():
    assert {r.name for r in check_rules(X_200MF)} == LAW_RULES | STAGE_RULES
    assert {r.name for r in check_rules(anynet())} == STAGE_RULES
    assert broken(X_200MF) == broken(anynet()) == set()


@pytest.mark.parametrize(
    ("design", "name", "found"),
    [
        (anynet(widths=(24, 56, 48, 368)), "stage widths", "24, 56, 48, 368"),
        (anynet(depths=(2, 1, 4, 7)), "stage depths", "2, 1, 4, 7"),
        (anynet(depths=(1, 4, 3, 7)), "stage depths", "1, 4, 3, 7"),
        (anynet(depths=(1, 1, 3, 6)), "depth", "11 blocks"),
        (anynet(depths=(1, 2, 16, 10)), "depth", "29 blocks"),
        (
            anynet(multipliers=(0.5, 1.0, 1.0, 0.5)),
            "bottleneck multiplier",
            "0.5, 1",
        ),
        (RegNetDesign(40, 14.5, 1.9, 22, 16), "w_m", "1.9"),
        (RegNetDesign(16, 18.2, 3.1, 17, 16), "w_m", "3.1"),
        (RegNetDesign(264, 184.2, 2.79, 19, 16), "w_0", "264"),
        (RegNetDesign(8, 7.9, 2.84, 24, 16), "w_a", "7.9"),
    ],
)
def test_one_broken_rule(design, name, found):
    assert broken(design) == {name}
    assert rule(design, name).found == found


def test_limits_are_included():
    assert rule(anynet(depths=(1, 1, 4, 6)), "depth").holds  # 12
    assert rule(anynet(depths=(1, 4, 9, 14)), "depth").holds  # 28
    assert rule(RegNetDesign(40, 14.5, 2.0, 22, 16), "w_m").holds
    assert rule(RegNetDesign(256, 178.8, 2.75, 18, 16), "w_0").holds
    assert rule(RegNetDesign(8, 8.0, 2.84, 24, 16), "w_a").holds


def test_the_last_stage_may_be_shallower():
    found = rule(anynet(depths=(1, 3, 8, 2)), "stage depths")
    assert found.holds
    assert found.found == "1, 3, 8, 2 (the last is shallower)"
    assert "the last may be" in found.wanted


def test_params_against_multiply_adds():
    # A head of 4000 channels: 368 * 4000 weights on 7 x 7 pixels, and 4000 * 1000.
    design = replace(X_200MF, head_width=4000)
    assert broken(design) == {"params"}
    # 0.200 G and 72.1 M of the head's convolution, 4.0 M of the classifier less 0.4 M: 0.275 G.
    # The limit is 3 + 5.5 * 0.275 = 4.51; 2.685 M less 0.369 M are 2.316 M, with 5.481 M 7.797 M.
    assert rule(design, "params").found == "7.797 M"
    assert rule(design, "params").wanted.startswith("at most 4.5")


def test_activations_against_multiply_adds():
    # A stem of 256 channels has 256 * 112 * 112 activations, 3.2 M, instead of 0.4 M.
    assert broken(replace(X_200MF, stem_width=256)) == {"activations"}
    # pycls counts 199.04 M multiply-adds and 2.164 M activations at 224; 6.5 * sqrt(0.19904) = 2.9.
    found = rule(X_200MF, "activations")
    assert found.found == "2.164 M"
    assert found.wanted == "at most 2.9 M: 6.5 sqrt(f), f = 0.199 G"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("regnetx_080", set()),  # depths 2, 5, 15, 1
        ("regnetx_320", {"w_0"}),  # 320
        ("regnety_1280", {"w_0"}),  # 456
        # 16.41 M activations, 6.5 * sqrt(6.36) = 16.39: the paper's limit was for 6.4.
        ("regnety_064", {"activations"}),
        ("regnetz_005", {"bottleneck multiplier", "params", "activations"}),
    ],
)
def test_published_models(name, expected):
    assert broken(zoo.get(name).design) == expected
