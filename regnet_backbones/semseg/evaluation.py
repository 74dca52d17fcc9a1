"""How good a trained segmenter is on the validation images of a dataset."""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import Subset
from torchmetrics.functional.classification import multiclass_confusion_matrix

from regnet_backbones.errors import UserError, as_user_error
from regnet_backbones.optimize.options import Optimization
from regnet_backbones.runs import results as run_results
from regnet_backbones.runs.colors import class_colors
from regnet_backbones.runs.confusion import Confusion
from regnet_backbones.runs.device import device_name
from regnet_backbones.runs.engines import Engine
from regnet_backbones.runs.image_files import sample
from regnet_backbones.runs.trained import Trained
from regnet_backbones.semseg import metrics
from regnet_backbones.semseg.checkpoints import load_data, load_segmenter
from regnet_backbones.semseg.exported import check_engine, use_engine
from regnet_backbones.semseg.inference import Inference
from regnet_backbones.semseg.labels import IGNORE
from regnet_backbones.semseg.module import Batch, Segmenter
from regnet_backbones.semseg.screen import progress_callback, without_noise

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
    engine: Engine = "torch",
    exported: str | Path | None = None,
) -> dict[str, object]:
    """Evaluate a checkpoint on the validation images of the data that it was trained on.

    Args:
        checkpoint: a file that Lightning saved in a training of a `Segmenter`.
        output: folder for the files that `runs.results` describes, None to write nothing.
        inference: see `checkpoints.load_segmenter`.
        overrides: arguments of the data that differ, see `checkpoints.load_data`.
        accelerator, devices, precision: see `lightning.Trainer`.
        optimization: how to make the network fast, None for not at all.
        images: how many images are evaluated at most, evenly spread; None for all.
        engine: what runs the network. One other than torch runs an ONNX file on the CPU in one
            process, after it was compared with torch on the first image.
        exported: that file, of this checkpoint; None to export it for this evaluation.

    Returns:
        Ready for JSON, the same in every process: the numbers of `metrics.results_of`; boundary
        IoU by class (`boundary_iou`) and its mean (`boundary_miou`); number of `images`;
        `settings`.

    Raises:
        UserError: checkpoint, dataset, device, engine or an argument cannot be used.
    """
    options = {"optimization": optimization, "processes": devices, "precision": precision}
    check_engine(engine, exported, device=accelerator, **options)
    segmenter = load_segmenter(checkpoint, inference=inference)
    segmenter.hparams["pictures"] = 0
    data = load_data(checkpoint, overrides)
    data.setup("validate")  # raises for missing files before classes are compared
    known, found = segmenter.class_names, data.class_names
    if len(known) != len(found):
        raise UserError(f"the data must have {len(known)} classes as the model, got {len(found)}")
    if known != found:
        logger.warning("class names differ: data %s, model (and results) %s", found, known)
    scores = None if output is None else _ScoreImages(Path(output), len(data.val_set))
    counted = _CountPixels()
    segmenter.optimization = optimization
    if engine != "torch":
        accelerator = "cpu"
        first = data.val_set[0]["image"][None]
        use_engine(segmenter.eval(), checkpoint, engine=engine, exported=exported, images=first)
    available = len(data.val_set)
    if images is not None:
        data.val_set = Subset(data.val_set, sample(range(available), images))
    errors = (MisconfigurationException, ValueError, RuntimeError)
    with without_noise(), as_user_error(*errors):
        trainer = Trainer(
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            callbacks=[progress_callback(), *([scores] if scores else []), counted],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
    with without_noise():
        trainer.validate(segmenter, data, verbose=False)
    results = {**segmenter.last_validation, **counted.boundaries, "images": len(data.val_set)}
    settings = {
        **asdict(segmenter.inference),
        "scales": list(segmenter.inference.scales),
        "precision": precision,
        "optimization": optimization and asdict(optimization),
        "engine": engine,
        "exported": None if exported is None else str(exported),
    }
    if scores is not None and trainer.is_global_zero:
        run_results.write_images(output, scores.found)
        opts = {"opts": [str(word) for pair in (overrides or {}).items() for word in pair]}
        trained = Trained("segmenter", Path(checkpoint))
        matrix = {"segmentation": counted.confusion}
        given = {"results": results, "settings": settings | opts, "confusion": matrix}
        run_results.write_results(output, trained, **given)
    return {**results, "settings": settings}


class _CountPixels(Callback):
    """Keep the confusion matrix of a validation, and count boundaries, after the time is taken."""

    def on_validation_start(self, _: object, module: Segmenter) -> None:
        """Start counting, in processes without images, too."""
        size = (2, len(module.class_names))
        self._counts = torch.zeros(size, dtype=torch.long, device=module.device)

    def on_validation_batch_end(
        self, _: object, module: Segmenter, prediction: torch.Tensor | None, batch: Batch, *__: int
    ) -> None:
        """Count a batch; repeated images have no prediction."""
        if prediction is not None:
            pair = prediction, batch["mask"][: len(prediction)]
            self._counts += metrics.boundary_counts(*pair, len(module.class_names))

    def on_validation_epoch_end(self, trainer: Trainer, module: Segmenter) -> None:
        """Gather what all processes have counted; the module forgets its matrix after this."""
        names, counts = module.class_names, module.confusion.compute()
        self.confusion = Confusion(names, counts.tolist(), "pixels")
        boundaries = trainer.strategy.reduce(self._counts, reduce_op="sum")
        self.boundaries = metrics.boundary_results(boundaries, names)


class _ScoreImages(Callback):
    """Score and time the images of a validation: `found` is what `images.json` holds, after it."""

    def __init__(self, folder: Path, available: int):
        self.folder, self.available = folder, available
        self.found: run_results.ImageResults | None = None
        self._scored = run_results.ScoredImages()
        self._seconds: list[float] = []

    def on_validation_batch_start(self, trainer: Trainer, *_: object) -> None:
        """Start the watch; the batch is on the device."""
        self._start = time.perf_counter()

    def on_validation_batch_end(
        self, _: object, module: Segmenter, prediction: torch.Tensor | None, batch: Batch, *__: int
    ) -> None:
        """Score the images of a batch; repeated images have no prediction."""
        if prediction is None:
            return
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        self._seconds.append(time.perf_counter() - self._start)
        images = (batch["image"], batch["mask"], prediction)
        image, truth, found = (each[0].cpu() for each in images)  # of a batch of one
        counting = {"ignore_index": IGNORE, "validate_args": False}
        names = module.class_names
        matrix = multiclass_confusion_matrix(found, truth, len(names), **counting)
        score = run_results.ImageScore(batch["name"][0], metrics.results_of(matrix, names)["miou"])
        self._scored.add(score, partial(module.draw, image, truth, found))

    def on_validation_end(self, trainer: Trainer, module: Segmenter) -> None:
        """Gather what all processes have scored, and draw."""
        parts = [self._scored.scores]
        if trainer.world_size > 1:
            parts = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(parts, self._scored.scores)
        scores = tuple(score for part in parts for score in part)
        self.found = run_results.ImageResults(
            score="mean IoU of an image, over the classes in its ground truth or its prediction",
            panels=("image", "ground truth", "prediction"),
            available=self.available,
            images=scores,
            **self._scored.draw(self.folder, scores),
            milliseconds=run_results.median_milliseconds(self._seconds),
            machine=device_name(module.device),
            parameters=sum(p.numel() for p in module.network.parameters()),
            legend=class_colors(module.class_names),
        )
