"""What the numbers of a detector's classes stand for, as far as it can be known."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog

from regnet_backbones.detection.architectures import architecture_of, number_of_classes, outputs_of
from regnet_backbones.detection.data import VAL_NAME, read_categories
from regnet_backbones.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownClasses:
    """Names and ids of the classes of a model; numbers from 0 if they are unknown."""

    metadata: Metadata  # with `thing_classes` and `stuff_classes`
    ids: tuple[int | str, ...]  # category ids of the dataset by class number
    stuff_ids: tuple[int, ...]  # the same of `stuff_classes`, after the things' if unknown
    stuff_are_named: bool  # whether the names of `stuff_classes` are known


def known_classes(cfg: CfgNode, val_json: str | Path | None = None) -> KnownClasses:
    """Find the names of a model's classes: in a json, its config, else its first test dataset.

    Raises:
        UserError: the categories of the json are not those of the training.
    """
    architecture, name = architecture_of(cfg), cfg.MODEL.META_ARCHITECTURE
    count, stuff_count = number_of_classes(cfg), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    has_instances = "instances" in architecture.outputs
    dataset, fields = _dataset_of(cfg)
    if architecture.one_numbering and "thing_dataset_id_to_contiguous_id" not in fields:
        raise UserError(
            f"a {name} needs a training dataset with panoptic metadata, got '{dataset}'; set a "
            "registered one with --opts DATASETS.TRAIN"
        )
    if val_json is None:
        categories = _trained_categories(cfg)
    elif architecture.one_numbering or not has_instances:
        raise UserError(f"--val-json cannot name the classes of a {name}; leave it out")
    else:
        categories = read_categories(val_json, count=count)
        if len(categories) != count:
            raise UserError(
                f"'{val_json}' has {len(categories)} categories and the detector {count} classes; "
                "pass a COCO json with the categories of the training data"
            )
        check_order(cfg, list(categories.values()), val_json)
    stuff = fields.get("stuff_classes", [])
    stuff = stuff if len(stuff) == stuff_count else []
    if not (categories if has_instances else stuff):
        logger.warning(
            "class names are unknown, because dataset '%s' is not registered or has other classes; "
            "numbering them from 0%s",
            *(dataset, ", pass --val-json to name them" if has_instances else ""),
        )
    ids = tuple(categories) or tuple(range(count))
    stuff_ids = _by_number(fields.get("stuff_dataset_id_to_contiguous_id", {}))
    if architecture.one_numbering:
        stuff_ids = ids
    elif len(stuff_ids) != stuff_count:
        first = max((number for number in ids if isinstance(number, int)), default=0) + 1
        stuff_ids = range(first, first + stuff_count)
    fields["thing_classes"] = list(categories.values()) or list(map(str, range(count)))
    fields["stuff_classes"] = stuff or list(map(str, range(stuff_count)))
    return KnownClasses(Metadata(**fields), ids, tuple(stuff_ids), bool(stuff))


def check_order(cfg: CfgNode, names: Sequence[str], json_file: str | Path) -> None:
    """Raise UserError if the names of a json are those of the training, in another order."""
    trained = list(_trained_categories(cfg).values())
    if trained != list(names) and sorted(trained) == sorted(names):
        raise UserError(
            f"the classes of the detector are {', '.join(trained)}; the categories of "
            f"'{json_file}', in the order of their ids, are {', '.join(names)}; give them the ids "
            "of the training data"
        )


def class_names(cfg: CfgNode, classes: KnownClasses) -> tuple[str, ...]:
    """Return the names of the classes of a model's objects; of pixels if it gives no objects."""
    given, has_objects = classes.metadata, "instances" in outputs_of(cfg)
    return tuple(given.thing_classes if has_objects else given.stuff_classes)


def _dataset_of(cfg: CfgNode) -> tuple[str, dict[str, object]]:
    """Return the dataset that names a model's classes, and its metadata, if it is registered."""
    one_numbering = architecture_of(cfg).one_numbering
    datasets = cfg.DATASETS.TRAIN if one_numbering else cfg.DATASETS.TEST
    dataset = datasets[0] if datasets else ""
    # Under the name of own data another run of this process may have registered its own.
    known = dataset in MetadataCatalog.list() and dataset != VAL_NAME
    return dataset, MetadataCatalog.get(dataset).as_dict() if known else {}


def _trained_categories(cfg: CfgNode) -> dict[int, str]:
    """Return names by id of own data that the model was trained on, or of a registered dataset."""
    architecture = architecture_of(cfg)
    own = dict(cfg.DATASETS.OWN.CATEGORIES) if VAL_NAME in cfg.DATASETS.TEST else {}
    found = own or _registered_categories(_dataset_of(cfg)[1], architecture.one_numbering)
    return {} if architecture.classes and len(found) != number_of_classes(cfg) else found


def _registered_categories(fields: Mapping[str, object], one_numbering: bool) -> dict[int, str]:
    """Return the names by id that the metadata of a dataset say, as far as they do.

    With one numbering of things and stuff the names of both are those of the longer list: in COCO's
    combined panoptic form both are of all classes, and as Mask2Former has it `stuff_classes` alone.
    """
    names, file = fields.get("thing_classes", []), fields.get("json_file") or ""
    if one_numbering:
        names = max(names, fields.get("stuff_classes", []), key=len)
    things = fields.get("thing_dataset_id_to_contiguous_id", {})
    ids = _by_number(things)
    if len(ids) != len(names):  # COCO's combined panoptic form, whose names are of all classes
        ids = _by_number({**fields.get("stuff_dataset_id_to_contiguous_id", {}), **things})
    if len(ids) != len(names) and Path(file).is_file():  # detectron2 has not read it yet
        ids = list(read_categories(file, count=len(names)))
    return dict(zip(ids if len(ids) == len(names) else range(len(names)), names, strict=True))


def _by_number(numbers: Mapping[int, int]) -> list[int]:
    """Return ids in the order of the class numbers that they stand for."""
    return sorted(numbers, key=numbers.get)
