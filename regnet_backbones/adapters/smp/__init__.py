"""The adapter for segmentation-models-pytorch: RegNets as its encoders, and decoders it lacks."""

# Whole, before any module of ours: when it is imported, our architectures are added to it.
import segmentation_models_pytorch  # noqa: F401

from regnet_backbones.adapters.smp.auxiliary import WithAuxiliaryHead
from regnet_backbones.adapters.smp.encoder import RegNetEncoder, register_encoder
from regnet_backbones.adapters.smp.ocrnet import OCRNet
from regnet_backbones.adapters.smp.unet3plus import UNet3Plus

__all__ = ["OCRNet", "RegNetEncoder", "UNet3Plus", "WithAuxiliaryHead", "register_encoder"]
