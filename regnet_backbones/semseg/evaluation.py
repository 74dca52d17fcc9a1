"""How good a trained segmenter is on the validation images of a dataset."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from lightning import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tabulate import tabulate

from regnet_backbones.errors import UserError, as_user_error
from regnet_backbones.optimize.options import Optimization
from regnet_backbones.runs.device import check_device
from regnet_backbones.runs.results import write_images, write_results
from regnet_backbones.runs.trained import Trained
from regnet_backbones.semseg import metrics
from regnet_backbones.semseg.checkpoints import load_data, load_segmenter
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.image_scores import ScoreImages
from regnet_backbones.semseg.inference import Inference
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.semseg.optimization import OptimizeBeforeValidation, typical_side

logger = logging.getLogger(__name__)


class Evaluation(TypedDict):
    """What `evaluate` finds, ready for a JSON file: numbers from 0 to 1, None for none.

    Keys:
        miou: mean of `iou` over the classes that are in truth or prediction.
        accuracy: part of the labelled pixels that are predicted right.
        iou: by class name; None for a class that is in neither.
        images: how many there were.
        settings: of the inference, the precision, and the optimization.
    """

    miou: float | None
    accuracy: float | None
    iou: dict[str, float | None]
    images: int
    settings: dict[str, object]


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
) -> Evaluation:
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
        Numbers from 0 to 1, the same in every process of a distributed evaluation.

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
    scores = None if output is None else ScoreImages(Path(output))
    callbacks = [] if scores is None else [scores]
    if optimization is not None:
        side = typical_side(segmenter, data.hparams["crop_size"])
        callbacks.append(OptimizeBeforeValidation(optimization, side=side))
    with as_user_error(MisconfigurationException, ValueError, RuntimeError):
        trainer = Trainer(
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            callbacks=callbacks,
            limit_val_batches=1.0 if images is None else images,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
    (values,) = trainer.validate(segmenter, data, verbose=False)
    names, finite = segmenter.class_names, metrics.finite
    available = len(data.val_set)
    found = Evaluation(
        miou=finite(values.get(metrics.MIOU)),
        accuracy=finite(values.get(metrics.ACCURACY)),
        iou={name: finite(values.get(f"{metrics.IOU}{name}")) for name in names},
        images=available if images is None else min(images * trainer.world_size, available),
        settings={
            **segmenter.inference.describe(),
            "precision": precision,
            "optimization": None if optimization is None else optimization.describe(),
        },
    )
    if scores is not None and trainer.is_global_zero:
        write_images(output, scores.found)
        opts = [str(word) for pair in (overrides or {}).items() for word in pair]
        numbers = {name: value for name, value in found.items() if name != "settings"}
        write_results(
            output,
            Trained("segmenter", Path(checkpoint)),
            results=numbers,
            settings={**found["settings"], "opts": opts},
        )
    return found


def results_table(evaluation: Evaluation) -> str:
    """Format an evaluation as a table, in percent."""
    rows = [("mIoU", evaluation["miou"]), ("pixel accuracy", evaluation["accuracy"])]
    rows += [(f"IoU {name}", value) for name, value in evaluation["iou"].items()]
    return tabulate(
        [(name, None if value is None else 100 * value) for name, value in rows],
        headers=(f"{evaluation['images']} images", "%"),
        floatfmt=".2f",
        missingval="-",
    )


def _check_classes(segmenter: Segmenter, data: SegmentationData) -> None:
    """Raise UserError where the data have another number of classes, and warn of other names."""
    known, found = segmenter.class_names, data.class_names
    if len(known) != len(found):
        raise UserError(
            f"the segmenter knows {len(known)} classes and the data have {len(found)}; evaluate on "
            "data with its classes"
        )
    if known != found:
        index = next(i for i in range(len(known)) if known[i] != found[i])
        logger.warning(
            "class %d is '%s' for the segmenter and '%s' in the data; results have the segmenter's "
            "names, and are wrong if these are other things",
            *(index, known[index], found[index]),
        )
