"""UNet 3+: a full-scale connected UNet (arXiv 2004.08790), on encoders of SMP.

The five scales of the paper are C1 to C5 of the encoder, strides 2 to 32: the finest map of the
decoder has half the size of the image, where the paper's encoder starts at the full size.
"""

from collections.abc import Callable, Sequence

import segmentation_models_pytorch.base.initialization as init
import torch
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.hub_mixin import supports_config_loading
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn

from regnet_backbones.adapters.smp.auxiliary import AuxiliaryModel
from regnet_backbones.errors import UserError

ABSENT = -30.0  # a logit, whose probability is 1e-13; sums of several stay within float16


class UNet3Plus(AuxiliaryModel):
    """UNet 3+ on any encoder of SMP; `smp.from_pretrained` and `smp.create_model` know it.

    Args:
        encoder_name, encoder_weights, in_channels, classes, activation: as of SMP's models.
        encoder_depth: number of scales, 3 to 5.
        decoder_channels: channels that each stage of the decoder takes from each scale; a stage has
            `decoder_depth` times as many, 320 in the paper.
        classification_guided: whether the deepest map decides if the object is in the image at all
            (the paper's classification-guided module); for logits of one class, or of background
            and object.
        kwargs: further arguments of SMP's `tu-` encoders.

    Attributes:
        auxiliary_weights: of each coarser scale, in sum 1 (the paper names none); of the
            classification 1.

    Raises:
        ValueError: as `smp.encoders.get_encoder`, or `classification_guided` with several objects.
    """

    @supports_config_loading
    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        decoder_channels: int = 64,
        classification_guided: bool = False,
        in_channels: int = 3,
        classes: int = 1,
        activation: str | Callable[..., nn.Module] | None = None,
        **kwargs: object,
    ):
        super().__init__()
        if classification_guided and (classes > 2 or activation is not None):
            rule = "classes 1, or 2 with class 0 the background, and activation None"
            given = f"classes {classes} and activation {activation!r}"
            raise UserError(f"classification_guided needs {rule}, got {given}")
        self.encoder = get_encoder(
            encoder_name,
            in_channels=in_channels,
            depth=encoder_depth,
            weights=encoder_weights,
            **kwargs,
        )
        self.decoder = UNet3PlusDecoder(self.encoder.out_channels[1:], channels=decoder_channels)
        self.segmentation_head, *auxiliary = (
            SegmentationHead(channels, classes, activation=activation, upsampling=2**level)
            for level, channels in enumerate(self.decoder.out_channels, start=1)
        )
        self.auxiliary_heads = nn.ModuleList(auxiliary)
        self.auxiliary_weights = (1 / len(auxiliary),) * len(auxiliary)
        self.guide = None
        if classification_guided:
            self.guide = ClassificationGuide(self.encoder.out_channels[-1])
            self.auxiliary_weights += (1.0,)
        self.classification_head = None
        self.name = f"unet3plus-{encoder_name}"
        self.initialize()
        init.initialize_head(self.auxiliary_heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Return logits (N, classes, H, W) of images `x`, see `encode`.

        In training a list, of the finest scale first. With `classification_guided` the last ones,
        (N, 2, 1, 1), are of an image without and with the object, and pixels do not depend on them
        until evaluation.
        """
        maps = self.decoder(self.encode(x))
        masks = self.segmentation_head(maps[0])
        if self.training:
            pairs = zip(self.auxiliary_heads, maps[1:], strict=True)
            outputs = [masks, *(head(each) for head, each in pairs)]
            return outputs if self.guide is None else [*outputs, self.guide(maps[-1])]
        return masks if self.guide is None else self.guide.gate(masks, self.guide(maps[-1]))


class UNet3PlusDecoder(nn.Module):
    """Full-scale skip connections: each stage fuses all scales; `out_channels` are by scale."""

    def __init__(self, encoder_channels: Sequence[int], *, channels: int):
        super().__init__()
        depth = len(encoder_channels)
        self.out_channels = [depth * channels] * (depth - 1) + [encoder_channels[-1]]
        self.stages = nn.ModuleList(
            FullScaleStage(
                [*encoder_channels[: scale + 1], *self.out_channels[scale + 1 :]],
                scale,
                channels=channels,
            )
            for scale in range(depth - 1)
        )

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return a map for each scale, the finest first, of the image and the encoder's maps."""
        maps = list(features[1:])
        for scale in reversed(range(len(self.stages))):
            # What is finer than this scale is still the encoder's, what is coarser the decoder's.
            maps[scale] = self.stages[scale](maps)
        return maps


class FullScaleStage(nn.Module):
    """Bring the maps of all scales to one, by max pooling or bilinearly, and fuse them.

    Scales without channels, as C1 of a transformer, are left out.
    """

    def __init__(self, in_channels: Sequence[int], scale: int, *, channels: int):
        super().__init__()
        self.sources = [source for source, width in enumerate(in_channels) if width]
        self.skips = nn.ModuleList(
            nn.Sequential(
                _resize(2.0 ** (source - scale)),
                Conv2dReLU(in_channels[source], channels, kernel_size=3, padding=1),
            )
            for source in self.sources
        )
        self.fusion = Conv2dReLU(
            len(self.sources) * channels, len(in_channels) * channels, kernel_size=3, padding=1
        )

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the fused map of this stage's scale."""
        pairs = zip(self.sources, self.skips, strict=True)
        return self.fusion(torch.cat([skip(maps[source]) for source, skip in pairs], dim=1))


class ClassificationGuide(nn.Module):
    """Decide from the deepest map whether an image has the object."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Conv2d(in_channels, 2, kernel_size=1)

    def forward(self, deepest: torch.Tensor) -> torch.Tensor:
        """Return logits (N, 2, 1, 1) of an image without and with the object."""
        return self.classifier(self.dropout(deepest)).amax(dim=(2, 3), keepdim=True)

    def gate(self, masks: torch.Tensor, decision: torch.Tensor) -> torch.Tensor:
        """Return masks (N, 1 or 2, H, W), the object at `ABSENT` in images without it."""
        absent = decision[:, :1] > decision[:, 1:]
        channels = torch.arange(masks.shape[1], device=masks.device).view(-1, 1, 1)
        return masks.masked_fill(absent & (channels == masks.shape[1] - 1), ABSENT)


def _resize(factor: float) -> nn.Module:
    """Return what makes a map larger by a factor, or smaller if it is below 1."""
    if factor < 1:
        return nn.MaxPool2d(round(1 / factor))
    return nn.Upsample(scale_factor=factor, mode="bilinear") if factor > 1 else nn.Identity()
