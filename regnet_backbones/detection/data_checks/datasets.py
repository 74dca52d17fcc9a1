"""Check the datasets of a config before a model is built: your jsons, images, and semantic masks.

Images are decoded to their end, in several threads: Pillow does it without Python's lock.
"""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from regnet_backbones.detection.architectures import architecture_of, number_of_classes
from regnet_backbones.detection.data_checks import kinds
from regnet_backbones.detection.data_checks.annotations import check_coco
from regnet_backbones.detection.data_checks.coco import CocoSplit
from regnet_backbones.detection.data_checks.kinds import Defect, Kind, Report
from regnet_backbones.runs import image_files
from regnet_backbones.runs.progress import progress


def check_datasets(
    cfg: CfgNode,
    *,
    images: int | None,
    train: bool = True,
    read: Mapping[str, CocoSplit] | None = None,
) -> Report:
    """Check the datasets of `DATASETS.TRAIN` (if `train`) and `DATASETS.TEST`.

    Of each the first `images` are opened, None for all. `read` are your own jsons, of
    `use_own_data`; their annotations are checked, too.
    """
    trained_on = cfg.DATASETS.TRAIN if train else ()
    masks = cfg.INPUT.MASK_FORMAT if cfg.MODEL.MASK_ON else ""
    head, semantics = cfg.MODEL.SEM_SEG_HEAD, architecture_of(cfg).learns_semantics
    labels = (head.NUM_CLASSES, head.IGNORE_VALUE) if semantics else None
    defects: list[Defect] = []
    trained: set[str] = set()
    for name in dict.fromkeys((*trained_on, *cfg.DATASETS.TEST)):
        split = (read or {}).get(name)
        if split is None:
            source, (records, found) = name, _registered(cfg, name)
        else:
            source, in_json = str(split.json_file), split.content["images"]
            records = [{**i, "file_name": str(split.image_root / i["file_name"])} for i in in_json]
            found = [*split.defects, *check_coco(split, train=name in trained_on, masks=masks)]
        check, checked = partial(_check_image, source=source, labels=labels), records[:images]
        with ThreadPoolExecutor(image_files.CHECK_THREADS) as pool:
            of_images, quiet = pool.map(check, checked), images is not None
            options = {"total": len(checked), "disable": quiet}
            bar = progress(of_images, desc=source, unit=" images", **options)
            defects += [*found, *(defect for of_image in bar for defect in of_image)]
        paths = {os.path.abspath(record["file_name"]) for record in records}
        if name in trained_on:
            trained |= paths
        else:
            defects += [Defect(kinds.IN_BOTH, source, path) for path in sorted(trained & paths)]
    return Report(tuple(defects))


def _registered(cfg: CfgNode, name: str) -> tuple[list[dict], list[Defect]]:
    """Return the records with files of a registered dataset, and what is wrong with it."""
    try:
        records = DatasetCatalog.get(name)
    except Exception as error:  # whatever the code of a dataset raises
        return [], [Defect(kinds.UNLOADABLE, name, f"{type(error).__name__}: {error}")]
    architecture, classes = architecture_of(cfg), number_of_classes(cfg)
    given, found = len(MetadataCatalog.get(name).get("thing_classes", ())), []
    if architecture.classes and not architecture.one_numbering and given > classes:
        detail = f"{given} classes, {architecture.classes} is {classes}"
        found.append(Defect(kinds.TOO_MANY_CLASSES, name, detail))
    # Datasets of other forms, or without files, have a mapper of their own.
    records = records if isinstance(records, list) else []
    return [record for record in records if "file_name" in record], found


def _check_image(record: dict, *, source: str, labels: tuple[int, int] | None) -> list[Defect]:
    """Check an image, then its mask, whose number of classes and ignored label are `labels`."""
    found, path, mask_path = [], record["file_name"], record.get("sem_seg_file_name")
    try:
        with Image.open(path) as image:
            turned = image_files.is_turned(image)  # not known any more of an image that is decoded
            image.load()
            size, problem = image_files.upright_size(image), image_files.depth_problem(image)
        expected = (record["width"], record["height"]) if "width" in record else size
        if size != expected:
            after = " when turned as its EXIF data say" if turned else ""
            detail = f"{size[0]}x{size[1]}{after}, the annotations say {expected[0]}x{expected[1]}"
            found.append((kinds.WRONG_SIZE, path, detail))
        elif turned and "width" in record:
            found.append((kinds.TURNED, path, ""))
        if problem:
            found.append((kinds.DEEP_IMAGE, path, problem))
        if mask_path:
            path = mask_path
            with Image.open(path) as mask:
                found += [(kind, path, text) for kind, text in _mask_problems(mask, size, labels)]
    except image_files.UNREADABLE as error:
        found.append((kinds.UNREADABLE_FILE, path, str(error)))
    return [Defect(kind, source, kinds.place(path, detail)) for kind, path, detail in found]


def _mask_problems(
    mask: Image.Image, size: tuple[int, int], labels: tuple[int, int] | None
) -> Iterator[tuple[Kind, str]]:
    """Find what is wrong with an open mask of an image of (width, height)."""
    mask.load()
    mask_size = image_files.upright_size(mask)
    if mask_size != size:
        yield kinds.MASK_SIZE, "{}x{}, the image {}x{}".format(*mask_size, *size)
    if labels is None:
        return
    # A training reads masks as grey: colours that are grey keep their values, transparency is lost.
    grey = np.asarray(mask.convert("L"))
    colours = np.asarray(mask).reshape(*grey.shape, -1)[..., : 1 if mask.mode == "LA" else 3]
    if (colours != grey[..., None]).any():
        yield kinds.MASK_COLOURS, f"mode {mask.mode}"
        return
    count, ignored = labels
    found = np.unique(grey)
    strays = found[(found >= count) & (found != ignored)]
    if len(strays):
        first = ", ".join(map(str, strays[:3]))
        yield kinds.MASK_LABELS, f"{first}; allowed are 0 to {count - 1} and {ignored}"
