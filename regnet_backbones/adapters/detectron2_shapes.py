"""The demo dataset in detectron2's catalog.

`shapes_train` and `shapes_val` have instances, `shapes_sem_seg_train` and `shapes_sem_seg_val`
semantic masks. The files are looked for in `$DETECTRON2_DATASETS/shapes` (`datasets/shapes` without
the variable), where detectron2 looks for the datasets it knows; they are drawn by
`tools/make_shapes.py`, and the masks brought into detectron2's form by `tools/prepare_ade20k.py`.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

from regnet_backbones.shapes import BACKGROUND, CATEGORIES, SPLITS, ShapesDataset, ShapesSpec

# Distinct for people with any colour vision (Okabe and Ito's palette).
COLORS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0))
BACKGROUND_COLOR = (200, 200, 200)


def register_on_import(_: ModuleType) -> None:
    """Register both splits when detectron2's own datasets are."""
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "shapes"
    dataset = ShapesDataset(root, ShapesSpec(), written=False)
    for split in SPLITS:
        json_file, image_root = dataset.instances_json(split), dataset.images(split)
        name = f"shapes_{split}"
        _register(
            name,
            partial(_load_instances, name, json_file, image_root),
            {
                "json_file": str(json_file),
                "image_root": str(image_root),
                "evaluator_type": "coco",
                "thing_classes": list(CATEGORIES),
                "thing_colors": list(COLORS),
            },
        )
        images, masks = dataset.semantic_images(split), dataset.semantic_masks(split)
        # Where detectron2 has ADE20K's masks, beside ADE20K's own.
        masks = masks.parent.parent / "annotations_detectron2" / masks.name
        _register(
            f"shapes_sem_seg_{split}",
            partial(_load_semantic, images, masks),
            {
                "image_root": str(images),
                "sem_seg_root": str(masks),
                "evaluator_type": "sem_seg",
                "ignore_label": 255,
                "stuff_classes": [*CATEGORIES, BACKGROUND],
                "stuff_colors": [*COLORS, BACKGROUND_COLOR],
            },
        )


def _register(
    name: str, load: Callable[[], list[dict]], metadata: dict[str, str | int | list]
) -> None:
    """Register a dataset, once."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    if name not in DatasetCatalog.list():
        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(**metadata)


def _load_instances(name: str, json_file: Path, image_root: Path) -> list[dict]:
    """Load a split with instances in detectron2's format."""
    from detectron2.data.datasets.coco import load_coco_json

    _check_drawn(json_file, json_file.parent.parent)
    return load_coco_json(str(json_file), str(image_root), name)


def _load_semantic(images: Path, masks: Path) -> list[dict]:
    """Load a split with semantic masks in detectron2's format."""
    from detectron2.data.datasets.coco import load_sem_seg

    root = masks.parent.parent
    _check_drawn(images, root.parent)
    if not masks.is_dir():
        raise FileNotFoundError(
            f"the demo dataset has no masks for detectron2 in '{masks}'; make them with: "
            f"python tools/prepare_ade20k.py {root}"
        )
    return load_sem_seg(str(masks), str(images), image_ext="png")


def _check_drawn(path: Path, root: Path) -> None:
    """Raise FileNotFoundError where a part of the dataset is not there."""
    if not path.exists():
        raise FileNotFoundError(
            f"the demo dataset is not at '{path}'; draw it with: python tools/make_shapes.py "
            f"--output {root} (or set DETECTRON2_DATASETS to the folder above)"
        )
