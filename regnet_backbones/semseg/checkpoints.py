"""Segmenters and their data from the checkpoints of a training, on any machine."""

import inspect
from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from regnet_backbones.errors import UserError
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.inference import Inference
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.weights.state_dicts import load_all, reason
from regnet_backbones.weights.unpickling import read_content

# Where a checkpoint has the arguments of its model, by which one of a segmenter is known, and of
# its data.
MODEL_KEY = Segmenter.CHECKPOINT_HYPER_PARAMS_KEY
DATA_KEY = SegmentationData.CHECKPOINT_HYPER_PARAMS_KEY
KNOWN_BY = {"num_classes", "decoder", "encoder"}

# Which function builds the model, of which class: Lightning below 2.6 imports and calls them.
BUILDERS = ("_instantiator", "_class_path")


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
    arguments = {n: v for n, v in content[MODEL_KEY].items() if n in known}
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
    size = content[DATA_KEY].get("crop_size")
    segmenter.typical_side = size if isinstance(size, int) else None
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
    saved = read_segmenter_checkpoint(checkpoint)[DATA_KEY]
    if not saved:
        raise UserError(
            f"checkpoint '{checkpoint}' does not say what data it was trained on; give one that "
            "train-segmenter wrote"
        )
    allowed = list(inspect.signature(SegmentationData).parameters)
    overrides = dict(overrides or {})
    for name in overrides.keys() - set(allowed):
        hint = "".join(f"did you mean '{n}'? " for n in get_close_matches(name, allowed, n=1))
        raise UserError(f"data take no '{name}'; {hint}Allowed are {', '.join(allowed)}")
    values = {name: saved[name] for name in allowed if name in saved} | overrides
    for name, value in values.items():
        if isinstance(value, str) and value.lower() == "none":  # which YAML calls null
            values[name] = None
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SegmentationData)
    try:
        arguments = parser.parse_object(values)
    except ArgumentError as error:
        raise UserError(f"data arguments of '{checkpoint}': {reason(error)}") from error
    return SegmentationData(**arguments.as_dict())


def read_segmenter_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint: state dict, arguments of model and data, "global_step", ..."""
    content = read_lightning_checkpoint(path)
    for key in (MODEL_KEY, DATA_KEY):
        content[key] = content[key] if isinstance(content.get(key), dict) else {}
    counts = [content.get(key) for key in ("global_step", "epoch")]
    if not content[MODEL_KEY].keys() >= KNOWN_BY or not all(isinstance(n, int) for n in counts):
        raise UserError(
            f"'{path}' is not a checkpoint of a segmenter; give one that train-segmenter wrote, "
            "such as <output>/checkpoints/best.ckpt"
        )
    return content


def read_lightning_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of Lightning, or raise a UserError; nothing of it is run, now or later."""
    content = read_content(Path(path))
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"'{path}' is not a checkpoint of Lightning: it has no 'state_dict'")
    for key in (MODEL_KEY, DATA_KEY):
        if isinstance(content.get(key), dict):
            content[key] = {n: v for n, v in content[key].items() if n not in BUILDERS}
    return content
