"""The demo dataset in detectron2's catalog, `train` and `val` of:

    shapes_*                      instances
    shapes_keypoints_*            the same with keypoints
    shapes_sem_seg_*              semantic masks
    shapes_panoptic_*             panoptic segments, and semantic masks of all classes, in the form
                                  of detectron2's `coco_2017_*_panoptic`: for Panoptic-DeepLab
    shapes_panoptic_separated_*   instances, and masks in which things are 0 and background is 1, in
                                  the form of `coco_2017_*_panoptic_separated`: for Panoptic FPN

The files are looked for in `$DETECTRON2_DATASETS/shapes` (`datasets/shapes` without the variable),
where detectron2 looks for the datasets it knows; they are drawn by `tools/make_shapes.py`.
"""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

from regnet_backbones.errors import MissingFileError
from regnet_backbones.shapes import (
    BACKGROUND,
    CATEGORIES,
    FLIP_MAP,
    KEYPOINTS,
    SKELETON,
    SPLITS,
    ShapesDataset,
    ShapesSpec,
    check_drawn,
)

# Distinct for people with any colour vision (Okabe and Ito's palette).
COLORS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0))
BACKGROUND_COLOR = (200, 200, 200)
THINGS_COLOR = (82, 18, 128)  # of all things together, as in detectron2's COCO
SKELETON_COLOR = (255, 255, 255)
IGNORED = 255

# Numbers of the classes from 0 by their ids in the files; background is the last id.
THING_IDS = {number + 1: number for number in range(len(CATEGORIES))}
ALL_IDS = {**THING_IDS, len(CATEGORIES) + 1: len(CATEGORIES)}


def register_on_import(_: ModuleType | None) -> None:
    """Register both splits when detectron2's own datasets are."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "shapes"
    dataset = ShapesDataset(root, ShapesSpec(), written=False)
    for split in SPLITS:
        for kind, (load, metadata) in _datasets(dataset, split).items():
            name = f"shapes{kind}_{split}"
            if name not in DatasetCatalog.list():
                DatasetCatalog.register(name, partial(_load_checked, root, load, name))
                MetadataCatalog.get(name).set(**metadata)


def _datasets(
    dataset: ShapesDataset, split: str
) -> dict[str, tuple[Callable[[str], list[dict]], dict[str, object]]]:
    """Return how each kind of a split is loaded, given its name, and its metadata."""
    things = {
        "thing_classes": list(CATEGORIES),
        "thing_colors": list(COLORS),
        "thing_dataset_id_to_contiguous_id": THING_IDS,
    }
    all_classes = {
        "stuff_classes": [*CATEGORIES, BACKGROUND],
        "stuff_colors": [*COLORS, BACKGROUND_COLOR],
    }
    images, masks = str(dataset.images(split)), str(dataset.semantic_masks_from_zero(split))
    files = {"json_file": str(dataset.instances_json(split)), "image_root": images}
    semantic_images = str(dataset.semantic_images(split))
    panoptic = {
        **files,
        "panoptic_json": str(dataset.panoptic_json(split)),
        "panoptic_root": str(dataset.panoptic_masks(split)),
        "evaluator_type": "coco_panoptic_seg",
        "ignore_label": IGNORED,
    }
    keypoints = {
        "json_file": str(dataset.keypoints_json(split)),
        "keypoint_names": list(KEYPOINTS),
        "keypoint_flip_map": list(FLIP_MAP),
        "keypoint_connection_rules": [(*line, SKELETON_COLOR) for line in SKELETON],
    }
    instances = {**things, **files, "evaluator_type": "coco"}
    return {
        "": (partial(_load_instances, files["json_file"], images), instances),
        "_keypoints": (
            partial(_load_instances, keypoints["json_file"], images),
            {**instances, **keypoints},
        ),
        "_sem_seg": (
            partial(_load_semantic, semantic_images, masks),
            {
                **all_classes,
                "image_root": semantic_images,
                "sem_seg_root": masks,
                "evaluator_type": "sem_seg",
                "ignore_label": IGNORED,
            },
        ),
        "_panoptic": (
            partial(_load_panoptic, dataset, split),
            {
                **panoptic,
                **all_classes,
                # Of all classes, as detectron2's COCO has them: panoptic pictures look names up in
                # either, and detectron2's semantic evaluator translates every one by the ids.
                "thing_classes": all_classes["stuff_classes"],
                "thing_colors": all_classes["stuff_colors"],
                "thing_dataset_id_to_contiguous_id": THING_IDS,
                "stuff_dataset_id_to_contiguous_id": ALL_IDS,
                "sem_seg_root": masks,
                "label_divisor": 1000,
            },
        ),
        "_panoptic_separated": (
            partial(_load_separated, dataset, split),
            {
                **panoptic,
                **things,
                "stuff_classes": ["things", BACKGROUND],
                "stuff_colors": [THINGS_COLOR, BACKGROUND_COLOR],
                "stuff_dataset_id_to_contiguous_id": {0: 0, len(CATEGORIES) + 1: 1},
                "sem_seg_root": str(dataset.stuff_masks(split)),
            },
        ),
    }


def _load_checked(root: Path, load: Callable[[str], list[dict]], name: str) -> list[dict]:
    """Load a part of the dataset; say how to draw what is not there, or is of another version."""
    try:
        check_drawn(root)
    except FileNotFoundError as error:
        raise MissingFileError(
            f"{error} (or set DETECTRON2_DATASETS to the folder above)"
        ) from None
    return load(name)


def _load_instances(json_file: str, images: str, name: str) -> list[dict]:
    """Load instances in detectron2's format, with keypoints if the file has any."""
    from detectron2.data.datasets.coco import load_coco_json

    return load_coco_json(json_file, images, name)


def _load_semantic(images: str, masks: str, name: str) -> list[dict]:
    """Load semantic masks in detectron2's format."""
    from detectron2.data.datasets.coco import load_sem_seg

    return load_sem_seg(masks, images, image_ext="png")


def _load_panoptic(dataset: ShapesDataset, split: str, name: str) -> list[dict]:
    """Load panoptic segments in detectron2's format; its own loader wants JPEG images."""
    content = json.loads(dataset.panoptic_json(split).read_text())
    images = {image["id"]: image for image in content["images"]}
    return [
        {
            "file_name": str(dataset.images(split) / images[annotation["image_id"]]["file_name"]),
            "image_id": annotation["image_id"],
            "height": images[annotation["image_id"]]["height"],
            "width": images[annotation["image_id"]]["width"],
            "pan_seg_file_name": str(dataset.panoptic_masks(split) / annotation["file_name"]),
            "sem_seg_file_name": str(
                dataset.semantic_masks_from_zero(split) / annotation["file_name"]
            ),
            "segments_info": [
                {
                    **segment,
                    "category_id": ALL_IDS[segment["category_id"]],
                    "isthing": segment["category_id"] in THING_IDS,
                }
                for segment in annotation["segments_info"]
            ],
        }
        for annotation in content["annotations"]
    ]


def _load_separated(dataset: ShapesDataset, split: str, name: str) -> list[dict]:
    """Load instances and masks of stuff in detectron2's format."""
    from detectron2.data.datasets.coco_panoptic import merge_to_panoptic

    images = str(dataset.images(split))
    return merge_to_panoptic(
        _load_instances(str(dataset.instances_json(split)), images, name),
        _load_semantic(images, str(dataset.stuff_masks(split)), name),
    )
