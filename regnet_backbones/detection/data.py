"""Train on one's own COCO json: read it, check it, register it, fit the config to it.

Everything that can be seen to be wrong is said before a model is built.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from regnet_backbones.detection.data_checks.annotations import check_coco, check_files_exist
from regnet_backbones.detection.data_checks.defects import Report, Use
from regnet_backbones.detection.training.mappers import SEGMENTER

# The keys of DATASETS.OWN, and the options of `tools/train_net.py` that set them.
OPTIONS = {
    "TRAIN_JSON": "--train-json",
    "TRAIN_IMAGES": "--train-images",
    "VAL_JSON": "--val-json",
    "VAL_IMAGES": "--val-images",
}

# What these learn is not all in a COCO instance json.
NEED_MORE_THAN_INSTANCES = (SEGMENTER, "PanopticFPN", "PanopticDeepLab")

COCO_LISTS = ("images", "annotations", "categories")

# Names under which the two splits are registered.
TRAIN_NAME, VAL_NAME = "own_train", "own_val"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CocoSplit:
    """A checked COCO instance json and the folder of its images.

    Attributes:
        json_file: a file in the format of COCO's `instances_*.json`.
        image_root: the folder that the json's `file_name`s are relative to.
        categories: names by id, in the order of the ids.
        num_images, num_annotations: how many the json has.
        has_masks: whether every annotation has a segmentation.
    """

    json_file: Path
    image_root: Path
    categories: dict[int, str]
    num_images: int
    num_annotations: int
    has_masks: bool


def read_coco_split(json_file: str | Path, image_root: str | Path) -> CocoSplit:
    """Read a COCO instance json and check it against itself and the image folder.

    Args:
        json_file: a file in the format of COCO's `instances_*.json`.
        image_root: the folder that the json's `file_name`s are relative to.

    Returns:
        The two paths, and what the json has.

    Raises:
        FileNotFoundError: the json or the folder is not there.
        ValueError: the file is no COCO json, is empty, or has defects whatever it is used for, such
            as images that are not there or annotations of what it does not define.
    """
    json_file, image_root = Path(json_file), Path(image_root)
    content = _read_json(json_file)
    if not image_root.is_dir():
        raise FileNotFoundError(f"no image folder '{image_root}'")
    defects = (
        *check_coco(content, source=str(json_file), use=Use()),
        *check_files_exist(content["images"], image_root, source=str(json_file)),
    )
    errors = Report(defects).errors()
    if errors.defects:
        raise ValueError(f"'{json_file}' cannot be used:\n{errors.summary()}")
    images, annotations, categories = (content[key] for key in COCO_LISTS)
    return CocoSplit(
        json_file=json_file,
        image_root=image_root,
        categories={c["id"]: c["name"] for c in sorted(categories, key=lambda c: c["id"])},
        num_images=len(images),
        num_annotations=len(annotations),
        has_masks=all(a.get("segmentation") for a in annotations),
    )


def names_own_data(cfg: CfgNode) -> bool:
    """Tell whether a config names data of one's own, or a part of them."""
    return any(cfg.DATASETS.OWN[key] for key in OPTIONS)


def use_own_data(cfg: CfgNode) -> None:
    """Check and register the data that `DATASETS.OWN` names, if any, and fit the config to it.

    Args:
        cfg: changed in place, as `use_coco_splits` does.

    Raises:
        FileNotFoundError: a json or a folder is not there.
        ValueError: only some of the keys are set, the model takes more than instances, or the data
            cannot be used.
    """
    own, options = cfg.DATASETS.OWN, ", ".join(OPTIONS.values())
    if not names_own_data(cfg):
        return
    missing = [option for key, option in OPTIONS.items() if not own[key]]
    if missing:
        raise ValueError(
            f"own data needs all of {options} (DATASETS.OWN in a config); missing: "
            f"{', '.join(missing)}"
        )
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture in NEED_MORE_THAN_INSTANCES:
        raise ValueError(
            f"{options} are for detectors, the config trains a {architecture}: give a config of a "
            "detector, or name registered datasets in DATASETS.TRAIN and DATASETS.TEST"
        )
    if cfg.MODEL.KEYPOINT_ON:
        raise ValueError(
            f"{options} do not tell which keypoints a mirrored image exchanges: register the "
            "datasets with their keypoint_names and keypoint_flip_map, and name them in "
            "DATASETS.TRAIN and DATASETS.TEST"
        )
    train = read_coco_split(own.TRAIN_JSON, own.TRAIN_IMAGES)
    use_coco_splits(cfg, train, read_coco_split(own.VAL_JSON, own.VAL_IMAGES))


def use_validation(cfg: CfgNode, val: CocoSplit) -> None:
    """Register a split as the only dataset that a config evaluates on.

    Args:
        cfg: changed in place, `DATASETS.TEST` and the validation data of `DATASETS.OWN`.
        val: of `read_coco_split`.
    """
    cfg.DATASETS.OWN.VAL_JSON = str(val.json_file.absolute())
    cfg.DATASETS.OWN.VAL_IMAGES = str(val.image_root.absolute())
    cfg.DATASETS.TEST = (VAL_NAME,)
    register_split(VAL_NAME, val.json_file.absolute(), val.image_root.absolute())


def register_own_data(cfg: CfgNode) -> None:
    """Register the data that `DATASETS.OWN` names in this process, unread.

    Args:
        cfg: of a run whose data were checked by `use_own_data`, in this process or another.
    """
    own = cfg.DATASETS.OWN
    for name, json_file, images in (
        (TRAIN_NAME, own.TRAIN_JSON, own.TRAIN_IMAGES),
        (VAL_NAME, own.VAL_JSON, own.VAL_IMAGES),
    ):
        if json_file:
            register_split(name, json_file, images)


def validation_of_training(cfg: CfgNode) -> CocoSplit | None:
    """Read the validation data that a detector of one's own data was trained with.

    Args:
        cfg: of the detector.

    Returns:
        What `read_coco_split` does; None where `DATASETS.TEST` has registered datasets.

    Raises:
        FileNotFoundError: the json or the folder is not there any more, or cannot be read.
        ValueError: the json cannot be used, or the config does not tell where it is.
    """
    own = cfg.DATASETS.OWN
    if VAL_NAME not in cfg.DATASETS.TEST:
        return None
    if not own.VAL_JSON:
        raise ValueError(
            "the config does not tell where the data of the training are (DATASETS.OWN): tell it "
            "with --val-json and --val-images"
        )
    try:
        return read_coco_split(own.VAL_JSON, own.VAL_IMAGES)
    except (FileNotFoundError, PermissionError) as error:
        raise FileNotFoundError(
            f"the validation data of the training have gone: {error}; tell where they are with "
            "--val-json and --val-images"
        ) from error


def use_coco_splits(cfg: CfgNode, train: CocoSplit, val: CocoSplit) -> None:
    """Register two splits as detectron2 datasets and fit a config to them.

    Sets `DATASETS.TRAIN` and `TEST`, the number of classes of every head, and `DATASETS.OWN` to the
    absolute paths and the categories: the config tells where the data lie, and what classes mean.

    Args:
        cfg: changed in place.
        train, val: of `read_coco_split`, with the same categories.

    Raises:
        ValueError: the categories of the two differ, or the config wants masks and there are none.
    """
    if train.categories != val.categories:
        raise ValueError(
            f"the categories of '{train.json_file}' and '{val.json_file}' differ: only in train "
            f"{_difference(train, val)}, only in val {_difference(val, train)}; give both files "
            "the same 'categories' (id and name)"
        )
    if cfg.MODEL.MASK_ON:
        for split in (train, val):
            if not split.has_masks:
                raise ValueError(
                    f"the config trains masks, and '{split.json_file}' has annotations without "
                    "'segmentation'; add them, or train boxes only with MODEL.MASK_ON False"
                )
    cfg.DATASETS.OWN.TRAIN_JSON = str(train.json_file.absolute())
    cfg.DATASETS.OWN.TRAIN_IMAGES = str(train.image_root.absolute())
    cfg.DATASETS.OWN.CATEGORIES = [[number, name] for number, name in train.categories.items()]
    cfg.DATASETS.TRAIN = (TRAIN_NAME,)
    register_split(TRAIN_NAME, train.json_file.absolute(), train.image_root.absolute())
    use_validation(cfg, val)
    for head in ("ROI_HEADS", "POINT_HEAD", "RETINANET", "FCOS"):
        cfg.MODEL[head].NUM_CLASSES = len(train.categories)
    logger.info(
        "%d classes (%s); %d train and %d val images",
        len(train.categories),
        ", ".join(train.categories.values()),
        train.num_images,
        val.num_images,
    )


def register_split(name: str, json_file: str | Path, image_root: str | Path) -> None:
    """Register a COCO instance json as a detectron2 dataset, in place of one of that name."""
    for catalog in (DatasetCatalog, MetadataCatalog):  # metadata may be there without its dataset
        if name in catalog.list():
            catalog.remove(name)
    register_coco_instances(name, {}, str(json_file), str(image_root))


def _read_json(json_file: Path) -> dict[str, list]:
    """Read a json that has COCO's three lists of dictionaries, none of them empty."""
    if not json_file.is_file():
        raise FileNotFoundError(f"no annotation file '{json_file}'")
    try:
        content = json.loads(json_file.read_text())
    except ValueError as error:
        raise ValueError(f"'{json_file}' is not a json file: {error}") from error
    lacking = [key for key in COCO_LISTS if not isinstance(content, dict) or key not in content]
    if lacking:
        raise ValueError(
            f"'{json_file}' is not in COCO's instance format: it has no {', '.join(lacking)}"
        )
    for key in COCO_LISTS:
        if not content[key]:
            raise ValueError(f"'{json_file}' has no {key}: the list is empty")
        strange = [entry for entry in content[key] if not isinstance(entry, dict)]
        if strange:
            raise ValueError(
                f"'{json_file}' is not in COCO's instance format: {key} must have keys and values, "
                f"and {len(strange)} have none, such as {str(strange[0])[:80]}"
            )
    return content


def _difference(one: CocoSplit, other: CocoSplit) -> list[tuple[int, str]]:
    """List the categories of one split that the other has not."""
    return [item for item in one.categories.items() if item not in other.categories.items()]
