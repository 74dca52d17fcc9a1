"""Panoptic segments: from COCO's format to detectron2's and back.

Detectron2 has a map (H, W) of ids, and a list with `isthing` and `category_id` of each, numbered
from 0 in things and stuff apart. Panoptic-DeepLab gives no list: an id is class number *
`label_divisor` + a number within the class, and -1 means no segment.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.data.detection_utils import read_image

from regnet_backbones.adapters.detectron2 import VOID, id2rgb, rgb2id
from regnet_backbones.detection.classes import KnownClasses

SegmentInfo = dict[str, object]
PanopticSegments = tuple[torch.Tensor, list[SegmentInfo] | None]


def true_segments(annotation: Mapping[str, object], metadata: Metadata) -> PanopticSegments:
    """Read the segments of an item of a COCO panoptic json's "annotations"."""
    mask = read_image(str(Path(metadata.panoptic_root) / annotation["file_name"]), "RGB")
    things = metadata.thing_dataset_id_to_contiguous_id
    stuff = metadata.stuff_dataset_id_to_contiguous_id
    info = []
    for segment in annotation["segments_info"]:
        category = segment["category_id"]
        isthing = category in things
        number = (things if isthing else stuff)[category]
        info.append({**segment, "category_id": number, "isthing": isthing})
    return torch.from_numpy(rgb2id(mask)), info


def coco_segments(
    prediction: PanopticSegments, classes: KnownClasses
) -> tuple[np.ndarray, list[SegmentInfo]]:
    """Return predicted segments, on the CPU, as COCO has them.

    The ids as colours (H, W, 3), uint8, black without a segment; and for each segment `id`,
    `category_id` of the dataset, `isthing`, `area` in pixels and `bbox` (x, y, width, height).
    """
    segments, info = prediction
    ids = segments.numpy().astype(np.int64)
    if info is None:
        things = set(classes.metadata.thing_dataset_id_to_contiguous_id.values())
        numbers = {
            int(each): int(each) // classes.metadata.label_divisor for each in np.unique(ids)
        }
        info = [
            {"id": label + 1, "category_id": number, "isthing": number in things}
            for label, number in numbers.items()
        ]
        ids = ids + 1  # from -1 to COCO's 0
    found = []
    for segment in info:
        rows, columns = np.nonzero(ids == segment["id"])
        if not len(rows) or segment["id"] == VOID:
            continue
        isthing, number = bool(segment["isthing"]), segment["category_id"]
        left, top = int(columns.min()), int(rows.min())
        found.append(
            {
                "id": int(segment["id"]),
                "category_id": (classes.ids if isthing else classes.stuff_ids)[number],
                "isthing": int(isthing),
                "area": len(rows),
                "bbox": [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top],
            }
        )
    known = [segment["id"] for segment in found]
    return id2rgb(np.where(np.isin(ids, known), ids, VOID)), found


def coco_categories(classes: KnownClasses) -> list[SegmentInfo]:
    """Return the categories of a model as COCO has them: `id`, `name`, `isthing`."""
    metadata = classes.metadata
    names = zip(classes.ids, metadata.thing_classes, strict=True)
    if classes.stuff_ids == classes.ids:  # all classes in one row
        things = set(metadata.thing_dataset_id_to_contiguous_id.values())
        return [
            {"id": id_, "name": name, "isthing": int(number in things)}
            for number, (id_, name) in enumerate(names)
        ]
    # The first class of stuff stands for all things.
    stuff = list(zip(classes.stuff_ids, metadata.stuff_classes, strict=True))[1:]
    return [
        *({"id": id_, "name": name, "isthing": 1} for id_, name in names),
        *({"id": id_, "name": name, "isthing": 0} for id_, name in stuff),
    ]
