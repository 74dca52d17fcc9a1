"""The demo dataset on disk.

Written under one root folder:

    spec.json                                       what was drawn; only a whole dataset has it
    images/{train,val}/000000.png                   RGB
    annotations/instances_{train,val}.json          COCO instances: boxes and polygons
    annotations/keypoints_{train,val}.json          the same with keypoints
    annotations/panoptic_{train,val}.json           COCO panoptic: segments ...
    panoptic/{train,val}/000000.png                 ... and their ids, R + 256 G + 65536 B
    panoptic_stuff/{train,val}/000000.png           0 for things, 1 for background
    semantic/images/{training,validation}/          the same images, hard-linked where possible
    semantic/annotations/{training,validation}/     labels as uint8, 0 is unlabelled
    semantic/annotations_detectron2/{training,validation}/   the same less 1, from 0
    semantic/objectInfo.txt                         label and name, tab-separated

Categories 1..5 are things, category 6 ("background") is stuff; the semantic labels are the same
numbers. Formats: COCO's (https://cocodataset.org/#format-data), ADE20K's
(http://sceneparsing.csail.mit.edu) for the semantic layout, and detectron2's `datasets/README.md`
for the masks of stuff and those from 0.
"""

import json
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.shapes.drawing import (
    BACKGROUND,
    SPLITS,
    Sample,
    ShapesSpec,
    checked,
    draw,
)
from regnet_backbones.shapes.geometry import CATEGORIES, KEYPOINTS, NOT_LABELLED, SKELETON

# Raise it when the same spec draws or writes something else, so that old folders are not reused.
FORMAT = {"dataset": "regnet_backbones.shapes", "version": 2}
SPEC_FILE = "spec.json"

_SEMANTIC_SPLITS = {"train": "training", "val": "validation"}

BACKGROUND_ID = len(CATEGORIES) + 1

# Odd, hence one-to-one modulo 2 ** 24: panoptic ids become colours the eye can distinguish.
_ID_STRIDE = 0x5B8F27

Entry = dict[str, object]


@dataclass(frozen=True)
class ShapesDataset:
    """A dataset on disk: where everything is.

    Methods take a `split`, "train" or "val"; another one is a ValueError.

    Attributes:
        root: its folder.
        spec: what was drawn.
        written: False when the folder already held this dataset.
    """

    root: Path
    spec: ShapesSpec
    written: bool

    def images(self, split: str) -> Path:
        """Return the folder of the images."""
        return self.root / "images" / checked(split)

    def instances_json(self, split: str) -> Path:
        """Return the COCO instances file."""
        return self.root / "annotations" / f"instances_{checked(split)}.json"

    def keypoints_json(self, split: str) -> Path:
        """Return the COCO keypoints file."""
        return self.root / "annotations" / f"keypoints_{checked(split)}.json"

    def panoptic_json(self, split: str) -> Path:
        """Return the COCO panoptic file."""
        return self.root / "annotations" / f"panoptic_{checked(split)}.json"

    def panoptic_masks(self, split: str) -> Path:
        """Return the folder of the panoptic PNGs."""
        return self.root / "panoptic" / checked(split)

    def stuff_masks(self, split: str) -> Path:
        """Return the folder of the PNGs that are 1 for background and 0 for things."""
        return self.root / "panoptic_stuff" / checked(split)

    def semantic_images(self, split: str) -> Path:
        """Return the folder of the images in the semantic layout."""
        return self.root / "semantic" / "images" / _SEMANTIC_SPLITS[checked(split)]

    def semantic_masks(self, split: str) -> Path:
        """Return the folder of the label PNGs."""
        return self.root / "semantic" / "annotations" / _SEMANTIC_SPLITS[checked(split)]

    def semantic_masks_from_zero(self, split: str) -> Path:
        """Return the folder of the label PNGs in detectron2's form, where the first class is 0."""
        return self.root / "semantic" / "annotations_detectron2" / _SEMANTIC_SPLITS[checked(split)]

    @property
    def class_list(self) -> Path:
        """Names of the semantic labels."""
        return self.root / "semantic" / "objectInfo.txt"

    def counts(self, split: str) -> dict[str, int]:
        """Return the instances per category name."""
        annotations = json.loads(self.instances_json(split).read_text())["annotations"]
        found = Counter(annotation["category_id"] for annotation in annotations)
        return {name: found[number] for number, name in enumerate(CATEGORIES, 1)}


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
        raise MissingFileError(f"the demo dataset is not at '{root}'; draw it with: {command}")
    if record.get("version") != FORMAT["version"]:
        raise UserError(
            f"the demo dataset at '{root}' was drawn in version {record.get('version')} of its "
            f"format, this is version {FORMAT['version']}; draw it again with: {command} "
            "--overwrite"
        )


def write(root: str | Path, spec: ShapesSpec, *, overwrite: bool = False) -> ShapesDataset:
    """Write the dataset, or find it already there.

    Args:
        root: its folder, which appears when it is whole.
        spec: what to draw.
        overwrite: replace another shapes dataset that is there.

    Returns:
        Where everything is.

    Raises:
        ValueError: the folder holds something else, or another dataset without `overwrite`.
    """
    root = Path(root).resolve()
    record = {**FORMAT, "spec": asdict(spec)}
    if _exists(root, record, overwrite):
        return ShapesDataset(root, spec, written=False)
    root.parent.mkdir(parents=True, exist_ok=True)
    # Drawn next to the destination and moved there whole: an interrupted run leaves no dataset.
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as work:
        unfinished = ShapesDataset(Path(work) / root.name, spec, written=True)
        for split, count in zip(SPLITS, (spec.num_train, spec.num_val), strict=True):
            _write_split(unfinished, split, count)
        rows = [f"{i}\t{name}" for i, name in enumerate((*CATEGORIES, BACKGROUND), 1)]
        unfinished.class_list.write_text("\n".join(["Idx\tName", *rows]) + "\n")
        (unfinished.root / SPEC_FILE).write_text(json.dumps(record, indent=2) + "\n")
        if root.exists():
            shutil.rmtree(root)
        unfinished.root.rename(root)
    return ShapesDataset(root, spec, written=True)


def _exists(root: Path, record: dict[str, object], overwrite: bool) -> bool:
    """Whether the root holds this very dataset; raise where writing would do damage."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    found = _read_record(root)
    if found is None:
        raise UserError(f"{root} exists and is not a shapes dataset; choose another folder")
    if overwrite or found == record:
        return not overwrite
    raise UserError(
        f"{root} holds another shapes dataset ({json.dumps(found)}, this is {json.dumps(record)}); "
        "pass overwrite=True (--overwrite) to replace it, or choose another folder"
    )


def _read_record(root: Path) -> dict[str, object] | None:
    """Read spec.json, or return None where there is none of this module."""
    try:
        record = json.loads((root / SPEC_FILE).read_text())
    except (OSError, ValueError):
        return None
    ours = isinstance(record, dict) and record.get("dataset") == FORMAT["dataset"]
    return record if ours else None


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
        described = segments(sample)
        panoptic.append({"image_id": number, "file_name": name, "segments_info": described})
        things = zip(described, sample.polygons, sample.keypoints, strict=False)  # they come first
        for segment, polygons, points in things:
            ids = {"id": len(instances) + 1, "image_id": number}
            flat = [polygon.ravel().tolist() for polygon in polygons]
            instances.append({**segment, **ids, "segmentation": flat})
            keypoints.append({**instances[-1], **keypoint_fields(points)})
    things_only = categories()
    skeleton = [[KEYPOINTS.index(end) + 1 for end in line] for line in SKELETON]
    named = {"keypoints": list(KEYPOINTS), "skeleton": skeleton}
    background = {"id": BACKGROUND_ID, "name": BACKGROUND, "supercategory": BACKGROUND}
    for path, annotations, known in (
        (dataset.instances_json, instances, things_only),
        (dataset.keypoints_json, keypoints, [{**thing, **named} for thing in things_only]),
        (dataset.panoptic_json, panoptic, [*things_only, {**background, "isthing": 0}]),
    ):
        content = {
            # No date: the same spec gives the same bytes.
            "info": {"description": f"Drawn shapes, seed {dataset.spec.seed}", "version": "1"},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": known,
        }
        path(split).parent.mkdir(exist_ok=True)
        path(split).write_text(json.dumps(content, separators=(",", ":")))


def _write_images(dataset: ShapesDataset, split: str, name: str, sample: Sample) -> None:
    """Write the image and its masks."""
    labels = np.array([BACKGROUND_ID, *sample.categories], np.uint8)[sample.instances]
    for folder, pixels in (
        (dataset.images, sample.image),
        (dataset.panoptic_masks, segment_colours(sample)),
        (dataset.stuff_masks, (labels == BACKGROUND_ID).astype(np.uint8)),
        (dataset.semantic_masks, labels),
        (dataset.semantic_masks_from_zero, labels - 1),
    ):
        folder(split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder(split) / name)
    image, same = dataset.images(split) / name, dataset.semantic_images(split) / name
    same.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(image, same)
    except OSError:  # the file system cannot
        shutil.copyfile(image, same)


def segments(sample: Sample) -> list[Entry]:
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


def categories() -> list[Entry]:
    """List the categories of things in COCO's terms."""
    return [
        {"id": number, "name": name, "supercategory": "shape", "isthing": 1}
        for number, name in enumerate(CATEGORIES, 1)
    ]
