"""A whole detector as one TorchScript file, by tracing.

    image (C, H, W), values 0 to 255, channels in the order of `INPUT.FORMAT`
        -> {"pred_boxes": (R, 4), "pred_classes": (R,), "scores": (R,), "pred_masks": ...}

or `sem_seg` (classes, H, W) of a semantic model, for one image a call, of any size, on the device
it was traced on. Normalisation and padding are in the file, resizing is not. A Mask R-CNN gives
masks (R, 1, 28, 28) of boxes, as probabilities: put them in place with
`detectron2.layers.paste_masks_in_image(masks[:, 0], boxes, (H, W))`.
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from unittest.mock import patch

import torch
import torchvision.transforms.v2.functional as F
from detectron2.config import CfgNode
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.modeling import GeneralizedRCNN, PanopticFPN
from detectron2.modeling.roi_heads import cascade_rcnn
from PIL import Image
from torch import nn

from regnet_backbones.detection.prediction import model_input
from regnet_backbones.errors import UserError
from regnet_backbones.export import formats
from regnet_backbones.export.running import TORCHSCRIPT_SUFFIXES, load_torchscript, trace
from regnet_backbones.optimize.folding import fold_batch_norm
from regnet_backbones.runs.image_files import open_upright
from regnet_backbones.shapes import ShapesSpec, draw

# Height and width of the images of the check, as parts of those that are given.
RESIZED = ((1.25, 0.9), (0.8, 1.1))

# How many images are drawn where none are given.
DRAWN = 4


class Traceable(nn.Module):
    """A detector of detectron2, in evaluation mode, that takes an image and returns tensors."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what the detector sees in an image (C, H, W), by name."""
        inputs, model = [{"image": image}], self.model
        with patch_builtin_len():  # so that numbers of boxes are traced, too
            if isinstance(model, GeneralizedRCNN) and not isinstance(model, PanopticFPN):
                outputs = model.inference(inputs, do_postprocess=False)[0].get_fields()
            else:
                outputs = dict(model(inputs)[0])
        if "panoptic_seg" in outputs:
            raise UserError(
                f"a {type(model).__name__} merges instances and semantics in Python, which no "
                "trace follows; export its backbone, to .onnx or .pt2"
            )
        for name in ("instances", "proposals"):
            if name in outputs:
                outputs |= outputs.pop(name).get_fields()
        # Of boxes, the tensor.
        return {name: getattr(value, "tensor", value) for name, value in sorted(outputs.items())}


def trace_detector(
    model: nn.Module,
    path: str | Path,
    *,
    images: Sequence[torch.Tensor],
    fold: bool = True,
    tolerance: float = formats.TOLERANCE,
) -> formats.Checked:
    """Trace a whole detector: `torch.jit.load(path)(image)` gives what it sees by name.

    Args:
        model: of detectron2, with its trained weights; instances, keypoints or semantic maps, not
            panoptic ones. It stays as it is, and is traced in evaluation mode.
        path: the file, `.ts` or `.pt`.
        images: (C, H, W) from 0 to 255, as the model takes them; it must see something in them. The
            first is what it is traced with.
        fold: fold batch norm into convolutions first.
        tolerance: largest difference that is right, as a part of the largest value of an output.

    Returns:
        The file, and its differences from the model (folded, if `fold`) on images resized to two
        other sizes.

    Raises:
        UserError: the file has another suffix, no image is given, or the model is panoptic.
        ExportError: it sees nothing in the images, or the file gives something else; then there is
            no new file.
    """
    path = formats.check_path(path, TORCHSCRIPT_SUFFIXES)
    if not images:
        raise UserError("tracing a detector takes at least one image in which it sees something")
    traced = deepcopy(model).eval().requires_grad_(False)
    height, width = images[0].shape[-2:]
    if fold:
        fold_batch_norm(traced)
    network = Traceable(traced)
    # What scales the gradients of a Cascade R-CNN: no trace can be saved with it.
    plain_cascade = patch.object(cascade_rcnn._ScaleGradient, "apply", lambda features, _: features)
    with formats.written_whole(path) as target, plain_cascade, torch.no_grad():
        example = _seen(network, images[:1], (height, width))
        try:
            trace(network, example, target)
        except RuntimeError as error:  # of TorchScript, and of Python code it has no words for
            raise formats.ExportError(
                f"{type(model).__name__} cannot be traced: {error}"
            ) from error
        sizes = [(round(height * tall), round(width * wide)) for tall, wide in RESIZED]
        others = [_seen(network, images, size) for size in sizes]
        checked = formats.check(target, load_torchscript, network, others, tolerance=tolerance)
    return formats.Checked(path, checked)


def images_for(cfg: CfgNode, paths: Sequence[Path] = ()) -> list[torch.Tensor]:
    """Return images, uint8 (C, H, W), as a model of a config takes them, resized as in its tests.

    Args:
        cfg: of the model.
        paths: files; none for drawn shapes, which a detector of something else may not see.
    """
    images = [open_upright(path) for path in paths] or [
        Image.fromarray(draw(ShapesSpec(), "val", number).image) for number in range(DRAWN)
    ]
    return [model_input(cfg, image) for image in images]


def _seen(
    network: Traceable, images: Sequence[torch.Tensor], size: tuple[int, int]
) -> torch.Tensor:
    """Return the first image, resized, with instances to compare; a semantic map always is one."""
    for image in images:
        resized = F.resize(image, size, antialias=True)
        if all(len(output) for output in network(resized).values()):
            return resized
    raise formats.ExportError(
        f"the detector sees nothing in the images at {size[0]}x{size[1]}, so that there is nothing "
        "to compare; give other images (--images), or more of them"
    )
