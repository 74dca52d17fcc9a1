"""Train on your own COCO json: read it, correct it, register it, fit the config to it.

What `data_checks.coco` corrects is registered as a copy. The copy is in the cache folder, under a
name made of the json's, where every process of a run finds it; your json stays as it is.
"""

import hashlib
import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from iopath.common.file_io import get_cache_dir

from regnet_backbones import __version__
from regnet_backbones.detection.architectures import architecture_of
from regnet_backbones.detection.data_checks.coco import Coco, image_name, read_coco, read_lists
from regnet_backbones.detection.data_checks.defects import Report
from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.files import write_whole

# The keys of DATASETS.OWN, and the options of the command line that set them.
OPTIONS = {
    "TRAIN_JSON": "--train-json",
    "TRAIN_IMAGES": "--train-images",
    "VAL_JSON": "--val-json",
    "VAL_IMAGES": "--val-images",
}

# Names under which the two splits are registered.
TRAIN_NAME, VAL_NAME = "own_train", "own_val"

# Nodes of `MODEL` with a number of classes.
HEADS = ("ROI_HEADS", "POINT_HEAD", "RETINANET", "FCOS")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CocoSplit:
    """A COCO instance json that was read, and the folder of its images.

    Attributes:
        json_file: a file in the format of COCO's `instances_*.json`.
        image_root: the folder that the json's `file_name`s are relative to.
        coco: its content, and what was corrected in it.
    """

    json_file: Path
    image_root: Path
    coco: Coco = field(repr=False)

    @property
    def categories(self) -> dict[int | str, str]:
        """Names of the classes by id, in the order of the ids."""
        return self.coco.categories

    @property
    def root(self) -> tuple[int | str, str] | None:
        """Id and name of the category that was left out as the root of the others."""
        return self.coco.root

    @property
    def num_images(self) -> int:
        """How many images the json has."""
        return len(self.coco.content["images"])

    @property
    def num_annotations(self) -> int:
        """How many annotations the json has."""
        return len(self.coco.content["annotations"])

    @property
    def without_mask(self) -> str:
        """How many annotations have no segmentation, and which is the first, in words."""
        lacking = [a for a in self.coco.content["annotations"] if not a.get("segmentation")]
        if not lacking:
            return ""
        image, images = lacking[0]["image_id"], self.coco.content["images"]
        name = next(image_name(i) for i in images if i["id"] == image)
        return (
            f"{len(lacking):,} of {self.num_annotations:,} annotations of '{self.json_file}' have "
            f"no 'segmentation' that makes a mask, such as annotation {lacking[0]['id']} of {name}"
        )


def read_coco_split(
    json_file: str | Path, image_root: str | Path, *, keep_root: bool = False
) -> CocoSplit:
    """Read a COCO instance json, correct what has one meaning, and look for its images.

    Args:
        json_file: a file in the format of COCO's `instances_*.json`.
        image_root: the folder that the json's `file_name`s are relative to.
        keep_root: whether a category without annotations that is the `supercategory` of all others
            is a class; it is none in the exports that write one.

    Returns:
        The two paths, and what the json has.

    Raises:
        UserError: the json or the folder is missing; the file is not a COCO json, is empty, or has
            values that mean nothing, such as images that are not there or annotations of what it
            does not define.
    """
    json_file, image_root = Path(json_file), Path(image_root)
    if json_file.is_file() and not image_root.is_dir():
        raise MissingFileError(f"no image folder '{image_root}'")
    read = read_coco(json_file, image_root=image_root, keep_root=keep_root)
    _raise_errors(json_file, read)
    copy = _copy_of(json_file, image_root)
    if read.defects:
        part = copy.with_name(f"{copy.name}.{os.getpid()}")  # other processes may write the same
        content = json.dumps({"info": {}, **read.content}).encode()
        write_whole(part, lambda file: file.write(content))
        os.replace(part, copy)
    else:
        copy.unlink(missing_ok=True)  # of an older version of the json
    return CocoSplit(json_file, image_root, read)


def read_categories(json_file: str | Path, *, count: int | None = None) -> dict[int | str, str]:
    """Read the names by id of a COCO json's categories, in the order of the ids.

    `count` is how many a model has, if known: a root of the others is one of them, or not.
    """
    names: dict[int | str, str] = {}
    for keep_root in (True, False):
        if len(names) != count:
            read = read_coco(json_file, ("categories",), keep_root=keep_root)
            _raise_errors(json_file, read)
            names = read.categories
    return names


def read_image_ids(json_file: str | Path) -> dict[str, int | str]:
    """Read the ids of images by `file_name` of a COCO json, as far as it has them."""
    images = read_lists(json_file, (), optional=("images",))["images"]
    pairs = [(image.get("file_name"), image.get("id")) for image in images]
    return {n: i for n, i in pairs if isinstance(n, str) and n and isinstance(i, (int, str))}


def use_own_data(cfg: CfgNode) -> dict[str, Coco]:
    """Check and register the data that `DATASETS.OWN` names, and fit the config to it.

    Returns:
        What was read, by the names of the datasets; nothing where no key of it is set.
    """
    own, options = cfg.DATASETS.OWN, ", ".join(OPTIONS.values())
    missing = [option for key, option in OPTIONS.items() if not own[key]]
    if len(missing) == len(OPTIONS):
        return {}
    if missing:
        raise UserError(f"{options} go together; missing: {', '.join(missing)}")
    if not architecture_of(cfg).instances_suffice:
        raise UserError(
            f"{options} are for detectors, the config trains a {cfg.MODEL.META_ARCHITECTURE}; "
            "register its datasets and name them in DATASETS.TRAIN and DATASETS.TEST"
        )
    if cfg.MODEL.KEYPOINT_ON:
        raise UserError(
            f"{options} lack keypoint_names and keypoint_flip_map; register the datasets with them "
            "and name them in DATASETS.TRAIN and DATASETS.TEST"
        )
    train = read_coco_split(own.TRAIN_JSON, own.TRAIN_IMAGES)
    val = read_coco_split(own.VAL_JSON, own.VAL_IMAGES, keep_root=train.root is None)
    use_coco_splits(cfg, train, val)
    return {TRAIN_NAME: train.coco, VAL_NAME: val.coco}


def use_coco_splits(cfg: CfgNode, train: CocoSplit, val: CocoSplit) -> None:
    """Register two splits as detectron2 datasets and fit a config to them.

    Sets `DATASETS.TRAIN` and `TEST`, the number of classes of every head, and `DATASETS.OWN` to the
    absolute paths and the categories.

    Args:
        cfg: changed in place.
        train: of `read_coco_split`.
        val: the same, with the same categories.

    Raises:
        UserError: the categories of the two differ, or the config wants masks and there are none.
    """
    if train.categories != val.categories:
        raise UserError(
            f"the categories of '{train.json_file}' and '{val.json_file}' differ: only in train "
            f"{_difference(train, val)}, only in val {_difference(val, train)}; give both files "
            "the same 'categories' (id and name)"
        )
    lacking = train.without_mask or val.without_mask if cfg.MODEL.MASK_ON else ""
    if lacking:
        raise UserError(
            f"the config trains masks, and {lacking}; add it, remove the annotations, or train "
            "boxes only with MODEL.MASK_ON False"
        )
    cfg.DATASETS.OWN.TRAIN_JSON = str(train.json_file.absolute())
    cfg.DATASETS.OWN.TRAIN_IMAGES = str(train.image_root.absolute())
    cfg.DATASETS.OWN.CATEGORIES = [[number, name] for number, name in train.categories.items()]
    cfg.DATASETS.TRAIN = (TRAIN_NAME,)
    register_split(TRAIN_NAME, train.json_file.absolute(), train.image_root.absolute())
    use_validation(cfg, val)
    for head in HEADS:
        if head in cfg.MODEL:
            cfg.MODEL[head].NUM_CLASSES = len(train.categories)
    names = ", ".join(train.categories.values())
    counts = (len(train.categories), names, train.num_images, val.num_images)
    logger.info("%d classes (%s); %d train and %d val images", *counts)


def use_validation(cfg: CfgNode, val: CocoSplit) -> None:
    """Register a split as the only dataset that a config evaluates on."""
    cfg.DATASETS.OWN.VAL_JSON = str(val.json_file.absolute())
    cfg.DATASETS.OWN.VAL_IMAGES = str(val.image_root.absolute())
    cfg.DATASETS.TEST = (VAL_NAME,)
    register_split(VAL_NAME, val.json_file.absolute(), val.image_root.absolute())


def validation_of_training(cfg: CfgNode) -> CocoSplit | None:
    """Read the validation data of `DATASETS.OWN`; None if `DATASETS.TEST` has other datasets."""
    own = cfg.DATASETS.OWN
    if VAL_NAME not in cfg.DATASETS.TEST:
        return None
    if not own.VAL_JSON:
        raise UserError("DATASETS.OWN of the config is empty; pass --val-json and --val-images")
    try:
        return read_coco_split(own.VAL_JSON, own.VAL_IMAGES)
    except (FileNotFoundError, PermissionError) as error:
        raise MissingFileError(
            f"the validation data of the training have gone: {error}; pass --val-json and "
            "--val-images"
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
    copy = _copy_of(Path(json_file), Path(image_root))
    used = copy if copy is not None and copy.is_file() else json_file
    register_coco_instances(name, {"data_source": str(json_file)}, str(used), str(image_root))


def _raise_errors(json_file: str | Path, read: Coco) -> None:
    """Raise UserError if a json has errors."""
    errors = Report(read.defects).of("error").summary()
    if errors:
        raise UserError(f"'{json_file}' cannot be used:\n{errors}")


def _copy_of(json_file: Path, image_root: Path) -> Path | None:
    """Return where the corrected copy of a json is or would be; None without the json."""
    if not json_file.is_file():
        return None
    state = json_file.stat()
    made_of = (json_file.absolute(), image_root.absolute(), state.st_mtime_ns, state.st_size)
    digest = hashlib.sha256(repr((*map(str, made_of), __version__)).encode()).hexdigest()
    return Path(get_cache_dir()) / "regnet_backbones" / f"{json_file.stem}-{digest[:16]}.json"


def _difference(one: CocoSplit, other: CocoSplit) -> list[tuple[int | str, str]]:
    """List the categories of one split that the other has not."""
    return [item for item in one.categories.items() if item not in other.categories.items()]
