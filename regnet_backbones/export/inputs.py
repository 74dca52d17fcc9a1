"""What an exported file takes: normalised images, or pixels that it normalises itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from regnet_backbones.errors import UserError
from regnet_backbones.optimize.passes import maps_of

# Metadata of ONNX files; docs/exporting.md describes them.
TASK, CLASS_NAMES = "task", "class_names"
MEAN, STD, CHANNEL_ORDER, NORMALIZES = "mean", "std", "channel_order", "normalizes"
RUN, CHECKPOINT = "run", "checkpoint_sha256"
QUANTIZATION = "quantization"

YES, NO = "true", "false"
CHANNEL_ORDERS = {1: "grey", 3: "RGB"}  # by the number of channels


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation of the images that a network takes.

    Attributes:
        mean: per channel, subtracted from pixels in [0, 1].
        std: per channel, divided by afterwards.

    Raises:
        ValueError: the numbers differ in count or are not on that scale.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        values = (*self.mean, *self.std)
        if len(self.mean) != len(self.std) or not all(0 <= v <= 1 for v in values):
            rule = "mean and std must have one number per channel, for pixels in [0, 1]"
            raise UserError(f"{rule} (not [0, 255]), got {self.mean} and {self.std}")
        if not all(self.std):
            raise UserError(f"std must be above 0, got {self.std}")

    def metadata(self) -> dict[str, str]:
        """Return the entries of an ONNX file's metadata."""
        order = CHANNEL_ORDERS.get(len(self.mean), str(len(self.mean)))
        lists = {MEAN: json.dumps(list(self.mean)), STD: json.dumps(list(self.std))}
        return lists | {CHANNEL_ORDER: order}


class Normalizer(nn.Module):
    """Normalise pixels from 0 to 255, or the reverse."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, normalization: Normalization):
        super().__init__()
        for name in ("mean", "std"):
            values = 255 * torch.tensor(getattr(normalization, name)).view(-1, 1, 1)
            self.register_buffer(name, values)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return normalised images of pixels from 0 to 255, float32 (N, C, H, W)."""
        return (pixels - self.mean) / self.std

    def undo(self, images: torch.Tensor) -> torch.Tensor:
        """Return the pixels from 0 to 255 of normalised images."""
        return images * self.std + self.mean


class NamedMaps(nn.Module):
    """A network whose maps have names, of normalised images or of pixels that it normalises."""

    def __init__(
        self, network: nn.Module, names: tuple[str, ...], normalize: Normalization | None = None
    ):
        super().__init__()
        self.network = network
        self.names = names
        self.normalizer = None if normalize is None else Normalizer(normalize)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the maps of images (N, C, H, W) by name."""
        if self.normalizer is not None:
            images = self.normalizer(images)
        return dict(zip(self.names, maps_of(self.network(images)), strict=True))


def normalization_of(metadata: Mapping[str, str]) -> Normalization | None:
    """Return how a file normalises pixels inside, from its metadata; None if it does not."""
    if metadata.get(NORMALIZES) != YES:
        return None
    try:
        mean, std = (tuple(map(float, json.loads(metadata[key]))) for key in (MEAN, STD))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"damaged metadata {MEAN}, {STD}: {error!r}; export again") from error
    return Normalization(mean, std)
