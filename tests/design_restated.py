"""The law stated again with numpy, for tests to compare with."""

import math
from functools import partial
from itertools import groupby

import numpy as np
import torch
from timm.layers import GroupNormAct
from timm.models.regnet import RegNet, RegNetCfg

# The least share of a width that fitting it to groups may leave, by the names of roundings here.
MIN_RATIO = {"paper": 0.0, "torchvision": 0.9}


def numpy_line(w_0, w_a, depth):
    """The line u_j, in float64."""
    return w_0 + w_a * np.arange(depth, dtype=np.float64)


def numpy_widths(w_0, w_a, w_m, depth):
    """Per-block widths of the paper's law, in float64."""
    exponents = np.round(np.log(numpy_line(w_0, w_a, depth) / w_0) / np.log(w_m))
    return (np.round(w_0 * np.power(w_m, exponents) / 8) * 8).astype(int).tolist()


def pycls_samples(w_0, w_a, w_m, depth):
    """Whether pycls' sampler keeps a network of four stages: as many widths as powers of w_m."""
    exponents = np.round(np.log(numpy_line(w_0, w_a, depth) / w_0) / np.log(w_m))
    widths = np.unique(numpy_widths(w_0, w_a, w_m, depth))
    return len(widths) == exponents.max() + 1 == 4


def runs(widths):
    """Width and length of each run of equal widths."""
    return [(width, len(list(blocks))) for width, blocks in groupby(widths)]


def pycls_fit(width, group_width, multiplier):
    """Fit a width as pycls does, by the common multiple of group width and multiplier."""
    bottleneck = int(max(1, width * multiplier))
    group_width = int(min(group_width, bottleneck))
    unit = math.lcm(group_width, int(multiplier)) if multiplier > 1 else group_width
    bottleneck = max(unit, round(bottleneck / unit) * unit)
    return int(bottleneck / multiplier), group_width


def build_with_timm(design):
    """Build the network on the meta device."""
    norm = "batchnorm"
    if design.norm_group_width:
        norm = partial(GroupNormAct, group_size=design.norm_group_width)
    cfg = RegNetCfg(
        depth=design.depth,
        w0=design.w_0,
        wa=design.w_a,
        wm=design.w_m,
        group_size=design.group_width,
        bottle_ratio=design.bottleneck_multiplier,
        se_ratio=design.se_ratio,
        group_min_ratio=MIN_RATIO[design.rounding],
        stem_width=design.stem_width,
        downsample={"conv1x1": "conv1x1", "avg": "avg", "none": None}[design.shortcut],
        linear_out=design.linear_out,
        preact=design.preact,
        num_features=design.head_width,
        act_layer=design.activation,
        norm_layer=norm,
    )
    with torch.device("meta"):
        return RegNet(cfg).eval()


def timm_stages(design):
    """(width, depth) of the stages that timm builds."""
    network = build_with_timm(design)
    stages = [network.get_submodule(f"s{i}") for i in (1, 2, 3, 4)]
    return [(stage.b1.conv3.conv.out_channels, len(list(stage.children()))) for stage in stages]
