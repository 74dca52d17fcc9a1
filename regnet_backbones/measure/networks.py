"""Networks to be measured: a backbone with random weights, or a feature pyramid on one."""

from collections import OrderedDict

import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork

from regnet_backbones.backbone import RegNetFeatures
from regnet_backbones.design.law import RegNetDesign
from regnet_backbones.errors import UserError

# Of detectron2's feature pyramids (`MODEL.FPN.OUT_CHANNELS`).
FPN_CHANNELS = 256

# What timm starts at zero, the scale of a block's last norm, is given this: zeros would fold into
# convolutions of zeros, for which a GPU needs less power, and so keeps a higher clock, than for
# trained weights. Maps stay finite in float16.
SCALE_OF_LAST_NORMS = 0.2

Network = RegNetDesign | str


def build(network: Network, *, fpn: bool) -> nn.Module:
    """Return a backbone, or a feature pyramid on it, with random weights.

    Raises:
        ValueError: it is neither a `RegNetDesign` nor a name of the zoo.
    """
    if not isinstance(network, RegNetDesign | str):
        raise UserError(
            "latency is measured of networks that can be built, a RegNetDesign or a name of the "
            f"zoo, not of an {type(network).__name__}; search a RegNet space"
        )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        backbone = RegNetFeatures(network)
        for name, parameter in backbone.named_parameters():
            if name.endswith("weight") and not parameter.any():
                nn.init.constant_(parameter, SCALE_OF_LAST_NORMS)
        return FeaturePyramid(backbone) if fpn else backbone


class FeaturePyramid(nn.Module):
    """A backbone with torchvision's feature pyramid, whose layers are those of detectron2's FPN."""

    def __init__(self, bottom_up: RegNetFeatures):
        super().__init__()
        self.bottom_up = bottom_up
        self.pyramid = FeaturePyramidNetwork(list(bottom_up.channels.values()), FPN_CHANNELS)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return P2 to P5 of images (N, 3, H, W): (N, 256, ceil(H / stride), ceil(W / stride))."""
        maps = self.bottom_up(images)
        names = (f"p{level}" for level in self.bottom_up.out_levels)
        return self.pyramid(OrderedDict(zip(names, maps, strict=True)))
