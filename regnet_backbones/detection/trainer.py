"""Detectron2's DefaultTrainer with evaluators by dataset, and pictures of predictions."""

from collections.abc import Iterable

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluators

from regnet_backbones.detection.evaluators import build_evaluators
from regnet_backbones.detection.mappers import train_mapper


class Trainer(DefaultTrainer):
    """The trainer of `tools/train_net.py`."""

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluators:
        """Build the evaluators of a dataset, and what draws its pictures."""
        return build_evaluators(cfg, dataset_name)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict]]:
        """Build the batches of training, augmented in the way of the architecture."""
        return build_detection_train_loader(cfg, mapper=train_mapper(cfg))

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
