"""ONNX, `torch.export` and TorchScript of networks that take images and return maps.

Height, width and number of images are free in each of them. Images are those that the network
takes: normalised, and of a detector's backbone padded to the multiples it needs.
"""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from regnet_backbones.errors import UserError
from regnet_backbones.export.checking import (
    CHECKED_BATCHES,
    EXAMPLE_BATCH,
    TOLERANCE,
    Checked,
    CheckedSize,
    ExportError,
    check,
    other_sizes,
    random_images,
)
from regnet_backbones.export.files import check_path, written_whole
from regnet_backbones.export.network import (
    NamedMaps,
    in_channels_of,
    multiple_of,
    part_of,
    prepare,
    smallest_map,
)
from regnet_backbones.export.running import (
    ONNX_SUFFIXES,
    PROGRAM_SUFFIXES,
    load_exported,
    require,
)
from regnet_backbones.export.torchscript import TORCHSCRIPT_SUFFIXES, trace

IMAGE_SIZE = (256, 320)
OPSET = 20

# The opsets that torch's exporter writes.
OPSETS = range(18, 26)

Write = Callable[[NamedMaps, torch.Tensor, int, Path], None]


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    image_size: tuple[int, int] = IMAGE_SIZE,
    opset: int = OPSET,
    fold: bool = True,
    check: bool = True,
    tolerance: float = TOLERANCE,
) -> Checked:
    """Export to ONNX: input `images`, outputs named as `regnet_backbones.export.network` says.

    Weights of more than 2 GB are a second file, `<path>.data`.

    Args:
        model: a `RegNetFeatures`, a detectron2 model, of which the backbone is exported, or a model
            of segmentation-models-pytorch. It is not changed, and exported as in evaluation.
        path: the file, `.onnx`.
        image_size: height and width of the images it is exported with; other sizes work, too.
        opset: version of ONNX's operators, 18 to 25.
        fold: fold batch norm into convolutions first.
        check: compare with the model, on the CPU with onnxruntime, on images of two other sizes and
            other batches.
        tolerance: largest difference, as a part of the largest value of a map, that is right.

    Returns:
        The file, and its differences from the model on images of each size, none without `check`.

    Raises:
        ModuleNotFoundError: onnx, onnxscript or onnxruntime is not installed.
        FileNotFoundError, OSError: the folder is not there, or cannot be written to.
        ValueError: an argument is out of range. As `ExportError`: the network cannot be exported,
            or the file gives something else; then there is no new file.
    """
    if opset not in OPSETS:
        raise UserError(f"opset must be {OPSETS[0]} to {OPSETS[-1]}, got {opset}")
    require("onnx", "onnxscript", *(["onnxruntime"] if check else []))

    def write(network: NamedMaps, example: torch.Tensor, multiple: int, path: Path) -> None:
        program = _program(network, example, multiple)
        onnx = torch.onnx.export(
            program,
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=["images"],
            output_names=network.names,
            dynamic_shapes=_names_of_sizes(multiple),
            verbose=False,
        )
        assert onnx is not None
        onnx.save(path)

    return _export(model, path, ONNX_SUFFIXES, write, image_size, fold, check, tolerance)


def export_program(
    model: nn.Module,
    path: str | Path,
    *,
    image_size: tuple[int, int] = IMAGE_SIZE,
    fold: bool = True,
    check: bool = True,
    tolerance: float = TOLERANCE,
) -> Checked:
    """Export with `torch.export`: `torch.export.load(path).module()(images)` gives maps by name.

    Images must be so large that no map has a side of one pixel; the program says so otherwise.

    Args:
        model, image_size, fold, check, tolerance: see `export_onnx`.
        path: the file, `.pt2`.

    Returns:
        As `export_onnx`.

    Raises:
        FileNotFoundError, OSError, ValueError: as `export_onnx`.
    """

    def write(network: NamedMaps, example: torch.Tensor, multiple: int, path: Path) -> None:
        program = _program(network, example, multiple)
        # Where the disk is full, torch's own writer of a file aborts the process.
        content = BytesIO()
        torch.export.save(program, content)
        path.write_bytes(content.getbuffer())

    return _export(model, path, PROGRAM_SUFFIXES, write, image_size, fold, check, tolerance)


def export_torchscript(
    model: nn.Module,
    path: str | Path,
    *,
    image_size: tuple[int, int] = IMAGE_SIZE,
    fold: bool = True,
    check: bool = True,
    tolerance: float = TOLERANCE,
) -> Checked:
    """Export to TorchScript by tracing: `torch.jit.load(path)(images)` gives maps by name.

    Args:
        model, image_size, fold, check, tolerance: see `export_onnx`.
        path: the file, `.ts` or `.pt`.

    Returns:
        As `export_onnx`.

    Raises:
        FileNotFoundError, OSError, ValueError: as `export_onnx`.
    """

    def write(network: NamedMaps, example: torch.Tensor, multiple: int, path: Path) -> None:
        trace(network, example, path, checked=check)

    return _export(model, path, TORCHSCRIPT_SUFFIXES, write, image_size, fold, check, tolerance)


def _export(
    model: nn.Module,
    path: str | Path,
    suffixes: tuple[str, ...],
    write: Write,
    image_size: tuple[int, int],
    fold: bool,
    checked: bool,
    tolerance: float,
) -> Checked:
    """Export with `write`, check, and give the file its name."""
    path = check_path(path, suffixes)
    part = part_of(model)
    channels, multiple = in_channels_of(part), multiple_of(part)
    _check_size(image_size, multiple, part)
    example = random_images(EXAMPLE_BATCH, channels, image_size)
    network = prepare(part, example, fold=fold)
    sizes: tuple[CheckedSize, ...] = ()
    with written_whole(path) as target:
        try:
            write(network, example, multiple, target)
        except OSError:
            raise
        except Exception as error:  # of many kinds, and not documented
            raise ExportError(
                f"{type(part).__name__} cannot be exported to {path.suffix} for images of all "
                f"sizes: {error}"
            ) from error
        if checked:
            unfolded = prepare(part, example, fold=False)
            smallest = smallest_map(unfolded.network, example)
            batches = zip(CHECKED_BATCHES, other_sizes(image_size, multiple, smallest), strict=True)
            images = [random_images(batch, channels, size) for batch, size in batches]
            sizes = check(target, load_exported, unfolded, images, tolerance=tolerance)
    return Checked(path, sizes)


def _check_size(image_size: tuple[int, int], multiple: int, network: nn.Module) -> None:
    """Raise ValueError for a size that a network does not take."""
    if any(side < 1 or side % multiple for side in image_size):
        raise UserError(
            f"image_size must be multiples of {multiple} for {type(network).__name__}, got "
            f"{tuple(image_size)}; images of other sizes are padded to such multiples first"
        )


def _names_of_sizes(multiple: int) -> dict[str, dict[int, object]]:
    """Name the free sizes of the input: `height`, or `32*height_by_32` where that is needed."""
    sides = [
        Dim(side) if multiple == 1 else multiple * Dim(f"{side}_by_{multiple}")
        for side in ("height", "width")
    ]
    return {"images": {0: Dim("batch"), 2: sides[0], 3: sides[1]}}


def _program(network: NamedMaps, example: torch.Tensor, multiple: int) -> ExportedProgram:
    """Export with `torch.export`."""
    sizes = _names_of_sizes(multiple)
    if multiple == 1:  # a named side would have to say how small it may be
        sizes = {"images": {0: Dim("batch"), 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}
    return torch.export.export(network, (example,), dynamic_shapes=sizes)
