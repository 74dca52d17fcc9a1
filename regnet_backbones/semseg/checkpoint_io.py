"""Checkpoints that are whole under their name at every moment.

Lightning writes into the system's temporary folder and moves the file. Where that folder is on
another disk, as on most clusters, the move is a copy, and a run killed during it leaves half a
checkpoint in the place of a whole one.
"""

from pathlib import Path

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from regnet_backbones.files import write_whole


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside the final name, to the disk, then rename; reading is Lightning's."""

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
