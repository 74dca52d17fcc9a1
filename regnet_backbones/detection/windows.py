"""A detector that slides over large images, in which what it can find would be too small.

As SAHI does (Akyon et al., Slicing Aided Hyper Inference, 2022), a model sees the whole image and
windows of it, and what overlaps is merged into the surest of it: boxes and masks are united. Other
than there, two instances of one window are never merged, since the model has told them apart.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from regnet_backbones.detection.trained import resized
from regnet_backbones.errors import UserError
from regnet_backbones.runs.image_files import batches
from regnet_backbones.runs.windows import stride_of, window_starts

# Of the smaller box in the larger one: SAHI's default.
OVERLAP = 0.5

# Of a class in an image, LVIS counts at most so many instances, COCO 100.
COUNTED = 300


class SlidingDetector:
    """A detector in windows, in the place of detectron2's model, which takes images unresized.

    Args:
        cfg: how the model takes its images.
        model: gives `instances` of upright boxes.
        window, stride: pixels of the image, see `runs.windows`.
        batch_size: how many windows the model takes at a time.
        limit: how many instances of a class in an image are kept, None for all.

    Raises:
        UserError: windows cannot be used with the model.
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
                "--window is for detectors that give instances with upright boxes only, and this "
                f"{self.cfg.MODEL.META_ARCHITECTURE} gives {', '.join(output)}; leave it out"
            )
        found, offset = found.to("cpu"), torch.tensor([left, top, 0])
        part = Instances(size, scores=found.scores, pred_classes=found.pred_classes)
        part.pred_boxes = Boxes(found.pred_boxes.tensor + offset[[0, 1, 0, 1]])
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
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TEST = 0
    return cfg


def merged(parts: Sequence[Instances], limit: int | None = None) -> Instances:
    """Merge the instances of views of an image, each with the size of the image.

    Args:
        parts: of each view; masks as `SlidingDetector` packs them.
        limit: how many instances of a class are kept, None for all.

    Returns:
        The instances, the surest first; masks are bool (N, H, W).
    """
    every, size = Instances.cat(list(parts)), parts[0].image_size
    views = torch.tensor([view for view, part in enumerate(parts) for _ in range(len(part))])
    boxes, groups = groups_of(
        every.pred_boxes.tensor, every.scores, every.pred_classes, views, limit=limit
    )
    surest = torch.tensor([group[0] for group in groups], dtype=torch.long)
    result = Instances(size, pred_boxes=Boxes(boxes))
    for name in ("scores", "pred_classes", "pred_keypoints"):
        if every.has(name):
            result.set(name, every.get(name)[surest])
    if every.has("pred_masks"):
        result.pred_masks = torch.zeros(len(groups), *size, dtype=torch.bool)
        for mask, group in zip(result.pred_masks, groups, strict=True):
            for top, left, height, width, packed in (every.pred_masks[member] for member in group):
                seen = torch.from_numpy(np.unpackbits(packed, axis=-1, count=width).astype(bool))
                mask[top : top + height, left : left + width] |= seen
    return result


def groups_of(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    classes: torch.Tensor,
    views: torch.Tensor,
    *,
    limit: int | None = None,
) -> tuple[torch.Tensor, list[list[int]]]:
    """Group boxes of one class in different views, the surest first: SAHI's greedy merging.

    Args:
        boxes: (N, 4), left, top, right, bottom.
        scores, classes, views: (N,).
        limit: how many groups of a class are kept, None for all.

    Returns:
        The union of each group (groups, 4), and the indices of its boxes, the surest first.
    """
    free, counts = torch.ones(len(boxes), dtype=torch.bool), Counter()
    unions, groups = [], []
    order = scores.argsort(descending=True, stable=True)
    for index in order.tolist():
        label = classes[index].item()
        if not free[index] or counts[label] == limit:
            continue
        counts[label] += 1
        others = free & (classes == label) & (views != views[index])
        others &= _overlap(boxes[index], boxes) >= OVERLAP
        free &= ~others
        union, group = boxes[index], [index]
        for other in order[others[order]].tolist():
            box = boxes[other]
            if _overlap(union, box) >= OVERLAP:  # less than before if the union is larger
                union = torch.cat([union[:2].minimum(box[:2]), union[2:].maximum(box[2:])])
                group.append(other)
        unions.append(union)
        groups.append(group)
    return torch.stack(unions) if unions else boxes, groups


def _overlap(box: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Return which share of the smaller one of a box and each of others (..., 4) is in both."""
    common = box[2:].minimum(boxes[..., 2:]) - box[:2].maximum(boxes[..., :2])
    smaller = (box[2:] - box[:2]).prod().minimum((boxes[..., 2:] - boxes[..., :2]).prod(-1))
    return common.clamp(min=0).prod(-1) / smaller.clamp(min=1e-9)
