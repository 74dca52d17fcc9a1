"""Models of segmentation-models-pytorch by the name of their architecture."""

import inspect
from collections.abc import Mapping

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.base import SegmentationModel

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


def architectures() -> dict[str, type[SegmentationModel]]:
    """Return the architectures of the installed SMP by name."""
    return {
        name: value
        for name, value in vars(smp).items()
        if inspect.isclass(value) and issubclass(value, SegmentationModel)
    }


def build_network(
    decoder: str,
    encoder: str,
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
        raise ValueError(
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
            raise ValueError(
                f"{name} has no choice of output_stride, got {output_stride}; leave it out, or "
                "take DeepLabV3, DeepLabV3Plus or PAN"
            )
        options["encoder_output_stride"] = output_stride
    return architecture(
        encoder_name=encoder, encoder_weights=encoder_weights, classes=num_classes, **options
    )


def _check_option(architecture: str, option: str, allowed: list[str]) -> None:
    """Raise a ValueError where `decoder_options` holds what it must not."""
    if option in RESERVED_OPTIONS:
        instead = RESERVED_OPTIONS[option]
        hint = f"use {instead} instead" if instead else "images are RGB and the model gives logits"
        raise ValueError(f"decoder_options cannot set '{option}': {hint}")
    if option not in allowed:
        raise ValueError(
            f"decoder_options of {architecture} must be of {', '.join(allowed)}; got '{option}'"
        )
