"""What is exported of a model: a network that takes images and returns its maps by name.

RegNetFeatures              c2, c3, c4, c5                 any height and width
detectron2 model            its backbone: p2 to p6, or     multiples of its size_divisibility,
                            what its config names          32 for an FPN
segmentation model (SMP)    logits                         multiples of its output stride, if
                                                           its decoder needs them
other networks              output, or output_0, ...       any height and width
"""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import nn

from regnet_backbones.backbone import RegNetFeatures
from regnet_backbones.errors import UserError
from regnet_backbones.optimize.folding import fold_batch_norm
from regnet_backbones.optimize.passes import first_conv, maps_of


class NamedMaps(nn.Module):
    """A network whose outputs have names.

    Args:
        network: takes images; returns a tensor, a sequence or a mapping of them.
        names: of its outputs, in their order.
    """

    def __init__(self, network: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.network = network
        self.names = names

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the maps of images (N, C, H, W) by name."""
        return dict(zip(self.names, maps_of(self.network(images)), strict=True))


def part_of(model: nn.Module) -> nn.Module:
    """Return what is exported of a model: the backbone of a detector, else the model."""
    backbone = getattr(model, "backbone", None)
    return backbone if hasattr(backbone, "output_shape") else model


def multiple_of(network: nn.Module) -> int:
    """Return the number that heights and widths must be multiples of.

    Args:
        network: what `part_of` returns.
    """
    if getattr(network, "requires_divisible_input_shape", False):  # of SMP
        return int(network.encoder.output_stride)
    return max(1, getattr(network, "size_divisibility", 1))  # of detectron2's backbones


def in_channels_of(network: nn.Module) -> int:
    """Return the channels of the images that a network takes.

    Raises:
        ValueError: it begins with no convolution, or its weights are no float32.
    """
    first = first_conv(network)
    if first is None:
        raise UserError(
            f"{type(network).__name__} has no convolution; exported are a RegNetFeatures, the "
            "backbone of a detectron2 model, and models of segmentation-models-pytorch"
        )
    if first.weight.dtype != torch.float32:
        raise UserError(
            f"the weights must be torch.float32, got {first.weight.dtype}; runtimes reduce "
            "precision themselves, export the network as it was before"
        )
    return first.in_channels


def prepare(network: nn.Module, example: torch.Tensor, *, fold: bool) -> NamedMaps:
    """Return a copy of a network on the CPU, in evaluation mode, with named outputs.

    Args:
        network: what `part_of` returns; not changed.
        example: images (N, C, H, W) on the CPU.
        fold: fold batch norm into convolutions.

    Raises:
        ValueError: a map has a side of one pixel, which exporters take for a constant.
    """
    network = deepcopy(network).cpu().eval().requires_grad_(False)
    network.to(memory_format=torch.contiguous_format)
    output = network(example)
    names = _names(network, output)
    for name, tensor in zip(names, maps_of(output), strict=True):
        if tensor.ndim == 4 and min(tensor.shape[-2:]) < 2:
            raise UserError(
                f"image_size {tuple(example.shape[-2:])} is too small: '{name}' is "
                f"{tensor.shape[-2]}x{tensor.shape[-1]}, and an exporter would take a side of one "
                "pixel for a constant; double image_size"
            )
    if fold:
        fold_batch_norm(network)
    return NamedMaps(network, names)


def smallest_map(network: nn.Module, images: torch.Tensor) -> tuple[int, int]:
    """Return the least height and width of a network's maps, 0 and 0 where it has none.

    Args:
        network: what `part_of` returns; of a segmentation model it is the encoder that has them.
        images: (N, C, H, W).
    """
    source = network.encoder if hasattr(network, "segmentation_head") else network
    sides = [each.shape[-2:] for each in maps_of(source(images)) if each.ndim == 4]
    return min((h for h, _ in sides), default=0), min((w for _, w in sides), default=0)


def _names(network: nn.Module, output: object) -> tuple[str, ...]:
    """Name the outputs of a network."""
    if isinstance(output, Mapping):
        return tuple(output)
    if isinstance(output, torch.Tensor):
        return ("logits",) if hasattr(network, "segmentation_head") else ("output",)
    levels = network.out_levels if isinstance(network, RegNetFeatures) else ()
    if len(levels) == len(output):
        return tuple(f"c{level}" for level in levels)
    if hasattr(network, "segmentation_head"):  # of SMP, with its head for whole images
        return ("logits", "labels")
    return tuple(f"output_{number}" for number in range(len(output)))
