"""Segmenters and their data from the checkpoints of a training, on any machine."""

import inspect
from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from regnet_backbones.errors import UserError, as_user_error
from regnet_backbones.files import read_json
from regnet_backbones.runs.trained import SHARED_NAME, SHARED_SEGMENTER
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.inference import Inference
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.weights.state_dicts import load_all, reason
from regnet_backbones.weights.unpickling import read_content

# Where a checkpoint has the arguments of its model and of its data.
MODEL_KEY = Segmenter.CHECKPOINT_HYPER_PARAMS_KEY
DATA_KEY = SegmentationData.CHECKPOINT_HYPER_PARAMS_KEY

# Weights of the head of `auxiliary_weight`.
AUXILIARY_HEAD = "network.auxiliary_head."

# Which function builds the model, of which class: Lightning below 2.6 imports and calls them.
BUILDERS = ("_instantiator", "_class_path")


def load_segmenter(checkpoint: Path, *, inference: Inference | None = None) -> Segmenter:
    """Return a segmenter on the CPU, without its auxiliary head: its `network` is the model of SMP.

    Args:
        checkpoint: a file that Lightning saved in the training of a `Segmenter`.
        inference: how it predicts, None for whole images; without a `short_side`, at its own.

    Raises:
        UserError: the file is missing, damaged, or not a checkpoint of a segmenter.
    """
    content = read_segmenter(checkpoint)
    known = inspect.signature(Segmenter).parameters
    arguments = {n: v for n, v in content[MODEL_KEY].items() if n in known}
    only_training = {"encoder_weights": None, "auxiliary_weight": None}
    try:
        segmenter = Segmenter(**(arguments | only_training))
        state = content["state_dict"]
        if arguments.get("auxiliary_weight") is not None:
            state = {k: v for k, v in state.items() if not k.startswith(AUXILIARY_HEAD)}
        load_all(segmenter, state, "its state dict")
    except Exception as error:  # arguments of any kind and value are in the file
        problem = f"damaged or of another version: {reason(error)}"
        raise UserError(f"checkpoint '{checkpoint}' is {problem}") from error
    segmenter.typical_side = content[DATA_KEY].get("crop_size") or segmenter.typical_side
    segmenter.hparams.update({name: arguments.get(name) for name in only_training})
    if inference is not None:
        short_side = inference.short_side or segmenter.hparams["short_side"]
        segmenter.inference = replace(inference, short_side=short_side)
    return segmenter


def load_data(checkpoint: Path, overrides: Mapping[str, object] | None = None) -> SegmentationData:
    """Return the data that a segmenter was trained on, not set up.

    Args:
        checkpoint: a file that Lightning saved in a training on a `SegmentationData`.
        overrides: arguments of `SegmentationData` that differ, such as `root`, or their texts on a
            command line: "4", "[0.5, 2.0]", "null".

    Raises:
        UserError: the file or the dataset is missing, or an override is unknown or wrong.
    """
    saved = read_checkpoint(checkpoint)[DATA_KEY]
    if not saved:
        raise UserError(f"'{checkpoint}' has no data settings; pass one that train-segmenter wrote")
    parser = ArgumentParser(exit_on_error=False)
    known = parser.add_class_arguments(SegmentationData)
    # A checkpoint is data: its augmentation, a program, is of a training alone and not imported.
    names = [name for name in known if name in saved and name != "augmentation"]
    values = {name: saved[name] for name in names} | dict(overrides or {})
    with as_user_error(ArgumentError, prefix=f"data of '{checkpoint}': "):
        arguments = parser.parse_object(values)
    return SegmentationData(**arguments.as_dict())


def read_segmenter(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a segmenter."""
    content = read_checkpoint(path)
    if not content[MODEL_KEY].keys() >= {"num_classes", "decoder", "encoder"}:
        raise UserError(f"'{path}' is not a segmenter; pass a checkpoint of train-segmenter")
    return content


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of Lightning, or the `model.safetensors` of `semseg.sharing`; run nothing.

    Raise UserError for another file.
    """
    if Path(path).name == SHARED_NAME:
        content = _read_shared(Path(path))
    else:
        content = read_content(Path(path))
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"'{path}' is not a Lightning checkpoint: it has no 'state_dict'")
    for key in (MODEL_KEY, DATA_KEY):
        saved = content.get(key)
        saved = saved if isinstance(saved, dict) else {}
        content[key] = {name: v for name, v in saved.items() if name not in BUILDERS}
    return content


def _read_shared(path: Path) -> dict[str, Any]:
    """Read weights that SMP saved, and our settings next to them, into the form of a checkpoint."""
    settings, weights = read_json(path.with_name(SHARED_SEGMENTER)), read_content(path)
    if not (isinstance(settings, dict) and isinstance(weights, dict)):
        raise UserError(f"'{path.parent}' is not a shared model; push or download it again")
    content: dict[str, Any] = {"state_dict": {f"network.{k}": v for k, v in weights.items()}}
    for key, group in ((MODEL_KEY, "model"), (DATA_KEY, "data")):
        saved = settings.get(group)
        if isinstance(saved, dict):  # tuples are lists in JSON
            content[key] = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
    return content
