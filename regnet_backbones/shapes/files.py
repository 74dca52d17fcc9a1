"""The demo dataset on disk.

Written under one root folder, whole or not at all:

    spec.json                                       what was drawn
    images/{train,val}/000000.png                   RGB
    annotations/instances_{train,val}.json          COCO instances: boxes and polygons
    annotations/keypoints_{train,val}.json          the same with keypoints
    annotations/panoptic_{train,val}.json           COCO panoptic: segments ...
    panoptic/{train,val}/000000.png                 ... and their ids, R + 256 G + 65536 B
    panoptic_stuff/{train,val}/000000.png           0 for things, 1 for background
    semantic/images/{training,validation}/          the same images in ADE20K's layout
    semantic/annotations/{training,validation}/     labels as uint8, 0 is unlabelled
    semantic/annotations_detectron2/{training,validation}/   the same less 1, from 0
    semantic/objectInfo.txt                         label and name, tab-separated

Categories 1..5 are things, category 6 ("background") is stuff; the semantic labels are the same
numbers.
"""

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from functools import partialmethod
from pathlib import Path

import numpy as np
from PIL import Image

from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.shapes.drawing import BACKGROUND, Sample, ShapesSpec, draw
from regnet_backbones.shapes.geometry import CATEGORIES, KEYPOINTS, NOT_LABELLED, SKELETON

# The version is raised when the same spec draws or writes something else.
FORMAT = {"dataset": "regnet_backbones.shapes", "version": 2}
SPEC_FILE = "spec.json"

BACKGROUND_ID = len(CATEGORIES) + 1
_ID_STRIDE = 0x5B8F27  # odd, hence one-to-one modulo 2 ** 24: ids become distinct colours

Entry = dict[str, object]


@dataclass(frozen=True)
class ShapesDataset:
    """A dataset on disk: where everything is.

    Methods take a `split`, "train" or "val", and return a path: of a COCO file (`instances_json`,
    `keypoints_json`, `panoptic_json`), or of a folder: `images`; `semantic_images`, the same in the
    semantic layout; and PNGs: `panoptic_masks`; `stuff_masks`, 1 for background and 0 for things;
    `semantic_masks`, labels; `semantic_masks_from_zero`, labels in detectron2's form, where the
    first class is 0.

    Attributes:
        root: its folder.
        spec: what was drawn.
        written: False when the folder already held this dataset.
    """

    root: Path
    spec: ShapesSpec
    written: bool

    def _at(self, place: str, split: str) -> Path:
        name = {"train": "training", "val": "validation"}[split]
        return self.root / place.format(split=split, training=name)

    images = partialmethod(_at, "images/{split}")
    instances_json = partialmethod(_at, "annotations/instances_{split}.json")
    keypoints_json = partialmethod(_at, "annotations/keypoints_{split}.json")
    panoptic_json = partialmethod(_at, "annotations/panoptic_{split}.json")
    panoptic_masks = partialmethod(_at, "panoptic/{split}")
    stuff_masks = partialmethod(_at, "panoptic_stuff/{split}")
    semantic_images = partialmethod(_at, "semantic/images/{training}")
    semantic_masks = partialmethod(_at, "semantic/annotations/{training}")
    semantic_masks_from_zero = partialmethod(_at, "semantic/annotations_detectron2/{training}")


def check_drawn(root: str | Path) -> None:
    """Check that a folder holds a dataset as this version of the package draws it.

    Args:
        root: the folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it was drawn by another version.
    """
    command = f"regnet-backbones shapes --output {root}"
    record = _read_record(Path(root))
    if record is None:
        raise MissingFileError(f"no demo dataset at '{root}'; draw it with: {command}")
    if record["version"] != FORMAT["version"]:
        text = f"the demo dataset at '{root}' is of another version"
        raise UserError(f"{text}; draw it again with: {command} --overwrite")


def write(root: str | Path, spec: ShapesSpec, *, overwrite: bool = False) -> ShapesDataset:
    """Write the dataset unless it exists, and return it.

    Args:
        root: its folder, which appears when it is complete.
        spec: what to draw.
        overwrite: replace another shapes dataset.

    Returns:
        Where everything is.

    Raises:
        ValueError: the folder has something else, or another dataset without `overwrite`.
    """
    root = Path(root).resolve()
    record, found = {**FORMAT, "spec": asdict(spec)}, _read_record(root)
    if found == record and not overwrite:
        return ShapesDataset(root, spec, written=False)
    if found is None and root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise UserError(f"{root} exists and is not a shapes dataset; choose another folder")
    if found and not overwrite:
        text = f"{root} has another shapes dataset ({found})"
        raise UserError(f"{text}; pass --overwrite to replace it, or choose another folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    # Drawn next to the destination and moved there whole: an interrupted run leaves no dataset.
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as work:
        unfinished = ShapesDataset(Path(work) / root.name, spec, written=True)
        _write_split(unfinished, "train", spec.num_train)
        _write_split(unfinished, "val", spec.num_val)
        rows = [f"{i}\t{name}" for i, name in enumerate((*CATEGORIES, BACKGROUND), 1)]
        class_list = "\n".join(["Idx\tName", *rows]) + "\n"
        (unfinished.root / "semantic" / "objectInfo.txt").write_text(class_list)
        (unfinished.root / SPEC_FILE).write_text(json.dumps(record, indent=2) + "\n")
        if root.exists():
            shutil.rmtree(root)
        unfinished.root.rename(root)
    return ShapesDataset(root, spec, written=True)


def _read_record(root: Path) -> dict[str, object] | None:
    """Read spec.json, or return None if it is missing or not from this module."""
    try:
        record = json.loads((root / SPEC_FILE).read_text())
    except (OSError, ValueError):
        return None
    return record if record.get("dataset") == FORMAT["dataset"] else None


def _write_split(dataset: ShapesDataset, split: str, count: int) -> None:
    """Draw and write all files of one split."""
    images: list[Entry] = []
    panoptic: list[Entry] = []
    instances: list[Entry] = []
    keypoints: list[Entry] = []
    for index in range(count):
        sample, name, number = draw(dataset.spec, split, index), f"{index:06d}.png", index + 1
        _write_images(dataset, split, name, sample)
        height, width = sample.instances.shape
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        segments = _segments(sample)
        panoptic.append({"image_id": number, "file_name": name, "segments_info": segments})
        things = zip(segments, sample.polygons, sample.keypoints, strict=False)  # they come first
        for segment, polygons, points in things:
            ids = {"id": len(instances) + 1, "image_id": number}
            flat = [polygon.ravel().tolist() for polygon in polygons]
            instances.append({**segment, **ids, "segmentation": flat})
            keypoints.append({**instances[-1], **_keypoint_fields(points)})
    things_only: list[Entry] = [
        {"id": number, "name": name, "supercategory": "shape", "isthing": 1}
        for number, name in enumerate(CATEGORIES, 1)
    ]
    skeleton = [[KEYPOINTS.index(end) + 1 for end in line] for line in SKELETON]
    named = {"keypoints": list(KEYPOINTS), "skeleton": skeleton}
    background = {"id": BACKGROUND_ID, "name": BACKGROUND, "supercategory": BACKGROUND}
    for path, annotations, known in (
        (dataset.instances_json(split), instances, things_only),
        (dataset.keypoints_json(split), keypoints, [{**thing, **named} for thing in things_only]),
        (dataset.panoptic_json(split), panoptic, [*things_only, {**background, "isthing": 0}]),
    ):
        content = {
            # No date: the same spec gives the same bytes.
            "info": {"description": f"Drawn shapes, seed {dataset.spec.seed}", "version": "1"},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": known,
        }
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, separators=(",", ":")))


def _write_images(dataset: ShapesDataset, split: str, name: str, sample: Sample) -> None:
    labels = np.array([BACKGROUND_ID, *sample.categories], np.uint8)[sample.instances]
    ids = np.array([_segment_id(k) for k in range(len(sample.categories) + 1)])[sample.instances]
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
    for folder, pixels in (
        (dataset.images(split), sample.image),
        (dataset.panoptic_masks(split), colours.astype(np.uint8)),
        (dataset.stuff_masks(split), (labels == BACKGROUND_ID).astype(np.uint8)),
        (dataset.semantic_images(split), sample.image),
        (dataset.semantic_masks(split), labels),
        (dataset.semantic_masks_from_zero(split), labels - 1),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name, compress_level=1)  # twice as fast


def _segments(sample: Sample) -> list[Entry]:
    """Describe the segments of an image in COCO's terms: its things in order, then background."""
    found: list[Entry] = []
    for number, category in [*enumerate(sample.categories, 1), (0, BACKGROUND_ID)]:
        rows, columns = np.nonzero(sample.instances == number)
        if not len(rows):  # only the background can be hidden altogether
            continue
        left, top = int(columns.min()), int(rows.min())
        bbox = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
        segment = {"id": _segment_id(number), "category_id": category, "area": len(rows)}
        found.append({**segment, "bbox": bbox, "iscrowd": 0})
    return found


def _segment_id(instance: int) -> int:
    return (instance + 1) * _ID_STRIDE % 2**24


def _keypoint_fields(points: np.ndarray) -> Entry:
    """Describe keypoints (5, 3) in COCO's terms, where the middle of the first pixel is (0, 0)."""
    labelled = points[:, 2:] != NOT_LABELLED
    places = np.where(labelled, (points[:, :2] - 0.5).round(2), 0).tolist()
    flags = points[:, 2].astype(int).tolist()
    flat = [value for (x, y), flag in zip(places, flags, strict=True) for value in (x, y, flag)]
    return {"keypoints": flat, "num_keypoints": int(labelled.sum())}
