"""Models of segmentation-models-pytorch by the name of their architecture."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches

import segmentation_models_pytorch as smp
import timm
from segmentation_models_pytorch.base import SegmentationModel
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from regnet_backbones.adapters.smp.encoder import register_encoder
from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError

# Arguments of an architecture that `decoder_options` must leave alone: others of `Segmenter` say
# them, or they would make something else of the logits.
RESERVED_OPTIONS = {
    "encoder_name": "encoder",
    "encoder_weights": "encoder_weights",
    "encoder_output_stride": "output_stride",
    "classes": "num_classes",
    "in_channels": None,
    "activation": None,
    "aux_params": None,
}

# How far mean and deviation (of pixels from 0 to 1) may be from those of the weights.
STATISTICS_TOLERANCE = 1e-3


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
    """Build a model of SMP that gives `num_classes` logits; arguments as of `Segmenter`.

    Raises:
        ValueError: there is no such architecture, or it does not take an argument.
        KeyError: SMP does not know the encoder or its weights.
    """
    known = {name.lower(): value for name, value in architectures().items()}
    architecture = known.get(decoder.lower())
    if architecture is None:
        raise UserError(
            f"decoder must be one of {', '.join(sorted(architectures()))}, got '{decoder}'"
        )
    name = architecture.__name__
    arguments = inspect.signature(architecture.__init__).parameters.values()
    taken = {each.name for each in arguments if each.kind != each.VAR_KEYWORD} - {"self"}
    options = dict(options or {})
    for option in options:
        _check_option(name, option, sorted(taken - set(RESERVED_OPTIONS)))
    if output_stride is not None:
        if "encoder_output_stride" not in taken:
            raise UserError(
                f"{name} has no choice of output_stride, got {output_stride}; leave it out, or "
                "take DeepLabV3, DeepLabV3Plus or PAN"
            )
        options["encoder_output_stride"] = output_stride
    registered = encoder_name(encoder)
    _check_encoder(registered)
    try:
        return architecture(
            encoder_name=registered,
            encoder_weights=encoder_weights,
            classes=num_classes,
            **options,
        )
    except TypeError as error:  # how a value of another type is said
        raise UserError(f"decoder_options of {name} cannot be {options}: {error}") from error
    except ValueError as error:
        raise UserError(str(error)) from error  # SMP's, for users too


def encoder_name(encoder: str | Mapping[str, object]) -> str:
    """Return the name of an encoder; a design, by its numbers, is registered in SMP for that.

    Args:
        encoder: a name, or arguments of `RegNetDesign`.

    Raises:
        ValueError: the numbers are no design.
    """
    if isinstance(encoder, str):
        return encoder
    known = [field.name for field in fields(RegNetDesign) if field.init]
    unknown = sorted(set(encoder) - set(known))
    if unknown:
        raise UserError(f"encoder, by numbers, takes {', '.join(known)}; got {', '.join(unknown)}")
    try:
        design = RegNetDesign(**encoder)
    except TypeError as error:  # how a missing number, or one of another type, is said
        raise UserError(f"encoder, by numbers, is no RegNet: {error}") from error
    name = "regnet({})".format(", ".join(f"{key}={value}" for key, value in encoder.items()))
    register_encoder(name, design)
    return name


def check_statistics(
    encoder: str, encoder_weights: str, *, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Check that images are normalised as weights by name expect; of RegNets only.

    Raises:
        ValueError: they are not.
    """
    # SMP's own function would fetch the statistics of its own encoders.
    settings = smp.encoders.encoders.get(encoder, {}).get("pretrained_settings") or {}
    expected = settings.get(encoder_weights, {})
    given = {"mean": mean, "std": std}
    if not expected.keys() >= given.keys():
        return
    for name, value in given.items():
        if math.dist(value, expected[name]) > STATISTICS_TOLERANCE:
            numbers = ", ".join(f"{n} {list(map(float, expected[n]))}" for n in given)
            raise UserError(
                f"weights '{encoder_weights}' of '{encoder}' expect images of {numbers}, got "
                f"{name} {list(value)}; set mean and std of the data (and of the model) to those"
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


def _check_encoder(name: str) -> None:
    """Raise a ValueError for an encoder that SMP has not, with the name it may be."""
    base = name.removeprefix("tu-").removeprefix("timm-")
    known = list(smp.encoders.encoders)
    if name in known or (base != name and timm.is_model(base)):
        return
    if base == name and "regnet" in name.lower():
        return  # whose names the adapter knows
    hint = "".join(f"did you mean '{near}'? " for near in get_close_matches(name, known, n=1))
    raise UserError(
        f"unknown encoder '{name}'; {hint}It is a name of regnet_backbones.zoo.names(), of "
        "segmentation_models_pytorch.encoders.get_encoder_names(), or of timm behind 'tu-'"
    )


def _check_option(architecture: str, option: str, allowed: list[str]) -> None:
    """Raise a ValueError where `decoder_options` holds what it must not."""
    if option in RESERVED_OPTIONS:
        instead = RESERVED_OPTIONS[option]
        hint = f"use {instead} instead" if instead else "images are RGB and the model gives logits"
        raise UserError(f"decoder_options cannot set '{option}': {hint}")
    if option not in allowed:
        raise UserError(
            f"decoder_options of {architecture} must be of {', '.join(allowed)}; got '{option}'"
        )
