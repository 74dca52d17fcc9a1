"""Whole detectors as ONNX or TorchScript files, checked in pixels.

A detector that can be exported is a module of one image (3, H, W), float32, that returns tensors by
name; how many boxes they have depends on the image. Height, width and number of detections are
free in its file. `export_detector` makes one of torchvision's detectors; those of Detectron2 are
for `regnet_backbones.detection.exporting`.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import torch
import torchvision.transforms.v2.functional as F
from torch import nn

import regnet_backbones.export.formats as formats
import regnet_backbones.export.running as running
from regnet_backbones.errors import UserError
from regnet_backbones.optimize.folding import fold_batch_norm
from regnet_backbones.optimize.passes import relative_error

SUFFIXES = (*running.ONNX_SUFFIXES, *running.TORCHSCRIPT_SUFFIXES)
INPUT = "image"
OPSET = 18  # of ONNX; torch's exporter by tracing writes no newer operators

# Height and width of the images of the check, as parts of those that are given.
RESIZED = ((1.25, 0.9), (0.8, 1.1))

# Detections are compared one by one, by their boxes; they are counted by their scores.
BOXES = ("pred_boxes", "proposal_boxes", "boxes")
CLASSES = ("pred_classes", "labels")
SCORES = ("scores", "objectness_logits")

# Units of errors and the largest that is rounding, by output; of others parts of the largest value.
RELATIVE = ("relative", 1e-3)  # a grey level of some pixels, where the file resizes
UNITS = {
    **dict.fromkeys((*BOXES, "pred_keypoints", "keypoints"), ("px", 0.05)),
    **dict.fromkeys(CLASSES, ("", 0.0)),  # numbers of classes
    **dict.fromkeys(("scores", "pred_masks", "masks"), ("absolute", 1e-3)),
}

logger = logging.getLogger(__name__)


def export_detector(
    model: nn.Module,
    path: str | Path,
    *,
    images: Sequence[torch.Tensor],
    fold: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> formats.Checked:
    """Export a whole detector of torchvision: input `image`, outputs named as torchvision's.

    Normalisation, resizing and, of a Mask R-CNN, pasting the masks are in the file.

    Args:
        model: a Faster, Mask or Keypoint R-CNN, a RetinaNet or an FCOS of torchvision, not changed
            and exported as in evaluation.
        path: the file, `.onnx`, or `.ts` or `.pt` for TorchScript.
        images: (3, H, W), values from 0 to 1; the model must detect something in one of them.
        fold: fold batch norm into convolutions first.
        metadata: of an ONNX file.

    Returns:
        The file, and its differences from the model on images of other sizes, without detections,
        and on the first one again.

    Raises:
        ModuleNotFoundError: onnx or onnxruntime is not installed.
        OSError: the folder does not exist, or cannot be written to.
        UserError: an argument is invalid; as `ExportError`: the model cannot be exported, nothing
            is detected, or the file differs from the model and is deleted.
    """
    from torchvision.models.detection import FCOS, RetinaNet
    from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

    if not isinstance(model, (GeneralizedRCNN, RetinaNet, FCOS)):
        raise UserError(f"the model must be a detector of torchvision, got {type(model).__name__}")
    network = OfTorchvision(prepared(model, fold=fold))
    return export_traceable(network, path, images=images, largest=1.0, metadata=metadata)


class OfTorchvision(nn.Module):
    """A detector of torchvision that takes one image."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what is detected in an image (3, H, W), by name."""
        return self.model([image])[0]


def prepared(model: nn.Module, *, fold: bool) -> nn.Module:
    """Return a copy of a model for export: in evaluation, without gradients, perhaps folded."""
    copied = deepcopy(model).cpu().eval().requires_grad_(False)
    if fold:
        fold_batch_norm(copied)
    return copied


def export_traceable(
    network: nn.Module,
    path: str | Path,
    *,
    images: Sequence[torch.Tensor],
    largest: float = 255.0,
    metadata: Mapping[str, str] | None = None,
    while_traced: AbstractContextManager | None = None,
) -> formats.Checked:
    """Write a detector of one image (see the module) to a file, and check it.

    The check is at two other sizes, in an image in which nothing is detected, and in the first
    image again. `while_traced` is entered for the export alone; see `export_detector` for the rest.
    """
    path = formats.check_path(path, SUFFIXES)
    if not images:
        raise UserError("exporting a detector needs images in which it detects objects, got none")
    is_onnx = path.suffix.lower() in running.ONNX_SUFFIXES
    for package in ("onnx", "onnxruntime") if is_onnx else ():
        import_module(package)
    network, images = network.eval(), [image.float() for image in images]
    height, width = images[0].shape[-2:]
    with formats.written_whole(path) as target, torch.no_grad():
        example = _with_detections(network, images, (height, width), largest)
        try:
            with while_traced or nullcontext():
                (_write_onnx if is_onnx else running.trace)(network, example, target)
        except OSError:
            raise
        except Exception as error:  # of many kinds, and not documented
            text = f"{type(network).__name__} cannot be exported to {path.suffix}: {error}"
            raise formats.ExportError(text) from error
        if is_onnx and metadata:
            running.write_metadata(target, metadata)
        sizes = [(round(height * tall), round(width * wide)) for tall, wide in RESIZED]
        others = [_with_detections(network, images, size, largest) for size in sizes]
        others += _without_detections(network, example, largest)
        compare = compare_detections
        load = running.load_exported
        checked = formats.check(target, load, network, [*others, example], compare=compare)
    return formats.Checked(path, checked)


def compare_detections(
    shape: tuple[int, ...], found: formats.Outputs, expected: formats.Outputs
) -> formats.CheckedSize:
    """Return the errors of a detector's outputs, in the units of `UNITS`."""
    count = count_of(expected)
    units = {name: UNITS.get(name, RELATIVE) for name in expected}
    if count is not None and count == count_of(found):
        order = _matched(found, expected)
        found = {name: each[order] if len(each) == count else each for name, each in found.items()}
    errors = {}
    for name, each in expected.items():
        unit = units[name][0]
        errors[name] = (relative_error if unit == "relative" else _largest)(found[name], each)
    allowed = {name: allowed for name, (_, allowed) in units.items()}
    shown = {name: unit for name, (unit, _) in units.items()}
    return formats.CheckedSize(shape, errors, allowed, count, shown)


def count_of(outputs: formats.Outputs) -> int | None:
    """Return the number of detections in a detector's outputs, None if it detects no objects."""
    return next((len(outputs[name]) for name in SCORES if name in outputs), None)


def _largest(found: torch.Tensor, expected: torch.Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    difference = (found.double() - expected.double()).abs()
    return difference.max().item() if difference.numel() else 0.0


def _matched(found: formats.Outputs, expected: formats.Outputs) -> torch.Tensor:
    """Return which of the found detections is each expected one.

    Rounding may order detections of equal scores in another way.
    """
    boxes = next(name for name in BOXES if name in expected)
    classes = next((name for name in CLASSES if name in expected), None)
    distances = torch.cdist(expected[boxes].double(), found[boxes].double(), p=float("inf"))
    if classes is not None:
        distances[expected[classes][:, None] != found[classes][None]] += 1e6
    order: list[int] = []
    for row in distances:
        row[order] = float("inf")
        order.append(int(row.argmin()))
    return torch.tensor(order, dtype=torch.long)


def _write_onnx(network: nn.Module, example: torch.Tensor, path: Path) -> None:
    outputs = network(example)
    count = count_of(outputs)
    axes: dict[str, dict[int, str]] = {INPUT: {1: "height", 2: "width"}}
    for name, each in outputs.items():
        if count is not None and len(each) == count:
            axes[name] = {0: "detections"}
        if each.ndim > 2 and each.shape[-2:] == example.shape[-2:]:  # of a map of the image
            axes.setdefault(name, {}).update({each.ndim - 2: "height", each.ndim - 1: "width"})
    with _quiet():
        torch.onnx.export(
            network,
            (example,),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(outputs),
            dynamic_axes=axes,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the warnings of the exporter: the file is checked."""
    onnx_logger = logging.getLogger("torch.onnx")
    level = onnx_logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx_logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            onnx_logger.setLevel(level)


def _with_detections(
    network: nn.Module, images: Sequence[torch.Tensor], size: tuple[int, int], largest: float
) -> torch.Tensor:
    """Return the first image, resized, with detections to compare; a semantic map always is one."""
    for image in images:
        resized = F.resize(image, list(size), antialias=True)
        resized = (resized * 255 / largest).round() * largest / 255  # grey levels
        if count_of(network(resized)) != 0:
            return resized
    text = f"nothing is detected in the images at {size[0]}x{size[1]}"
    raise formats.ExportError(f"{text}, so that the file cannot be checked; pass other --images")


def _without_detections(
    network: nn.Module, example: torch.Tensor, largest: float
) -> list[torch.Tensor]:
    """Return a plain image or noise in which nothing is detected; none if there is none."""
    noise = torch.rand(example.shape, generator=torch.Generator().manual_seed(0))
    plain = [torch.full_like(noise, value) for value in (0.0, 0.5, 1.0)]
    for image in (each * largest for each in (*plain, noise)):
        count = count_of(network(image))
        if count is None:
            return []
        if not count:
            return [image]
    text = "detections in plain images and in noise: the file is not checked without detections"
    logger.warning("%s; raise the score threshold to check it", text)
    return []
