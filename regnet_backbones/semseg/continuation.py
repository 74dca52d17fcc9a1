"""Whether a run can resume from a checkpoint, and what keeps that from being exact."""

import logging
from collections.abc import Mapping
from pathlib import Path

from regnet_backbones.errors import UserError
from regnet_backbones.semseg.checkpoints import read_segmenter_checkpoint
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.semseg.resuming import TRAINER_KEY
from regnet_backbones.weights.state_dicts import shown

# Options of the trainer that a step depends on.
TRAINER = (
    *("accumulate_grad_batches", "gradient_clip_algorithm", "gradient_clip_val"),
    *("limit_train_batches", "max_epochs", "max_steps", "overfit_batches", "precision"),
)

# Weights and the state of the optimizer are of these.
SAME = (
    *("model.num_classes", "model.decoder", "model.decoder_options", "model.encoder"),
    *("model.output_stride", "model.optimizer"),
)

# The states of optimizer, schedule and data hold these: those of the checkpoint are kept.
KEPT = (
    *("model.lr", "model.encoder_lr_factor", "model.weight_decay", "model.momentum"),
    "trainer.seed",
)

# A step does not depend on these, or depends on them by another option that is compared.
FREE = (
    *("model.encoder_weights", "model.pictures", "model.mean", "model.std", "model.short_side"),
    *("data.root", "data.train_images", "data.train_masks", "data.val_images", "data.val_masks"),
    *("data.class_names_file", "data.num_classes", "data.num_workers", "data.skip_bad"),
)

# What is not an option of its own.
WORDED = {
    "model.num_classes": "the number of classes of the data",
    "model.class_names": "the list of classes of the data",
    "trainer.processes": "the number of processes",
    "trainer.seed": "--seed_everything",
}

logger = logging.getLogger(__name__)


def check_continuation(
    checkpoint: Path,
    segmenter: Segmenter,
    data: SegmentationData,
    trainer: Mapping[str, object],
) -> None:
    """Check that a run can resume from a checkpoint, and warn of options that differ.

    Args:
        checkpoint: a file that Lightning saved in the training of a `Segmenter`.
        segmenter: of the run.
        data: of the run.
        trainer: options of the run's trainer, as the checkpoint has them under `TRAINER_KEY`.

    Raises:
        ValueError: the checkpoint cannot be read, is of another network or optimizer, or has more
            steps than the run shall have.
    """
    content = read_segmenter_checkpoint(checkpoint)
    saved = {
        "model": content[Segmenter.CHECKPOINT_HYPER_PARAMS_KEY],
        "data": content.get(SegmentationData.CHECKPOINT_HYPER_PARAMS_KEY),
        "trainer": content.get(TRAINER_KEY),
    }
    now = {"model": segmenter.hparams, "data": data.hparams, "trainer": trainer}
    changed = {
        f"{group}.{name}": f"{WORDED.get(f'{group}.{name}', f'--{group}.{name}')} was "
        f"{shown(before)} and is {shown(now[group][name])}"
        for group, values in saved.items()
        for name, before in (values if isinstance(values, dict) else {}).items()
        if name in now[group] and _plain(before) != _plain(now[group][name])
    }
    for key in SAME:
        if key in changed:
            raise UserError(
                f"--resume cannot continue from '{checkpoint}': {changed[key]}; restore the old "
                "value, or give another --output"
            )
    steps, max_steps = content["global_step"], trainer["max_steps"]
    if 0 <= max_steps < steps:
        raise UserError(
            f"'{checkpoint}' has {steps} steps, more than --trainer.max_steps {max_steps}; give "
            "more steps to continue, or another --output to start over"
        )
    differences = [
        f"{text} (no effect: the checkpoint's is kept)" if key in KEPT else text
        for key, text in changed.items()
        if key not in FREE
    ]
    if differences:
        logger.warning(
            "resuming with options that differ from those of '%s': %s. Restore the old values to "
            "resume exactly, or give another --output to start over",
            *(checkpoint, "; ".join(differences)),
        )


def _plain(value: object) -> object:
    """Return a value as it compares: architectures are upper or lower case, lists tuples."""
    if isinstance(value, str):
        return value.lower()
    return tuple(value) if isinstance(value, list) else value
