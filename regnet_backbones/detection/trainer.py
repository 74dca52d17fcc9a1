"""Detectron2's DefaultTrainer with evaluators by dataset, and pictures of predictions."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_train_loader
from detectron2.engine import DefaultTrainer
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

SEGMENTER = "SemanticSegmentor"


class Trainer(DefaultTrainer):
    """The trainer of `tools/train_net.py`."""

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluators:
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

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict]]:
        """Build the batches of training; a segmenter's images are augmented in its own way."""
        if cfg.MODEL.META_ARCHITECTURE != SEGMENTER:
            return super().build_train_loader(cfg)
        from regnet_backbones.detection.semantic import build_train_mapper

        return build_detection_train_loader(cfg, mapper=build_train_mapper(cfg))

    @classmethod
    def build_lr_scheduler(
        cls, cfg: CfgNode, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Build the schedule of `SOLVER.LR_SCHEDULER_NAME`: detectron2's, or "WarmupPolyLR"."""
        if cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupPolyLR":
            return super().build_lr_scheduler(cfg, optimizer)
        from regnet_backbones.detection.semantic import build_poly_lr

        return build_poly_lr(cfg, optimizer)

    def train(self) -> dict:
        """Train to `SOLVER.MAX_ITER` and return the results of the last evaluation."""
        super().train()
        return getattr(self, "_last_eval_results", {})


def contact_sheet_path(cfg: CfgNode, dataset_name: str) -> Path:
    """Return where the pictures of a dataset's predictions are written."""
    return Path(cfg.OUTPUT_DIR) / "pictures" / f"{dataset_name}.png"
