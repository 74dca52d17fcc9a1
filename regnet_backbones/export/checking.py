"""An exported file that gets its name when its maps are those of the network, at other sizes."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.export.running import Runner
from regnet_backbones.files import check_output_folder
from regnet_backbones.optimize.passes import relative_error

# Largest difference that is rounding, as a part of the largest value of a map.
TOLERANCE = 1e-4

# Images of a batch: an export is made with two, and checked with others.
EXAMPLE_BATCH = 2
CHECKED_BATCHES = (1, 3)


class ExportError(UserError):
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
        sizes: the comparisons with the network.
    """

    path: Path
    sizes: tuple[CheckedSize, ...]

    def __str__(self) -> str:
        """Return a line for each size."""
        return "\n".join([*map(str, self.sizes), f"written: {self.path}"])


def check_path(path: str | Path, suffixes: Sequence[str]) -> Path:
    """Return the path of a file to export to, or raise where it cannot be written."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise UserError(f"the file must end in {' or '.join(suffixes)}, got '{path}'")
    check_output_folder(path.parent, name="the folder of the file")
    if not path.parent.is_dir():
        raise MissingFileError(f"no folder '{path.parent}' to write '{path.name}' in; make it")
    return path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path to write to; what is there in the end gets the name, unless an error is raised.

    It is in a folder of its own: a large ONNX model is two files, and the first names the other.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        yield Path(folder) / path.name
        # The file itself last: when it has its name, what it refers to is there.
        for part in sorted(Path(folder).iterdir(), key=lambda part: part.name == path.name):
            os.replace(part, path.parent / part.name)


def other_sizes(image_size: tuple[int, int], multiple: int) -> list[tuple[int, int]]:
    """Return two other image sizes, one tall and one wide.

    They are larger: a smaller one could leave a map of one pixel, which exporters take for a
    constant.
    """
    height, width = image_size
    taller, wider = (multiple * (side // (2 * multiple) + 1) for side in image_size)
    return [(height + taller, width + multiple), (height + multiple, width + wider)]


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
    tolerance: float = TOLERANCE,
) -> tuple[CheckedSize, ...]:
    """Compare what an exported file and the network give of images; raise ExportError."""
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
