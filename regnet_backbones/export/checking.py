"""The check of an exported file: its maps against those of the network, at other image sizes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from regnet_backbones.export.running import Runner
from regnet_backbones.optimize.passes import relative_error

# Largest difference that is rounding, as a part of the largest value of a map.
TOLERANCE = 1e-4

# Images of a batch: an export is made with two, and checked with others.
EXAMPLE_BATCH = 2
CHECKED_BATCHES = (1, 3)

# An image is halved for the check where its smallest map has so many pixels a side.
LEAST_HALVED = 4


class ExportError(ValueError):
    """A network cannot be exported, or the exported file gives something else."""


@dataclass(frozen=True)
class CheckedSize:
    """The comparison on images of one size.

    Attributes:
        shape: of the images.
        errors: by output, the largest difference as a part of the largest value.
    """

    shape: tuple[int, ...]
    errors: Mapping[str, float]

    def __str__(self) -> str:
        """Return a line for people."""
        errors = ", ".join(f"{name} {error:.1e}" for name, error in self.errors.items())
        return f"images {_size(self.shape)}: largest relative error {errors}"


@dataclass(frozen=True)
class Checked:
    """An exported file.

    Attributes:
        path: of the file.
        sizes: the comparisons with the network; none where no check was asked for.
    """

    path: Path
    sizes: tuple[CheckedSize, ...] = field(default=())

    @property
    def error(self) -> float | None:
        """The largest of all errors, None if nothing was compared."""
        errors = [error for size in self.sizes for error in size.errors.values()]
        return max(errors, default=None)

    def __str__(self) -> str:
        """Return a line for each size."""
        return "\n".join([*map(str, self.sizes), f"written: {self.path}"])


def other_sizes(
    image_size: tuple[int, int], multiple: int, smallest: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    """Return two other image sizes, one tall and one wide.

    The shorter side is about half of the given one, or a little longer than it where half of it
    could leave a map of one pixel, which exporters take for a constant.

    Args:
        image_size: multiples of `multiple`.
        multiple: what heights and widths must be multiples of.
        smallest: sides of the smallest map of such an image.
    """

    def beyond(side: float) -> int:
        return (int(side) // multiple + 1) * multiple

    def shorter(side: int, pixels: int) -> int:
        return beyond(side / 2 if pixels >= LEAST_HALVED else side)

    height, width = image_size
    tall = beyond(1.5 * height), shorter(width, smallest[1])
    return tall, (shorter(height, smallest[0]), beyond(width))


def random_images(batch: int, channels: int, size: tuple[int, int]) -> torch.Tensor:
    """Return normal random images (N, C, H, W), the same for the same arguments."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((batch, channels, *size), generator=generator)


def check(
    path: Path,
    load: Callable[[Path], Runner],
    network: nn.Module,
    images: Iterable[torch.Tensor],
    *,
    tolerance: float,
) -> tuple[CheckedSize, ...]:
    """Compare an exported file with the network.

    Args:
        path: of the file.
        load: makes a function of it.
        network: returns its maps by name.
        images: what both are given, one after the other.
        tolerance: largest relative error that is right.

    Raises:
        ExportError: the file fails, or its maps differ by more.
    """
    run, sizes = None, []
    for batch in images:
        with torch.no_grad():
            expected = network(batch)
        try:
            run = run or load(path)
            found = run(batch)
        except Exception as error:  # each runtime has its own
            raise ExportError(
                f"'{path.name}' was written, but fails on images {_size(batch.shape)}, and is not "
                f"kept: {error}"
            ) from error
        if found.keys() != expected.keys():
            raise ExportError(f"'{path.name}' gives {sorted(found)} instead of {sorted(expected)}")
        errors = {name: relative_error(found[name], each) for name, each in expected.items()}
        sizes.append(CheckedSize(tuple(batch.shape), errors))
        if not all(error <= tolerance for error in errors.values()):  # not-a-number is wrong, too
            raise ExportError(
                f"'{path.name}' does not give what the network gives, and is not kept: "
                f"{sizes[-1]}; allowed is {tolerance:.1e}"
            )
    return tuple(sizes)


def _size(shape: Iterable[int]) -> str:
    """Write a shape for people."""
    return "x".join(map(str, shape))
