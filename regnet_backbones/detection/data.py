"""Train on your own data: read a COCO json, correct and register it, fit the config to it.

Data in other formats become COCO jsons in the folder of the run first. Your files stay as they are.
What `data_checks.coco` corrects is registered as a copy in the cache folder, under a name made of
the json's, where every process of a run finds it.
"""

import argparse
import hashlib
import logging
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from iopath.common.file_io import get_cache_dir

from regnet_backbones import __version__
from regnet_backbones.data import sources
from regnet_backbones.data.coco import write_coco_json
from regnet_backbones.data.splits import class_table
from regnet_backbones.detection.architectures import architecture_of
from regnet_backbones.detection.data_checks.coco import CocoSplit, read_coco
from regnet_backbones.detection.data_checks.kinds import Report
from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.files import check_output_folder, read_json
from regnet_backbones.runs.look import table_of

# The keys of DATASETS.OWN, and the options of the command line that set them, such as --val-json.
OWN_KEYS = ("TRAIN_JSON", "TRAIN_IMAGES", "VAL_JSON", "VAL_IMAGES")
OPTIONS = {key: f"--{key.lower().replace('_', '-')}" for key in OWN_KEYS}

# Below OUTPUT_DIR: COCO jsons made of data in other formats, and of data that are split.
DATA_FOLDER = "data"

# Names under which the two splits are registered.
TRAIN_NAME, VAL_NAME = "own_train", "own_val"

# Nodes of `MODEL` with a number of classes.
HEADS = ("ROI_HEADS", "POINT_HEAD", "RETINANET", "FCOS")

logger = logging.getLogger(__name__)


def read_coco_split(
    json_file: str | Path, image_root: str | Path, *, keep_root: bool = False
) -> CocoSplit:
    """Return a COCO instance json with its image folder, after correcting what has one meaning.

    Args:
        json_file: a file in the format of COCO's `instances_*.json`.
        image_root: the folder that the json's `file_name`s are relative to.
        keep_root: whether an unused category that is the `supercategory` of all others is a class.

    Raises:
        UserError: json or folder is missing, it is not a COCO json, or has values without meaning.
    """
    if Path(json_file).is_file() and not Path(image_root).is_dir():
        raise MissingFileError(f"no image folder '{image_root}'; pass the root of its file_names")
    read = _without_errors(read_coco(json_file, image_root=image_root, keep_root=keep_root))
    copy = _copy_of(read.json_file, read.image_root)
    if read.defects:
        write_coco_json(copy, {"info": {}, **read.content})
    else:
        copy.unlink(missing_ok=True)  # of an older version of the json
    return read


def read_categories(json_file: str | Path, *, count: int | None = None) -> dict[int | str, str]:
    """Read the names by id of a COCO json's categories; with `count`, a root may be one of them."""
    whole = _without_errors(read_coco(json_file, keep_root=True)).categories
    return whole if len(whole) == count else read_coco(json_file).categories


def read_image_ids(json_file: str | Path) -> dict[str, int | str]:
    """Read the ids of images by `file_name` of a COCO json, if it has any."""
    images = read_json(json_file).get("images", [])
    return {image["file_name"]: image["id"] for image in images if {"file_name", "id"} <= {*image}}


def use_sources(cfg: CfgNode, args: argparse.Namespace) -> str:
    """Set `DATASETS.OWN` to the data of `--train` and `--val`, or of one source that is split.

    Jsons that do not exist yet are written below `OUTPUT_DIR`. Return a table of the classes of a
    split; "" without one.
    """
    given, fraction = _sources(args), args.val_fraction
    if not given:
        return ""
    check_output_folder(cfg.OUTPUT_DIR, name="OUTPUT_DIR")
    if fraction is None:
        parts = sources.read_parts(given, read_jsons=False)
    else:
        parts = sources.read_and_split(given["train"], fraction, args.split_seed, args.group)
    files = sources.write_parts(parts, Path(cfg.OUTPUT_DIR, DATA_FOLDER))
    for part, file in files.items():
        cfg.DATASETS.OWN[f"{part.upper()}_JSON"] = str(file)
        cfg.DATASETS.OWN[f"{part.upper()}_IMAGES"] = str(parts[part].images)
    if fraction is None:
        return ""
    return table_of(*class_table({part: data.content for part, data in parts.items()}))


def use_own_data(cfg: CfgNode) -> dict[str, CocoSplit]:
    """Register the data of `DATASETS.OWN`, if set, fit the config to it, and return it by name."""
    own, options = cfg.DATASETS.OWN, ", ".join(OPTIONS.values())
    missing = [option for key, option in OPTIONS.items() if not own[key]]
    if len(missing) == len(OPTIONS):
        return {}
    if missing:
        raise UserError(f"{options} must be given together; missing: {', '.join(missing)}")
    architecture = architecture_of(cfg)
    if cfg.MODEL.KEYPOINT_ON or architecture.learns_semantics or architecture.one_numbering:
        raise UserError(
            f"{options} have boxes and masks, and the {cfg.MODEL.META_ARCHITECTURE} of the config "
            "needs more; set DATASETS.TRAIN and DATASETS.TEST to registered datasets"
        )
    train = read_coco_split(own.TRAIN_JSON, own.TRAIN_IMAGES)
    val = read_coco_split(own.VAL_JSON, own.VAL_IMAGES, keep_root=train.root is None)
    use_coco_splits(cfg, train, val)
    return {TRAIN_NAME: train, VAL_NAME: val}


def use_coco_splits(cfg: CfgNode, train: CocoSplit, val: CocoSplit) -> None:
    """Register `train` and `val` of `read_coco_split` as datasets, and fit `cfg` to them in place.

    Sets `DATASETS.TRAIN` and `TEST`, the number of classes of every head, and `DATASETS.OWN` to the
    absolute paths and the categories.

    Raises:
        UserError: the categories of the two differ.
    """
    ours, theirs = train.categories.items(), val.categories.items()
    if ours != theirs:
        raise UserError(
            f"the categories of '{train.json_file}' and '{val.json_file}' differ: only in train "
            f"{[item for item in ours if item not in theirs]}, only in val "
            f"{[item for item in theirs if item not in ours]}; give both files the same "
            "'categories' (id and name)"
        )
    own, cfg.DATASETS.TRAIN = cfg.DATASETS.OWN, (TRAIN_NAME,)
    own.TRAIN_JSON, own.TRAIN_IMAGES = str(train.json_file), str(train.image_root)
    own.CATEGORIES = [[number, name] for number, name in ours]
    use_validation(cfg, val)
    for head in HEADS:
        if head in cfg.MODEL:
            cfg.MODEL[head].NUM_CLASSES = len(ours)
    images = tuple(len(split.content["images"]) for split in (train, val))
    names = ", ".join(train.categories.values())
    logger.info("%d classes (%s); %d train and %d val images", len(ours), names, *images)


def use_validation(cfg: CfgNode, val: CocoSplit) -> None:
    """Register a split as the only dataset that a config evaluates on."""
    own, cfg.DATASETS.TEST = cfg.DATASETS.OWN, (VAL_NAME,)
    own.VAL_JSON, own.VAL_IMAGES = str(val.json_file), str(val.image_root)
    register_own_data(cfg)


def validation_of_training(cfg: CfgNode) -> CocoSplit | None:
    """Read the validation data of `DATASETS.OWN`; None if `DATASETS.TEST` has other datasets."""
    own = cfg.DATASETS.OWN
    if VAL_NAME not in cfg.DATASETS.TEST:
        return None
    try:
        return read_coco_split(own.VAL_JSON, own.VAL_IMAGES)
    except OSError as error:
        raise MissingFileError(
            f"validation data of DATASETS.OWN not found: {error}; pass --val-json and --val-images"
        ) from error


def register_own_data(cfg: CfgNode) -> None:
    """Register the data that `DATASETS.OWN` names, which this or another process has checked."""
    own = cfg.DATASETS.OWN
    if own.TRAIN_JSON:
        register_split(TRAIN_NAME, own.TRAIN_JSON, own.TRAIN_IMAGES)
    if own.VAL_JSON:
        register_split(VAL_NAME, own.VAL_JSON, own.VAL_IMAGES)


def register_split(name: str, json_file: str | Path, image_root: str | Path) -> None:
    """Register a COCO instance json, or its corrected copy, in place of a dataset of that name."""
    for catalog in (DatasetCatalog, MetadataCatalog):  # metadata may be there without its dataset
        if name in catalog.list():
            catalog.remove(name)
    used = Path(json_file).absolute()
    if used.is_file() and (copy := _copy_of(used, Path(image_root).absolute())).is_file():
        used = copy
    register_coco_instances(name, {"data_source": str(json_file)}, str(used), str(image_root))


def _sources(args: argparse.Namespace) -> dict[str, sources.Source]:
    """Return the sources that a command line names, by part; none if it names only COCO jsons."""
    jsons = [OPTIONS[key] for key in OWN_KEYS if getattr(args, key.lower()) is not None]
    given = [f"--{part}" for part in ("train", "val") if getattr(args, part) is not None]
    if given and jsons:
        raise UserError(f"{given[0]} replaces {jsons[0]}; pass one or the other, not both")
    if args.val_fraction is None:
        if args.group is not None:
            raise UserError("--group needs --val-fraction; add it, or leave out --group")
        if len(given) == 1:
            raise UserError("pass --train with --val or --val-fraction")
        return {p: sources.parse_source(getattr(args, p)) for p in ("train", "val") if given}
    if args.val is not None or args.val_json is not None or args.val_images is not None:
        raise UserError("--val-fraction replaces --val, --val-json and --val-images; pass one")
    if args.train is not None:
        return {"train": sources.parse_source(args.train)}
    if args.train_json is None or args.train_images is None:
        raise UserError("--val-fraction needs --train, or --train-json and --train-images")
    return {"train": sources.Source("coco", Path(args.train_json), args.train_images)}


def _without_errors(read: CocoSplit) -> CocoSplit:
    """Raise UserError if a json that was read has errors."""
    if errors := Report(read.defects).errors.summary():
        raise UserError(f"'{read.json_file}' cannot be used:\n{errors}")
    return read


def _copy_of(json_file: Path, image_root: Path) -> Path:
    """Return where the corrected copy of a json is or would be; the paths are absolute."""
    state = json_file.stat()
    made_of = f"{json_file} {image_root} {state.st_mtime_ns} {state.st_size} {__version__}"
    digest = hashlib.sha256(made_of.encode()).hexdigest()
    return Path(get_cache_dir()) / "regnet_backbones" / f"{json_file.stem}-{digest[:16]}.json"
