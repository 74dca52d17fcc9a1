"""Batch statistics shared between processes, keeping the activations of timm's layers."""

import lightning
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn

from regnet_backbones.errors import UserError
from regnet_backbones.norm import convert_norm

# Devices on which torch's SyncBatchNorm does not train.
WITHOUT_SYNC_BATCHNORM = ("cpu", "mps")


def synchronize(network: nn.Module, trainer: lightning.Trainer, *, stage: str) -> nn.Module:
    """Return a network whose batch norms are synchronised where several processes train.

    Raises:
        ValueError: the device cannot.
    """
    if trainer.world_size == 1:
        return network
    device = trainer.strategy.root_device.type
    if stage == "fit" and device in WITHOUT_SYNC_BATCHNORM:
        raise UserError(
            f"torch synchronises batch norms on GPUs only, the device is '{device}'; set "
            "sync_batchnorm of the model to false, or train in one process"
        )
    # A second conversion would not know a converted layer and drop its activation.
    if any(isinstance(module, nn.SyncBatchNorm) for module in network.modules()):
        return network
    return convert_norm(network, "SyncBN")


def refuse_torchs_own(trainer: lightning.Trainer) -> None:
    """Raise a ValueError where Lightning would convert batch norms with torch's function.

    That takes timm's `BatchNormAct2d` for a plain batch norm and deletes its activation. Lightning
    applies it after `setup`, so it is still time; it has no public name for the setting.
    """
    connector = trainer._accelerator_connector
    if isinstance(connector._layer_sync, TorchSyncBatchNorm):
        raise UserError(
            "sync_batchnorm=True of the trainer would delete the activations of a RegNet (torch's "
            "conversion does not know timm's layers); set sync_batchnorm of the model instead: "
            "model.sync_batchnorm: true, trainer.sync_batchnorm: false"
        )
