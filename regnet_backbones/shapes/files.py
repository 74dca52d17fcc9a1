"""The demo dataset on disk.

Written under one root folder:

    spec.json                                       what was drawn; only a whole dataset has it
    images/{train,val}/000000.png                   RGB
    annotations/instances_{train,val}.json          COCO instances: boxes and polygons
    annotations/panoptic_{train,val}.json           COCO panoptic: segments ...
    panoptic/{train,val}/000000.png                 ... and their ids, R + 256 G + 65536 B
    semantic/images/{training,validation}/          the same images, hard-linked where possible
    semantic/annotations/{training,validation}/     labels as uint8, 0 is unlabelled
    semantic/objectInfo.txt                         label and name, tab-separated

Categories 1..5 are things, category 6 ("background") is stuff; the semantic labels are the same
numbers. Sources of the formats: https://cocodataset.org/#format-data for instances and panoptic;
MIT Scene Parsing Benchmark (ADE20K, http://sceneparsing.csail.mit.edu) for the semantic layout.
"""

import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from regnet_backbones.shapes.drawing import (
    BACKGROUND,
    CATEGORIES,
    SPLITS,
    Sample,
    ShapesSpec,
    checked,
    draw,
)

logger = logging.getLogger(__name__)

# Raise it when the same spec draws or writes something else, so that old folders are not reused.
FORMAT = {"dataset": "regnet_backbones.shapes", "version": 1}
SPEC_FILE = "spec.json"

_BACKGROUND_ID = len(CATEGORIES) + 1
_SEMANTIC_SPLITS = {"train": "training", "val": "validation"}
# Odd, hence one-to-one modulo 2 ** 24: panoptic ids become colours the eye can tell apart.
_ID_STRIDE = 0x5B8F27


@dataclass(frozen=True)
class ShapesDataset:
    """A dataset on disk: where everything is."""

    root: Path
    spec: ShapesSpec
    written: bool  # False when the folder already held this dataset

    def images(self, split: str) -> Path:
        """Folder of the images."""
        return self.root / "images" / checked(split)

    def instances_json(self, split: str) -> Path:
        """COCO instances file."""
        return self.root / "annotations" / f"instances_{checked(split)}.json"

    def panoptic_json(self, split: str) -> Path:
        """COCO panoptic file."""
        return self.root / "annotations" / f"panoptic_{checked(split)}.json"

    def panoptic_masks(self, split: str) -> Path:
        """Folder of the panoptic PNGs."""
        return self.root / "panoptic" / checked(split)

    def semantic_images(self, split: str) -> Path:
        """Folder of the images in the semantic layout."""
        return self.root / "semantic" / "images" / _SEMANTIC_SPLITS[checked(split)]

    def semantic_masks(self, split: str) -> Path:
        """Folder of the label PNGs."""
        return self.root / "semantic" / "annotations" / _SEMANTIC_SPLITS[checked(split)]

    @property
    def class_list(self) -> Path:
        """Names of the semantic labels."""
        return self.root / "semantic" / "objectInfo.txt"

    def counts(self, split: str) -> dict[str, int]:
        """Instances per category name."""
        annotations = json.loads(self.instances_json(split).read_text())["annotations"]
        found = Counter(annotation["category_id"] for annotation in annotations)
        return {name: found[number] for number, name in enumerate(CATEGORIES, 1)}


def write(root: str | Path, spec: ShapesSpec, *, overwrite: bool = False) -> ShapesDataset:
    """Write the dataset, or find it already there; only `overwrite` replaces another one."""
    root = Path(root).resolve()
    record = {**FORMAT, "spec": asdict(spec)}
    if _exists(root, record, overwrite):
        logger.info("%s already holds this dataset; nothing to do", root)
        return ShapesDataset(root, spec, written=False)

    root.parent.mkdir(parents=True, exist_ok=True)
    # Drawn next to the destination and moved there whole: an interrupted run leaves no dataset.
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as work:
        unfinished = ShapesDataset(Path(work) / root.name, spec, written=True)
        for split, count in zip(SPLITS, (spec.num_train, spec.num_val), strict=True):
            _write_split(unfinished, split, count)
        _write_class_list(unfinished.class_list)
        (unfinished.root / SPEC_FILE).write_text(json.dumps(record, indent=2) + "\n")
        if root.exists():
            shutil.rmtree(root)
        unfinished.root.rename(root)
    return ShapesDataset(root, spec, written=True)


def _exists(root: Path, record: dict[str, object], overwrite: bool) -> bool:
    """Tell whether the root holds this very dataset; raise where writing would do damage."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    found = _read_record(root)
    if found is None:
        raise ValueError(
            f"{root} exists and is not a shapes dataset (no {SPEC_FILE} of this module in it); "
            "it is left alone, choose another folder"
        )
    if overwrite:
        return False
    if found == record:
        return True
    raise ValueError(
        f"{root} holds another shapes dataset ({_differences(found, record)}); "
        "pass overwrite=True (--overwrite) to replace it, or choose another folder"
    )


def _read_record(root: Path) -> dict[str, object] | None:
    """Read spec.json, or return None where there is none of this module."""
    try:
        record = json.loads((root / SPEC_FILE).read_text())
    except (OSError, ValueError):
        return None
    ours = isinstance(record, dict) and record.get("dataset") == FORMAT["dataset"]
    return record if ours and isinstance(record.get("spec"), dict) else None


def _differences(found: dict[str, object], wanted: dict[str, object]) -> str:
    """Say which fields differ, for the error message."""
    old, new = ({"version": r.get("version"), **r["spec"]} for r in (found, wanted))
    return ", ".join(
        f"{key} is {old.get(key)} there and {new.get(key)} here"
        for key in {**new, **old}
        if old.get(key) != new.get(key)
    )


def _write_split(dataset: ShapesDataset, split: str, count: int) -> None:
    """Draw and write all files of one split."""
    for folder in (dataset.images, dataset.panoptic_masks, dataset.semantic_images):
        folder(split).mkdir(parents=True)
    dataset.semantic_masks(split).mkdir(parents=True)
    dataset.instances_json(split).parent.mkdir(exist_ok=True)
    images, instances, panoptic = [], [], []
    for index in range(count):
        sample = draw(dataset.spec, split, index)
        height, width = sample.instances.shape
        name = f"{index:06d}.png"
        _write_images(dataset, split, name, sample)
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        segments = _segments(sample)
        panoptic.append({"image_id": index + 1, "file_name": name, "segments_info": segments})
        for segment, polygons in zip(segments, sample.polygons, strict=False):  # things come first
            flat = [polygon.ravel().tolist() for polygon in polygons]
            ids = {"id": len(instances) + 1, "image_id": index + 1}
            instances.append({**segment, **ids, "segmentation": flat})
    things, everything = _categories(), [*_categories(), _background_category()]
    _write_json(dataset.instances_json(split), dataset.spec, images, instances, things)
    _write_json(dataset.panoptic_json(split), dataset.spec, images, panoptic, everything)


def _write_images(dataset: ShapesDataset, split: str, name: str, sample: Sample) -> None:
    """Write the image and its panoptic and semantic masks."""
    image = dataset.images(split) / name
    Image.fromarray(sample.image).save(image)
    _link(image, dataset.semantic_images(split) / name)
    ids = np.array([_segment_id(k) for k in range(len(sample.categories) + 1)])[sample.instances]
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(dataset.panoptic_masks(split) / name)
    labels = np.array([_BACKGROUND_ID, *sample.categories], np.uint8)[sample.instances]
    Image.fromarray(labels).save(dataset.semantic_masks(split) / name)


def _link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _segment_id(instance: int) -> int:
    return (instance + 1) * _ID_STRIDE % 2**24


def _segments(sample: Sample) -> list[dict[str, object]]:
    """Describe the segments of an image in COCO's terms: its things in order, then background."""
    numbers = [*range(1, len(sample.categories) + 1), 0]
    categories = [*sample.categories, _BACKGROUND_ID]
    segments = []
    for number, category in zip(numbers, categories, strict=True):
        rows, columns = np.nonzero(sample.instances == number)
        if not len(rows):  # only the background can be hidden altogether
            continue
        left, top = int(columns.min()), int(rows.min())
        bbox = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
        segments.append(
            {
                "id": _segment_id(number),
                "category_id": category,
                "area": len(rows),
                "bbox": bbox,
                "iscrowd": 0,
            }
        )
    return segments


def _categories() -> list[dict[str, object]]:
    """List the categories of things in COCO's terms."""
    return [
        {"id": number, "name": name, "supercategory": "shape", "isthing": 1}
        for number, name in enumerate(CATEGORIES, 1)
    ]


def _background_category() -> dict[str, object]:
    return {"id": _BACKGROUND_ID, "name": BACKGROUND, "supercategory": BACKGROUND, "isthing": 0}


def _write_json(
    path: Path,
    spec: ShapesSpec,
    images: list[dict[str, object]],
    annotations: list[dict[str, object]],
    categories: list[dict[str, object]],
) -> None:
    """Write one annotation file."""
    content = {
        # No date: the same spec gives the same bytes.
        "info": {"description": f"Drawn shapes, seed {spec.seed}", "version": "1"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    path.write_text(json.dumps(content, separators=(",", ":")))


def _write_class_list(path: Path) -> None:
    rows = ["Idx\tName", *(f"{i}\t{name}" for i, name in enumerate((*CATEGORIES, BACKGROUND), 1))]
    path.write_text("\n".join(rows) + "\n")
