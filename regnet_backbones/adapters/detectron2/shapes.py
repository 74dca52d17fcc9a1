"""The demo dataset in detectron2's catalog, `train` and `val` of:

    shapes_*                      instances
    shapes_keypoints_*            the same with keypoints
    shapes_sem_seg_*              semantic masks
    shapes_panoptic_*             panoptic segments, and semantic masks of all classes, in the form
                                  of detectron2's `coco_2017_*_panoptic`: for Panoptic-DeepLab
    shapes_panoptic_separated_*   instances, and masks in which things are 0 and background is 1, in
                                  the form of `coco_2017_*_panoptic_separated`: for Panoptic FPN

The files are looked for in `$DETECTRON2_DATASETS/shapes` (`datasets/shapes` without the variable);
`regnet-backbones shapes` draws them.
"""

import json
import os
from functools import partial
from pathlib import Path
from types import ModuleType

from regnet_backbones import shapes
from regnet_backbones.errors import MissingFileError

# Distinct for people with any colour vision (Okabe and Ito's palette).
COLORS = [(0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0)]
BACKGROUND_COLOR = (200, 200, 200)
THINGS_COLOR = (82, 18, 128)  # of all things together, as in detectron2's COCO
SKELETON_COLOR = (255, 255, 255)
IGNORED = 255

# Numbers of the classes from 0 by their ids in the files; background is the last id.
THING_IDS = {number + 1: number for number in range(len(shapes.CATEGORIES))}
ALL_IDS = {**THING_IDS, len(shapes.CATEGORIES) + 1: len(shapes.CATEGORIES)}

Metadata = dict[str, object]


def register_on_import(_: ModuleType | None) -> None:
    """Register both splits when detectron2's own datasets are."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "shapes"
    dataset = shapes.ShapesDataset(root, shapes.ShapesSpec(), written=False)
    for split in shapes.SPLITS:
        for kind, metadata in _metadata(dataset, split).items():
            name = f"shapes{kind}_{split}"
            if name not in DatasetCatalog.list():
                DatasetCatalog.register(name, partial(_load, root, kind, name, metadata))
                MetadataCatalog.get(name).set(**metadata)


def _metadata(dataset: shapes.ShapesDataset, split: str) -> dict[str, Metadata]:
    """Return the metadata of a split by the kind of its annotations."""
    semantic = {
        "stuff_classes": [*shapes.CATEGORIES, shapes.BACKGROUND],
        "stuff_colors": [*COLORS, BACKGROUND_COLOR],
        "sem_seg_root": str(dataset.semantic_masks_from_zero(split)),
    }
    things = {
        "thing_classes": list(shapes.CATEGORIES),
        "thing_colors": COLORS,
        "thing_dataset_id_to_contiguous_id": THING_IDS,
        "json_file": str(dataset.instances_json(split)),
        "image_root": str(dataset.images(split)),
        "evaluator_type": "coco",
    }
    panoptic = {
        **things,
        "panoptic_json": str(dataset.panoptic_json(split)),
        "panoptic_root": str(dataset.panoptic_masks(split)),
        "evaluator_type": "coco_panoptic_seg",
        "ignore_label": IGNORED,
    }
    return {
        "": things,
        "_keypoints": {
            **things,
            "json_file": str(dataset.keypoints_json(split)),
            "keypoint_names": list(shapes.KEYPOINTS),
            "keypoint_flip_map": list(shapes.FLIP_MAP),
            "keypoint_connection_rules": [(*line, SKELETON_COLOR) for line in shapes.SKELETON],
        },
        "_sem_seg": {
            **semantic,
            "image_root": str(dataset.semantic_images(split)),
            "evaluator_type": "sem_seg",
            "ignore_label": IGNORED,
        },
        "_panoptic": {
            **panoptic,
            **semantic,
            # Of all classes, as in detectron2's COCO: its semantic evaluator translates every one
            # by these ids. `thing_classes` are the things alone, which come first: Mask2Former
            # evaluates instances, too, and COCOEvaluator compares their number with json_file.
            "stuff_dataset_id_to_contiguous_id": ALL_IDS,
            "label_divisor": 1000,
        },
        "_panoptic_separated": {
            **panoptic,
            "stuff_classes": ["things", shapes.BACKGROUND],
            "stuff_colors": [THINGS_COLOR, BACKGROUND_COLOR],
            "stuff_dataset_id_to_contiguous_id": {0: 0, len(shapes.CATEGORIES) + 1: 1},
            "sem_seg_root": str(dataset.stuff_masks(split)),
        },
    }


def _load(root: Path, kind: str, name: str, metadata: Metadata) -> list[dict]:
    """Load the records of a dataset, if it is drawn."""
    from detectron2.data.datasets.coco import load_coco_json, load_sem_seg
    from detectron2.data.datasets.coco_panoptic import merge_to_panoptic

    try:
        shapes.check_drawn(root)
    except MissingFileError as error:
        raise MissingFileError(f"{error} (or set DETECTRON2_DATASETS to its parent)") from None
    if kind == "_panoptic":
        return _load_panoptic(metadata)
    images, masks = metadata["image_root"], metadata.get("sem_seg_root")
    if kind == "_sem_seg":
        return load_sem_seg(masks, images, image_ext="png")
    instances = load_coco_json(metadata["json_file"], images, name)
    if kind == "_panoptic_separated":
        return merge_to_panoptic(instances, load_sem_seg(masks, images, image_ext="png"))
    return instances


def _load_panoptic(metadata: Metadata) -> list[dict]:
    """Load panoptic segments in detectron2's format; its own loader wants JPEG images."""
    content = json.loads(Path(str(metadata["panoptic_json"])).read_text())
    records = []
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        name = annotation["file_name"]  # the same of the image and its masks
        for segment in annotation["segments_info"]:
            segment["isthing"] = segment["category_id"] in THING_IDS
            segment["category_id"] = ALL_IDS[segment["category_id"]]
        record = {key: image[key] for key in ("height", "width")} | {"image_id": image["id"]}
        record["file_name"] = f"{metadata['image_root']}/{name}"
        record["pan_seg_file_name"] = f"{metadata['panoptic_root']}/{name}"
        record["sem_seg_file_name"] = f"{metadata['sem_seg_root']}/{name}"
        records.append({**record, "segments_info": annotation["segments_info"]})
    return records
