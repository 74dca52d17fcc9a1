"""Which evaluators a dataset has, and what draws its pictures."""

from collections.abc import Callable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)

from regnet_backbones.detection.pictures import InstancePictures, SemanticPictures

# Evaluators by the `evaluator_type` of a dataset; each is called with dataset name and folder.
EVALUATORS: dict[str, tuple[Callable[[str, str], DatasetEvaluator], ...]] = {
    "coco": (lambda name, folder: COCOEvaluator(name, output_dir=folder),),
    "coco_panoptic_seg": (
        lambda name, folder: SemSegEvaluator(name, output_dir=folder),
        lambda name, folder: COCOEvaluator(name, output_dir=folder),
        lambda name, folder: COCOPanopticEvaluator(name, folder),
    ),
    "sem_seg": (lambda name, folder: SemSegEvaluator(name, output_dir=folder),),
    "lvis": (lambda name, folder: LVISEvaluator(name, output_dir=folder),),
    "pascal_voc": (lambda name, folder: PascalVOCDetectionEvaluator(name),),
    "cityscapes_instance": (lambda name, folder: CityscapesInstanceEvaluator(name),),
    "cityscapes_sem_seg": (lambda name, folder: CityscapesSemSegEvaluator(name),),
}

# Datasets with instances to draw.
INSTANCE_TYPES = ("coco", "lvis")


def build_evaluators(cfg: CfgNode, dataset_name: str) -> DatasetEvaluators:
    """Build the evaluators of a dataset, and what draws its pictures.

    Raises:
        ValueError: no evaluator is known for the dataset's `evaluator_type`.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", None)
    if kind not in EVALUATORS:
        raise ValueError(
            f"dataset '{dataset_name}' has evaluator_type {kind!r}, known are "
            f"{', '.join(EVALUATORS)}; set it with MetadataCatalog.get(name).evaluator_type"
        )
    folder = str(Path(cfg.OUTPUT_DIR) / "inference")
    evaluators = [build(dataset_name, folder) for build in EVALUATORS[kind]]
    sheet, count = contact_sheet_path(cfg, dataset_name), cfg.TEST.PICTURES
    if count and kind in INSTANCE_TYPES:
        score = cfg.TEST.PICTURES_MIN_SCORE
        evaluators.append(InstancePictures(dataset_name, sheet, count=count, min_score=score))
    elif count and kind == "sem_seg":
        evaluators.append(SemanticPictures(dataset_name, sheet, count=count))
    return DatasetEvaluators(evaluators)


def contact_sheet_path(cfg: CfgNode, dataset_name: str) -> Path:
    """Return where the pictures of a dataset's predictions are written."""
    return Path(cfg.OUTPUT_DIR) / "pictures" / f"{dataset_name}.png"
