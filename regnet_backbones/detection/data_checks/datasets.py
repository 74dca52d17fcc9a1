"""Check the datasets of a config before a model is built: jsons, images, and masks that are images.

Images are decoded to their end, in several threads: Pillow does it without Python's lock.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager
from PIL import Image
from tqdm import tqdm

from regnet_backbones.detection.architectures import architecture_of, number_of_classes
from regnet_backbones.detection.data_checks import kinds
from regnet_backbones.detection.data_checks.annotations import check_coco
from regnet_backbones.detection.data_checks.coco import CocoSplit, image_name, image_path, read_coco
from regnet_backbones.detection.data_checks.kinds import Defect, Kind, Report, Use
from regnet_backbones.runs.image_files import (
    CHECK_THREADS,
    STRETCHED,
    UNREADABLE,
    bit_depth,
    depth_problem,
    is_turned,
    upright_size,
)

# Datasets that are a json of instances and nothing else, by `evaluator_type`.
JSON_TYPES = ("coco", "lvis")


@dataclass(frozen=True)
class ImageFile:
    """An image, and what its dataset says of it."""

    path: str
    size: tuple[int, int] | None = None  # width and height in the annotations
    mask: str | None = None  # the file of its semantic mask
    labels: tuple[int, int] | None = None  # number of classes and ignored label, if they are used
    as_grey: bool = True  # the mask is read as training does; else as it is in the file


def check_datasets(
    cfg: CfgNode,
    *,
    images: int | None,
    train: bool = True,
    read: Mapping[str, CocoSplit] | None = None,
) -> Report:
    """Check the datasets of `DATASETS.TRAIN` (if `train`) and `DATASETS.TEST`.

    A dataset with `json_file` and `image_root` in its metadata has its whole json checked, and
    whether its images are there; of every dataset the first `images` are opened, None for all.
    `read` has jsons by the names of datasets, as `use_own_data` has read and corrected them.
    """
    names = dict.fromkeys((*(cfg.DATASETS.TRAIN if train else ()), *cfg.DATASETS.TEST))
    defects: list[Defect] = []
    trained: set[str] = set()
    for name in names:
        use = _use(cfg, name, train)
        # A json of the user is named as such, not by the name that it is registered under.
        source = MetadataCatalog.get(name).get("data_source", name)
        try:
            files = _files_of(cfg, name, source, use, (read or {}).get(name), defects)
        except Exception as error:  # whatever the code of a dataset raises
            files, detail = [], f"{type(error).__name__}: {error}"
            defects.append(Defect(kinds.UNLOADABLE, source, detail=detail))
        with ThreadPoolExecutor(CHECK_THREADS) as pool:
            checked = files[:images]
            found = pool.map(partial(_check_image, source=source), checked)
            quiet = images is not None
            bar = tqdm(found, total=len(checked), desc=source, unit="image", disable=quiet)
            defects += [defect for of_image in bar for defect in of_image]
        paths = {os.path.abspath(file.path) for file in files} if train else set()
        in_both = trained & paths if use.test and not use.train else ()
        defects += [Defect(kinds.IN_BOTH, source, path) for path in sorted(in_both)]
        trained |= paths if use.train else set()
    return Report(tuple(defects))


def _use(cfg: CfgNode, name: str, train: bool) -> Use:
    """Return what a config does with a dataset."""
    metadata, head = MetadataCatalog.get(name), cfg.MODEL.ROI_KEYPOINT_HEAD
    return Use(
        train=train and name in cfg.DATASETS.TRAIN,
        test=name in cfg.DATASETS.TEST,
        masks=cfg.MODEL.MASK_ON,
        polygons=cfg.INPUT.MASK_FORMAT == "polygon",
        keypoints=head.NUM_KEYPOINTS if cfg.MODEL.KEYPOINT_ON else None,
        min_keypoints=head.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        crowds=metadata.get("evaluator_type") != "lvis",
        # Detectron2 knows that COCO's minival files of 2014 have some twice.
        unique_ids="minival" not in str(metadata.get("json_file", "")),
    )


def _files_of(
    cfg: CfgNode, name: str, source: str, use: Use, read: CocoSplit | None, defects: list[Defect]
) -> Sequence[ImageFile]:
    """Return the images of a dataset, and add what is wrong with its json, if it is one."""
    metadata, architecture = MetadataCatalog.get(name), architecture_of(cfg)
    json_file = PathManager.get_local_path(metadata.get("json_file") or "")
    root, kind = metadata.get("image_root"), metadata.get("evaluator_type")
    if Path(json_file).is_file() and root is not None:
        by_url = kind == "lvis"
        if read is None:
            read = read_coco(
                json_file,
                ("images", "categories", *(("annotations",) if use.train else ())),
                optional=() if use.train else ("annotations",),  # test splits have none
                source=source,
                image_root=root if kind in JSON_TYPES else None,
                by_url=by_url,
                keep_root=True,
            )
            defects += filter(None, (defect.in_file(use) for defect in read.defects))
        else:
            defects += read.defects
        errors = [defect for defect in read.defects if defect.kind.severity == "error"]
        if any(error.kind != kinds.IMAGE_MISSING for error in errors):
            return ()
        missing = {error.image for error in errors}
        defects += check_coco(read.content, source=source, use=use)
        categories, classes = len(read.content["categories"]), number_of_classes(cfg)
        counted = architecture.classes and not architecture.one_numbering
        if use.train and counted and categories > classes:
            detail = f"{categories} classes, {architecture.classes} is {classes}"
            defects.append(Defect(kinds.TOO_MANY_CLASSES, source, detail=detail))
        if kind in JSON_TYPES:
            return [
                ImageFile(image_path(root, by_url, image), (image["width"], image["height"]))
                for image in read.content["images"]
                if image_name(image) not in missing
            ]
    records, head = DatasetCatalog.get(name), cfg.MODEL.SEM_SEG_HEAD
    labels = (head.NUM_CLASSES, head.IGNORE_VALUE) if architecture.learns_semantics else None
    return [
        ImageFile(
            record["file_name"],
            (record["width"], record["height"]) if "width" in record else None,
            mask=record.get("sem_seg_file_name"),
            labels=labels,
            as_grey=use.train,
        )
        # Datasets of other forms, or without files, have a mapper of their own.
        for record in (records if isinstance(records, list) else ())
        if "file_name" in record
    ]


def _check_image(file: ImageFile, *, source: str) -> list[Defect]:
    """Check an image, then its mask."""
    defects, size = [], None
    for path in (file.path, file.mask) if file.mask else (file.path,):
        try:
            with Image.open(path) as image:
                if size is None:
                    problems = list(_image_problems(image, file.size))
                    size = upright_size(image)
                else:
                    problems = list(_mask_problems(image, size, file))
        except UNREADABLE as error:
            problems = [(kinds.UNREADABLE_FILE, str(error))]
        defects += [Defect(kind, source, path, detail=detail) for kind, detail in problems]
        if size is None:
            break
    return defects


def _image_problems(
    image: Image.Image, expected: tuple[int, int] | None
) -> Iterator[tuple[Kind, str]]:
    """Find what is wrong with an open image: kinds, and what was found."""
    turned = is_turned(image)  # not known any more of an image that is decoded
    image.load()
    size = upright_size(image)
    if expected is not None and size != expected:
        yield kinds.WRONG_SIZE, "{}x{}, the annotations say {}x{}".format(*size, *expected)
    elif expected is not None and turned:
        yield kinds.TURNED, ""
    if problem := depth_problem(image):
        yield kinds.DEEP_IMAGE, problem
    elif image.mode != "RGB":
        yield kinds.CONVERTED, f"mode {image.mode}"


def _mask_problems(
    mask: Image.Image, size: tuple[int, int], file: ImageFile
) -> Iterator[tuple[Kind, str]]:
    """Find what is wrong with an open mask of an image of (width, height)."""
    mask.load()
    mask_size = upright_size(mask)
    if mask_size != size:
        yield kinds.MASK_SIZE, "{}x{}, the image {}x{}".format(*mask_size, *size)
    if file.labels is None:
        return
    values, grey = np.asarray(mask).astype(np.int64), np.asarray(mask.convert("L"))
    colours = values.reshape(*grey.shape, -1)
    if values.ndim == 3:  # without transparency
        colours = colours[..., : 1 if mask.mode == "LA" else 3]
    is_stretched = mask.format == "PNG" and mask.mode == "L" and bit_depth(file.mask) in STRETCHED
    # Grey that was saved as colours is read as it was, by a training.
    as_saved = (colours == grey[..., None]).all() if file.as_grey else values.ndim == 2
    if is_stretched or not as_saved:
        yield kinds.MASK_COLOURS, f"mode {mask.mode}"
        return
    count, ignored = file.labels
    found = np.unique(grey if file.as_grey else values)
    strays = found[(found >= count) & (found != ignored)]
    if len(strays):
        first = ", ".join(map(str, strays[:3]))
        yield kinds.MASK_LABELS, f"{first}; allowed are 0 to {count - 1} and {ignored}"
