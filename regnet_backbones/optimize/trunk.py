"""The part of a model that takes images and returns maps: what is measured, cast and compiled.

A detector's heads work on regions whose number changes from image to image, and on indices and
boxes that need float32; its backbone with FPN is where the time is and takes one tensor.
"""

from collections.abc import Mapping

import torch
from torch import nn

from regnet_backbones.errors import UserError


def trunk_of(model: nn.Module) -> nn.Module:
    """Return a detector's or segmenter's `backbone`, for any other model the model itself."""
    backbone = getattr(model, "backbone", None)
    return backbone if isinstance(backbone, nn.Module) else model


def example_images(
    trunk: nn.Module, *, image_size: tuple[int, int], batch_size: int
) -> torch.Tensor:
    """Return random images (N, C, H, W) for a trunk, on its device and in the type of its weights.

    Raises:
        ValueError: the trunk begins with no convolution, so that it does not take images.
    """
    first = first_conv(trunk)
    if first is None:
        raise UserError(
            f"{type(trunk).__name__} has no convolution; optimize takes a RegNetFeatures, a "
            "detectron2 model or a segmentation model of segmentation-models-pytorch"
        )
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, first.in_channels, *image_size)
    return torch.randn(shape, generator=generator).to(first.weight)


def first_conv(trunk: nn.Module) -> nn.Conv2d | None:
    """Return the convolution that takes a trunk's images, None where there is none."""
    # An FPN has convolutions of its own before those of the network that feeds it.
    network = getattr(trunk, "bottom_up", trunk)
    return next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)


def maps_of(output: object) -> list[torch.Tensor]:
    """Return the tensors of a trunk's output: one, a sequence, or by name."""
    if isinstance(output, torch.Tensor):
        return [output]
    values = output.values() if isinstance(output, Mapping) else output
    return [tensor for value in values for tensor in maps_of(value)]


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference as a part of the largest value; infinite for other shapes."""
    if found.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    found, expected = found.double(), expected.double()
    largest = expected.abs().max().item() or 1.0
    return (found - expected).abs().max().item() / largest
