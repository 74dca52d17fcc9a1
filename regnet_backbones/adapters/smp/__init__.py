"""The adapter for segmentation-models-pytorch: RegNets as its encoders."""

from regnet_backbones.adapters.smp.encoder import RegNetEncoder, register_encoder

__all__ = ["RegNetEncoder", "register_encoder"]
