"""What is known about drawn images, in COCO's json formats.

Source: https://cocodataset.org/#format-data.
"""

import json
from pathlib import Path

import numpy as np

from regnet_backbones.shapes.drawing import BACKGROUND, CATEGORIES, Sample, ShapesSpec
from regnet_backbones.shapes.keypoints import KEYPOINTS, NOT_LABELLED, SKELETON

BACKGROUND_ID = len(CATEGORIES) + 1

# Odd, hence one-to-one modulo 2 ** 24: panoptic ids become colours the eye can tell apart.
_ID_STRIDE = 0x5B8F27

_Entry = dict[str, object]


class Annotations:
    """The annotations of a split, gathered image by image."""

    def __init__(self, spec: ShapesSpec):
        self._spec = spec
        self._images: list[_Entry] = []
        self._instances: list[_Entry] = []
        self._keypoints: list[_Entry] = []  # of the instances
        self._panoptic: list[_Entry] = []

    def add(self, file_name: str, sample: Sample) -> None:
        """Add an image; its id counts from 1."""
        height, width = sample.instances.shape
        number = len(self._images) + 1
        self._images.append(
            {"id": number, "file_name": file_name, "height": height, "width": width}
        )
        described = segments(sample)
        self._panoptic.append(
            {"image_id": number, "file_name": file_name, "segments_info": described}
        )
        # Things come first.
        for segment, polygons, points in zip(
            described, sample.polygons, sample.keypoints, strict=False
        ):
            flat = [polygon.ravel().tolist() for polygon in polygons]
            ids = {"id": len(self._instances) + 1, "image_id": number}
            self._instances.append({**segment, **ids, "segmentation": flat})
            self._keypoints.append(_keypoint_fields(points))

    def write_instances(self, path: Path) -> None:
        """Write COCO's instances."""
        self._write(path, self._instances, _categories())

    def write_keypoints(self, path: Path) -> None:
        """Write COCO's keypoints, which are instances with more fields."""
        skeleton = [[KEYPOINTS.index(end) + 1 for end in line] for line in SKELETON]
        named = {"keypoints": list(KEYPOINTS), "skeleton": skeleton}
        both = zip(self._instances, self._keypoints, strict=True)
        self._write(
            path,
            [instance | keypoints for instance, keypoints in both],
            [category | named for category in _categories()],
        )

    def write_panoptic(self, path: Path) -> None:
        """Write COCO's panoptic segments."""
        self._write(path, self._panoptic, [*_categories(), _background_category()])

    def _write(self, path: Path, annotations: list[_Entry], categories: list[_Entry]) -> None:
        """Write one annotation file."""
        content = {
            # No date: the same spec gives the same bytes.
            "info": {"description": f"Drawn shapes, seed {self._spec.seed}", "version": "1"},
            "licenses": [],
            "images": self._images,
            "annotations": annotations,
            "categories": categories,
        }
        path.write_text(json.dumps(content, separators=(",", ":")))


def segments(sample: Sample) -> list[_Entry]:
    """Describe the segments of an image in COCO's terms: its things in order, then background."""
    numbers = [*range(1, len(sample.categories) + 1), 0]
    categories = [*sample.categories, BACKGROUND_ID]
    found = []
    for number, category in zip(numbers, categories, strict=True):
        rows, columns = np.nonzero(sample.instances == number)
        if not len(rows):  # only the background can be hidden altogether
            continue
        left, top = int(columns.min()), int(rows.min())
        bbox = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
        found.append(
            {
                "id": _segment_id(number),
                "category_id": category,
                "area": len(rows),
                "bbox": bbox,
                "iscrowd": 0,
            }
        )
    return found


def segment_colours(sample: Sample) -> np.ndarray:
    """Return the ids of the segments as colours (H, W, 3), uint8: R + 256 G + 65536 B."""
    ids = np.array([_segment_id(k) for k in range(len(sample.categories) + 1)])[sample.instances]
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def _segment_id(instance: int) -> int:
    return (instance + 1) * _ID_STRIDE % 2**24


def _keypoint_fields(points: np.ndarray) -> _Entry:
    """Describe keypoints (5, 3) in COCO's terms, where the middle of the first pixel is (0, 0)."""
    labelled = points[:, 2:] != NOT_LABELLED
    places = np.where(labelled, (points[:, :2] - 0.5).round(2), 0).tolist()
    flags = points[:, 2].astype(int).tolist()
    flat = [value for (x, y), flag in zip(places, flags, strict=True) for value in (x, y, flag)]
    return {"keypoints": flat, "num_keypoints": int(labelled.sum())}


def _categories() -> list[_Entry]:
    """List the categories of things in COCO's terms."""
    return [
        {"id": number, "name": name, "supercategory": "shape", "isthing": 1}
        for number, name in enumerate(CATEGORIES, 1)
    ]


def _background_category() -> _Entry:
    return {"id": BACKGROUND_ID, "name": BACKGROUND, "supercategory": BACKGROUND, "isthing": 0}
