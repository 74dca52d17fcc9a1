"""The fitted law: published models come back, and no brute force finds a nearer one."""

import math
import random

import numpy as np
import pytest
from design_restated import numpy_widths, runs, timm_stages

from regnet_backbones import zoo
from regnet_backbones.design import fit
from regnet_backbones.errors import UserError

PUBLISHED = [
    pytest.param(zoo.get(name).design, id=name)
    for name in zoo.names()
    if zoo.get(name).paper_name and zoo.get(name).design
]

# Widths of the stages and how many blocks they have; of EfficientNet the outputs of the blocks.
RESNET_50 = [256, 512, 1024, 2048], [3, 4, 6, 3]
RESNEXT_101 = [256, 512, 1024, 2048], [3, 4, 23, 3]
EFFICIENTNET_B0 = [16, 24, 40, 80, 112, 192, 320], [1, 2, 2, 3, 3, 4, 1]
RISING = [40, 40, 64, 72, 100, 140, 141, 230, 300], None
FOUR_BLOCKS = [30, 70, 150, 400], None
OTHERS = {
    "resnet50": RESNET_50,
    "resnext101": RESNEXT_101,
    "efficientnet_b0": EFFICIENTNET_B0,
    "rising": RISING,
    "four blocks": FOUR_BLOCKS,
}


def per_block(widths, depths):
    return np.repeat(widths, depths) if depths else np.array(widths)


def brute_force(observed, laws):
    """Return the least error of all laws of a grid that have four stages and leave out no power."""
    best = math.inf
    blocks = np.arange(len(observed))
    for w_0, w_m in laws:
        w_a = np.geomspace(1, 400, 160)[:, None]
        exponents = np.round(np.log(1 + w_a * blocks / w_0) / np.log(w_m))
        widths = np.round(w_0 * w_m**exponents / 8) * 8
        stages = 1 + (np.diff(widths) != 0).sum(axis=1)
        errors = np.abs(np.log(widths / observed)).mean(axis=1)
        best = min(best, *errors[(stages == 4) & (exponents[:, -1] == 3)], math.inf)
    return best


@pytest.mark.parametrize("design", PUBLISHED)
def test_published_laws_come_back(design):
    found = fit(design.block_widths.quantized, group_width=design.group_width)
    assert found.error == 0
    assert found.quantized == design.block_widths.quantized
    assert found.w_0 == design.w_0
    # w_a and w_m are only known as far as the widths, multiples of 8, tell.
    assert found.w_m == pytest.approx(design.w_m, rel=0.02)
    assert found.w_a == pytest.approx(design.w_a, rel=0.08)
    assert found.design.stages == design.stages
    assert timm_stages(found.design) == [(s.width, s.depth) for s in design.stages]


@pytest.mark.parametrize("design", PUBLISHED)
def test_published_stages_are_near(design):
    # Fitting to groups moved each width by some share: the law before it is that far away, and the
    # nearest law is at most as far.
    widths, depths = [s.width for s in design.stages], [s.depth for s in design.stages]
    observed = per_block(widths, depths)
    moved = np.abs(np.log(np.array(design.block_widths.quantized) / observed)).mean()
    found = fit(widths, depths)
    assert found.error <= moved + 1e-12
    assert found.error == pytest.approx(np.abs(np.log(found.quantized / observed)).mean())
    assert [n for _, n in runs(found.quantized)] == depths


@pytest.mark.parametrize("name", OTHERS)
def test_no_brute_force_is_nearer(name):
    widths, depths = OTHERS[name]
    observed = per_block(widths, depths)
    found = fit(widths, depths)
    w_0s = range(8, 2 * int(observed[0]) + 100, 8)
    w_ms = np.arange(1.3, 3.6, 0.057)
    best = brute_force(observed, [(w_0, w_m) for w_0 in w_0s for w_m in w_ms])
    assert found.error - 1e-9 < best < found.error + 0.05


@pytest.mark.parametrize("seed", range(8))
def test_no_brute_force_is_nearer_to_random_widths(seed):
    rng = random.Random(seed)
    depth = rng.randint(4, 16)
    observed = np.array(sorted(rng.randint(16, 400) for _ in range(depth)))
    found = fit(observed.tolist())
    laws = [(w_0, w_m) for w_0 in range(8, 408, 8) for w_m in np.arange(1.26, 3.6, 0.047)]
    assert found.error - 1e-9 < brute_force(observed, laws) < found.error + 0.05


@pytest.mark.parametrize("name", OTHERS)
def test_the_numbers_give_the_widths(name):
    widths, depths = OTHERS[name]
    observed = per_block(widths, depths)
    found = fit(widths, depths, group_width=16)
    law = found.w_0, found.w_a, found.w_m, found.depth
    assert found.depth == len(observed)
    assert list(found.quantized) == numpy_widths(*law)
    assert found.continuous == tuple(found.w_0 + found.w_a * j for j in range(found.depth))
    assert found.observed == tuple(observed)
    assert found.error == pytest.approx(np.abs(np.log(found.quantized / observed)).mean())
    assert (found.design.w_0, found.design.w_a, found.design.w_m, found.design.depth) == law
    assert found.design.group_width == 16
    assert timm_stages(found.design) == [(s.width, s.depth) for s in found.design.stages]


def test_resnet_50_by_hand():
    # Its stages of 3, 4, 6, 3 blocks cannot come from a line, those of 2, 4, 7, 3 can: of the 16
    # blocks the third and the seventh are in the next stage, a factor of 2 away.
    found = fit(*RESNET_50)
    assert runs(found.quantized) == [(256, 2), (512, 4), (1024, 7), (2048, 3)]
    assert found.error == pytest.approx(2 * math.log(2) / 16)


@pytest.mark.parametrize("num_stages", [1, 2, 3, 5, None])
def test_other_numbers_of_stages(num_stages):
    found = fit(*EFFICIENTNET_B0, num_stages=num_stages)
    assert list(found.quantized) == numpy_widths(found.w_0, found.w_a, found.w_m, 16)
    assert found.design is None
    if num_stages:
        assert len(set(found.quantized)) == num_stages
    assert found.error <= fit(*EFFICIENTNET_B0, num_stages=num_stages or 7).error


def test_one_stage_is_the_median():
    found = fit([64, 64, 64, 128], num_stages=1)
    assert found.quantized == (64, 64, 64, 64)
    assert (found.w_0, found.w_a) == (64, 0.0)
    assert found.error == pytest.approx(math.log(2) / 4)


def test_numbers_are_short():
    found = fit([24, 56, 152, 368], [1, 1, 4, 7])
    assert found.w_m == round(found.w_m, 2)
    assert found.w_a == round(found.w_a, 1)


def test_numpy_widths_are_taken():
    assert fit(np.array([24, 56, 152, 368]), np.array([1, 1, 4, 7])).error == 0


@pytest.mark.parametrize(
    ("widths", "depths", "options", "message"),
    [
        ([], None, {}, "widths"),
        ([8, 16], [1], {}, "depths must be 2 numbers .* got 1"),
        ([8, 0, 16, 32], None, {}, "widths .*, got 0"),
        ([8, 16.5, 24, 32], None, {}, "widths .*, got 16.5"),
        ([8, True, 24, 32], None, {}, "widths .*, got True"),
        ([8, 16], [2, 0], {}, "depths .*, got 0"),
        ([8, 16, 32], None, {}, "no law of 3 blocks and 4 stages"),
        ([8, 16, 32], None, {"num_stages": 0}, "num_stages"),
        ([64, 128], [1, 256], {}, "at most 256, got 257"),
        ([64] * 10, None, {"num_stages": 10}, "no law of 10 blocks and 10 stages"),
        ([8, 16, 32, 64], None, {"group_width": 0}, "group_width"),
    ],
)
def test_bad_input(widths, depths, options, message):
    with pytest.raises(UserError, match=message):
        fit(widths, depths, **options)
