"""RegNets of projects that the tests do not need, written down from what those published.

Each is the network of `design` by the names of its project; `forward` returns C2 to C5.
"""

from itertools import pairwise

import torch
from torch import nn


class Maps(nn.Module):
    """A network that is a stem and stages, and returns the map behind each stage."""

    def forward(self, x):
        maps = [self.stem_of(x)]
        for stage in self.stages_of():
            maps.append(stage(maps[-1]))
        return maps[1:]


class Block(nn.Module):
    """The part that all have: what is added to the input, or to a projection of it."""

    def forward(self, x):
        return (self.added(x) + self.kept(x)).relu()


# transformers/models/regnet/modeling_regnet.py


class TransformersConv(nn.Module):
    def __init__(self, ins, outs, kernel=1, stride=1, groups=1):
        super().__init__()
        self.convolution = nn.Conv2d(ins, outs, kernel, stride, kernel // 2, 1, groups, bias=False)
        self.normalization = nn.BatchNorm2d(outs)

    def forward(self, x):
        return self.normalization(self.convolution(x))


class TransformersAttention(nn.Module):
    def __init__(self, width, reduced):
        super().__init__()
        self.attention = nn.Sequential(
            nn.Conv2d(width, reduced, 1), nn.ReLU(), nn.Conv2d(reduced, width, 1), nn.Sigmoid()
        )

    def forward(self, x):
        return x * self.attention(x.mean((2, 3), keepdim=True))


class TransformersBlock(Block):
    def __init__(self, ins, outs, stride, group_width, excited):
        super().__init__()
        changes = ins != outs or stride != 1
        self.shortcut = TransformersConv(ins, outs, 1, stride) if changes else nn.Identity()
        self.layer = nn.Sequential(
            TransformersConv(ins, outs),
            TransformersConv(outs, outs, 3, stride, max(1, outs // group_width)),
            *([TransformersAttention(outs, round(ins / 4))] if excited else []),
            TransformersConv(outs, outs),
        )

    def kept(self, x):
        return self.shortcut(x)

    def added(self, x):
        first, second, *attention, last = self.layer
        x = second(first(x).relu()).relu()
        for each in attention:
            x = each(x)
        return last(x)


class TransformersModel(Maps):
    """`RegNetModel`."""

    def __init__(self, design):
        super().__init__()
        self.embedder, self.encoder = nn.Module(), nn.Module()
        self.embedder.embedder = TransformersConv(3, design.stem_width, 3, 2)
        self.encoder.stages = nn.ModuleList()
        for ins, stage in widths(design):
            each = nn.Module()
            each.layers = nn.Sequential(
                *(
                    TransformersBlock(
                        stage.width if i else ins,
                        stage.width,
                        1 if i else 2,
                        stage.group_width,
                        design.se_ratio > 0,
                    )
                    for i in range(stage.depth)
                )
            )
            self.encoder.stages.append(each)

    def stem_of(self, x):
        return self.embedder.embedder(x).relu()

    def stages_of(self):
        return [stage.layers for stage in self.encoder.stages]


class TransformersClassifier(nn.Module):
    """`RegNetForImageClassification`."""

    def __init__(self, design, classes=7):
        super().__init__()
        self.regnet = TransformersModel(design)
        last = design.stages[-1].width
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(last, classes))

    def forward(self, x):
        return self.regnet(x)


# mmdet/models/backbones/regnet.py, resnext.py, resnet.py; mmpretrain's of the same names


class MmdetBlock(Block):
    def __init__(self, ins, outs, stride, group_width):
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outs)
        groups = outs // group_width
        self.conv2 = nn.Conv2d(outs, outs, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(outs)
        self.conv3 = nn.Conv2d(outs, outs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outs)
        self.downsample = None
        if stride != 1 or ins != outs:
            self.downsample = nn.Sequential(
                nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs)
            )

    def kept(self, x):
        return x if self.downsample is None else self.downsample(x)

    def added(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.bn3(self.conv3(x))


class MmdetRegNet(Maps):
    def __init__(self, design):
        super().__init__()
        self.conv1 = nn.Conv2d(3, design.stem_width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(design.stem_width)
        for number, (ins, stage) in enumerate(widths(design), 1):
            blocks = (
                MmdetBlock(stage.width if i else ins, stage.width, 1 if i else 2, stage.group_width)
                for i in range(stage.depth)
            )
            setattr(self, f"layer{number}", nn.Sequential(*blocks))

    def stem_of(self, x):
        return self.bn1(self.conv1(x)).relu()

    def stages_of(self):
        return [self.layer1, self.layer2, self.layer3, self.layer4]


def widths(design):
    """Return the stages of a design, each with the width that comes in."""
    before = [design.stem_width, *(stage.width for stage in design.stages)]
    return [(ins, stage) for (ins, _), stage in zip(pairwise(before), design.stages, strict=True)]


def resnet_names(dialect, stem=7, ratio=4, deep=False):
    """Return the first names of a ResNet as mmdet, torchvision and transformers have them."""
    conv = lambda outs, ins, kernel=1: torch.zeros(outs, ins, kernel, kernel)  # noqa: E731
    if dialect == "transformers":
        root, block = "resnet.embedder.embedder", "resnet.encoder.stages.0.layers.0"
        parts = [f"{block}.layer.{i}.convolution" for i in range(3)]
        parts += [f"{block}.shortcut.convolution", f"{root}.convolution"]
    else:
        parts = [*(f"layer1.0.conv{i}" for i in (1, 2, 3)), "layer1.0.downsample.0"]
        parts += ["conv1.0" if deep else "conv1"]
    values = [conv(64, 64), conv(64, 64, 3), conv(64 * ratio, 64), conv(64 * ratio, 64)]
    return {f"{p}.weight": v for p, v in zip(parts, [*values, conv(64, 3, stem)], strict=True)}
