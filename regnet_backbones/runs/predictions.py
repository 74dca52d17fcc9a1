"""What a model sees in an image, as arrays, whatever its framework."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from regnet_backbones.errors import MissingPackageError

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """What a model sees in an image of H x W pixels: N objects, or classes of its pixels.

    A model with semantic output alone has one entry for each class that is present, the background
    among them: the box around its pixels, and these as its mask.

    Attributes:
        image: RGB, uint8 (H, W, 3), upright.
        class_names: by class number.
        boxes: x1, y1, x2, y2 in pixels, float32 (N, 4); x2 and y2 are the far edges.
        classes: int64 (N,).
        scores: from 0 to 1, float32 (N,); None with semantic output alone.
        masks: bool (N, H, W); None without masks.
        keypoints: x, y and score, float32 (N, keypoints, 3); None without keypoints.
        labels: class of each pixel, uint8 or uint16 (H, W); None without semantic output.
        label_names: by number in `labels`; a panoptic model numbers things and stuff separately.
        segments: ids of panoptic segments, int64 (H, W), 0 without one; None of other models.
        segments_info: of each segment, as in COCO's panoptic format, and `category`.
        drawing: makes the picture of `draw`.
    """

    image: np.ndarray
    class_names: tuple[str, ...]
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None
    masks: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    segments: np.ndarray | None = None
    segments_info: Sequence[dict[str, object]] = ()
    drawing: Callable[[], Image.Image] = field(repr=False)

    def draw(self) -> Image.Image:
        """Return the picture, in RGB, that `regnet-backbones predict` writes to `overlays/`."""
        return self.drawing()

    def to_supervision(self) -> "supervision.Detections":
        """Return boxes, masks, scores and classes, with names as `class_name` in its data.

        Raises:
            MissingPackageError: supervision is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            text = "to_supervision() needs the package supervision: `pip install supervision`"
            raise MissingPackageError(text, name=error.name) from error
        names = np.array([self.class_names[label] for label in self.classes], dtype=str)
        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.classes,
            data={"class_name": names},
        )


def present_classes(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return `classes`, `masks` and `boxes` of a `Result` from its labels (H, W)."""
    classes = np.flatnonzero(np.bincount(labels.ravel()))
    masks = labels == classes[:, None, None]
    boxes = []
    for mask in masks:
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return {"classes": classes, "masks": masks, "boxes": np.array(boxes, np.float32)}
