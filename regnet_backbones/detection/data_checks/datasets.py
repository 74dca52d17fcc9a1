"""Check the datasets of a config before a model is built."""

import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from regnet_backbones.detection.classes import COUNTED, PANOPTIC_DEEPLAB, instance_classes
from regnet_backbones.detection.data_checks import kinds
from regnet_backbones.detection.data_checks.annotations import check_coco
from regnet_backbones.detection.data_checks.coco import image_name, image_path, read_coco
from regnet_backbones.detection.data_checks.defects import Defect, Report, Use
from regnet_backbones.detection.data_checks.images import ImageFile, check_images
from regnet_backbones.errors import UserError

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
        raise UserError(
            f"DATALOADER.CHECK_IMAGES must be a number of images, 0 for none, got {images}"
        )
    names = dict.fromkeys((*(cfg.DATASETS.TRAIN if train else ()), *cfg.DATASETS.TEST))
    defects: list[Defect] = []
    trained: set[str] = set()
    for name in names:
        use = _use(cfg, name, train)
        # A json of the user is named as such, not by the name that it is registered under.
        source = MetadataCatalog.get(name).get("data_source", name)
        try:
            files = _files_of(cfg, name, source, use, defects)
        except Exception as error:  # whatever the code of a dataset raises
            files, detail = [], f"{type(error).__name__}: {error}"
            defects.append(Defect(kinds.UNLOADABLE, source, detail=detail))
        defects += check_images(files[:images], source=source, progress=images is None)
        paths = {os.path.abspath(file.path) for file in files} if train else set()
        in_both = trained & paths if use.test and not use.train else ()
        defects += [Defect(kinds.IN_BOTH, source, path) for path in sorted(in_both)]
        trained |= paths if use.train else set()
    return Report(tuple(defects))


def _files_of(
    cfg: CfgNode, name: str, source: str, use: Use, defects: list[Defect]
) -> list[ImageFile]:
    """Return the images of a dataset, and add what is wrong with its json, if it is one."""
    metadata, architecture = MetadataCatalog.get(name), cfg.MODEL.META_ARCHITECTURE
    json_file = PathManager.get_local_path(metadata.get("json_file") or "")
    root, by_url = metadata.get("image_root"), metadata.get("evaluator_type") == "lvis"
    if Path(json_file).is_file() and root is not None:
        of_instances = metadata.get("evaluator_type") in JSON_TYPES
        read = read_coco(
            json_file,
            ("images", "categories", *(("annotations",) if use.train else ())),
            optional=() if use.train else ("annotations",),  # test splits of benchmarks have none
            source=source,
            image_root=root if of_instances else None,
            by_url=by_url,
            keep_root=True,
        )
        # A json of the user is registered as it was corrected, with notes of that.
        found = (*metadata.get("data_notes", ()), *(d.in_file(use) for d in read.defects))
        defects += filter(None, found)
        missing = {d.image for d in read.defects if d.kind == kinds.IMAGE_MISSING}
        if any(d.severity == "error" and d.kind != kinds.IMAGE_MISSING for d in read.defects):
            return []
        defects += check_coco(read.content, source=source, use=use)
        categories, classes = len(read.content["categories"]), instance_classes(cfg)
        counted = use.train and architecture in COUNTED and architecture != PANOPTIC_DEEPLAB
        if counted and categories > classes:
            detail = f"{categories} classes, {COUNTED[architecture]} is {classes}"
            defects.append(Defect(kinds.TOO_MANY_CLASSES, source, detail=detail))
        if of_instances:
            return [
                ImageFile(image_path(i, root, by_url=by_url), (i["width"], i["height"]))
                for i in read.content["images"]
                if image_name(i) not in missing
            ]
    records, head = DatasetCatalog.get(name), cfg.MODEL.SEM_SEG_HEAD
    return [
        ImageFile(
            record["file_name"],
            (record["width"], record["height"]) if "width" in record else None,
            mask=record.get("sem_seg_file_name"),
            labels=(head.NUM_CLASSES, head.IGNORE_VALUE) if architecture in SEMANTIC else None,
            as_grey=use.train,
        )
        # Datasets of other forms, or without files, have a mapper of their own.
        for record in (records if isinstance(records, list) else ())
        if "file_name" in record
    ]


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
