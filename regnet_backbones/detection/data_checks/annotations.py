"""Check what a COCO json says, of entries that `coco.normalise` has brought to their types."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from regnet_backbones.detection.data_checks import coco_kinds as kinds
from regnet_backbones.detection.data_checks.coco import Content, Entry, image_name
from regnet_backbones.detection.data_checks.comparison import Geometry, compare
from regnet_backbones.detection.data_checks.defects import Defect, Kind, Use
from regnet_backbones.detection.data_checks.segmentations import (
    extent_of,
    is_rle,
    segmentation_problems,
)

Repeatable = TypeVar("Repeatable", bound=Hashable)

# What takes an annotation out of a training.
DROPPING = (kinds.CROWD, kinds.DROPPED_BOX, kinds.DROPPED_ANNOTATION)


def check_coco(content: Content, *, source: str, use: Use) -> list[Defect]:
    """Check a COCO instance json.

    Args:
        content: normalised, with `images`, `categories` and `annotations`.
        source: name of the dataset or the file, for the defects.
        use: what it is for.

    Returns:
        What is wrong or worth knowing, in the order of the file.
    """
    images, categories, annotations = (
        content[key] for key in ("images", "categories", "annotations")
    )
    by_id = {image["id"]: image for image in images}
    defects = [Defect(kinds.SAME_FILE, source, n) for n in _repeated(map(image_name, images))]
    names = _repeated(category["name"] for category in categories)
    defects += [Defect(kinds.SAME_NAME, source, detail=name) for name in names]

    def add(kind: Kind, annotation: Entry, detail: str = "") -> None:
        name = image_name(by_id[annotation["image_id"]])
        defects.append(Defect(kind, source, name, annotation["id"], detail))

    trained = []
    for annotation in annotations:
        problems = list(_annotation_problems(annotation, by_id[annotation["image_id"]], use))
        for kind, detail in problems:
            add(kind, annotation, detail)
        if not any(kind in DROPPING for kind, _ in problems):
            trained.append(annotation)
    for image_id, _, box in _repeated(
        (a["image_id"], a["category_id"], tuple(a["bbox"])) for a in annotations
    ):
        name = image_name(by_id[image_id])
        defects.append(Defect(kinds.REPEATED, source, name, detail=f"bbox {list(box)}"))
    single = [a for a in annotations if not a["iscrowd"]]
    geometry = _geometry(single, by_id)
    for number, kind in compare(geometry):
        extent, (width, height) = geometry.extents[number].tolist(), geometry.sizes[number]
        shape = "" if np.isnan(extent[0]) else f", polygons from {extent[:2]} to {extent[2:]}"
        detail = f"bbox {single[number]['bbox']} in {width:.0f}x{height:.0f}{shape}"
        add(kind, single[number], detail)
    used = {a["category_id"] for a in annotations}
    unused = [c for c in categories if c["id"] not in used] if annotations else []
    defects += [Defect(kinds.UNUSED_CLASS, source, detail=c["name"]) for c in unused]
    if not annotations and use.test:
        defects.append(Defect(kinds.NOTHING_TO_SCORE, source))
    if use.train:
        defects += _training_problems(content, trained, source, use)
    return defects


def _annotation_problems(annotation: Entry, image: Entry, use: Use) -> Iterator[tuple[Kind, str]]:
    """Find what is wrong with an annotation: kinds, and what was found."""
    if annotation.get("ignore"):
        yield kinds.IGNORED, ""
    size = image["height"], image["width"]
    yield from _box_problems(annotation["bbox"], size, use)
    crowd = bool(annotation["iscrowd"])
    if crowd:
        yield kinds.CROWD, ""
    yield from segmentation_problems(annotation.get("segmentation"), size, use, crowd=crowd)
    if use.keypoints is not None and not (crowd and not use.test):
        values = annotation.get("keypoints") or ()
        if len(values) != 3 * use.keypoints:
            yield kinds.KEYPOINTS, f"{len(values)} values, not {3 * use.keypoints}"
        elif use.test and annotation.get("num_keypoints") is None:
            yield kinds.KEYPOINTS, "no num_keypoints"


def _box_problems(box: list[float], size: tuple[int, int], use: Use) -> Iterator[tuple[Kind, str]]:
    """Find what is wrong with a box of an image of (height, width)."""
    x, y, width, height = box
    detail = f"bbox {box} in {size[1]}x{size[0]}"
    if min(x + width, size[1]) <= max(x, 0) or min(y + height, size[0]) <= max(y, 0):
        if use.test:
            yield kinds.UNREACHABLE_BOX, detail
        if use.train:
            yield kinds.DROPPED_BOX, detail
    elif max(-x, -y, x + width - size[1], y + height - size[0]) > kinds.ROUNDING:
        yield kinds.CLIPPED_BOX, detail


def _geometry(annotations: list[Entry], by_id: dict[int | str, Entry]) -> Geometry:
    """Return boxes, extents of polygons, and sizes of images of annotations."""
    nothing = (float("nan"),) * 4
    extents = []
    for annotation in annotations:
        masks = annotation.get("segmentation") or []
        extents.append((None if is_rle(masks) else extent_of(masks)) or nothing)
    images = [by_id[a["image_id"]] for a in annotations]
    return Geometry(
        np.array([a["bbox"] for a in annotations], float).reshape(-1, 4),
        np.array(extents, float).reshape(-1, 4),
        np.array([(i["width"], i["height"]) for i in images], float).reshape(-1, 2),
    )


def _repeated(values: Iterable[Repeatable]) -> Iterator[Repeatable]:
    """Yield the values that came before."""
    seen: set[Repeatable] = set()
    for value in values:
        if value in seen:
            yield value
        seen.add(value)


def _training_problems(
    content: Content, trained: list[Entry], source: str, use: Use
) -> Iterator[Defect]:
    """Find images that have nothing to train on, and whether any has."""
    visible: dict[int | str, int] = defaultdict(int)
    for annotation in content["annotations"] if use.min_keypoints else ():
        flags = (annotation.get("keypoints") or ())[2::3]
        visible[annotation["image_id"]] += sum(flag > 0 for flag in flags)
    images = {a["image_id"] for a in trained}
    if not any(visible[i] >= use.min_keypoints for i in images):
        found = Counter("crowd" if a["iscrowd"] else "object" for a in content["annotations"])
        detail = f"{found['crowd']:,} crowd regions, {found['object']:,} other annotations"
        yield Defect(kinds.NOTHING, source, detail=detail)
    with_objects = {a["image_id"] for a in content["annotations"] if not a["iscrowd"]}
    for image in content["images"]:
        if image["id"] not in with_objects:
            yield Defect(kinds.EMPTY_IMAGE, source, image_name(image))
