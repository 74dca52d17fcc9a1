"""How good a trained segmenter is on the validation images of a dataset."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from lightning import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tabulate import tabulate

from regnet_backbones.errors import UserError
from regnet_backbones.optimize.options import Optimization
from regnet_backbones.runs.device import check_device
from regnet_backbones.semseg import metrics
from regnet_backbones.semseg.checkpoints import load_data, load_segmenter
from regnet_backbones.semseg.datamodule import SegmentationData
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
    inference: Inference | None = None,
    overrides: Mapping[str, object] | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    precision: str = "32-true",
    optimization: Optimization | None = None,
) -> Evaluation:
    """Evaluate a checkpoint on the validation images of the data that it was trained on.

    Args:
        checkpoint: a file that Lightning saved in a training of a `Segmenter`.
        inference: see `checkpoints.load_segmenter`.
        overrides: arguments of the data that differ, see `checkpoints.load_data`.
        accelerator, devices, precision: as of `lightning.Trainer`.
        optimization: how the network shall be made fast, None for not at all.

    Returns:
        Numbers from 0 to 1, the same in every process of a distributed evaluation.

    Raises:
        FileNotFoundError: the checkpoint or the dataset is not there.
        ValueError: one of the two cannot be used, they have different classes, or there is no such
            device.
    """
    if accelerator == "gpu":
        check_device("cuda")  # Lightning's own words are of its Trainer
    segmenter = load_segmenter(checkpoint, inference=inference)
    segmenter.hparams["pictures"] = 0
    data = load_data(checkpoint, overrides)
    data.setup("validate")  # says what is not there, before classes are compared
    _check_classes(segmenter, data)
    callbacks = []
    if optimization is not None:
        side = typical_side(segmenter, data.hparams["crop_size"])
        callbacks.append(OptimizeBeforeValidation(optimization, side=side))
    try:
        trainer = Trainer(
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError) as error:
        raise UserError(str(error)) from error
    (values,) = trainer.validate(segmenter, data, verbose=False)
    return Evaluation(
        miou=_finite(values.get(metrics.MIOU)),
        accuracy=_finite(values.get(metrics.ACCURACY)),
        iou={name: _finite(values.get(f"{metrics.IOU}{name}")) for name in segmenter.class_names},
        images=len(data.val_set),
        settings=segmenter.inference.describe()
        | {
            "precision": precision,
            "optimization": None if optimization is None else optimization.describe(),
        },
    )


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
    """Raise a ValueError where the classes of the data are not those of the segmenter."""
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


def _finite(value: float | None) -> float | None:
    """Return a number, None where there is none."""
    return None if value is None or math.isnan(value) else value
