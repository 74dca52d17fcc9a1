"""Check the content of a COCO instance json against itself; no image is opened."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from regnet_backbones.detection.data_checks import coco_kinds as kinds
from regnet_backbones.detection.data_checks.defects import Defect, Kind, Use
from regnet_backbones.detection.data_checks.segmentations import is_rle, segmentation_problems

IMAGE_KEYS = {"id", "width", "height"}
# Where the file is: LVIS has URLs.
FILE_KEYS = {"file_name", "coco_url"}
CATEGORY_KEYS = {"id", "name"}


def check_coco(content: Mapping[str, Sequence[Mapping]], *, source: str, use: Use) -> list[Defect]:
    """Check a COCO instance json.

    Args:
        content: the json, with `images`, `categories` and, to train on, `annotations`.
        source: name of the dataset or the file, for the defects.
        use: what it is for.

    Returns:
        What is wrong or worth knowing, in the order of the file.
    """
    images, categories = content["images"], content["categories"]
    annotations = content.get("annotations") or []
    defects = [
        *_images_lacking_keys(images, source),
        *_bad_categories(categories, source),
        *_twice(images, kinds.IMAGE_TWICE, source),
        *_twice(categories, kinds.CATEGORY_TWICE, source),
    ]
    if use.unique_ids:
        defects += _twice(annotations, kinds.ANNOTATION_TWICE, source)
    if use.train and not annotations:
        defects.append(Defect(kinds.NOTHING, source))
    by_id = {image["id"]: image for image in images if _is_complete(image)}
    known = {category.get("id") for category in categories}
    for annotation in annotations:
        image = by_id.get(annotation.get("image_id"))
        name = image_name(image) if image else ""
        for kind, detail in _annotation_problems(annotation, image, known, use):
            defects.append(Defect(kind, source, name, annotation.get("id"), detail))
    if use.train:
        defects += _empty_images(by_id, annotations, source)
        if use.masks and not use.polygons and _is_mixed(annotations):
            defects.append(Defect(kinds.MIXED, source))
    return defects


def check_files_exist(
    images: Iterable[Mapping], image_root: str | Path, *, source: str, by_url: bool = False
) -> list[Defect]:
    """Check that the images of a json are on the disk; each folder is listed once.

    Args:
        images: the entries of the json.
        image_root: the folder that their `file_name`s are relative to.
        source: name of the dataset or the file, for the defects.
        by_url: see `image_path`.
    """
    listed: dict[str, set[str]] = {}
    defects = []
    for image in filter(_is_complete, images):
        folder, name = os.path.split(image_path(image, image_root, by_url=by_url))
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listed[folder]:
            detail = f"not in '{folder}'"
            defects.append(Defect(kinds.IMAGE_MISSING, source, image_name(image), detail=detail))
    return defects


def image_path(image: Mapping, image_root: str | Path, *, by_url: bool = False) -> str:
    """Return where an image is: `by_url`, as LVIS has it, where the end of its URL says."""
    if by_url:
        return str(image_root) + "/".join(image["coco_url"].split("/")[-2:])
    return os.path.join(image_root, image["file_name"])


def _is_complete(image: Mapping) -> bool:
    """Tell whether an image has what detectron2 reads."""
    return image.keys() >= IMAGE_KEYS and not image.keys().isdisjoint(FILE_KEYS)


def _images_lacking_keys(images: Sequence[Mapping], source: str) -> Iterator[Defect]:
    for image in images:
        if not _is_complete(image):
            yield Defect(
                kinds.INCOMPLETE_IMAGE, source, image_name(image), detail=f"has {sorted(image)}"
            )


def _bad_categories(categories: Sequence[Mapping], source: str) -> Iterator[Defect]:
    for category in categories:
        if not category.keys() >= CATEGORY_KEYS:
            yield Defect(kinds.INCOMPLETE_CATEGORY, source, detail=str(dict(category)))
        elif not isinstance(category["name"], str):
            yield Defect(kinds.NAME_NO_TEXT, source, detail=str(category["name"]))


def image_name(image: Mapping) -> str:
    """Name an image."""
    return str(image.get("file_name", image.get("coco_url", "")))


def _twice(entries: Sequence[Mapping], kind: Kind, source: str) -> Iterator[Defect]:
    """Find ids that are given twice."""
    counts = Counter(entry["id"] for entry in entries if "id" in entry)
    return (Defect(kind, source, detail=f"id {i}") for i, count in counts.items() if count > 1)


def _annotation_problems(
    annotation: Mapping, image: Mapping | None, categories: set, use: Use
) -> Iterator[tuple[Kind, str]]:
    """Find what is wrong with an annotation: kinds, and what was found."""
    if image is None:
        yield kinds.NO_IMAGE, f"image_id {annotation.get('image_id')}"
        return
    if "id" not in annotation:
        yield kinds.NO_ID, ""
    elif use.test and not _counts_as_found(annotation["id"]):
        yield kinds.ZERO_ID, ""
    if annotation.get("category_id") not in categories:
        yield kinds.NO_CATEGORY, f"category_id {annotation.get('category_id')}"
    if annotation.get("ignore"):
        yield kinds.IGNORED, ""
    size = image["height"], image["width"]
    yield from _box_problems(annotation.get("bbox"), size, use)
    crowd = bool(annotation.get("iscrowd"))
    if crowd:
        yield kinds.CROWD, ""
    yield from segmentation_problems(annotation.get("segmentation"), size, use, crowd=crowd)
    if use.keypoints is not None and not (crowd and not use.test):
        values = annotation.get("keypoints") or ()
        if len(values) != 3 * use.keypoints:
            yield kinds.KEYPOINTS, f"{len(values)} values, not {3 * use.keypoints}"
    lacking = [key for key in use.evaluated_keys if key not in annotation]
    if lacking:
        yield kinds.NOT_EVALUABLE, f"no {', '.join(lacking)}"


def _box_problems(
    box: Sequence[float] | None, size: tuple[int, int], use: Use
) -> Iterator[tuple[Kind, str]]:
    """Find what is wrong with a box of an image of (height, width)."""
    if not _is_box(box):
        yield kinds.BAD_BOX, f"bbox {box}"
        return
    x, y, width, height = box
    detail = f"bbox {box} in {size[1]}x{size[0]}"
    if not math.isfinite(x + y + width + height):
        yield kinds.INFINITE_BOX, detail
    elif width < 0 or height < 0:
        yield kinds.NEGATIVE_BOX, detail
    elif min(x + width, size[1]) <= max(x, 0) or min(y + height, size[0]) <= max(y, 0):
        if use.test:
            yield kinds.UNREACHABLE_BOX, detail
        if use.train:
            yield kinds.DROPPED_BOX, detail
    else:
        beyond = max(-x, -y, x + width - size[1], y + height - size[0])
        if beyond > kinds.ROUNDING:
            yield kinds.CLIPPED_BOX, detail


def _is_box(box: Sequence[float] | None) -> bool:
    """Tell whether a box is four numbers."""
    return isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box)


def _counts_as_found(identity: int | str) -> bool:
    """Tell whether COCO's evaluation, which notes down ids of objects as numbers, can use one."""
    try:
        return int(identity) != 0
    except (TypeError, ValueError):
        return False


def _empty_images(
    by_id: Mapping[int, Mapping], annotations: Sequence[Mapping], source: str
) -> Iterator[Defect]:
    """Find images that have nothing to train on."""
    used = {a.get("image_id") for a in annotations if not a.get("iscrowd")}
    for identity, image in by_id.items():
        if identity not in used:
            yield Defect(kinds.EMPTY_IMAGE, source, image_name(image))


def _is_mixed(annotations: Sequence[Mapping]) -> bool:
    """Tell whether there are both polygons and RLE of single objects."""
    segmentations = (a.get("segmentation") for a in annotations if not a.get("iscrowd"))
    return len({is_rle(segmentation) for segmentation in segmentations if segmentation}) == 2
