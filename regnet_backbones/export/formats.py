"""ONNX, `torch.export` and TorchScript of networks that take images and return maps.

Height, width and number of images are free. Images are normalised. Exported are

RegNetFeatures              c2, c3, c4, c5                 any height and width
detectron2 model            its backbone: p2 to p6, or     multiples of its size_divisibility,
                            what its config names          32 for an FPN
segmentation model (SMP)    logits                         multiples of its output stride, if
                                                           its decoder needs them
other networks              output, or output_0, ...       any height and width
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from io import BytesIO
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from regnet_backbones.backbone import RegNetFeatures
from regnet_backbones.errors import UserError
from regnet_backbones.export.checking import (
    CHECKED_BATCHES,
    EXAMPLE_BATCH,
    Checked,
    ExportError,
    check,
    check_path,
    other_sizes,
    random_images,
    written_whole,
)
from regnet_backbones.export.running import (
    ONNX_SUFFIXES,
    PROGRAM_SUFFIXES,
    TORCHSCRIPT_SUFFIXES,
    load_exported,
    require,
    trace,
)
from regnet_backbones.optimize.folding import fold_batch_norm
from regnet_backbones.optimize.passes import first_conv, maps_of

IMAGE_SIZE = (256, 320)
OPSET = 20

# The opsets that torch's exporter writes.
OPSETS = range(18, 26)

Write = Callable[["NamedMaps", torch.Tensor, int, Path], None]


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    image_size: tuple[int, int] = IMAGE_SIZE,
    opset: int = OPSET,
    fold: bool = True,
) -> Checked:
    """Export to ONNX: input `images`, outputs named as `regnet_backbones.export.formats` says.

    Weights of more than 2 GB are a second file, `<path>.data`. The file is compared with the model
    on the CPU, on images of two other sizes and other batches.

    Args:
        model: a `RegNetFeatures`, a detectron2 model, of which the backbone is exported, or a model
            of segmentation-models-pytorch. It is not changed, and exported as in evaluation.
        path: the file, `.onnx`.
        image_size: height and width of the images it is exported with; other sizes work, too.
        opset: version of ONNX's operators, 18 to 25.
        fold: fold batch norm into convolutions first.

    Returns:
        The file, and its differences from the model on images of each size.

    Raises:
        ModuleNotFoundError: onnx, onnxscript or onnxruntime is not installed.
        FileNotFoundError, OSError: the folder does not exist, or cannot be written to.
        ValueError: an argument is out of range. As `ExportError`: the network cannot be exported,
            or the file gives something else; then there is no new file.
    """
    if opset not in OPSETS:
        raise UserError(f"opset must be {OPSETS[0]} to {OPSETS[-1]}, got {opset}")
    require("onnx", "onnxscript", "onnxruntime")

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

    return _export(model, path, ONNX_SUFFIXES, write, image_size, fold)


def export_program(
    model: nn.Module,
    path: str | Path,
    *,
    image_size: tuple[int, int] = IMAGE_SIZE,
    fold: bool = True,
) -> Checked:
    """Export with `torch.export`: `torch.export.load(path).module()(images)` gives maps by name.

    Images must be so large that no map has a side of one pixel; the program raises otherwise.

    Args:
        model, image_size, fold: see `export_onnx`.
        path: the file, `.pt2`.

    Returns:
        As `export_onnx`.

    Raises:
        FileNotFoundError, OSError, ValueError: as `export_onnx`.
    """

    def write(network: NamedMaps, example: torch.Tensor, multiple: int, path: Path) -> None:
        # Where the disk is full, torch's own writer of a file aborts the process.
        content = BytesIO()
        torch.export.save(_program(network, example, multiple), content)
        path.write_bytes(content.getbuffer())

    return _export(model, path, PROGRAM_SUFFIXES, write, image_size, fold)


def export_torchscript(
    model: nn.Module,
    path: str | Path,
    *,
    image_size: tuple[int, int] = IMAGE_SIZE,
    fold: bool = True,
) -> Checked:
    """Export to TorchScript by tracing: `torch.jit.load(path)(images)` gives maps by name.

    Args:
        model, image_size, fold: see `export_onnx`.
        path: the file, `.ts` or `.pt`.

    Returns:
        As `export_onnx`.

    Raises:
        FileNotFoundError, OSError, ValueError: as `export_onnx`.
    """

    def write(network: NamedMaps, example: torch.Tensor, multiple: int, path: Path) -> None:
        trace(network, example, path, checked=True)

    return _export(model, path, TORCHSCRIPT_SUFFIXES, write, image_size, fold)


class NamedMaps(nn.Module):
    """A network that returns a tensor, a sequence or a mapping of them, now with names."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.network = network
        self.names = names

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the maps of images (N, C, H, W) by name."""
        return dict(zip(self.names, maps_of(self.network(images)), strict=True))


def _export(
    model: nn.Module,
    path: str | Path,
    suffixes: tuple[str, ...],
    write: Write,
    image_size: tuple[int, int],
    fold: bool,
) -> Checked:
    """Export with `write`, check, and give the file its name."""
    path = check_path(path, suffixes)
    backbone = getattr(model, "backbone", None)
    part = backbone if hasattr(backbone, "output_shape") else model  # of a detector
    channels, multiple = _in_channels_of(part), _multiple_of(part)
    if any(side < 1 or side % multiple for side in image_size):
        raise UserError(
            f"image_size must be multiples of {multiple} for {type(part).__name__}, got "
            f"{tuple(image_size)}; images of other sizes are padded to such multiples first"
        )
    example = random_images(EXAMPLE_BATCH, channels, image_size)
    network = _prepare(part, example, fold=fold)
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
        unfolded = _prepare(part, example, fold=False)
        batches = zip(CHECKED_BATCHES, other_sizes(image_size, multiple), strict=True)
        images = [random_images(batch, channels, size) for batch, size in batches]
        sizes = check(target, load_exported, unfolded, images)
    return Checked(path, sizes)


def _multiple_of(network: nn.Module) -> int:
    """Return the number that heights and widths must be multiples of."""
    if getattr(network, "requires_divisible_input_shape", False):  # of SMP
        return int(network.encoder.output_stride)
    return max(1, getattr(network, "size_divisibility", 1))  # of detectron2's backbones


def _in_channels_of(network: nn.Module) -> int:
    """Return the channels of the images that a network takes."""
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


def _prepare(network: nn.Module, example: torch.Tensor, *, fold: bool) -> NamedMaps:
    """Return a copy of a network on the CPU, in evaluation mode, with named outputs."""
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


def _names_of_sizes(multiple: int) -> dict[str, dict[int, object]]:
    """Name the free sizes of the input: `height`, or `32*height_by_32` if needed."""
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
