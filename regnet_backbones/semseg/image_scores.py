"""The score and the time of each validation image, and pictures of the best and the worst."""

import time
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torchmetrics.functional.classification import multiclass_confusion_matrix

from regnet_backbones.runs.device import device_name
from regnet_backbones.runs.results import (
    ImageResults,
    ImageScore,
    ScoredImages,
    median_milliseconds,
)
from regnet_backbones.semseg import metrics, overlays
from regnet_backbones.semseg.layouts import IGNORE


class ScoreImages(Callback):
    """Score and time the images of a validation.

    Args:
        folder: to draw into.

    Attributes:
        found: what `images.json` holds, after the validation.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.found: ImageResults | None = None
        self._scored = ScoredImages()
        self._seconds: list[float] = []

    def on_validation_batch_start(self, trainer: Trainer, *_: object) -> None:
        """Start the watch; the batch is on the device."""
        self._start = time.perf_counter()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        prediction: torch.Tensor | None,
        batch: dict[str, torch.Tensor | list[str]],
        *_: object,
    ) -> None:
        """Score the images of a batch; of a batch of repetitions there is no prediction."""
        if prediction is None:
            return
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        self._seconds.append((time.perf_counter() - self._start) / len(prediction))
        images = zip(batch["image"], batch["mask"], prediction, batch["name"], strict=False)
        for image, truth, found, name in images:
            matrix = multiclass_confusion_matrix(
                found, truth, len(module.class_names), ignore_index=IGNORE, validate_args=False
            )
            score = metrics.finite(metrics.summarize(matrix, module.class_names)[metrics.MIOU])
            draw = partial(
                overlays.side_by_side,
                *(each.cpu() for each in (image, truth, found)),
                mean=module.hparams["mean"],
                std=module.hparams["std"],
                colors=overlays.palette(len(module.class_names)),
            )
            self._scored.add(ImageScore(name, score), draw)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Gather what all processes have scored, and draw."""
        parts = [self._scored.scores]
        if trainer.world_size > 1:
            parts = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(parts, self._scored.scores)
        scores = tuple(score for part in parts for score in part)
        names = module.class_names
        self.found = ImageResults(
            score="mean IoU of an image, over the classes in its ground truth or its prediction",
            panels=("image", "ground truth", "prediction"),
            available=len(trainer.datamodule.val_set),
            images=scores,
            **self._scored.draw(self.folder, scores),
            milliseconds=median_milliseconds(self._seconds),
            machine=device_name(module.device),
            parameters=sum(p.numel() for p in module.network.parameters()),
            legend=dict(zip(names, overlays.palette(len(names)), strict=True)),
        )
