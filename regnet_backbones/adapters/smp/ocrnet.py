"""OCRNet: object-contextual representations for semantic segmentation (arXiv 1909.11065).

In short, with the paper's symbols: a coarse segmentation gives soft object regions M_k; the pixels
x_i of each, weighted by the region, add up to its representation f_k; each pixel attends to the
regions by w_ik and gets its object context y_i; y_i and x_i are transformed to what is classified.
Names of modules follow mmsegmentation's `OCRHead`.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.hub_mixin import supports_config_loading
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn

from regnet_backbones.adapters.smp.auxiliary import AuxiliaryModel, FCNHead, resized


class OCRNet(AuxiliaryModel):
    """OCRNet on any encoder of SMP; `smp.from_pretrained` and `smp.create_model` know it.

    With one class there is one region, and every pixel has the same context: give the background a
    class.

    Args:
        encoder_name, encoder_weights, in_channels, classes, activation: as of SMP's models.
        encoder_depth: number of maps, 3 to 5; the last two are used.
        encoder_output_stride: stride of the last map: 8 in the paper; 16 or 32 save memory.
        decoder_channels: of the pixel representation, and of the head of the coarse segmentation.
        key_channels: channels in which pixels and regions are compared.
        dropout: probability that a channel is dropped before a classification.
        kwargs: further arguments of SMP's `tu-` encoders.

    Attributes:
        auxiliary_weights: (0.4,), of the coarse segmentation.

    Raises:
        ValueError: as `smp.encoders.get_encoder`.
    """

    auxiliary_weights = (0.4,)

    @supports_config_loading
    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        encoder_output_stride: Literal[8, 16, 32] = 8,
        decoder_channels: int = 512,
        key_channels: int = 256,
        dropout: float = 0.05,
        in_channels: int = 3,
        classes: int = 1,
        activation: str | Callable[..., nn.Module] | None = None,
        **kwargs: object,
    ):
        super().__init__()
        self.encoder = get_encoder(
            encoder_name,
            in_channels=in_channels,
            depth=encoder_depth,
            weights=encoder_weights,
            output_stride=encoder_output_stride,
            **kwargs,
        )
        *_, auxiliary_channels, last_channels = self.encoder.out_channels
        self.auxiliary_head = FCNHead(
            auxiliary_channels, classes, channels=decoder_channels, dropout=dropout
        )
        self.decoder = OCRDecoder(
            last_channels, channels=decoder_channels, key_channels=key_channels, dropout=dropout
        )
        self.segmentation_head = SegmentationHead(
            decoder_channels,
            classes,
            kernel_size=1,
            activation=activation,
            upsampling=self.encoder.output_stride,
        )
        self.classification_head = None
        self.name = f"ocrnet-{encoder_name}"
        self.initialize()

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Return logits (N, classes, H, W) of images `x`, see `encode`.

        In training a list: these, then those of the coarse segmentation.
        """
        features = self.encode(x)
        coarse = self.auxiliary_head(features[-2])
        masks = self.segmentation_head(self.decoder(features, coarse))
        return [masks, resized(coarse, masks)] if self.training else masks


class OCRDecoder(nn.Module):
    """Augment the pixels of the last map by the context of the objects of a coarse segmentation."""

    def __init__(self, in_channels: int, *, channels: int, key_channels: int, dropout: float):
        super().__init__()
        self.bottleneck = Conv2dReLU(in_channels, channels, kernel_size=3, padding=1)
        self.object_context_block = ObjectAttentionBlock(channels, key_channels)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: Sequence[torch.Tensor], coarse: torch.Tensor) -> torch.Tensor:
        """Return augmented pixels (N, channels, h, w) of the last map, from coarse logits."""
        pixels = self.bottleneck(features[-1])
        if coarse.shape[-2:] != pixels.shape[-2:]:
            coarse = resized(coarse, pixels)
        return self.dropout(self.object_context_block(pixels, spatial_gather(pixels, coarse)))


class ObjectAttentionBlock(nn.Module):
    """Attend from pixels to object regions (equations 3 and 4), and fuse both (equation 5)."""

    def __init__(self, channels: int, key_channels: int):
        super().__init__()
        self.scale = key_channels**-0.5
        self.query_project = _projection(channels, key_channels, key_channels)
        self.key_project = _projection(channels, key_channels, key_channels)
        self.value_project = _projection(channels, key_channels)
        self.out_project = _projection(key_channels, channels)
        self.bottleneck = _projection(2 * channels, channels)

    def forward(self, pixels: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """Return augmented pixels, of pixels (N, C, h, w) and regions (N, C, classes, 1)."""
        query = self.query_project(pixels).flatten(2).transpose(1, 2)
        key = self.key_project(regions).flatten(2)
        value = self.value_project(regions).flatten(2)
        relation = (self.scale * query @ key).softmax(dim=-1)  # (N, pixels, classes)
        context = (value @ relation.transpose(1, 2)).unflatten(2, pixels.shape[-2:])
        return self.bottleneck(torch.cat([self.out_project(context), pixels], dim=1))


def spatial_gather(pixels: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """Return regions (N, C, classes, 1) of pixels (N, C, h, w) by coarse logits (equation 2)."""
    weights = coarse.flatten(2).softmax(dim=-1)
    return (pixels.flatten(2) @ weights.transpose(1, 2)).unsqueeze(-1)


def _projection(*channels: int) -> nn.Sequential:
    """Return 1x1 convolutions with batch norm and ReLU from one number of channels to the next."""
    pairs = itertools.pairwise(channels)
    return nn.Sequential(*(Conv2dReLU(before, after, kernel_size=1) for before, after in pairs))
