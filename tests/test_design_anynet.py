import random
from dataclasses import FrozenInstanceError, replace
from functools import partial

import numpy as np
import pytest
import torch
from design_restated import anynet
from torch import nn

import regnet_backbones  # noqa: F401, before detectron2: makes it work uncompiled
from regnet_backbones.design import AnyNetDesign, RegNetDesign, Stage, complexity
from regnet_backbones.design.blocks import fit_to_groups, fits_groups
from regnet_backbones.errors import UserError

STAGES = (
    Stage(width=24, depth=1, stride=2, group_width=8, bottleneck_width=24),
    Stage(width=16, depth=3, stride=2, group_width=1, bottleneck_width=64),
    Stage(width=64, depth=2, stride=2, group_width=16, bottleneck_width=16),
    Stage(width=80, depth=1, stride=2, group_width=5, bottleneck_width=40),
)


def random_design(rng):
    groups = [2 ** rng.randint(0, 5) for _ in range(4)]
    return anynet(
        [8 * rng.randint(1, 128) for _ in range(4)],
        [rng.randint(1, 4) for _ in range(4)],
        groups,
        [rng.choice([0.25, 0.5, 1.0]) for _ in range(4)],
        se_ratio=rng.choice([0.0, 0.25, 0.5]),
        stem_width=rng.choice([24, 32]),
    )


def build_with_detectron2(design):
    """Build the backbone on the meta device."""
    from detectron2.modeling.backbone.regnet import AnyNet, ResBottleneckBlock, SimpleStem

    with torch.device("meta"):
        return AnyNet(
            stem_class=SimpleStem,
            stem_width=design.stem_width,
            block_class=ResBottleneckBlock,
            depths=[s.depth for s in design.stages],
            widths=[s.width for s in design.stages],
            group_widths=[s.group_width for s in design.stages],
            strides=[s.stride for s in design.stages],
            bottleneck_ratios=[s.bottleneck_width / s.width for s in design.stages],
            se_ratio=design.se_ratio,
            activation_class=partial(nn.ReLU, inplace=True),
        ).eval()


def measure(network, size):
    """Count flops and activations by hooks on the convolutions."""
    counts = []

    def count(layer, inputs, output):
        fan_in = layer.weight[0].numel() + (layer.bias is not None)
        counts.append((fan_in * output.numel(), output.numel()))

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    network(torch.empty(1, 3, *size, device="meta"))
    return tuple(map(sum, zip(*counts, strict=True)))


@pytest.mark.parametrize("seed", range(8))
def test_complexity_against_detectron2(seed):
    design = random_design(random.Random(seed))
    network = build_with_detectron2(design)
    assert any(isinstance(m, nn.Sigmoid) for m in network.modules()) == (design.se_ratio > 0)
    cost = complexity(design, (64, 97), num_classes=None)
    assert (cost.flops, cost.activations) == measure(network, (64, 97))
    assert cost.params == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("se_ratio", [0.0, 0.25])
@pytest.mark.parametrize("multiplier", [0.25, 0.5, 1.0])
def test_the_stages_of_a_regnet_cost_what_the_regnet_costs(multiplier, se_ratio):
    numbers = {"bottleneck_multiplier": multiplier, "se_ratio": se_ratio, "stem_width": 24}
    regnet = RegNetDesign(48, 27.89, 2.09, 16, 8, **numbers)
    anynet = AnyNetDesign(regnet.stages, se_ratio=se_ratio, stem_width=24)
    for size in 224, (800, 1333):
        for num_classes in 1000, 7, None:
            expected = complexity(regnet, size, num_classes)
            found = complexity(anynet, size, num_classes)
            assert found == expected
            assert found.parts == expected.parts


@pytest.mark.parametrize(
    ("width", "group_width", "multiplier", "expected"),
    [
        (48, 16, 1.0, (48, 16, 48)),
        (40, 16, 1.0, (32, 16, 32)),  # 2.5 groups: ties to even
        (24, 32, 1.0, (24, 24, 24)),  # narrower than a group: one group
        (40, 16, 0.5, (32, 16, 16)),  # a bottleneck of 20
        (104, 8, 0.25, (96, 8, 24)),  # a bottleneck of 26
        (8, 1, 0.25, (8, 1, 2)),
        (40, 4, 4.0, (40, 4, 160)),
        (16, 6, 4.0, None),  # a bottleneck of 66 would be of 16.5 channels' block
        (8, 8, 0.1, None),  # a bottleneck of 0
    ],
)
def test_fitting_written_out(width, group_width, multiplier, expected):
    fitted = fit_to_groups(width, group_width, multiplier)
    assert (fitted if fits_groups(*fitted, multiplier) else None) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": STAGES[:3]}, "stages"),
        ({"stages": 4}, "stages"),
        ({"stages": (*STAGES[:3], (80, 1, 2, 5, 40))}, "stage 4"),
        ({"se_ratio": 1.5}, "se_ratio"),
        ({"se_ratio": "1"}, "se_ratio"),
        ({"se_ratio": 0.03}, "se_ratio 0.03 of 16 channels rounds to 0"),
        ({"stem_width": 0}, "stem_width"),
        ({"stem_width": 32.0}, "stem_width"),
    ],
)
def test_impossible_designs(changes, message):
    with pytest.raises(UserError, match=message):
        replace(AnyNetDesign(STAGES), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "stage 2: width"),
        ({"depth": True}, "stage 2: depth"),
        ({"depth": 2.0}, "stage 2: depth"),
        ({"stride": 1}, "stage 2: stride"),
        ({"group_width": 48}, "stage 2: group_width 48"),
    ],
)
def test_impossible_stages(changes, message):
    stages = (STAGES[0], replace(STAGES[1], **changes), *STAGES[2:])
    with pytest.raises(UserError, match=message):
        AnyNetDesign(stages)


def test_designs_are_frozen_values():
    design = AnyNetDesign(STAGES)
    with pytest.raises(FrozenInstanceError):
        design.stem_width = 16
    stages = [replace(s, width=np.int64(s.width)) for s in STAGES]
    from_numpy = AnyNetDesign(stages, se_ratio=np.float64(0), stem_width=np.int32(32))
    assert from_numpy == design
    assert hash(from_numpy) == hash(design)
    assert repr(from_numpy) == repr(design)
