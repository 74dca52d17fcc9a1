import json
import math
import random
from dataclasses import FrozenInstanceError, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from design_restated import MIN_RATIO, build_with_timm, numpy_line, numpy_widths, pycls_fit
from timm.models.regnet import adjust_widths_groups_comp, generate_regnet
from torch import nn

from regnet_backbones import zoo
from regnet_backbones.design import BlockWidths, Complexity, RegNetDesign, Stage, complexity
from regnet_backbones.errors import UserError

REFERENCE = json.loads((Path(__file__).parent / "data" / "regnet_reference.json").read_text())
ROWS = [pytest.param(row, id=row["name"]) for row in REFERENCE["models"]]

# RegNetX-200MF, the smallest published design.
X_200MF = RegNetDesign(24, 36.44, 2.49, 13, 8)

# Designs with what no named network combines.
UNUSUAL = {
    "narrow bottleneck": replace(X_200MF, bottleneck_multiplier=0.5, se_ratio=0.25),
    "wide bottleneck": replace(X_200MF, bottleneck_multiplier=2.0, stem_width=24),
    "pooled shortcut": replace(X_200MF, shortcut="avg", activation="silu", head_width=64),
    "stem as wide as s1": replace(X_200MF, stem_width=24, linear_out=True),
    "preact, no shortcut": replace(X_200MF, preact=True, shortcut="none", se_ratio=1.0),
    "preact, group norm, head": replace(X_200MF, preact=True, norm_group_width=8, head_width=80),
    "one group": replace(X_200MF, group_width=10_000),
    "depthwise": replace(X_200MF, group_width=1, bottleneck_multiplier=6.0),
}
BUILT = {name: zoo.get(name).design for name in zoo.names() if zoo.get(name).design} | UNUSUAL


def design_of(row, **changes):
    keys = ("w_0", "w_a", "w_m", "depth", "group_width", "bottleneck_multiplier", "se_ratio")
    return RegNetDesign(**{key: row[key] for key in keys}, stem_width=row["stem_width"], **changes)


def measure(network, size):
    """Count flops and activations of each child by hooks on its convolutions and linear layers."""
    counts = {}

    def count(part, layer, inputs, output):
        fan_in = layer.weight[0].numel() + (layer.bias is not None)
        flops, activations = counts.get(part, (0, 0))
        counts[part] = flops + fan_in * output.numel(), activations + output.numel()

    hooks = [
        layer.register_forward_hook(partial(count, part))
        for part, child in network.named_children()
        for layer in child.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    network(torch.empty(1, 3, *size, device="meta"))
    for hook in hooks:
        hook.remove()
    return counts


def random_numbers(seed, count):
    """Draw generator arguments: about the range of the published designs and beyond."""
    rng = random.Random(seed)
    return [
        (
            8 * rng.randint(1, 40),
            round(rng.uniform(5, 160), 2),
            round(rng.uniform(1.5, 3), 3),
            rng.randint(12, 28),
        )
        for _ in range(count)
    ]


def fitting_designs(seed, count):
    """Draw designs of four stages, whose widths need not fit their groups."""
    rng = random.Random(seed)
    for w_0, w_a, w_m, depth in random_numbers(seed, count):
        if len(set(numpy_widths(w_0, w_a, w_m, depth))) == 4:
            yield {
                "w_0": w_0,
                "w_a": w_a,
                "w_m": w_m,
                "depth": depth,
                "group_width": rng.choice([1, 2, 3, 4, 6, 8, 12, 16, 24, 40, 56, 120, 373]),
                "bottleneck_multiplier": rng.choice([0.25, 0.5, 1.0, 1.0, 1.0, 2.0, 4.0]),
                "rounding": rng.choice(["paper", "torchvision"]),
            }


@pytest.mark.parametrize("row", ROWS)
def test_published_stages(row):
    stages = design_of(row).stages
    assert [s.depth for s in stages] == row["stage_depths"]
    assert [s.width for s in stages] == row["stage_widths"]
    assert [s.group_width for s in stages] == row["stage_group_widths"]
    assert [s.stride for s in stages] == [2, 2, 2, 2]
    assert [s.bottleneck_width for s in stages] == row["stage_widths"]


@pytest.mark.parametrize("row", ROWS)
def test_published_widths_in_torchvision(row):
    stages = design_of(row, rounding="torchvision").stages
    assert [s.width for s in stages] == row["stage_widths_torchvision_rounding"]


@pytest.mark.parametrize("row", ROWS)
def test_published_complexity(row):
    cost = complexity(design_of(row))
    assert cost == Complexity(row["flops"], row["params"], row["activations"])


def test_there_are_24_published_designs():
    assert len(ROWS) == 24


def test_stages_written_out():
    # The numbers of RegNetX-8.0GF and of a bottleneck of four times the width, by hand.
    assert RegNetDesign(80, 49.56, 2.88, 23, 120).stages == (
        Stage(width=80, depth=2, stride=2, group_width=80, bottleneck_width=80),
        Stage(width=240, depth=5, stride=2, group_width=120, bottleneck_width=240),
        Stage(width=720, depth=15, stride=2, group_width=120, bottleneck_width=720),
        Stage(width=1920, depth=1, stride=2, group_width=120, bottleneck_width=1920),
    )
    z_500mf = RegNetDesign(16, 10.7, 2.51, 21, 4, bottleneck_multiplier=4.0)
    assert [s.bottleneck_width for s in z_500mf.stages] == [64, 160, 416, 1024]
    assert [s.width for s in z_500mf.stages] == [16, 40, 104, 256]


def test_block_widths_written_out():
    # u = 8, 32, 56, 80; log_3(u / 8) = 0, 1.26, 1.77, 2.10; powers 8, 24, 72, 72.
    with pytest.raises(UserError, match=r"must have 4 stages, got 3 \(8, 24, 72\)"):
        RegNetDesign(8, 24.0, 3.0, 4, 8)
    # u = 8, 40, 72, ..., 232; log_3(u / 8) = 0, 1.46, 2, 2.33, 2.58, 2.77, 2.93, 3.07.
    widths = RegNetDesign(8, 32.0, 3.0, 8, 8).block_widths
    assert widths == BlockWidths(
        continuous=(8, 40, 72, 104, 136, 168, 200, 232),
        quantized=(8, 24, 72, 72, 216, 216, 216, 216),
    )


def test_law_against_numpy_and_timm():
    designs = 0
    for w_0, w_a, w_m, depth in random_numbers(seed=1, count=400):
        line, widths = numpy_line(w_0, w_a, depth), numpy_widths(w_0, w_a, w_m, depth)
        # timm computes in float32, where about 1 in 5000 designs differs: none of these.
        assert widths == generate_regnet(w_a, w_0, w_m, depth, 8)[0]
        stages = len(set(widths))
        if stages == 4:
            found = RegNetDesign(w_0, w_a, w_m, depth, 1).block_widths
            assert found.continuous == tuple(line)
            assert found.quantized == tuple(widths)
            designs += 1
        else:
            with pytest.raises(UserError, match=f"must have 4 stages, got {stages} "):
                RegNetDesign(w_0, w_a, w_m, depth, 1)
    assert designs > 100


def test_group_fitting_against_timm_and_pycls():
    fitting, refused = 0, 0
    for numbers in fitting_designs(seed=2, count=3000):
        multiplier, group_width = numbers["bottleneck_multiplier"], numbers["group_width"]
        widths = numpy_widths(*(numbers[key] for key in ("w_0", "w_a", "w_m", "depth")))
        before = sorted(set(widths))
        widths, groups = adjust_widths_groups_comp(
            before, [multiplier] * 4, [group_width] * 4, min_ratio=MIN_RATIO[numbers["rounding"]]
        )
        consistent = all(w * multiplier % g == 0 for w, g in zip(widths, groups, strict=True))
        if not consistent:
            with pytest.raises(UserError, match="no width fits group_width"):
                RegNetDesign(**numbers)
            refused += 1
            continue
        stages = RegNetDesign(**numbers).stages
        assert [s.width for s in stages] == widths
        assert [s.group_width for s in stages] == groups
        assert [s.bottleneck_width for s in stages] == [w * multiplier for w in widths]
        if numbers["rounding"] == "paper":
            pycls = [pycls_fit(w, group_width, multiplier) for w in before]
            assert [(s.width, s.group_width) for s in stages] == pycls
        fitting += 1
    assert fitting > 200
    assert refused > 20


@pytest.mark.parametrize("multiplier", [0.7, 0.3, 1 / 3])
def test_multiplier_without_an_exact_float(multiplier):
    # Widths are multiples of 840 here, so that the multiplier gives whole channels.
    numbers = {"w_0": 840, "w_a": 840.0, "w_m": 2.0, "depth": 8}
    design = RegNetDesign(**numbers, group_width=7, bottleneck_multiplier=multiplier)
    expected = [round(width * multiplier) for width in (840, 1680, 3360, 6720)]
    assert [s.bottleneck_width for s in design.stages] == expected


@pytest.mark.parametrize("design", [pytest.param(d, id=name) for name, d in BUILT.items()])
def test_complexity_against_timm(design):
    network = build_with_timm(design)
    cost = complexity(design, (250, 333))
    counts = measure(network, (250, 333))
    for part in ("stem", "s1", "s2", "s3", "s4"):
        params = sum(p.numel() for p in network.get_submodule(part).parameters())
        found = cost.parts[part]
        assert (found.flops, found.activations, found.params) == (*counts[part], params)
    assert cost.flops == sum(flops for flops, _ in counts.values())
    assert cost.activations == sum(activations for _, activations in counts.values())
    assert cost.params == sum(p.numel() for p in network.parameters())


def test_complexity_parts_written_out():
    cost = complexity(X_200MF)
    # Stem: 3 * 3 * 3 * 32 weights on 112 x 112 pixels, 2 * 32 of the norm.
    assert cost.parts["stem"] == Complexity(864 * 112 * 112, 864 + 64, 32 * 112 * 112)
    # Classifier: 368 * 1000 weights and 1000 biases.
    assert cost.parts["head"] == Complexity(369_000, 369_000, 1000)
    assert list(cost.parts) == ["stem", "s1", "s2", "s3", "s4", "head"]
    assert sum(cost.parts.values(), start=Complexity()) == cost


def test_complexity_of_the_backbone_alone():
    design = replace(X_200MF, head_width=64)
    alone, whole = complexity(design, num_classes=None), complexity(design)
    assert alone.parts["head"] == Complexity(0, 0, 0)
    assert alone + whole.parts["head"] == whole
    assert alone == complexity(X_200MF, num_classes=None)


@pytest.mark.parametrize("size", [0, -1, 2.5, (224,), (224, 0), (3, 224, 224), "224", True])
def test_complexity_refuses_sizes(size):
    with pytest.raises(UserError, match="image_size must be"):
        complexity(X_200MF, size)


@pytest.mark.parametrize("num_classes", [0, -1, 10.0])
def test_complexity_refuses_numbers_of_classes(num_classes):
    with pytest.raises(UserError, match=r"num_classes must be a positive integer .*None for the"):
        complexity(X_200MF, num_classes=num_classes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"w_0": 0}, "w_0"),
        ({"w_0": -8}, "w_0"),
        ({"w_0": 25}, "w_0"),
        ({"w_0": 24.0}, "w_0"),
        ({"w_0": True}, "w_0"),
        ({"w_a": -0.5}, "w_a"),
        ({"w_a": math.nan}, "w_a"),
        ({"w_a": "36"}, "w_a"),
        ({"w_a": None}, "w_a"),
        ({"w_m": 1.0}, "w_m"),
        ({"w_m": math.inf}, "w_m"),
        ({"depth": 3}, "depth"),
        ({"depth": 13.0}, "depth"),
        ({"group_width": 0}, "group_width"),
        ({"bottleneck_multiplier": 0}, "bottleneck_multiplier"),
        ({"se_ratio": 1.5}, "se_ratio"),
        ({"se_ratio": -0.1}, "se_ratio"),
        ({"se_ratio": 0.01}, "se_ratio must be .* for 24 channels, got 0.01"),
        ({"stem_width": 0}, "stem_width"),
        ({"head_width": -1}, "head_width"),
        ({"norm_group_width": -1}, "norm_group_width"),
        ({"norm_group_width": 16}, "norm_group_width .*24, 56, 152.* got 16"),
        ({"norm_group_width": 8, "head_width": 60}, "norm_group_width .*60.* got 8"),
        ({"rounding": "timm"}, "rounding"),
        ({"activation": "gelu"}, "activation"),
        ({"shortcut": None}, "shortcut"),
        ({"preact": 1}, "preact"),
        ({"preact": True, "linear_out": True}, "linear_out"),
        ({"w_a": 0}, "must have 4 stages, got 1 .*; raise w_a or depth, or lower w_m"),
        ({"w_m": 1.1}, "must have 4 stages, got 13 .*; lower w_a or depth, or raise w_m"),
        ({"bottleneck_multiplier": 0.001}, "stage 1: .*group_width 8"),
        ({"bottleneck_multiplier": 4.0, "group_width": 6}, "group_width 6"),
    ],
)
def test_impossible_designs(changes, message):
    with pytest.raises(UserError, match=message):
        replace(X_200MF, **changes)


def test_designs_are_frozen_values():
    with pytest.raises(FrozenInstanceError):
        X_200MF.depth = 14
    from_numpy = RegNetDesign(np.int64(24), np.float64(36.44), np.float64(2.49), np.int32(13), 8)
    assert from_numpy == X_200MF
    assert hash(from_numpy) == hash(X_200MF)
    assert repr(from_numpy) == repr(X_200MF)
    assert replace(X_200MF, w_a=37).w_a == 37.0
