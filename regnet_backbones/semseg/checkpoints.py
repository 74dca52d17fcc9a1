"""Segmenters and their data from the checkpoints of a training, on any machine."""

import inspect
from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.inference import Inference
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.semseg.resume import read_lightning_checkpoint
from regnet_backbones.weights.state_dicts import load_all, reason

# Hyperparameters by which a checkpoint of a segmenter is known.
_MODEL = Segmenter.CHECKPOINT_HYPER_PARAMS_KEY
_DATA = SegmentationData.CHECKPOINT_HYPER_PARAMS_KEY
KNOWN_BY = {"num_classes", "decoder", "encoder"}
WANTED = "give one that tools/train_semseg.py wrote, such as <output>/checkpoints/best.ckpt"

# How a command line says None, which YAML calls null.
NONE_TEXTS = ("none", "null")


def load_segmenter(checkpoint: Path, *, inference: Inference | None = None) -> Segmenter:
    """Load a segmenter; weights to start a training from are not fetched.

    Args:
        checkpoint: a file that Lightning saved in the training of a `Segmenter`.
        inference: how it shall predict, None for whole images. Where it has no `short_side`, the
            segmenter's own is taken.

    Returns:
        The segmenter, on the CPU.

    Raises:
        UserError: there is no such file, it cannot be read, or is no checkpoint of a segmenter.
    """
    content = read_segmenter_checkpoint(checkpoint)
    known = inspect.signature(Segmenter).parameters
    arguments = {n: v for n, v in content[_MODEL].items() if n in known}
    try:
        segmenter = Segmenter(**(arguments | {"encoder_weights": None}))
        segmenter.on_load_checkpoint(content)
        load_all(segmenter, content["state_dict"], "its state dict")
    # Arguments of any kind and value are in the file.
    except Exception as error:
        raise UserError(
            f"checkpoint '{checkpoint}' is damaged, was written by another version, or for an "
            f"encoder or decoder that is not installed here: {reason(error)}"
        ) from error
    if inference is not None:
        short_side = inference.short_side or segmenter.hparams["short_side"]
        segmenter.inference = replace(inference, short_side=short_side)
    return segmenter


def load_data(checkpoint: Path, overrides: Mapping[str, object] | None = None) -> SegmentationData:
    """Rebuild the data that a segmenter was trained on.

    Args:
        checkpoint: a file that Lightning saved in a training on a `SegmentationData`.
        overrides: arguments of `SegmentationData` that differ, such as `root`. Texts may be those
            of a command line: "4", "[0.5, 2.0]", "none".

    Returns:
        The data, to be set up by a trainer or by `setup`.

    Raises:
        UserError: there is no such file or it holds no data, the dataset is not where it was, or an
            override is unknown or has a wrong value.
    """
    saved = read_segmenter_checkpoint(checkpoint).get(_DATA)
    if not isinstance(saved, dict):
        raise UserError(
            f"checkpoint '{checkpoint}' does not say what data it was trained on, because these "
            f"were no SegmentationData; {WANTED}"
        )
    allowed = list(inspect.signature(SegmentationData).parameters)
    overrides = dict(overrides or {})
    for name in overrides.keys() - set(allowed):
        hint = "".join(f"did you mean '{n}'? " for n in get_close_matches(name, allowed, n=1))
        raise UserError(f"data take no '{name}'; {hint}Allowed are {', '.join(allowed)}")
    values = {name: saved[name] for name in allowed if name in saved} | overrides
    for name, value in values.items():
        if isinstance(value, str) and value.lower() in NONE_TEXTS:
            values[name] = None
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SegmentationData)
    try:
        arguments = parser.parse_object(values)
    except ArgumentError as error:
        raise UserError(
            f"invalid data arguments in checkpoint '{checkpoint}': {reason(error)}"
        ) from error
    return SegmentationData(**arguments.as_dict())


def crop_size_of(checkpoint: Path) -> int | None:
    """Return the crop size, in pixels, of the training that wrote a checkpoint; None if unknown."""
    saved = read_segmenter_checkpoint(checkpoint).get(_DATA)
    size = saved.get("crop_size") if isinstance(saved, dict) else None
    return size if isinstance(size, int) else None


def read_segmenter_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint: state dict, arguments of model and data, "global_step", ..."""
    if not checkpoint.exists():
        raise MissingFileError(f"no checkpoint '{checkpoint}'; {WANTED}")
    try:
        content = read_lightning_checkpoint(checkpoint)
    except ValueError as error:
        raise UserError(f"{error}; {WANTED}") from error
    arguments, counts = content.get(_MODEL), [content.get(key) for key in ("global_step", "epoch")]
    known = isinstance(arguments, dict) and arguments.keys() >= KNOWN_BY
    if not known or not all(isinstance(count, int) for count in counts):
        raise UserError(f"'{checkpoint}' is not a checkpoint of a Segmenter; {WANTED}")
    return content
