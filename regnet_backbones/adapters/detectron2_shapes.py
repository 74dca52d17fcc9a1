"""The demo dataset in detectron2's catalog: `shapes_train`, `shapes_val`.

The files are looked for in `$DETECTRON2_DATASETS/shapes` (`datasets/shapes` without the variable),
where detectron2 looks for the datasets it knows; they are drawn by `tools/make_shapes.py`.
"""

import os
from functools import partial
from pathlib import Path
from types import ModuleType

from regnet_backbones.shapes import CATEGORIES, SPLITS, ShapesDataset, ShapesSpec

# Distinct for people with any colour vision (Okabe and Ito's palette).
COLORS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0))


def register_on_import(_: ModuleType) -> None:
    """Register both splits when detectron2's own datasets are."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "shapes"
    dataset = ShapesDataset(root, ShapesSpec(), written=False)
    for split in SPLITS:
        name = f"shapes_{split}"
        if name in DatasetCatalog.list():
            continue
        json_file, image_root = dataset.instances_json(split), dataset.images(split)
        DatasetCatalog.register(name, partial(_load, name, json_file, image_root))
        MetadataCatalog.get(name).set(
            json_file=str(json_file),
            image_root=str(image_root),
            evaluator_type="coco",
            thing_classes=list(CATEGORIES),
            thing_colors=list(COLORS),
        )


def _load(name: str, json_file: Path, image_root: Path) -> list[dict]:
    """Load a split in detectron2's format."""
    from detectron2.data.datasets.coco import load_coco_json

    if not json_file.is_file():
        raise FileNotFoundError(
            f"the demo dataset is not at '{json_file}'; draw it with: python tools/make_shapes.py "
            f"--output {json_file.parent.parent} (or set DETECTRON2_DATASETS to the folder above)"
        )
    return load_coco_json(str(json_file), str(image_root), name)
