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
SKELETON_COLOR = (255, 255, 255)
IGNORED = 255

# Numbers of the classes from 0 by their ids in the files; background is the last id.
THING_IDS = {number + 1: number for number in range(len(CATEGORIES))}
ALL_IDS = {**THING_IDS, len(CATEGORIES) + 1: len(CATEGORIES)}

# What a class of instances is called, and all classes.
THINGS = {
    "thing_classes": list(CATEGORIES),
    "thing_colors": list(COLORS),
    "thing_dataset_id_to_contiguous_id": THING_IDS,
}
ALL_CLASSES = {
    "stuff_classes": [*CATEGORIES, BACKGROUND],
    "stuff_colors": [*COLORS, BACKGROUND_COLOR],
}

_Metadata = dict[str, str | int | list | dict]


def register_on_import(_: ModuleType) -> None:
    """Register both splits when detectron2's own datasets are."""
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "shapes"
    dataset = ShapesDataset(root, ShapesSpec(), written=False)
    for split in SPLITS:
        _register_instances(dataset, split)
        _register_keypoints(dataset, split)
        _register_semantic(dataset, split)
        _register_panoptic(dataset, split)
        _register_separated(dataset, split)


def _register_instances(dataset: ShapesDataset, split: str) -> None:
    name, json_file = f"shapes_{split}", dataset.instances_json(split)
    metadata = {**THINGS, **_instance_files(dataset, split), "evaluator_type": "coco"}
    load = partial(_load_instances, name, json_file, dataset.images(split))
    _register(name, dataset, load, metadata)


def _register_keypoints(dataset: ShapesDataset, split: str) -> None:
    name, json_file = f"shapes_keypoints_{split}", dataset.keypoints_json(split)
    metadata = {
        **THINGS,
        **_instance_files(dataset, split),
        "json_file": str(json_file),
        "evaluator_type": "coco",
        "keypoint_names": list(KEYPOINTS),
        "keypoint_flip_map": list(FLIP_MAP),
        "keypoint_connection_rules": [(*line, SKELETON_COLOR) for line in SKELETON],
    }
    load = partial(_load_instances, name, json_file, dataset.images(split))
    _register(name, dataset, load, metadata)


def _register_semantic(dataset: ShapesDataset, split: str) -> None:
    images, masks = dataset.semantic_images(split), dataset.semantic_masks_from_zero(split)
    metadata = {
        **ALL_CLASSES,
        "image_root": str(images),
        "sem_seg_root": str(masks),
        "evaluator_type": "sem_seg",
        "ignore_label": IGNORED,
    }
    _register(f"shapes_sem_seg_{split}", dataset, partial(_load_semantic, images, masks), metadata)


def _register_panoptic(dataset: ShapesDataset, split: str) -> None:
    metadata = {
        **_panoptic_files(dataset, split),
        **ALL_CLASSES,
        # Of all classes, as detectron2's COCO has them: panoptic pictures look names up in either.
        "thing_classes": ALL_CLASSES["stuff_classes"],
        "thing_colors": ALL_CLASSES["stuff_colors"],
        "thing_dataset_id_to_contiguous_id": THING_IDS,
        # Of all classes, too: detectron2's semantic evaluator translates every one by it.
        "stuff_dataset_id_to_contiguous_id": ALL_IDS,
        "sem_seg_root": str(dataset.semantic_masks_from_zero(split)),
        "label_divisor": 1000,
    }
    _register(
        f"shapes_panoptic_{split}", dataset, partial(_load_panoptic, dataset, split), metadata
    )


def _register_separated(dataset: ShapesDataset, split: str) -> None:
    name = f"shapes_panoptic_separated_{split}"
    metadata = {
        **_panoptic_files(dataset, split),
        **THINGS,
        "stuff_classes": ["things", BACKGROUND],
        "stuff_colors": [(82, 18, 128), BACKGROUND_COLOR],  # of things as in detectron2's COCO
        "stuff_dataset_id_to_contiguous_id": {0: 0, len(CATEGORIES) + 1: 1},
        "sem_seg_root": str(dataset.stuff_masks(split)),
    }
    _register(name, dataset, partial(_load_separated, name, dataset, split), metadata)


def _instance_files(dataset: ShapesDataset, split: str) -> _Metadata:
    return {
        "json_file": str(dataset.instances_json(split)),
        "image_root": str(dataset.images(split)),
    }


def _panoptic_files(dataset: ShapesDataset, split: str) -> _Metadata:
    return {
        **_instance_files(dataset, split),
        "panoptic_json": str(dataset.panoptic_json(split)),
        "panoptic_root": str(dataset.panoptic_masks(split)),
        "evaluator_type": "coco_panoptic_seg",
        "ignore_label": IGNORED,
    }


def _register(
    name: str, dataset: ShapesDataset, load: Callable[[], list[dict]], metadata: _Metadata
) -> None:
    """Register what loads a part of the dataset, once; it says how to draw what is not there."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    def load_checked() -> list[dict]:
        _check_drawn(dataset.root)
        return load()

    if name not in DatasetCatalog.list():
        DatasetCatalog.register(name, load_checked)
        MetadataCatalog.get(name).set(**metadata)


def _load_instances(name: str, json_file: Path, images: Path) -> list[dict]:
    """Load instances in detectron2's format, with keypoints if the file has any."""
    from detectron2.data.datasets.coco import load_coco_json

    return load_coco_json(str(json_file), str(images), name)


def _load_semantic(images: Path, masks: Path) -> list[dict]:
    """Load semantic masks in detectron2's format."""
    from detectron2.data.datasets.coco import load_sem_seg

    return load_sem_seg(str(masks), str(images), image_ext="png")


def _load_panoptic(dataset: ShapesDataset, split: str) -> list[dict]:
    """Load panoptic segments in detectron2's format; its own loader wants JPEG images."""
    content = json.loads(dataset.panoptic_json(split).read_text())
    images = {image["id"]: image for image in content["images"]}
    records = []
    for annotation in content["annotations"]:
        name, image = annotation["file_name"], images[annotation["image_id"]]
        segments = [
            {
                **segment,
                "category_id": ALL_IDS[segment["category_id"]],
                "isthing": segment["category_id"] in THING_IDS,
            }
            for segment in annotation["segments_info"]
        ]
        records.append(
            {
                "file_name": str(dataset.images(split) / image["file_name"]),
                "image_id": image["id"],
                "height": image["height"],
                "width": image["width"],
                "pan_seg_file_name": str(dataset.panoptic_masks(split) / name),
                "sem_seg_file_name": str(dataset.semantic_masks_from_zero(split) / name),
                "segments_info": segments,
            }
        )
    return records


def _load_separated(name: str, dataset: ShapesDataset, split: str) -> list[dict]:
    """Load instances and masks of stuff in detectron2's format."""
    from detectron2.data.datasets.coco_panoptic import merge_to_panoptic

    images = dataset.images(split)
    return merge_to_panoptic(
        _load_instances(name, dataset.instances_json(split), images),
        _load_semantic(images, dataset.stuff_masks(split)),
    )


def _check_drawn(root: Path) -> None:
    """Raise where the dataset is not there, or was drawn by another version."""
    try:
        check_drawn(root)
    except FileNotFoundError as error:
        raise MissingFileError(
            f"{error} (or set DETECTRON2_DATASETS to the folder above)"
        ) from None
