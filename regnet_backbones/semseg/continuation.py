"""Whether a run can go on from a checkpoint: what must be as it was, and what is not taken anew."""

import logging
from pathlib import Path

from regnet_backbones.semseg.checkpoints import read_segmenter_checkpoint
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.weights.entries import listing, shown

logger = logging.getLogger(__name__)

# Hyperparameters that weights and the state of the optimizer are of.
SAME = ("num_classes", "decoder", "decoder_options", "encoder", "output_stride", "optimizer")

# Those that the state of optimizer and schedule holds: the checkpoint's go on.
KEPT = ("lr", "encoder_lr_factor", "weight_decay", "momentum")

# What an option of the model is called where another one says it.
OPTIONS = {"num_classes": "the number of classes of the data"}


def check_continuation(checkpoint: Path, segmenter: Segmenter, *, max_steps: int) -> None:
    """Check that a run can go on from a checkpoint, and warn of options that have no effect.

    Args:
        checkpoint: a file that Lightning saved in the training of a `Segmenter`.
        segmenter: of the run.
        max_steps: its number of steps, -1 for any.

    Raises:
        ValueError: the checkpoint cannot be read, is of another network or optimizer, or has more
            steps than the run shall have.
    """
    content = read_segmenter_checkpoint(checkpoint)
    saved = content[Segmenter.CHECKPOINT_HYPER_PARAMS_KEY]
    now = segmenter.hparams
    for name in SAME:
        if name in saved and _plain(saved[name]) != _plain(now[name]):
            raise ValueError(
                f"--resume cannot go on from '{checkpoint}': {OPTIONS.get(name, f'--model.{name}')}"
                f" was {shown(saved[name])} and is {shown(now[name])}; give what it was, or "
                "another --output"
            )
    steps = content["global_step"]
    if 0 <= max_steps < steps:
        raise ValueError(
            f"'{checkpoint}' has {steps} steps, more than --trainer.max_steps {max_steps}; give "
            "more steps to go on, or another --output to start anew"
        )
    for name in KEPT:
        if name in saved and saved[name] != now[name]:
            logger.warning(
                "--model.%s %s has no effect: a resumed run goes on with %s, as its optimizer was "
                "saved; start anew in another --output to change it",
                *(name, now[name], shown(saved[name])),
            )
    names = saved.get("class_names")
    if isinstance(names, list | tuple) and tuple(names) != tuple(now["class_names"] or ()):
        logger.warning(
            "the classes were %s and are %s; labels learnt so far mean the former",
            *(listing(list(names)), listing(list(now["class_names"] or ()))),
        )


def _plain(value: object) -> object:
    """Return a value as it compares: architectures are upper or lower case."""
    return value.lower() if isinstance(value, str) else value
