"""Resuming in the middle of an epoch: with the images that it has not had, and its right number.

Lightning counts the batches of an epoch on when it resumes, and leaves it to the loader to give
those that are left. And once it has resumed from the last batch of an epoch, its count of epochs
that have begun lacks one: a run that is killed again and again loses epochs or ends them early.
"""

import logging
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

logger = logging.getLogger(__name__)


class ResumableSampler(DistributedSampler):
    """Shuffle the images anew in every epoch, and share them out among processes.

    The order follows from the seed of the run (Lightning's `seed_everything`) and the epoch alone;
    no image comes twice in an epoch. Of one epoch, images that were had before can be left out.

    Args:
        dataset: what has the images.
        num_replicas: number of processes.
        rank: number of this process, from 0.
    """

    def __init__(self, dataset: Dataset, *, num_replicas: int = 1, rank: int = 0) -> None:
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed, drop_last=True)
        self._had = (0, 0)

    def go_on(self, epoch: int, images: int) -> None:
        """Go on in an epoch of which this process has had a number of images."""
        self._had = (epoch, images)
        self.set_epoch(epoch)

    @property
    def had(self) -> int:
        """Number of images of the present epoch that are left out."""
        epoch, images = self._had
        return images if epoch == self.epoch else 0

    def __iter__(self) -> Iterator[int]:
        return islice(super().__iter__(), self.had, None)


class ResumableLoader(DataLoader):
    """A loader that goes on in the epoch, and at the batch, that a checkpoint was written at.

    Its sampler is a `ResumableSampler`; with another one (Lightning's `overfit_batches` puts it
    there) it is a loader like any other. What workers have ready does not count as had.
    """

    _batches = 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # As a generator it shuffles and starts workers when the first batch is wanted: Lightning
        # asks for an iterator before it says which epoch it is.
        had = self.sampler.had if isinstance(self.sampler, ResumableSampler) else 0
        self._batches = had // self.batch_size
        for batch in super().__iter__():
            self._batches += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return where the run is in its data, for a checkpoint of Lightning's."""
        if not isinstance(self.sampler, ResumableSampler):
            return {}
        return {
            "seed": self.sampler.seed,
            "epoch": self.sampler.epoch,
            "batches": self._batches,
            "batches_per_epoch": len(self),
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where a checkpoint was written; with other data or batches, in a whole epoch."""
        if not state or not isinstance(self.sampler, ResumableSampler):
            return
        before, now = state["batches_per_epoch"], len(self)
        if before != now:
            logger.warning(
                "an epoch was %d batches and is %d now; it begins anew, with all images",
                before,
                now,
            )
        self.sampler.seed = state["seed"]
        self._batches = state["batches"] if before == now else 0
        self.sampler.go_on(state["epoch"], self._batches * self.batch_size)


class LastCheckpoint(Callback):
    """Write the last checkpoint: every so many steps, after every validation, and at the end.

    Lightning's `ModelCheckpoint(save_last=True)` writes it where it saves another one only, which
    for the best one is when a validation was better than all before.

    Args:
        path: of the checkpoint.
        every: steps between two writings.
    """

    def __init__(self, path: Path, *, every: int):
        self.path = path
        self.every = every
        self._step = self._written_at = 0
        self._accumulating = self._due = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Know the step that a resumed run begins with: it is no new one, and is written."""
        self._step = self._written_at = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, _: int
    ) -> None:
        """Write it, if it is time; steps that accumulate gradients are one."""
        self._accumulating = trainer.global_step == self._step
        self._step = trainer.global_step
        if not self._accumulating and (self._due or self._step % self.every == 0):
            self._write(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it, so that the validation is not repeated in a resumed run.

        While gradients are accumulated, which no checkpoint holds, it waits for their step.
        """
        if not trainer.sanity_checking and trainer.state.fn == TrainerFn.FITTING:
            if self._accumulating:
                self._due = True
            else:
                self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it, if it is not of the last step."""
        if trainer.global_step != self._written_at:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._written_at = trainer.global_step
        self._due = False


class MovedFolder(Callback):
    """Know the best checkpoints of a run again, once its folder was moved, renamed or copied.

    Lightning's `ModelCheckpoint` forgets how good they were where its folder has another path, and
    the next validation, however bad, overwrites them.
    """

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, dict]
    ) -> None:
        """Put the present paths into a checkpoint; it is called before Lightning reads them."""
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if state and isinstance(callback, ModelCheckpoint) and callback.dirpath:
                _move_best(state, Path(callback.dirpath))


def _move_best(state: dict, folder: Path) -> None:
    """Give the state of a `ModelCheckpoint` the paths that its files have in a folder.

    Where not all of them came along, it stays as it is.
    """
    before = Path(state["dirpath"])

    def moved(path: str) -> str:
        inside = Path(path).is_relative_to(before)
        return str(folder / Path(path).relative_to(before)) if inside else path

    best = {moved(path): score for path, score in state["best_k_models"].items()}
    if all(Path(path).is_file() for path in best):
        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        state |= {name: moved(state[name]) for name in paths}
        state |= {"dirpath": str(folder), "best_k_models": best}


class RightEpoch(Callback):
    """Set Lightning's count of epochs, as a checkpoint has it, to what the loader counted."""

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, dict]
    ) -> None:
        """Correct the progress in a checkpoint; it is called before Lightning reads it."""
        fit = checkpoint["loops"]["fit_loop"]
        states = fit["state_dict"].get("combined_loader")
        if not states or not states[0]:
            return
        epoch, at_end = states[0]["epoch"], states[0]["batches"] == states[0]["batches_per_epoch"]
        for progress in (fit["epoch_progress"]["total"], fit["epoch_progress"]["current"]):
            # Counted as processed, but not as completed, while what an epoch ends with is done.
            ends = at_end and progress["processed"] == progress["completed"] + 1
            progress["ready"] = progress["started"] = epoch + 1
            progress["processed"] = epoch + ends
            progress["completed"] = epoch
