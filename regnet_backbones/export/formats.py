"""ONNX, `torch.export` and TorchScript of networks that take images and return maps.

Height, width and number of images are free. Images are normalised, or with `normalize` pixels from
0 to 255. A file gets its name when its maps are those of the network, also at other sizes. Exported
are

RegNetFeatures              c2, c3, c4, c5                 any height and width
detectron2 model            its backbone: p2 to p6, or     multiples of its size_divisibility,
                            what its config names          32 for an FPN
segmentation model (SMP)    logits                         multiples of its output stride, if
                                                           its decoder needs them
other networks              output, or output_0, ...       any height and width
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from io import BytesIO
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

import regnet_backbones.export.running as running
from regnet_backbones.backbone import RegNetFeatures
from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.export.inputs import NO, NORMALIZES, YES, NamedMaps, Normalization
from regnet_backbones.export.pooling import replace_adaptive_pools
from regnet_backbones.optimize.folding import fold_batch_norm
from regnet_backbones.optimize.passes import first_conv, maps_of, relative_error

IMAGE_SIZE = (256, 320)
OPSET = 20
OPSETS = range(18, 26)  # that torch's exporter writes

EXAMPLE_BATCH, CHECKED_BATCHES = 2, (1, 3)
TOLERANCE = 1e-4  # a larger difference, as a part of the largest value of a map, is not rounding

Write = Callable[[NamedMaps, torch.Tensor, int, Path], None]
Outputs = Mapping[str, torch.Tensor]  # by name
# Judges what a file gives of images of a shape, and what the network gives.
Compare = Callable[[tuple[int, ...], Outputs, Outputs], "CheckedSize"]


class ExportError(UserError):
    """A network cannot be exported, or the exported file gives something else."""


@dataclass(frozen=True)
class CheckedSize:
    """The comparison on images of one size.

    Attributes:
        shape: of the images.
        errors: by output, the largest difference; without a unit relative to the largest value.
        allowed: by output, the largest error that is rounding.
        detections: number in the image of a whole detector; None for other networks.
        units: of the errors of a whole detector, by output.
    """

    shape: tuple[int, ...]
    errors: Mapping[str, float]
    allowed: Mapping[str, float]
    detections: int | None = None
    units: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        """Whether all errors are rounding."""
        # Not-a-number is wrong, too.
        return all(error <= self.allowed[name] for name, error in self.errors.items())

    def __str__(self) -> str:
        if not self.units:
            return f"images {_size(self.shape)}: largest relative error {self._listed(self.errors)}"
        count = "" if self.detections is None else f", {self.detections} detections"
        return f"image {_size(self.shape)}{count}: largest error {self._listed(self.errors)}"

    def _listed(self, errors: Mapping[str, float]) -> str:
        texts = (f"{name} {error:.1e} {self.units.get(name, '')}" for name, error in errors.items())
        return ", ".join(text.rstrip() for text in texts)

    @property
    def allowed_text(self) -> str:
        """The largest errors that are rounding, as text."""
        return self._listed(self.allowed)


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
        return "\n".join([*map(str, self.sizes), f"written: {self.path}"])


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    image_size: tuple[int, int] = IMAGE_SIZE,
    opset: int = OPSET,
    fold: bool = True,
    normalize: Normalization | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Checked:
    """Export to ONNX: input `images`, outputs named as in `regnet_backbones.export.formats`.

    Weights of more than 2 GB are a second file, `<path>.data`.

    Args:
        model: a `RegNetFeatures`, a detectron2 model, of which the backbone is exported, or a model
            of SMP; not changed, and exported as in evaluation.
        path: the file, `.onnx`.
        image_size: height and width of the images it is exported with; other sizes work, too.
        opset: version of ONNX's operators, 18 to 25.
        fold: fold batch norm into convolutions first.
        normalize: what the file does to pixels from 0 to 255; None if it takes normalised images.
        metadata: entries of the file's metadata. `normalizes` is added, and with `normalize` mean,
            std and channel order.

    Returns:
        The file, and its differences from the model on images of each size.

    Raises:
        ModuleNotFoundError: onnx, onnxscript or onnxruntime is not installed.
        OSError: the folder does not exist, or cannot be written to.
        ValueError: an argument is invalid; as `ExportError`: the network cannot be exported, or the
            file differs from it and is deleted.
    """
    if opset not in OPSETS:
        raise UserError(f"opset must be {OPSETS[0]} to {OPSETS[-1]}, got {opset}")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_module(package)

    entries = {**(metadata or {}), NORMALIZES: NO if normalize is None else YES}
    if normalize is not None:
        entries |= normalize.metadata()

    def write(network: NamedMaps, example: torch.Tensor, multiple: int, path: Path) -> None:
        replace_adaptive_pools(network)
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
        running.write_metadata(path, entries)

    return _export(model, path, running.ONNX_SUFFIXES, write, image_size, fold, normalize)


def export_program(
    model: nn.Module,
    path: str | Path,
    *,
    image_size: tuple[int, int] = IMAGE_SIZE,
    fold: bool = True,
    normalize: Normalization | None = None,
) -> Checked:
    """Export with `torch.export`: `torch.export.load(path).module()(images)` gives maps by name.

    Images must be so large that no map has a side of one pixel; the program raises otherwise.

    Args:
        model, image_size, fold, normalize: see `export_onnx`.
        path: the file, `.pt2`.

    Returns:
        As `export_onnx`.

    Raises:
        OSError, ValueError: as `export_onnx`.
    """

    def write(network: NamedMaps, example: torch.Tensor, multiple: int, path: Path) -> None:
        # Where the disk is full, torch's own writer of a file aborts the process.
        content = BytesIO()
        torch.export.save(_program(network, example, multiple), content)
        path.write_bytes(content.getbuffer())

    return _export(model, path, running.PROGRAM_SUFFIXES, write, image_size, fold, normalize)


def export_torchscript(
    model: nn.Module,
    path: str | Path,
    *,
    image_size: tuple[int, int] = IMAGE_SIZE,
    fold: bool = True,
    normalize: Normalization | None = None,
) -> Checked:
    """Export to TorchScript by tracing: `torch.jit.load(path)(images)` gives maps by name.

    Args:
        model, image_size, fold, normalize: see `export_onnx`.
        path: the file, `.ts` or `.pt`.

    Returns:
        As `export_onnx`.

    Raises:
        OSError, ValueError: as `export_onnx`.
    """

    def write(network: NamedMaps, example: torch.Tensor, multiple: int, path: Path) -> None:
        running.trace(network, example, path)

    return _export(model, path, running.TORCHSCRIPT_SUFFIXES, write, image_size, fold, normalize)


def _export(
    model: nn.Module,
    path: str | Path,
    suffixes: tuple[str, ...],
    write: Write,
    image_size: tuple[int, int],
    fold: bool,
    normalize: Normalization | None,
) -> Checked:
    path = check_path(path, suffixes)
    part = _part_of(model)
    channels = _in_channels_of(part)
    if normalize is not None and len(normalize.mean) not in (1, channels):
        raise UserError(f"mean needs {channels} numbers, one per channel, got {normalize.mean}")
    if getattr(part, "requires_divisible_input_shape", False):  # of SMP
        multiple = int(part.encoder.output_stride)
    else:
        multiple = max(1, getattr(part, "size_divisibility", 1))  # of detectron2's backbones
    if any(side < 1 or side % multiple for side in image_size):
        of = f"multiples of {multiple} for {type(part).__name__}"
        raise UserError(f"image_size must be {of}, got {tuple(image_size)}")
    example = random_images(EXAMPLE_BATCH, channels, image_size, normalize)
    unfolded = _prepare(part, example, normalize)
    network = deepcopy(unfolded)
    if fold:
        fold_batch_norm(network.network)
    with written_whole(path) as target:
        try:
            write(network, example, multiple, target)
        except OSError:
            raise
        except Exception as error:  # of many kinds, and not documented
            name = type(part).__name__
            raise ExportError(f"{name} cannot be exported to {path.suffix}: {error}") from error
        others = zip(CHECKED_BATCHES, _other_sizes(image_size, multiple), strict=True)
        images = [random_images(batch, channels, size, normalize) for batch, size in others]
        sizes = check(target, running.load_exported, unfolded, images)
    return Checked(path, sizes)


def _part_of(model: nn.Module) -> nn.Module:
    """Return a detector's backbone, the RegNet of transformers' `AutoBackbone`, or the model."""
    backbone, features = getattr(model, "backbone", None), getattr(model, "features", None)
    # Detectron2's detectors, and torchvision's.
    if hasattr(backbone, "output_shape") or hasattr(backbone, "out_channels"):
        return backbone
    return features if isinstance(features, RegNetFeatures) else model


def _in_channels_of(network: nn.Module) -> int:
    first = first_conv(network)
    if first is None:
        raise UserError(f"{type(network).__name__} has no convolution that takes images")
    if first.weight.dtype != torch.float32:
        raise UserError(f"weights must be torch.float32, got {first.weight.dtype}; use float()")
    return first.in_channels


def _prepare(
    network: nn.Module, example: torch.Tensor, normalize: Normalization | None
) -> NamedMaps:
    """Return a copy of a network with names, if it can compute an example."""
    network = deepcopy(network).cpu().eval().requires_grad_(False)
    network.to(memory_format=torch.contiguous_format)
    try:
        output = network(example)
    except RuntimeError as error:
        size = _size(example.shape[-2:])
        text = f"{type(network).__name__} fails at image_size {size}, try a larger one: {error}"
        raise ExportError(text) from error
    names = _names(network, output)
    for name, tensor in zip(names, maps_of(output), strict=True):
        if tensor.ndim == 4 and min(tensor.shape[-2:]) < 2:
            # An exporter takes a side of one pixel for a constant.
            text = f"image_size {tuple(example.shape[-2:])} is too small: map '{name}' is"
            raise UserError(f"{text} {_size(tensor.shape[-2:])}, must be 2x2 or larger; double it")
    return NamedMaps(network, names, normalize)


def _names(network: nn.Module, output: object) -> tuple[str, ...]:
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
    height, width = Dim("height"), Dim("width")
    if multiple > 1:
        height, width = (multiple * Dim(f"{s}_by_{multiple}") for s in ("height", "width"))
    return {"images": {0: Dim("batch"), 2: height, 3: width}}


def _program(network: NamedMaps, example: torch.Tensor, multiple: int) -> ExportedProgram:
    sizes = _names_of_sizes(multiple)
    if multiple == 1:  # a named side would need a lower bound
        sizes = {"images": {0: Dim("batch"), 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}
    return torch.export.export(network, (example,), dynamic_shapes=sizes)


def _other_sizes(image_size: tuple[int, int], multiple: int) -> list[tuple[int, int]]:
    """Return two larger image sizes, one tall and one wide."""
    height, width = image_size
    taller, wider = (multiple * (side // (2 * multiple) + 1) for side in image_size)
    return [(height + taller, width + multiple), (height + multiple, width + wider)]


def random_images(
    batch: int, channels: int, size: tuple[int, int], normalize: Normalization | None = None
) -> torch.Tensor:
    """Return random images (N, C, H, W) as a file takes them, alike for the same arguments."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((batch, channels, *size), generator=generator)
    return images if normalize is None else (127.5 + 64 * images).clamp(0, 255)


def check_path(path: str | Path, suffixes: Sequence[str]) -> Path:
    """Return the path of a file to export to, or raise where it cannot be written."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise UserError(f"the file must end in {' or '.join(suffixes)}, got '{path}'")
    if not path.parent.is_dir():
        raise MissingFileError(f"no folder '{path.parent}' for '{path.name}'; create it")
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


def check(
    path: Path,
    load: Callable[[Path], running.Runner],
    network: nn.Module,
    images: Iterable[torch.Tensor],
    *,
    compare: Compare | None = None,
) -> tuple[CheckedSize, ...]:
    """Compare what an exported file and its network give for batches; raise ExportError."""
    run, sizes, compare = None, [], compare or compare_maps
    for batch in images:
        with torch.no_grad():
            expected = network(batch)
        try:
            run = run or load(path)
            found = run(batch)
        except Exception as error:  # each runtime has its own
            text = f"'{path.name}' fails on images {_size(batch.shape)} and was deleted: {error}"
            raise ExportError(text) from error
        sizes.append(compare(tuple(batch.shape), found, expected))
        if not sizes[-1].is_right:
            text = f"'{path.name}' differs from the network and was deleted: {sizes[-1]}"
            raise ExportError(f"{text}; allowed {sizes[-1].allowed_text}")
    return tuple(sizes)


def compare_maps(shape: tuple[int, ...], found: Outputs, expected: Outputs) -> CheckedSize:
    """Return the errors of outputs as parts of their largest values."""
    errors = {name: relative_error(found[name], each) for name, each in expected.items()}
    return CheckedSize(shape, errors, dict.fromkeys(errors, TOLERANCE))


def _size(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
