"""A whole detector of Detectron2 as one file: ONNX, or TorchScript by tracing.

    image (3, H, W), float32 from 0 to 255, channels in the order of `INPUT.FORMAT`
        -> {"pred_boxes": (R, 4), "pred_classes": (R,), "scores": (R,), "pred_masks": ...}

or `sem_seg` (classes, H, W) of a semantic model, for one image a call, of any size. Normalisation
and padding are in the file. Resizing is if it is exported so: then it takes images as they are, and
boxes and keypoints are in their pixels. A Mask R-CNN gives masks (R, 1, 28, 28) of boxes, as
probabilities: put them in place with
`detectron2.layers.paste_masks_in_image(masks[:, 0], boxes, (H, W))`.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from detectron2.config import CfgNode
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.modeling import GeneralizedRCNN, PanopticFPN
from detectron2.modeling.roi_heads import cascade_rcnn, keypoint_head
from PIL import Image
from torch import nn
from torchvision.models.detection import roi_heads as torchvision_heads

from regnet_backbones.detection.architectures import ARCHITECTURES, outputs_of
from regnet_backbones.detection.classes import known_classes
from regnet_backbones.detection.config import changed, default_config, values_by_key
from regnet_backbones.detection.trained import model_input
from regnet_backbones.errors import UserError
from regnet_backbones.export import inputs as keys
from regnet_backbones.export import resampling
from regnet_backbones.export.detectors import export_traceable, prepared
from regnet_backbones.export.formats import Checked
from regnet_backbones.export.resampling import shortest_edge_size, size_of
from regnet_backbones.files import sha256
from regnet_backbones.runs.image_files import open_upright
from regnet_backbones.shapes import ShapesSpec, draw

# How many images are drawn where none are given.
DRAWN = 4

# Keys of a file's metadata, next to those of `export.inputs`: see docs/exporting.md.
CONFIG_KEY, RESIZES_KEY = "config", "resizes"

# What decides what a file gives: these keys, and the whole node `MODEL` without those others.
DECISIVE = {f"INPUT.{key}" for key in ("FORMAT", "MIN_SIZE_TEST", "MAX_SIZE_TEST")}
DECISIVE |= {"TEST.DETECTIONS_PER_IMAGE"}
INDIFFERENT = {"MODEL.WEIGHTS", "MODEL.DEVICE"}


class Traceable(nn.Module):
    """A detector that takes an image, resized to `sizes` (least, greatest), and returns tensors."""

    def __init__(self, model: nn.Module, sizes: tuple[int, int] | None = None):
        super().__init__()
        self.model = model
        self.sizes = sizes

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what the detector sees in an image (3, H, W), by name."""
        (height, width), old = image.shape[-2:], size_of(image)
        if self.sizes is None:
            return self.detect(image, height, width)
        new = shortest_edge_size(*old, min_size=self.sizes[0], max_size=self.sizes[1])
        outputs = self.detect(resampling.resize(image, *new), height, width)
        if isinstance(self.model, GeneralizedRCNN):  # the others return them in the image's pixels
            in_height, in_width = (a.float() / b.float() for a, b in zip(old, new, strict=True))
            across = torch.stack([in_width, in_height, in_width, in_height])
            for name, factors in (("pred_boxes", across), ("pred_keypoints", across[:2])):
                if name in outputs:
                    count = factors.shape[0]
                    scaled = outputs[name][..., :count] * factors
                    outputs[name] = torch.cat([scaled, outputs[name][..., count:]], dim=-1)
        return outputs

    def detect(self, image: torch.Tensor, height: int, width: int) -> dict[str, torch.Tensor]:
        """Return what the detector sees in a resized image, whose size was the other one."""
        inputs, model = [{"image": image, "height": height, "width": width}], self.model
        with patch_builtin_len():  # so that numbers of boxes are traced, too
            if isinstance(model, GeneralizedRCNN) and not isinstance(model, PanopticFPN):
                outputs = model.inference(inputs, do_postprocess=False)[0].get_fields()
            else:
                outputs = dict(model(inputs)[0])
        if "panoptic_seg" in outputs:
            raise _panoptic_error(model)
        for name in ("instances", "proposals"):
            if name in outputs:
                outputs |= outputs.pop(name).get_fields()
        # Of boxes, the tensor.
        return {name: getattr(value, "tensor", value) for name, value in sorted(outputs.items())}


def export_detector(
    cfg: CfgNode,
    model: nn.Module,
    path: str | Path,
    *,
    images: Sequence[torch.Tensor],
    resize: bool = False,
    fold: bool = True,
) -> Checked:
    """Export a whole detector; the module says what its file takes and returns.

    Args:
        cfg: of the model. `MODEL.WEIGHTS`, if it is a file, is named in the metadata.
        model: of detectron2, not panoptic, with its trained weights; it is not changed.
        path: the file, `.onnx`, or `.ts` or `.pt` for TorchScript.
        images: (3, H, W) from 0 to 255, of `images_for`; the model must detect something in one.
        resize: whether the file resizes images as tests of the config do, to within a grey level.
        fold: fold batch norm into convolutions first.

    Returns:
        The file, and its differences from the (folded) model: on images of two other sizes, without
        detections, and on the first one again.

    Raises:
        ModuleNotFoundError: onnx or onnxruntime is not installed.
        OSError: the folder does not exist, or cannot be written to.
        UserError: an argument cannot be used. As `ExportError`: nothing is detected, the model
            cannot be exported, or the file gives something else; then there is no new file.
    """
    if cfg.MODEL.META_ARCHITECTURE in ARCHITECTURES and "panoptic_seg" in outputs_of(cfg):
        raise _panoptic_error(model)  # of others it is seen in what they return
    sizes = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) if resize else None
    if resize and not cfg.INPUT.MIN_SIZE_TEST:
        raise UserError("the config does not resize (INPUT.MIN_SIZE_TEST is 0); leave out --resize")
    return export_traceable(
        Traceable(prepared(model, fold=fold), sizes),
        path,
        images=images,
        metadata=_metadata(cfg, resizes=resize),
        while_traced=_traceable_functions(),
    )


def images_for(
    cfg: CfgNode, paths: Sequence[Path] = (), *, resize: bool = False
) -> list[torch.Tensor]:
    """Return images, uint8 (C, H, W), as the file of the model of `cfg` takes them.

    Without `paths` they are drawn shapes, which a detector of something else may not see. Unless
    the file itself does (`resize`), they are resized as in the tests of the config.
    """
    images = [open_upright(path) for path in paths] or [
        Image.fromarray(draw(ShapesSpec(), "val", number).image) for number in range(DRAWN)
    ]
    cfg = changed(cfg, "INPUT.MIN_SIZE_TEST", 0) if resize else cfg
    return [model_input(cfg, image) for image in images]


def decisive_values(cfg: CfgNode) -> dict[str, object]:
    """Return what a config says other than the defaults, as far as it decides what a file gives."""
    default = values_by_key(default_config())
    return {
        key: value
        for key, value in values_by_key(cfg).items()
        if (key in DECISIVE or key.startswith("MODEL."))
        and key not in INDIFFERENT
        and value != default.get(key)
    }


def _panoptic_error(model: nn.Module) -> UserError:
    return UserError(
        f"a {type(model).__name__} cannot be exported whole, as it merges its outputs in Python; "
        "export its backbone with --backbone, to .onnx or .pt2"
    )


def _metadata(cfg: CfgNode, *, resizes: bool) -> dict[str, str]:
    names, checkpoint = known_classes(cfg).metadata, Path(cfg.MODEL.WEIGHTS).absolute()
    is_semantic, is_file = outputs_of(cfg) == ("sem_seg",), checkpoint.is_file()
    return {
        keys.TASK: _task(cfg),
        keys.CLASS_NAMES: json.dumps(names.stuff_classes if is_semantic else names.thing_classes),
        "pixel_mean": json.dumps(list(cfg.MODEL.PIXEL_MEAN)),
        "pixel_std": json.dumps(list(cfg.MODEL.PIXEL_STD)),
        keys.CHANNEL_ORDER: cfg.INPUT.FORMAT,
        "min_size_test": str(cfg.INPUT.MIN_SIZE_TEST),
        "max_size_test": str(cfg.INPUT.MAX_SIZE_TEST),
        RESIZES_KEY: json.dumps(resizes),
        keys.RUN: checkpoint.parent.name if is_file else "",
        keys.CHECKPOINT: sha256(checkpoint) if is_file else "",
        CONFIG_KEY: json.dumps(decisive_values(cfg)),
    }


def _task(cfg: CfgNode) -> str:
    architecture = cfg.MODEL.META_ARCHITECTURE
    if outputs_of(cfg) == ("sem_seg",):
        return "semantic segmentation"
    if architecture == "ProposalNetwork":
        return "proposals"
    if architecture == "GeneralizedRCNN" and cfg.MODEL.MASK_ON:
        return "instance segmentation"
    is_of_keypoints = architecture == "GeneralizedRCNN" and cfg.MODEL.KEYPOINT_ON
    return "keypoint detection" if is_of_keypoints else "detection"


@contextmanager
def _traceable_functions() -> Iterator[None]:
    """Put functions that a trace follows in the place of those of detectron2 that it does not."""
    with ExitStack() as stack:
        # What scales the gradients of a Cascade R-CNN: no trace can be saved with it.
        gradient = cascade_rcnn._ScaleGradient
        stack.enter_context(patch.object(gradient, "apply", lambda features, _: features))
        stack.enter_context(
            patch.object(keypoint_head, "heatmaps_to_keypoints", _heatmaps_to_keypoints)
        )
        if semantic := sys.modules.get("detectron2.projects.point_rend.semantic_seg"):
            name = "get_uncertain_point_coords_on_grid"
            stack.enter_context(patch.object(semantic, name, _uncertain_points))
        yield


def _heatmaps_to_keypoints(maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Do what detectron2's function does, by torchvision's, which ONNX can express."""
    places, logits = torchvision_heads.heatmaps_to_keypoints(maps, boxes)
    scores = (logits - maps.flatten(2).logsumexp(2)).exp()
    return torch.cat([places[..., :2], logits[..., None], scores[..., None]], dim=-1)


def _uncertain_points(uncertainty: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Do what PointRend's `get_uncertain_point_coords_on_grid` does, for maps of any size."""
    height, width = size_of(uncertainty)
    count = (height * width).clamp(max=count)
    indices = torch.topk(uncertainty.flatten(1), k=count, dim=1)[1]
    across = ((indices % width).float() + 0.5) / width.float()
    down = (indices.div(width, rounding_mode="floor").float() + 0.5) / height.float()
    return indices, torch.stack([across, down], dim=-1)
