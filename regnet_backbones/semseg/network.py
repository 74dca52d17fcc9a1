"""Models of segmentation-models-pytorch by the name of their architecture; their batch norms."""

import inspect
import math
from collections.abc import Mapping, Sequence

import lightning
import segmentation_models_pytorch as smp
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from segmentation_models_pytorch.base import SegmentationModel
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from regnet_backbones.adapters.smp.encoder import register_encoder
from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError, as_user_error
from regnet_backbones.norm import convert_norm

# Arguments of an architecture that `decoder_options` must leave alone: others of `Segmenter` say
# them, or they would make something else of the logits.
RESERVED_OPTIONS = {
    *("self", "encoder_name", "encoder_weights", "encoder_output_stride", "classes"),
    *("in_channels", "activation", "aux_params"),
}

# How far mean and deviation (of pixels from 0 to 1) may be from those of the weights.
STATISTICS_TOLERANCE = 1e-3

# Devices on which torch's SyncBatchNorm does not train.
WITHOUT_SYNC_BATCHNORM = ("cpu", "mps")


def architectures() -> dict[str, type[SegmentationModel]]:
    """Return the architectures of the installed SMP by name."""
    return {
        name: value
        for name, value in vars(smp).items()
        if inspect.isclass(value) and issubclass(value, SegmentationModel)
    }


def build_network(
    decoder: str,
    encoder: str | Mapping[str, object],
    num_classes: int,
    *,
    encoder_weights: str | None = None,
    output_stride: int | None = None,
    options: Mapping[str, object] | None = None,
) -> SegmentationModel:
    """Build a model of SMP that gives `num_classes` logits; arguments as of `Segmenter`."""
    known = {name.lower(): value for name, value in architectures().items()}
    architecture = known.get(decoder.lower())
    if architecture is None:
        raise UserError(
            f"decoder must be one of {', '.join(sorted(architectures()))}, got '{decoder}'"
        )
    name = architecture.__name__
    arguments = inspect.signature(architecture.__init__).parameters.values()
    taken = {each.name for each in arguments if each.kind != each.VAR_KEYWORD}
    options = dict(options or {})
    if unknown := options.keys() - (taken - RESERVED_OPTIONS):
        allowed = ", ".join(sorted(taken - RESERVED_OPTIONS))
        raise UserError(f"decoder_options of {name} must be of {allowed}; got {sorted(unknown)}")
    if output_stride is not None:
        if "encoder_output_stride" not in taken:
            raise UserError(f"{name} has no choice of output_stride, got {output_stride}")
        options["encoder_output_stride"] = output_stride
    # SMP's and timm's, of encoders, their weights, and values that the architecture does not take.
    errors = (KeyError, RuntimeError, TypeError, ValueError)
    with as_user_error(*errors, prefix=f"{name} on {encoder} with {options}: "):
        return architecture(
            encoder_name=encoder_name(encoder),
            encoder_weights=encoder_weights,
            classes=num_classes,
            **options,
        )


def encoder_name(encoder: str | Mapping[str, object]) -> str:
    """Return the name of an encoder in SMP; a design, by its numbers, is registered for that."""
    if isinstance(encoder, str):
        return encoder
    with as_user_error(TypeError, prefix="encoder, by numbers, is no RegNet: "):
        design = RegNetDesign(**encoder)
    name = "regnet({})".format(", ".join(f"{key}={value}" for key, value in encoder.items()))
    register_encoder(name, design)
    return name


def check_statistics(
    encoder: str, encoder_weights: str, *, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Raise UserError where images are not normalised as a RegNet's weights by name expect."""
    # SMP's own function would fetch the statistics of its own encoders.
    settings = smp.encoders.encoders.get(encoder, {}).get("pretrained_settings") or {}
    expected = settings.get(encoder_weights, {})
    for name, value in {"mean": mean, "std": std}.items():
        if name in expected and math.dist(value, expected[name]) > STATISTICS_TOLERANCE:
            raise UserError(
                f"weights '{encoder_weights}' of '{encoder}' expect images of {name} "
                f"{list(map(float, expected[name]))}, got {list(value)}; set mean and std of the "
                "data (and of the model) to those"
            )


def start_branches_at_one(encoder: nn.Module) -> None:
    """Set the weights of norms that are all zero to one, in a random encoder.

    timm zeroes the last norm of each residual block, so that a random network starts without its
    branches (arXiv 1706.02677, section 5.1). pycls, the paper's code, does not; short trainings
    get further its way.
    """
    for module in encoder.modules():
        is_norm = isinstance(module, (_BatchNorm, nn.GroupNorm)) and module.affine
        if is_norm and not module.weight.any():
            nn.init.ones_(module.weight)


def synchronize_norms(network: nn.Module, trainer: lightning.Trainer, *, stage: str) -> nn.Module:
    """Return a network whose batch norms are synchronised where several processes train."""
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


def refuse_lightnings_sync(trainer: lightning.Trainer) -> None:
    """Raise UserError where Lightning would convert batch norms with torch's function.

    That takes timm's `BatchNormAct2d` for a plain batch norm and deletes its activation. Lightning
    applies it after `setup`, so it is still time; it has no public name for the setting.
    """
    if isinstance(trainer._accelerator_connector._layer_sync, TorchSyncBatchNorm):
        raise UserError(
            "sync_batchnorm=True of the trainer would delete the activations of a RegNet; set "
            "model.sync_batchnorm: true, trainer.sync_batchnorm: false"
        )
