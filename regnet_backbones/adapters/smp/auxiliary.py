"""Auxiliary outputs of segmentation models in training, and an FCN head that gives SMP's own one.

In evaluation `forward` of an `AuxiliaryModel` returns logits, as SMP's models do. In training it
returns a list of logits, all in the size of the image and the main ones first:

    weights = (1.0, *model.auxiliary_weights)
    loss = sum(weight * criterion(logits, mask) for weight, logits in zip(weights, outputs))
"""

import segmentation_models_pytorch.base.initialization as init
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.base.modules import Conv2dReLU
from torch import nn

from regnet_backbones.errors import UserError


class AuxiliaryModel(SegmentationModel):
    """A model of SMP with auxiliary outputs in training.

    Attributes:
        auxiliary_weights: weights of the auxiliary losses, in the order of the outputs after the
            main one, whose weight is 1.
    """

    _is_torch_scriptable = False  # training returns another type than evaluation

    auxiliary_weights: tuple[float, ...] = ()

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps of the encoder of images `x` (N, in_channels, H, W), the image first.

        The encoder's output stride must divide the sides.
        """
        if not (torch.jit.is_tracing() or torch.compiler.is_compiling()):
            self.check_input_shape(x)
        return self.encoder(x)


class FCNHead(nn.Sequential):
    """A fully convolutional head with one 3x3 convolution: logits in the size of its map."""

    def __init__(self, in_channels: int, classes: int, *, channels: int = 256, dropout: float):
        super().__init__(
            Conv2dReLU(in_channels, channels, kernel_size=3, padding=1),
            nn.Dropout2d(dropout),
            nn.Conv2d(channels, classes, kernel_size=1),
        )
        init.initialize_decoder(self)
        init.initialize_head(self[-1])


class WithAuxiliaryHead(AuxiliaryModel):
    """A model of SMP and, for training, an FCN head on its map before the last: C4 of C1 to C5.

        in_training = WithAuxiliaryHead(smp.UPerNet("regnety_032", classes=150))
        logits, auxiliary = in_training(images)

    Encoder, decoder and head are those of the model, no copies: save and export the model itself.

    Args:
        model: any of SMP that has a decoder for convolutional encoders, without `aux_params`.
        weight: of the auxiliary loss; 0.4 in the recipes of PSPNet (arXiv 1612.01105) and after.
        channels: of the 3x3 convolution.
        dropout: probability that a channel is dropped.

    Raises:
        UserError: the model has outputs of its own kind, or the weight is not above 0.
    """

    def __init__(
        self,
        model: SegmentationModel,
        *,
        weight: float = 0.4,
        channels: int = 256,
        dropout: float = 0.1,
    ):
        super().__init__()
        name = type(model).__name__
        if type(model).forward is not SegmentationModel.forward or model.classification_head:
            raise UserError(
                f"{name} cannot have an auxiliary head: its outputs are not only logits"
            )
        if not weight > 0:
            raise UserError(f"the weight of an auxiliary head must be above 0, got {weight}")
        self.encoder, self.decoder = model.encoder, model.decoder
        self.segmentation_head, self.classification_head = model.segmentation_head, None
        classes = model.segmentation_head[0].out_channels
        options = {"channels": channels, "dropout": dropout}
        self.auxiliary_head = FCNHead(self.encoder.out_channels[-2], classes, **options)
        self.auxiliary_weights = (weight,)
        self.requires_divisible_input_shape = model.requires_divisible_input_shape
        self._is_encoder_frozen = getattr(model, "_is_encoder_frozen", False)  # from SMP 0.6 on

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Return logits (N, classes, H, W) of images `x` (N, in_channels, H, W).

        In training a list: those of the model, then those of the auxiliary head.
        """
        features = self.encode(x)
        logits = self.segmentation_head(self.decoder(features))
        if not self.training:
            return logits
        return [logits, resized(self.auxiliary_head(features[-2]), logits)]


def resized(maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Resize maps (N, C, h, w) bilinearly to height and width of others."""
    return F.interpolate(maps, size=like.shape[-2:], mode="bilinear", align_corners=False)
