"""Which kind of run a folder is, finished or not, and what it left to read."""

from dataclasses import dataclass
from pathlib import Path

from regnet_backbones.errors import MissingFileError
from regnet_backbones.runs.trained import (
    CONFIG_NAME,
    METRICS_NAME,
    SEGMENTER_FOLDER,
    TENSORBOARD_FOLDER,
    Kind,
    Trained,
    find_trained,
)


@dataclass(frozen=True)
class Run:
    """The folder of a training.

    Attributes:
        kind: of its model, "detector" or "segmenter".
        folder: that of the run.
        config_file: None where a segmenter's run has none; its checkpoint holds the same.
        trained: None before the first checkpoint.
    """

    kind: Kind
    folder: Path
    config_file: Path | None
    trained: Trained | None


def find_run(path: str | Path, *, config_file: str | Path | None = None) -> Run:
    """Find what a training left in a folder; a checkpoint stands for the folder of its run.

    Args:
        path: the output of a training, or a checkpoint in it.
        config_file: config of a detector, None for the `config.yaml` of the run.

    Returns:
        The run, with a checkpoint where there is one.

    Raises:
        UserError: a training has written nothing there, or see `runs.trained.find_trained`.
    """
    path = Path(path)
    try:
        trained = find_trained(path, config_file=config_file)
    except FileNotFoundError:
        if not path.is_dir() or config_file is not None:
            raise
        return _before_the_first_checkpoint(path)
    folder = trained.run_folder
    config = trained.config_file or _segmenter_config(folder)
    return Run(trained.kind, folder, config, trained)


def _before_the_first_checkpoint(folder: Path) -> Run:
    """Find a run that was stopped early."""
    segmenter = _segmenter_config(folder)
    if segmenter is not None and segmenter.parent != folder:
        return Run("segmenter", folder, segmenter, None)
    config = folder / CONFIG_NAME
    if config.is_file() and (folder / METRICS_NAME).is_file():
        return Run("detector", folder, config, None)
    raise MissingFileError(
        f"'{folder}' is not a run: a detector's has {CONFIG_NAME} and {METRICS_NAME} or a "
        f"checkpoint, a segmenter's {SEGMENTER_FOLDER}/ or {TENSORBOARD_FOLDER}/{CONFIG_NAME}; "
        "give the output folder of tools/train_net.py or tools/train_semseg.py"
    )


def _segmenter_config(folder: Path) -> Path | None:
    """Return the config that Lightning saved, which is next to the log."""
    paths = (folder / TENSORBOARD_FOLDER / CONFIG_NAME, folder / CONFIG_NAME)
    return next((path for path in paths if path.is_file()), None)
