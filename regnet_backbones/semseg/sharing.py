"""A trained segmenter as a folder to share, see `runs.sharing`: SMP's files, and ours next to them.

`smp.from_pretrained(folder)` gives the network, once `regnet_backbones` is imported.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from regnet_backbones.errors import UserError
from regnet_backbones.files import write_whole
from regnet_backbones.runs.sharing import CARD_NAME, Facts, check_unchanged, name_and_licence
from regnet_backbones.runs.trained import SHARED_NAME, SHARED_SEGMENTER, Trained
from regnet_backbones.semseg.checkpoints import (
    DATA_KEY,
    MODEL_KEY,
    load_data,
    load_segmenter,
    read_segmenter,
)
from regnet_backbones.semseg.description import describe

# Arguments that define a segmenter, and how its data are read; none is a path.
MODEL_ARGUMENTS = (
    *("num_classes", "class_names", "decoder", "encoder", "output_stride", "decoder_options"),
    *("short_side", "mean", "std", "channels_last"),
)
DATA_ARGUMENTS = (
    *("layout", "num_classes", "background", "ignore_label", "label_map", "colors"),
    *("mask_suffix", "crop_size", "short_side", "mean", "std"),
)

USAGE = """\
import regnet_backbones
import segmentation_models_pytorch as smp

network = smp.from_pretrained("{}").eval()  # of normalised images, see regnet_backbones.json"""


def share(trained: Trained, folder: Path, *, repo: str) -> Facts:
    """Write network and settings of a segmenter to a folder, and return what is known of it."""
    content, segmenter = read_segmenter(trained.checkpoint), load_segmenter(trained.checkpoint)
    model, data = content[MODEL_KEY], content[DATA_KEY]
    settings = {
        "model": _chosen(model | {"class_names": segmenter.class_names}, MODEL_ARGUMENTS),
        "data": _chosen(data, DATA_ARGUMENTS),
    }
    text = json.dumps(settings, indent=2).encode() + b"\n"
    write_whole(folder / SHARED_SEGMENTER, lambda file: file.write(text))
    network = segmenter.network.to(memory_format=torch.contiguous_format)
    (folder / CARD_NAME).touch()  # or SMP writes its own, by jinja2
    network.save_pretrained(folder)
    shared = load_segmenter(folder / SHARED_NAME)
    check_unchanged(trained, segmenter.state_dict(), shared.state_dict())
    weights, licence = name_and_licence(model.get("encoder_weights"), model["encoder"])
    return Facts(
        title=describe(None, trained.checkpoint).title,
        classes=tuple(segmenter.class_names),
        weights=weights,
        licence=licence,
        images=_sizes(trained.checkpoint),
        usage=USAGE.format(repo),
    )


def _chosen(arguments: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: arguments[name] for name in names if arguments.get(name) is not None}


def _sizes(checkpoint: Path) -> dict[str, int]:
    """Return how many images the data of the training have, nothing if they are not there."""
    try:
        data = load_data(checkpoint)
        data.setup("fit")
    except (UserError, OSError):
        return {}
    return {"train": len(data.train_set), "val": len(data.val_set)}
