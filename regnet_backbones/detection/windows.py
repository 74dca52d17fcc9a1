"""A detector that slides over large images, in which what it can find would be too small.

As in SAHI (Akyon et al., Slicing Aided Hyper Inference, 2022), a model sees the whole image and
windows of it, and of what overlaps the surest is kept. Other than there, an instance that ends at
the edge of its window gives way to one that does not.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torchvision.ops import batched_nms

from regnet_backbones.detection.config import changed
from regnet_backbones.detection.trained import resized
from regnet_backbones.errors import UserError
from regnet_backbones.runs.image_files import batches
from regnet_backbones.runs.windows import stride_of, window_starts

# Boxes of which so much is common are of one instance: of both together, as in the NMS of
# detectors, or of a box that its window cuts.
OVERLAP = 0.5

EDGE = 2  # pixels: a box that ends so near to the edge of its window is cut

# Of a class in an image, LVIS counts at most so many instances, COCO 100.
COUNTED = 300


class SlidingDetector:
    """A detector in windows, in the place of detectron2's model, which takes images unresized.

    `model` gives `instances` of upright boxes, for `batch_size` windows at a time. At most `limit`
    instances of a class are kept in an image.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: object,
        window: int,
        stride: int,
        *,
        batch_size: int = 1,
        limit: int | None = None,
    ):
        if cfg.MODEL.LOAD_PROPOSALS:
            raise UserError("--window cannot be used with MODEL.LOAD_PROPOSALS; leave it out")
        self.cfg, self.model, self.window, self.stride = cfg, model, window, stride
        self.batch_size, self.limit = batch_size, limit

    def __call__(self, inputs: Sequence[Mapping]) -> list[dict]:
        """Return what detectron2's model returns of images (C, H, W) in their own size."""
        return [{"instances": self._detect(each["image"])} for each in inputs]

    def _detect(self, image: torch.Tensor) -> Instances:
        parts: list[Instances] = []
        views = self._views(image)
        for batch in batches(views, self.batch_size, lambda view: view[-1]["image"].shape):
            outputs = self.model([given for *_, given in batch])
            for (top, left, _), output in zip(batch, outputs, strict=True):
                parts.append(self._moved(output, top, left, image.shape[-2:]))
        return merged(parts, self.limit)

    def _views(self, image: torch.Tensor) -> Iterator[tuple[int, int, dict[str, object]]]:
        """Yield top, left and what the model takes: of the whole image, then of windows."""
        side, views = self.window, [(0, 0, image)]
        if max(image.shape[-2:]) > side:
            starts = (window_starts(length, side, self.stride) for length in image.shape[-2:])
            for top, left in itertools.product(*starts):
                views.append((top, left, image[:, top : top + side, left : left + side]))
        for top, left, view in views:
            size = {"height": view.shape[-2], "width": view.shape[-1]}
            pixels = resized(self.cfg, view.permute(1, 2, 0).numpy())
            yield top, left, {"image": pixels, **size}

    def _moved(self, output: Mapping, top: int, left: int, size: tuple[int, int]) -> Instances:
        """Return the instances of a window in the coordinates of the image, on the CPU."""
        found = output.get("instances")
        if output.keys() != {"instances"} or not isinstance(found.get("pred_boxes"), Boxes):
            raise UserError(
                "--window needs a detector of upright boxes, and this "
                f"{self.cfg.MODEL.META_ARCHITECTURE} gives {', '.join(output)}; leave it out"
            )
        found, offset = found.to("cpu"), torch.tensor([left, top, 0])
        part = Instances(size, scores=found.scores, pred_classes=found.pred_classes)
        part.pred_boxes = Boxes(found.pred_boxes.tensor + offset[[0, 1, 0, 1]])
        ends = torch.tensor([left, top, left + found.image_size[1], top + found.image_size[0]])
        inner = ends != torch.tensor([0, 0, size[1], size[0]])
        part.is_cut = (inner & ((part.pred_boxes.tensor - ends).abs() <= EDGE)).any(1)
        if found.has("pred_keypoints"):
            part.pred_keypoints = found.pred_keypoints + offset
        if found.has("pred_masks"):  # a bit for each pixel until they are merged
            place = (top, left, *found.pred_masks.shape[1:])
            packed = np.packbits(found.pred_masks.numpy(), axis=-1)
            part.pred_masks = [(*place, mask) for mask in packed]
        return part


def window_settings(window: int | None, stride: int | None) -> dict[str, int | None]:
    """Return the checked arguments of `evaluate` and `predict`, None and None without windows."""
    if window is None and stride is None:
        return {"window": None, "window_stride": None}
    return {"window": window, "window_stride": stride_of(window or 0, stride)}


def in_own_size(cfg: CfgNode) -> CfgNode:
    """Return a config whose images are read for a `SlidingDetector`, which resizes its windows."""
    return changed(cfg, "INPUT.MIN_SIZE_TEST", 0)


def merged(parts: Sequence[Instances], limit: int | None = None) -> Instances:
    """Merge views of an image as `SlidingDetector` moves them, with packed masks and `is_cut`.

    Return the instances, the surest first, at most `limit` of a class; masks are bool (N, H, W).
    """
    if len(parts) == 1:
        return _taken(parts[0], torch.arange(len(parts[0])))
    every = Instances.cat(list(parts))
    boxes, classes = every.pred_boxes.tensor, every.pred_classes
    whole, cut = (index.nonzero().flatten() for index in (~every.is_cut, every.is_cut))
    whole = _suppressed(every, whole)
    low, high = (
        extreme(boxes[cut][:, None, corner], boxes[whole][None, :, corner])
        for extreme, corner in ((torch.maximum, slice(2)), (torch.minimum, slice(2, 4)))
    )
    common = (high - low).clamp(min=0).prod(-1) / every.pred_boxes.area()[cut][:, None]
    covered = (common >= OVERLAP) & (classes[cut][:, None] == classes[whole])
    kept = torch.cat([whole, _suppressed(every, cut[~covered.any(1)])])
    kept = kept[every.scores[kept].argsort(descending=True, stable=True)]
    if limit is not None:
        same = classes[kept][:, None] == classes[kept]
        kept = kept[same.tril(-1).sum(1) < limit]
    return _taken(every, kept)


def _suppressed(instances: Instances, some: torch.Tensor) -> torch.Tensor:
    """Return those of some indices that remain after non-maximum suppression by class."""
    boxes, scores = instances.pred_boxes.tensor[some], instances.scores[some]
    return some[batched_nms(boxes, scores, instances.pred_classes[some], OVERLAP)]


def _taken(every: Instances, kept: torch.Tensor) -> Instances:
    """Return some of the instances as a model gives them, with masks of the image."""
    result = Instances(every.image_size)
    for name in ("pred_boxes", "scores", "pred_classes", "pred_keypoints"):
        if every.has(name):
            result.set(name, every.get(name)[kept])
    if every.has("pred_masks"):
        result.pred_masks = torch.zeros(len(kept), *every.image_size, dtype=torch.bool)
        for mask, index in zip(result.pred_masks, kept.tolist(), strict=True):
            top, left, height, width, packed = every.pred_masks[index]
            seen = torch.from_numpy(np.unpackbits(packed, axis=-1, count=width).astype(bool))
            mask[top : top + height, left : left + width] = seen
    return result
