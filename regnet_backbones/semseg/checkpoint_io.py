"""Checkpoints that are whole under their name at every moment, and read without running anything.

Lightning writes into the system's temporary folder and moves the file. Where that folder is on
another disk, as on most clusters, the move is a copy, and a run killed during it leaves half a
checkpoint in the place of a whole one.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from lightning import LightningDataModule, LightningModule
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from regnet_backbones.errors import UserError
from regnet_backbones.files import write_whole
from regnet_backbones.weights.unpickling import read_content

# Where a checkpoint has the arguments of its model and its data.
ARGUMENTS = (
    LightningModule.CHECKPOINT_HYPER_PARAMS_KEY,
    LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY,
)

# Which function builds the model, of which class: Lightning below 2.6 imports and calls them.
BUILDERS = ("_instantiator", "_class_path")


def read_lightning_checkpoint(path: str | Path) -> dict[str, object]:
    """Read a checkpoint of Lightning, of which nothing is run, now or by Lightning.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or is not a checkpoint of Lightning.
    """
    content = read_content(Path(path))
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"'{path}' is not a checkpoint of Lightning: it has no 'state_dict'")
    for key in ARGUMENTS:
        if isinstance(content.get(key), dict):
            content[key] = {n: v for n, v in content[key].items() if n not in BUILDERS}
    return content


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside the final name, to the disk, then rename; read with our own reader."""

    def save_checkpoint(
        self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None
    ) -> None:
        """Write a checkpoint whole or not at all.

        What a killed run left behind, `.<name>.part`, is overwritten by the next save.

        Args:
            checkpoint: what `torch.save` takes.
            path: a local file; its folder is made where it is missing.
            storage_options: as Lightning's own, none are taken.

        Raises:
            TypeError: `storage_options` were given.
            OSError: the file cannot be written; the one that was there stays.
        """
        if storage_options is not None:
            raise TypeError(f"storage_options must be None for local files, got {storage_options}")
        write_whole(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, object]:
        """Read a checkpoint onto the CPU, from where Lightning moves it; the options do nothing.

        Raises:
            FileNotFoundError, ValueError: see `read_lightning_checkpoint`.
        """
        return read_lightning_checkpoint(path)
