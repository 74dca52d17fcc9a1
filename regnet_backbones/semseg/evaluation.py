"""How good a trained segmenter is on the validation images of a dataset."""

import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torchmetrics.functional.classification import multiclass_confusion_matrix

from regnet_backbones.errors import UserError, as_user_error
from regnet_backbones.optimize.options import Optimization
from regnet_backbones.runs.device import check_device, device_name
from regnet_backbones.runs.results import (
    ImageResults,
    ImageScore,
    ScoredImages,
    median_milliseconds,
    write_images,
    write_results,
)
from regnet_backbones.runs.trained import Trained
from regnet_backbones.semseg import metrics
from regnet_backbones.semseg.checkpoints import load_data, load_segmenter
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.inference import Inference
from regnet_backbones.semseg.labels import IGNORE
from regnet_backbones.semseg.module import Batch, Segmenter
from regnet_backbones.semseg.overlays import palette

logger = logging.getLogger(__name__)


def evaluate(
    checkpoint: Path,
    *,
    output: str | Path | None = None,
    inference: Inference | None = None,
    overrides: Mapping[str, object] | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    precision: str = "32-true",
    optimization: Optimization | None = None,
    images: int | None = None,
) -> dict[str, object]:
    """Evaluate a checkpoint on the validation images of the data that it was trained on.

    Args:
        checkpoint: a file that Lightning saved in a training of a `Segmenter`.
        output: a folder to write to what `runs.results` describes, None to write nothing.
        inference: see `checkpoints.load_segmenter`.
        overrides: arguments of the data that differ, see `checkpoints.load_data`.
        accelerator, devices, precision: as of `lightning.Trainer`.
        optimization: how to make the network fast, None for not at all.
        images: how many images a process evaluates at most, the first ones; None for all.

    Returns:
        Ready for a JSON file, the same in every process of a distributed evaluation: `iou` by class
        name, from 0 to 1, None for a class that is in neither truth nor prediction; `miou`, the
        mean over the others; `accuracy`, of labelled pixels; number of `images`; `settings`.

    Raises:
        UserError: the checkpoint or the dataset is missing or cannot be used, they have different
            classes, or there is no such device.
    """
    if accelerator == "gpu":
        check_device("cuda")
    segmenter = load_segmenter(checkpoint, inference=inference)
    segmenter.hparams["pictures"] = 0
    data = load_data(checkpoint, overrides)
    data.setup("validate")  # says what is not there, before classes are compared
    _check_classes(segmenter, data)
    scores = None if output is None else _ScoreImages(Path(output))
    segmenter.optimization = optimization
    with as_user_error(MisconfigurationException, ValueError, RuntimeError):
        trainer = Trainer(
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            callbacks=scores,
            limit_val_batches=1.0 if images is None else images,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
    trainer.validate(segmenter, data, verbose=False)
    results = metrics.as_results(segmenter.last_validation)
    available = len(data.val_set)
    results["images"] = min((images or available) * trainer.world_size, available)
    settings = {
        **segmenter.inference.describe(),
        "precision": precision,
        "optimization": optimization and optimization.describe(),
    }
    if scores is not None and trainer.is_global_zero:
        write_images(output, scores.found)
        opts = [str(word) for pair in (overrides or {}).items() for word in pair]
        trained = Trained("segmenter", Path(checkpoint))
        write_results(output, trained, results=results, settings={**settings, "opts": opts})
    return {**results, "settings": settings}


class _ScoreImages(Callback):
    """Score and time the images of a validation: `found` is what `images.json` holds, after it."""

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
        module: Segmenter,
        prediction: torch.Tensor | None,
        batch: Batch,
        *_: object,
    ) -> None:
        """Score the images of a batch; of a batch of repetitions there is no prediction."""
        if prediction is None:
            return
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        self._seconds.append((time.perf_counter() - self._start) / len(prediction))
        names = module.class_names
        images = zip(batch["image"], batch["mask"], prediction, batch["name"], strict=False)
        for image, truth, found, name in images:
            matrix = multiclass_confusion_matrix(
                found, truth, len(names), ignore_index=IGNORE, validate_args=False
            )
            score = metrics.as_results(metrics.summarize(matrix, names))["miou"]
            draw = partial(module.draw, *(each.cpu() for each in (image, truth, found)))
            self._scored.add(ImageScore(name, score), draw)

    def on_validation_end(self, trainer: Trainer, module: Segmenter) -> None:
        """Gather what all processes have scored, and draw."""
        parts = [self._scored.scores]
        if trainer.world_size > 1:
            parts = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(parts, self._scored.scores)
        scores = tuple(score for part in parts for score in part)
        colors = palette(len(module.class_names))
        self.found = ImageResults(
            score="mean IoU of an image, over the classes in its ground truth or its prediction",
            panels=("image", "ground truth", "prediction"),
            available=len(trainer.datamodule.val_set),
            images=scores,
            **self._scored.draw(self.folder, scores),
            milliseconds=median_milliseconds(self._seconds),
            machine=device_name(module.device),
            parameters=sum(p.numel() for p in module.network.parameters()),
            legend=dict(zip(module.class_names, colors, strict=True)),
        )


def _check_classes(segmenter: Segmenter, data: SegmentationData) -> None:
    """Raise UserError where the data have another number of classes, and warn of other names."""
    known, found = segmenter.class_names, data.class_names
    if len(known) != len(found):
        raise UserError(f"the segmenter knows {len(known)} classes and the data have {len(found)}")
    for index, (ours, theirs) in enumerate(zip(known, found, strict=True)):
        if ours != theirs:
            text = "class %d is '%s' for the segmenter and '%s' in the data: results have ours"
            logger.warning(text, index, ours, theirs)
