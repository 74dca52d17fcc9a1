"""Which kind of run a folder is, finished or not, and what it left to read."""

from dataclasses import dataclass
from pathlib import Path

from regnet_backbones.errors import MissingFileError
from regnet_backbones.runs.trained import (
    CONFIG_NAME,
    FINAL_NAME,
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
        config_file: None where a segmenter's run has none; its checkpoint knows the same.
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
        FileNotFoundError: nothing is there that a training has written.
        ValueError: see `inference.trained.find_trained`.
    """
    path = Path(path)
    try:
        trained = find_trained(path, config_file=config_file)
    except FileNotFoundError:
        if not path.is_dir() or config_file is not None:
            raise
        return _before_the_first_checkpoint(path)
    folder = trained.run_folder
    if trained.kind == "detector":
        return Run("detector", folder, trained.config_file, trained)
    return Run("segmenter", folder, _segmenter_config(folder), trained)


def folder_of_repetition(run: Run) -> Path:
    """Return the folder that the training of a run could be repeated in, beside that of the run."""
    named = run.folder if run.folder.name not in ("", "..") else run.folder.resolve()
    return named.with_name(f"{named.name}_again")


def is_final(trained: Trained) -> bool:
    """Whether a detector's checkpoint is that of the end of its training.

    Args:
        trained: a detector.
    """
    return trained.checkpoint.name == FINAL_NAME


def _before_the_first_checkpoint(folder: Path) -> Run:
    """Find a run that was stopped early."""
    segmenter = _segmenter_config(folder)
    if segmenter is not None and segmenter.parent != folder:
        return Run("segmenter", folder, segmenter, None)
    config = folder / CONFIG_NAME
    if config.is_file() and (folder / METRICS_NAME).is_file():
        return Run("detector", folder, config, None)
    raise MissingFileError(
        f"'{folder}' is no run: a detector's has {CONFIG_NAME} and {METRICS_NAME} or a checkpoint, "
        f"a segmenter's {SEGMENTER_FOLDER}/ or {TENSORBOARD_FOLDER}/{CONFIG_NAME}; give the output "
        "folder of tools/train_net.py or tools/train_semseg.py"
    )


def _segmenter_config(folder: Path) -> Path | None:
    """Return the config that Lightning saved, which is beside the log."""
    paths = (folder / TENSORBOARD_FOLDER / CONFIG_NAME, folder / CONFIG_NAME)
    return next((path for path in paths if path.is_file()), None)
