"""What is known about drawn images, in COCO's json formats.

Source: https://cocodataset.org/#format-data.
"""

import numpy as np

from regnet_backbones.shapes.drawing import BACKGROUND, Sample
from regnet_backbones.shapes.geometry import CATEGORIES, KEYPOINTS, NOT_LABELLED, SKELETON

BACKGROUND_ID = len(CATEGORIES) + 1

# Odd, hence one-to-one modulo 2 ** 24: panoptic ids become colours the eye can tell apart.
_ID_STRIDE = 0x5B8F27

Entry = dict[str, object]


def segments(sample: Sample) -> list[Entry]:
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


def keypoint_fields(points: np.ndarray) -> Entry:
    """Describe keypoints (5, 3) in COCO's terms, where the middle of the first pixel is (0, 0)."""
    labelled = points[:, 2:] != NOT_LABELLED
    places = np.where(labelled, (points[:, :2] - 0.5).round(2), 0).tolist()
    flags = points[:, 2].astype(int).tolist()
    flat = [value for (x, y), flag in zip(places, flags, strict=True) for value in (x, y, flag)]
    return {"keypoints": flat, "num_keypoints": int(labelled.sum())}


def categories(*, keypoints: bool = False, background: bool = False) -> list[Entry]:
    """List the categories in COCO's terms: of things, and what more a file has of them."""
    named: Entry = {}
    if keypoints:
        skeleton = [[KEYPOINTS.index(end) + 1 for end in line] for line in SKELETON]
        named = {"keypoints": list(KEYPOINTS), "skeleton": skeleton}
    things = [
        {"id": number, "name": name, "supercategory": "shape", "isthing": 1, **named}
        for number, name in enumerate(CATEGORIES, 1)
    ]
    stuff = {"id": BACKGROUND_ID, "name": BACKGROUND, "supercategory": BACKGROUND, "isthing": 0}
    return [*things, stuff] if background else things
