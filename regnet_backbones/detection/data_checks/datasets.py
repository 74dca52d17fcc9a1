"""Check the datasets of a config before a model is built."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from regnet_backbones.detection.classes import COUNTED, PANOPTIC_DEEPLAB, instance_classes
from regnet_backbones.detection.data_checks import coco_kinds
from regnet_backbones.detection.data_checks import image_kinds as kinds
from regnet_backbones.detection.data_checks.annotations import (
    check_coco,
    check_files_exist,
    image_name,
    image_path,
)
from regnet_backbones.detection.data_checks.defects import Defect, Report, Use
from regnet_backbones.detection.data_checks.images import ImageFile, Labels, check_images

# Datasets that are a json of instances and nothing else, by `evaluator_type`.
JSON_TYPES = ("coco", "lvis")

# Architectures that are trained on the labels of `sem_seg_file_name`.
SEMANTIC = ("SemanticSegmentor", "PanopticFPN")

# Images with these defects are not opened.
NOT_TO_OPEN = (coco_kinds.IMAGE_MISSING, coco_kinds.INCOMPLETE_IMAGE)


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
    for name in names:
        defects += _check_dataset(cfg, name, images, _use(cfg, name, train))
    return Report(tuple(defects))


def _check_dataset(cfg: CfgNode, name: str, images: int | None, use: Use) -> list[Defect]:
    """Check a dataset: its json, if it is one, then its images."""
    defects: list[Defect] = []
    metadata = MetadataCatalog.get(name)
    try:
        json_file = PathManager.get_local_path(metadata.get("json_file") or "")
        is_json = Path(json_file).is_file() and metadata.get("image_root") is not None
        content = json.loads(Path(json_file).read_bytes()) if is_json else {}
        if is_json:
            defects += _check_json(cfg, content, name, use)
        if is_json and metadata.get("evaluator_type") in JSON_TYPES:
            missing = {defect.image for defect in defects if defect.kind in NOT_TO_OPEN}
            entries = (i for i in content["images"] if image_name(i) not in missing)
            files = [_file_of_entry(entry, name) for entry in entries]
        else:
            records = DatasetCatalog.get(name)
            # Datasets of other forms, or without files, have a mapper of their own.
            records = records if isinstance(records, list) else []
            files = [_file_of_record(cfg, r, use) for r in records if "file_name" in r]
    except Exception as error:  # whatever the code of a dataset raises
        return [*defects, Defect(kinds.UNLOADABLE, name, detail=f"{type(error).__name__}: {error}")]
    return defects + check_images(files[:images], source=name, progress=images is None)


def _check_json(
    cfg: CfgNode, content: Mapping[str, Sequence[Mapping]], name: str, use: Use
) -> list[Defect]:
    """Check the json of a dataset, without opening images."""
    defects = check_coco(content, source=name, use=use)
    architecture, categories = cfg.MODEL.META_ARCHITECTURE, len(content["categories"])
    if use.train and architecture in COUNTED and architecture != PANOPTIC_DEEPLAB:
        key, classes = COUNTED[architecture], instance_classes(cfg)
        if categories > classes:
            detail = f"{categories} classes, {key} is {classes}"
            defects.append(Defect(kinds.TOO_MANY_CLASSES, name, detail=detail))
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") in JSON_TYPES:
        root, by_url = metadata.image_root, metadata.evaluator_type == "lvis"
        defects += check_files_exist(content["images"], root, source=name, by_url=by_url)
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
    keys = ("area", *(("iscrowd",) if coco else ()), *(("num_keypoints",) if keypoints else ()))
    return Use(
        train=train and name in cfg.DATASETS.TRAIN,
        test=test,
        masks=cfg.MODEL.MASK_ON,
        polygons=cfg.INPUT.MASK_FORMAT == "polygon",
        keypoints=keypoints,
        evaluated_keys=keys if test else (),
        # Detectron2 knows that COCO's minival files of 2014 have some twice.
        unique_ids="minival" not in str(MetadataCatalog.get(name).get("json_file", "")),
    )
