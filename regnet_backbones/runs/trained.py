"""What a run left behind: which kind of model, its checkpoint, and its config.

detector    <run>/config.yaml, model_final.pth, last_checkpoint   train-detector
            <run>/model_best.pth, metrics.json
segmenter   <run>/checkpoints/best.ckpt, last.ckpt                train-segmenter
            <run>/tensorboard/config.yaml

What `push` writes of them (`runs.sharing`) is found, too, in a folder or on the hub:

detector    config.yaml, model.safetensors
segmenter   regnet_backbones.json, model.safetensors, and SMP's config.json
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import MissingFileError, UserError

Kind = Literal["detector", "segmenter"]

SEGMENTER_SUFFIX = ".ckpt"
SEGMENTER_FOLDER = "checkpoints"
SEGMENTER_NAMES = ("best.ckpt", "last.ckpt")  # in the order of preference

CONFIG_NAME = "config.yaml"
FINAL_NAME = "model_final.pth"
BEST_NAME = "model_best.pth"  # of a detector: the weights of its best evaluation
LAST_NAME = "last_checkpoint"  # a text file that names the newest one
METRICS_NAME = "metrics.json"
ITERATION = "iteration"  # the key of a row of it
SHARED_NAME = "model.safetensors"  # of what `push` wrote
SHARED_SEGMENTER = "regnet_backbones.json"  # what SMP's files next to it lack
TENSORBOARD_FOLDER = "tensorboard"  # of a segmenter's logs and its config


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        kind: "detector" or "segmenter".
        checkpoint: the file of its weights.
        config_file: of a detector; None for a segmenter, whose checkpoint holds the same.
    """

    kind: Kind
    checkpoint: Path
    config_file: Path | None = None

    @property
    def run_folder(self) -> Path:
        """The folder of the run that wrote the checkpoint."""
        folder = self.checkpoint.parent
        return folder.parent if folder.name == SEGMENTER_FOLDER else folder


@dataclass(frozen=True)
class Description:
    """What a run trained, as the framework of its kind reads it from the config."""

    title: str  # architecture and network
    network: str | RegNetDesign | None  # None for another backbone
    facts: tuple[tuple[str, str], ...]  # by name
    changed: tuple[tuple[str, str, str], ...]  # key, value and default of the framework
    config: str  # the whole, as YAML
    batch: int = 0  # images of an iteration in all processes together; 0 if unknown
    lengths: Mapping[str, int] = field(default_factory=dict)  # "iterations", "steps" or "epochs"
    every: int = 1  # iterations between two that are logged
    dataset: str = ""  # the first for validation
    datasets: int = 1  # how many there are
    json_file: str | None = None  # of the validation data, as the settings of an evaluation name it
    of_other_data: bool = False  # than the training validated on


def changed_settings(
    settings: Mapping[str, object], defaults: Mapping[str, object], *, without: Sequence[str]
) -> tuple[tuple[str, str, str], ...]:
    """List key, value and default of what differs from the defaults, without some keys."""
    return tuple(
        (key, str(value), str(defaults.get(key, "required")))
        for key, value in settings.items()
        if value != defaults.get(key) and key not in without
    )


def find_trained(path: str | Path, *, config_file: str | Path | None = None) -> Trained:
    """Return the model of a run's folder or checkpoint; of a folder the best one, or the newest.

    Args:
        path: output folder of a training or of `push`, a checkpoint, or a name on the hub,
            "hf-hub:owner/name", which is downloaded.
        config_file: config of a detector, None for the `config.yaml` next to the checkpoint.

    Raises:
        MissingFileError: the path, a checkpoint, or the config of a detector is missing.
        UserError: a folder has both kinds of model, a file is not a checkpoint, or a segmenter is
            given a config.
    """
    if is_on_hub(path):
        from regnet_backbones.weights.sources import hub_folder  # imports torch

        path = hub_folder(str(path))
    path = Path(path)
    if not path.exists():
        allowed = "the folder of a run, a checkpoint in it, or hf-hub:owner/name"
        raise MissingFileError(f"no '{path}'; pass {allowed}")
    checkpoint = _checkpoint_of_run(path) if path.is_dir() else path
    is_shared = checkpoint.name == SHARED_NAME and checkpoint.with_name(SHARED_SEGMENTER).is_file()
    if is_shared or checkpoint.suffix.lower() == SEGMENTER_SUFFIX:
        if config_file is not None:
            raise UserError(f"--config-file needs a detector, and '{checkpoint}' is a segmenter")
        return Trained("segmenter", checkpoint)
    from regnet_backbones.weights.checkpoints import SUFFIXES  # imports torch

    if checkpoint.suffix.lower() not in SUFFIXES:
        raise UserError(f"'{checkpoint}' is not a checkpoint; pass one, or the folder of a run")
    config = Path(config_file or checkpoint.parent / CONFIG_NAME)
    if not config.is_file():
        raise MissingFileError(f"no config '{config}'; pass that of the training: --config-file")
    return Trained("detector", checkpoint, config)


def is_on_hub(path: str | Path) -> bool:
    """Whether a model is named as on the hub."""
    return str(path).startswith("hf-hub:")


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Return the rows of a detector's metrics, one for each iteration; none without a file."""
    merged: dict[int, dict[str, float]] = {}
    for line in Path(path).read_text().splitlines() if Path(path).is_file() else ():
        with suppress(ValueError):  # a process was killed while it wrote the row
            row = json.loads(line)
            merged.setdefault(row[ITERATION], {}).update(row)
    return [merged[iteration] for iteration in sorted(merged)]


def last_checkpoint(folder: Path) -> Path | None:
    """Return the file that a detector's run names as its newest, there or not; None without one."""
    last = folder / LAST_NAME
    return folder / Path(last.read_text().strip()).name if last.is_file() else None


def _checkpoint_of_run(folder: Path) -> Path:
    segmenters = [folder / SEGMENTER_FOLDER / name for name in SEGMENTER_NAMES]
    detectors = [folder / FINAL_NAME]
    shared = folder / SHARED_NAME
    if (folder / SHARED_SEGMENTER).is_file():
        segmenters.append(shared)
    else:
        detectors.append(shared)
    if last := last_checkpoint(folder):  # newer than the final one of a resumed run
        detectors.insert(0, last)
    segmenter = next(filter(Path.is_file, segmenters), None)
    detector = next(filter(Path.is_file, detectors), None)
    if segmenter and detector:
        both = " and ".join(str(file.relative_to(folder)) for file in (segmenter, detector))
        raise UserError(f"'{folder}' has a segmenter and a detector; pass one of {both}")
    if segmenter or detector:
        return segmenter or detector
    names = f"{FINAL_NAME} or {SEGMENTER_FOLDER}/{SEGMENTER_NAMES[0]}"
    others = sorted((*folder.glob("*.pth"), *folder.glob(f"{SEGMENTER_FOLDER}/*.ckpt")))
    allowed = " or ".join(map(str, others)) or "the output folder of a training"
    raise MissingFileError(f"no {names} in '{folder}'; pass {allowed}")
