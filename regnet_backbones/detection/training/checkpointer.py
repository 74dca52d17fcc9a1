"""Checkpoints that are whole and finite under their name at every moment.

Detectron2 writes over a file in place, and `last_checkpoint` likewise: a run that is killed
meanwhile leaves half of it. The keys of a file are those of detectron2; where weights are averaged,
"model" has the averaged ones, which is what everything but a training wants of it.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from detectron2.engine import TrainerBase
from fvcore.common.checkpoint import _IncompatibleKeys
from timm.utils import ModelEmaV3
from torch import nn

from regnet_backbones.detection.completeness import SafeCheckpointer, check_complete
from regnet_backbones.errors import DivergedError
from regnet_backbones.files import write_whole
from regnet_backbones.weights.checkpoints import TRAINED_KEY
from regnet_backbones.weights.state_dicts import listing, load_all


class TrainingCheckpointer(SafeCheckpointer):
    """Detectron2's checkpointer of a training.

    Args:
        model: the model in training, alone or in DDP.
        save_dir: folder of the checkpoints; one with a scheme (`s3://...`) is written to as
            detectron2 does it.
        trainer: keeps iteration, optimizer, schedule and the like.
        average: the running average of the model's weights, if there is one.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str,
        *,
        trainer: TrainerBase,
        average: ModelEmaV3 | None = None,
    ):
        super().__init__(model, save_dir, trainer=trainer)
        self.average = average
        self._goes_on = False

    def save(self, name: str, **extra: object) -> None:
        """Write the checkpoint `<name>.pth`, and that it is the last, in the first process.

        All processes must call it: the state of a training is gathered from all.

        Args:
            name: of the file, without suffix.
            extra: further entries, as `iteration`.

        Raises:
            FloatingPointError: a weight is not finite; nothing is written.
            OSError: it cannot be written; what was there stays.
        """
        states = {key: kept.state_dict() for key, kept in self.checkpointables.items()}
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        if self.average is not None:
            content = {
                "model": self.average.module.state_dict(),
                TRAINED_KEY: self.model.state_dict(),
            }
        for key in content:
            self._check_finite(content[key], extra.get("iteration"))
        file_name = f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", os.path.join(self.save_dir, file_name))
        self.write(file_name, lambda file: torch.save({**content, **states, **extra}, file))
        self.tag_last_checkpoint(file_name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write which file is the last checkpoint."""
        self.write("last_checkpoint", lambda file: file.write(last_filename_basename.encode()))

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, object]:
        """Load weights and, unless told which, all states; the average begins with the weights.

        Training goes on with the weights that were trained, where the file has averaged ones too.

        Raises:
            ValueError: all states are asked for, and weights of the model are not in the file.
        """
        self._goes_on = checkpointables is None
        rest = super().load(path, checkpointables)
        if self.average is not None:
            self.average.set(self.model)
        trained = rest.pop(TRAINED_KEY, None)
        if trained is not None and checkpointables is None:
            load_all(self.model, trained, f"{TRAINED_KEY} of '{path}'")
        return rest

    def _log_incompatible_keys(self, incompatible: _IncompatibleKeys) -> None:
        super()._log_incompatible_keys(incompatible)
        if self._goes_on:  # where a training starts, heads of other classes stay random
            check_complete(self.model, incompatible)

    def write(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """Write a file of the folder, whole or not at all where it is one of this machine."""
        path = os.path.join(self.save_dir, name)
        if "://" not in path:
            write_whole(Path(path), write)
            return
        with self.path_manager.open(path, "wb") as file:
            write(file)

    def _check_finite(self, state: Mapping[str, torch.Tensor], iteration: object) -> None:
        """Raise FloatingPointError where a state dict has an infinite or undefined number."""
        bad = [
            name
            for name, value in state.items()
            if value.is_floating_point() and not value.isfinite().all()
        ]
        if bad:
            raise DivergedError(
                f"after iteration {iteration} {len(bad)} of {len(state)} weights are not finite "
                f"({listing(bad)}), and no checkpoint was written; the last one is still "
                f"{self.get_checkpoint_file() or 'none'}. Lower SOLVER.BASE_LR, or set "
                "SOLVER.CLIP_GRADIENTS.ENABLED True, and --resume from there"
            )
