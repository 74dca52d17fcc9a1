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
    errors = Report(tuple(defect for defect in defects if defect.severity == "error"))
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


def use_coco_splits(cfg: CfgNode, train: CocoSplit, val: CocoSplit) -> None:
    """Register two splits as detectron2 datasets and fit a config to them.

    Sets `DATASETS.TRAIN` and `TEST`, and the number of classes of every head.

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
    register_splits(train.json_file, train.image_root, val.json_file, val.image_root)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (TRAIN_NAME,), (VAL_NAME,)
    for head in ("ROI_HEADS", "POINT_HEAD", "RETINANET", "FCOS"):
        cfg.MODEL[head].NUM_CLASSES = len(train.categories)
    logger.info(
        "%d classes (%s); %d train and %d val images",
        len(train.categories),
        ", ".join(train.categories.values()),
        train.num_images,
        val.num_images,
    )


def register_splits(
    train_json: str | Path, train_images: str | Path, val_json: str | Path, val_images: str | Path
) -> None:
    """Register two splits as detectron2 datasets in this process, unread."""
    register_split(TRAIN_NAME, train_json, train_images)
    register_split(VAL_NAME, val_json, val_images)


def register_split(name: str, json_file: str | Path, image_root: str | Path) -> None:
    """Register a COCO instance json as a detectron2 dataset, in place of one of that name."""
    for catalog in (DatasetCatalog, MetadataCatalog):  # metadata may be there without its dataset
        if name in catalog.list():
            catalog.remove(name)
    register_coco_instances(name, {}, str(json_file), str(image_root))


def _read_json(json_file: Path) -> dict[str, list]:
    """Read a json that has COCO's three lists, none of them empty."""
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
    return content


def _difference(one: CocoSplit, other: CocoSplit) -> list[tuple[int, str]]:
    """List the categories of one split that the other has not."""
    return [item for item in one.categories.items() if item not in other.categories.items()]
