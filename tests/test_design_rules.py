"""The paper's findings: designs that break one each, and what published models break."""

from dataclasses import replace

import pytest

from regnet_backbones import zoo
from regnet_backbones.design import RegNetDesign, check_rules

X_200MF = RegNetDesign(24, 36.44, 2.49, 13, 8)  # breaks no rule


def broken(design):
    return {rule.name for rule in check_rules(design) if not rule.holds}


def rule(design, name):
    return {found.name: found for found in check_rules(design)}[name]


@pytest.mark.parametrize(
    ("design", "name", "found"),
    [
        (RegNetDesign(8, 30.6, 2.84, 11, 8), "depth", "11"),
        (RegNetDesign(16, 15.1, 2.68, 29, 8), "depth", "29"),
        (replace(X_200MF, bottleneck_multiplier=0.5), "bottleneck multiplier", "0.5"),
        (RegNetDesign(40, 14.5, 1.9, 22, 16), "w_m", "1.9"),
        (RegNetDesign(16, 18.2, 3.1, 17, 16), "w_m", "3.1"),
        (RegNetDesign(264, 184.2, 2.79, 19, 16), "w_0", "264"),
        (RegNetDesign(8, 7.9, 2.84, 24, 16), "w_a", "7.9"),
    ],
)
def test_one_broken_rule(design, name, found):
    assert broken(X_200MF) == set()
    assert broken(design) == {name}
    assert rule(design, name).found == found


def test_limits_are_included():
    assert rule(RegNetDesign(152, 137.6, 2.6, 12, 8), "depth").holds
    assert rule(RegNetDesign(24, 13.1, 2.57, 28, 8), "depth").holds
    assert rule(RegNetDesign(40, 14.5, 2.0, 22, 16), "w_m").holds
    assert rule(RegNetDesign(256, 178.8, 2.75, 18, 16), "w_0").holds
    assert rule(RegNetDesign(8, 8.0, 2.84, 24, 16), "w_a").holds


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
        ("regnetx_080", set()),
        ("regnetx_320", {"w_0"}),  # 320
        ("regnety_1280", {"w_0"}),  # 456
        # 16.41 M activations, 6.5 * sqrt(6.36) = 16.39: the paper's limit was for 6.4.
        ("regnety_064", {"activations"}),
        ("regnetz_005", {"bottleneck multiplier", "params", "activations"}),
    ],
)
def test_published_models(name, expected):
    assert broken(zoo.get(name).design) == expected
