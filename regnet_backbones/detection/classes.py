"""What the numbers of a detector's classes stand for, as far as it can be known."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog

from regnet_backbones.detection.data import VAL_NAME, read_categories
from regnet_backbones.detection.training.mappers import SEGMENTER
from regnet_backbones.errors import UserError

# Numbers its classes in one row, and asks its training dataset which of them are things.
PANOPTIC_DEEPLAB = "PanopticDeepLab"

# Architectures that the config tells the number of classes of, and which key says it.
COUNTED = {
    "GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "PanopticFPN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "RetinaNet": "MODEL.RETINANET.NUM_CLASSES",
    "FCOSDetector": "MODEL.FCOS.NUM_CLASSES",
    PANOPTIC_DEEPLAB: "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownClasses:
    """Names and ids of the classes of a model."""

    # With `thing_classes` and `stuff_classes`, numbers from 0 where names are not known.
    metadata: Metadata
    # Category ids of the dataset by class number, which are these numbers where they are not known.
    ids: tuple[int, ...]
    # The same of `stuff_classes`; where they are not known, numbers that follow those of things.
    stuff_ids: tuple[int, ...]
    stuff_are_named: bool


def instance_classes(cfg: CfgNode) -> int:
    """Return the number of classes of instances that a config says; of Panoptic-DeepLab, of all."""
    value = cfg
    for key in COUNTED.get(cfg.MODEL.META_ARCHITECTURE, "MODEL.ROI_HEADS.NUM_CLASSES").split("."):
        value = value[key]
    return value


def known_classes(cfg: CfgNode, val_json: str | Path | None = None) -> KnownClasses:
    """Find the names of a model's classes: in a json, its config, else its first test dataset.

    Where they are not known, a warning says so and the classes are numbered from 0.

    Args:
        cfg: the model's config.
        val_json: a COCO json with the categories of the training.

    Raises:
        FileNotFoundError: the json is not there.
        ValueError: it has no categories, others than the model, or the model takes none from it.
    """
    architecture, count = cfg.MODEL.META_ARCHITECTURE, instance_classes(cfg)
    datasets = cfg.DATASETS.TRAIN if architecture == PANOPTIC_DEEPLAB else cfg.DATASETS.TEST
    dataset = datasets[0] if datasets else ""
    # Under the name of own data another run of this process may have registered its own.
    known = dataset in MetadataCatalog.list() and dataset != VAL_NAME
    fields = MetadataCatalog.get(dataset).as_dict() if known else {}
    if architecture == PANOPTIC_DEEPLAB and "thing_dataset_id_to_contiguous_id" not in fields:
        raise UserError(
            f"a {PANOPTIC_DEEPLAB} needs its training dataset '{dataset}' registered with panoptic "
            "metadata, to tell things from stuff; set DATASETS.TRAIN in --opts"
        )
    if val_json is None:
        categories = _trained_categories(cfg) or _registered_categories(fields)
        if architecture in COUNTED and len(categories) != count:
            categories = {}
    else:
        categories = _given_categories(cfg, Path(val_json))
    stuff_count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    stuff = fields.get("stuff_classes", [])
    stuff = stuff if len(stuff) == stuff_count else []
    if not (stuff if architecture == SEGMENTER else categories):
        logger.warning(
            "the names of the classes are not known here: they are not those of the dataset '%s', "
            "or it is not registered; classes are numbered from 0%s",
            dataset,
            "" if architecture == SEGMENTER else ", unless --val-json gives a COCO json of them",
        )
    ids = tuple(categories) or tuple(range(count))
    fields |= {
        "thing_classes": list(categories.values()) or _numbers(count),
        "stuff_classes": stuff or _numbers(stuff_count),
    }
    if architecture == PANOPTIC_DEEPLAB:
        stuff_ids = ids
    else:
        stuff_ids = _by_number(fields.get("stuff_dataset_id_to_contiguous_id", {}))
        if len(stuff_ids) != stuff_count:
            stuff_ids = range(max(ids) + 1, max(ids) + 1 + stuff_count)
    return KnownClasses(Metadata(**fields), ids, tuple(stuff_ids), bool(stuff))


def _given_categories(cfg: CfgNode, val_json: Path) -> dict[int, str]:
    """Read the names by id of a json of the user, which must be of this model."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture == SEGMENTER:
        raise UserError(f"a COCO json names instances, and a {architecture} predicts none")
    if architecture == PANOPTIC_DEEPLAB:
        raise UserError(
            f"a {architecture} takes the names of its classes from its training dataset; leave "
            "out --val-json"
        )
    count = instance_classes(cfg)
    categories = read_categories(val_json, count=count)
    if len(categories) != count:
        raise UserError(
            f"the detector has {count} classes, and '{val_json}' {len(categories)}; give a COCO "
            "json with the categories of the training"
        )
    return categories


def _trained_categories(cfg: CfgNode) -> dict[int, str]:
    """Return the names by id of own data that the model was trained on, none of other data."""
    return dict(cfg.DATASETS.OWN.CATEGORIES) if VAL_NAME in cfg.DATASETS.TEST else {}


def _registered_categories(fields: Mapping[str, object]) -> dict[int, str]:
    """Return the names by id that the metadata of a dataset say, as far as they do."""
    names = fields.get("thing_classes", [])
    things = fields.get("thing_dataset_id_to_contiguous_id", {})
    ids = _by_number(things)
    if len(ids) != len(names):  # COCO's combined panoptic form, whose names are of all classes
        ids = _by_number({**fields.get("stuff_dataset_id_to_contiguous_id", {}), **things})
    if len(ids) != len(names) and Path(fields.get("json_file") or "").is_file():
        # Detectron2 has not read it yet.
        ids = list(read_categories(fields["json_file"], count=len(names)))
    if len(ids) != len(names):
        ids = range(len(names))
    return dict(zip(ids, names, strict=True))


def _by_number(numbers: Mapping[int, int]) -> list[int]:
    """Return ids in the order of the class numbers that they stand for."""
    return sorted(numbers, key=numbers.get)


def _numbers(count: int) -> list[str]:
    """Return the numbers from 0 as names."""
    return [str(number) for number in range(count)]
