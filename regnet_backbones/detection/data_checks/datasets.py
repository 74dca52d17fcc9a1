"""Check the datasets of a config before a model is built."""

import os
from collections.abc import Mapping
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from regnet_backbones.detection.classes import COUNTED, PANOPTIC_DEEPLAB, instance_classes
from regnet_backbones.detection.data_checks import coco_kinds
from regnet_backbones.detection.data_checks import image_kinds as kinds
from regnet_backbones.detection.data_checks.annotations import check_coco
from regnet_backbones.detection.data_checks.coco import (
    Content,
    coco_lists,
    image_name,
    image_path,
    normalise,
)
from regnet_backbones.detection.data_checks.defects import Defect, Report, Use
from regnet_backbones.detection.data_checks.images import ImageFile, Labels, check_images
from regnet_backbones.files import read_json

# Datasets that are a json of instances and nothing else, by `evaluator_type`.
JSON_TYPES = ("coco", "lvis")

# Architectures that are trained on the labels of `sem_seg_file_name`.
SEMANTIC = ("SemanticSegmentor", "PanopticFPN")


def check_datasets(cfg: CfgNode, *, images: int | None, train: bool = True) -> Report:
    """Check the datasets of `DATASETS.TRAIN` and `DATASETS.TEST`.

    A dataset with `json_file` and `image_root` in its metadata has its whole json checked, and
    whether its images are there; of every dataset images are opened.

    Args:
        cfg: tells what the datasets are for.
        images: how many images of each dataset are opened, the first ones; None for all.
        train: whether the training datasets are checked too.

    Returns:
        All defects, dataset by dataset.

    Raises:
        ValueError: `images` is negative.
    """
    if images is not None and images < 0:
        raise ValueError(
            f"DATALOADER.CHECK_IMAGES must be a number of images, 0 for none, got {images}"
        )
    names = dict.fromkeys((*(cfg.DATASETS.TRAIN if train else ()), *cfg.DATASETS.TEST))
    defects: list[Defect] = []
    trained: set[str] = set()
    for name in names:
        use = _use(cfg, name, train)
        # A json of the user is named as such, not by the name that it is registered under.
        source = MetadataCatalog.get(name).get("data_source", name)
        files, found = _files_of(cfg, name, source, use)
        defects += found
        defects += check_images(files[:images], source=source, progress=images is None)
        paths = {os.path.abspath(file.path) for file in files} if train else set()
        in_both = trained & paths if use.test and not use.train else ()
        defects += [Defect(coco_kinds.IN_BOTH, source, path) for path in sorted(in_both)]
        trained |= paths if use.train else set()
    return Report(tuple(defects))


def _files_of(
    cfg: CfgNode, name: str, source: str, use: Use
) -> tuple[list[ImageFile], list[Defect]]:
    """Return the images of a dataset, and what is wrong with its json, if it is one."""
    defects: list[Defect] = []
    metadata = MetadataCatalog.get(name)
    try:
        json_file = PathManager.get_local_path(metadata.get("json_file") or "")
        is_json = Path(json_file).is_file() and metadata.get("image_root") is not None
        content = {}
        if is_json:
            read = read_json(json_file)
            content = coco_lists(read, source, lacking_annotations=not use.train)
            defects += _check_json(cfg, content, name, source, use)
        if is_json and metadata.get("evaluator_type") in JSON_TYPES:
            missing = {d.image for d in defects if d.kind == coco_kinds.IMAGE_MISSING}
            wrong = len(missing) < sum(defect.severity == "error" for defect in defects)
            entries = (i for i in content["images"] if not wrong and image_name(i) not in missing)
            files = [_file_of_entry(entry, name) for entry in entries]
        else:
            records = DatasetCatalog.get(name)
            # Datasets of other forms, or without files, have a mapper of their own.
            records = records if isinstance(records, list) else []
            files = [_file_of_record(cfg, r, use) for r in records if "file_name" in r]
    except Exception as error:  # whatever the code of a dataset raises
        detail = f"{type(error).__name__}: {error}"
        return [], [*defects, Defect(kinds.UNLOADABLE, source, detail=detail)]
    return files, defects


def _check_json(cfg: CfgNode, content: Content, name: str, source: str, use: Use) -> list[Defect]:
    """Check the json of a dataset, without opening images."""
    metadata, architecture = MetadataCatalog.get(name), cfg.MODEL.META_ARCHITECTURE
    of_json = metadata.get("evaluator_type") in JSON_TYPES
    found = normalise(
        content,
        source=source,
        image_root=metadata.image_root if of_json else None,
        by_url=metadata.get("evaluator_type") == "lvis",
        keep_root=True,
    )
    # A json of the user is registered as it was corrected, with notes of that.
    defects = [
        *metadata.get("data_notes", ()),
        *filter(None, (d.in_file(use) for d in found.defects)),
    ]
    if any(d.severity == "error" and d.kind != coco_kinds.IMAGE_MISSING for d in defects):
        return defects
    defects += check_coco(content, source=source, use=use)
    categories = len(content["categories"])
    if use.train and architecture in COUNTED and architecture != PANOPTIC_DEEPLAB:
        key, classes = COUNTED[architecture], instance_classes(cfg)
        if categories > classes:
            detail = f"{categories} classes, {key} is {classes}"
            defects.append(Defect(kinds.TOO_MANY_CLASSES, source, detail=detail))
    return defects


def _file_of_entry(entry: Mapping, name: str) -> ImageFile:
    """Return the file of an image of the json of a dataset."""
    metadata = MetadataCatalog.get(name)
    path = image_path(entry, metadata.image_root, by_url=metadata.evaluator_type == "lvis")
    return ImageFile(path, (entry["width"], entry["height"]))


def _file_of_record(cfg: CfgNode, record: Mapping, use: Use) -> ImageFile:
    """Return the image of a record in detectron2's form, with its mask."""
    size = (record["width"], record["height"]) if "width" in record else None
    head = cfg.MODEL.SEM_SEG_HEAD
    labels = Labels(head.NUM_CLASSES, head.IGNORE_VALUE, as_grey=use.train)
    return ImageFile(
        record["file_name"],
        size,
        mask=record.get("sem_seg_file_name"),
        labels=labels if cfg.MODEL.META_ARCHITECTURE in SEMANTIC else None,
    )


def _use(cfg: CfgNode, name: str, train: bool) -> Use:
    """Return what a config does with a dataset."""
    test = name in cfg.DATASETS.TEST
    coco = MetadataCatalog.get(name).get("evaluator_type") != "lvis"
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS if cfg.MODEL.KEYPOINT_ON else None
    return Use(
        train=train and name in cfg.DATASETS.TRAIN,
        test=test,
        masks=cfg.MODEL.MASK_ON,
        polygons=cfg.INPUT.MASK_FORMAT == "polygon",
        keypoints=keypoints,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if keypoints else 0,
        crowds=coco,
        # Detectron2 knows that COCO's minival files of 2014 have some twice.
        unique_ids="minival" not in str(MetadataCatalog.get(name).get("json_file", "")),
    )
