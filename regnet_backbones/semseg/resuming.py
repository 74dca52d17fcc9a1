"""Exact resuming: a run that was interrupted ends with the weights of one that was not.

Batches, augmentation and random numbers are functions of the seed, the epoch and the batch, so a
checkpoint stores none of them. The rest is bringing Lightning back to the end of a batch, wherever
a checkpoint was written, and the validation that may be due there.
"""

import logging
import os
import signal
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from regnet_backbones.runs.randomness import seed_everything, seed_of, seeded
from regnet_backbones.runs.stopping import STATUSES, StoppedError, StopSignals, held_signals

# What random numbers are for: see `randomness.seed_of`.
SAMPLES, STEPS = 0, 1

# Where a checkpoint has the options of the trainer that a step depends on.
TRAINER_KEY = "trainer_options"

logger = logging.getLogger(__name__)


class ResumableSampler(DistributedSampler):
    """Shuffle the images in every epoch, and share them out among processes.

    An item is an index and the seed of the sample's augmentation. Both follow from the seed of the
    run (Lightning's `seed_everything`) and the epoch alone; no image comes twice in an epoch. Of
    one epoch, images that were had before can be left out.

    Args:
        dataset: what has the images.
        num_replicas: number of processes.
        rank: number of this process, from 0.
    """

    def __init__(self, dataset: Dataset, *, num_replicas: int = 1, rank: int = 0) -> None:
        seed = run_seed()
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed, drop_last=True)
        self._had = (0, 0)

    def resume(self, epoch: int, images: int) -> None:
        """Resume in an epoch of which this process has had a number of images."""
        self._had = (epoch, images)
        self.set_epoch(epoch)

    @property
    def had(self) -> int:
        """Number of images of the present epoch that are left out."""
        epoch, images = self._had
        return images if epoch == self.epoch else 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for index in islice(super().__iter__(), self.had, None):
            yield index, seed_of(self.seed, SAMPLES, self.epoch, index)


class SeededSamples(Dataset):
    """Samples of a dataset, each drawn with the seed that a `ResumableSampler` gives.

    Args:
        dataset: augments a sample with random numbers of torch, numpy or `random`.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, drawn: tuple[int, int] | int) -> dict[str, Tensor | str]:
        if isinstance(drawn, int):  # from the sampler of Lightning's `overfit_batches`
            return self.dataset[drawn]
        index, seed = drawn
        with seeded(seed):
            return self.dataset[index]


class Loader(DataLoader):
    """A loader whose workers do not get the signals that stop a training."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        with held_signals():
            return super().__iter__()


class ResumableLoader(Loader):
    """A loader that resumes in the epoch, and at the batch, that a checkpoint was written at.

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
        """Resume where a checkpoint was written; with other batches, at the same number of them."""
        if not state or not isinstance(self.sampler, ResumableSampler):
            return
        before, now = state["batches_per_epoch"], len(self)
        if before != now:
            logger.warning(
                "an epoch had %d batches and has %d now: the run resumes after batch %d of the "
                "new ones, and its images are not those of an unbroken run",
                *(before, now, state["batches"]),
            )
        self.sampler.seed = state["seed"]
        self._batches = state["batches"]
        self.sampler.resume(state["epoch"], self._batches * self.batch_size)


class SeedSteps(Callback):
    """Seed what a step draws, dropout for example, before it."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Seed all that may be drawn from, in each process differently."""
        seed = getattr(trainer.train_dataloader.sampler, "seed", run_seed())
        place = (trainer.global_rank, trainer.current_epoch, batch_idx)
        seed_everything(seed_of(seed, STEPS, *place))


class LastCheckpoint(Callback):
    """Write the last checkpoint, and resume from it.

    It is written every so many steps, after every validation, at the end, and when a signal stops
    the run. Lightning's `ModelCheckpoint(save_last=True)` writes it only where it saves another one
    too, which for the best one is when a validation was better than all before.

    Args:
        path: of the checkpoint.
        every: steps between two writings.
        signals: what stops the run; None for nothing.
        options: of the trainer, which every checkpoint gets for `check_continuation`.
    """

    def __init__(
        self,
        path: Path,
        *,
        every: int,
        signals: StopSignals | None = None,
        options: Mapping[str, object] | None = None,
    ):
        self.path = path
        self.every = every
        self.signals = signals or StopSignals()
        self.options = dict(options or {})
        self._step = self._written_at = self._stopped_by = 0
        self._accumulating = self._due = False
        self._validated_at = -1
        self._resumed_in: int | None = None
        self._max_steps: int | None = None

    def state_dict(self) -> dict[str, int]:
        """Return the batch, of the whole run, after which was validated last."""
        return {"validated_at": self._validated_at}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take over what `state_dict` returned."""
        self._validated_at = state_dict["validated_at"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, dict]
    ) -> None:
        """Put the options of the trainer into a checkpoint, and its progress in one form."""
        checkpoint[TRAINER_KEY] = self.options
        _set_to_end_of_batch(checkpoint)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, dict]
    ) -> None:
        """Know the epoch of a checkpoint; it is called before Lightning reads its progress."""
        self._resumed_in = _set_to_end_of_batch(checkpoint)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let a run that is resumed at its last step begin, as its validation may be missing."""
        loop = trainer.fit_loop.epoch_loop
        if self._resumed_in is not None and loop.max_steps > 0:
            self._max_steps, loop.max_steps = loop.max_steps, loop.max_steps + 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a signal waits for its step; validate if the checkpoint lacks that."""
        self.signals.wait = True
        self.signals.install()  # Lightning has put its own handler there
        self._step = self._written_at = trainer.global_step
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps = self._max_steps
        if self._resumed_in is not None:
            self._validate(trainer)

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        """Stop between two steps, when the one before is logged, too."""
        self._raise_if_stopped(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, _: int
    ) -> None:
        """Write it, if it is time; steps that accumulate gradients are one."""
        self._accumulating = trainer.global_step == self._step
        self._step = trainer.global_step
        if not self._accumulating:
            self._look_for_signals(trainer)
            if self._due or self._stopped_by or self._step % self.every == 0:
                self._write(trainer)

    def on_validation_batch_start(self, trainer: Trainer, *_: object) -> None:
        """Stop in a validation, unless a step is not finished: no checkpoint can hold it."""
        if _fits(trainer) and not self._accumulating:
            self._look_for_signals(trainer)
            if self._stopped_by and self._written_at != self._step:
                self._write(trainer)
            self._raise_if_stopped(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it, so that the validation is not repeated in a resumed run.

        While gradients are accumulated, which no checkpoint holds, it waits for their step.
        """
        if _fits(trainer):
            self._validated_at = trainer.fit_loop.total_batch_idx
            if self._accumulating:
                self._due = True
            else:
                self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it, if it is not of the last step."""
        if trainer.global_step != self._written_at:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        for log in trainer.loggers:
            log.save()  # what a killed run has not saved is not logged again
        trainer.save_checkpoint(self.path, weights_only=False)
        self._written_at = trainer.global_step
        self._due = False

    def _look_for_signals(self, trainer: Trainer) -> None:
        """Note a signal that any of the processes has received, all of them at one step."""
        strategy = trainer.strategy
        own = torch.tensor(self.signals.received or 0, device=strategy.root_device)
        self._stopped_by = self._stopped_by or int(strategy.reduce(own, reduce_op="max"))

    def _raise_if_stopped(self, trainer: Trainer) -> None:
        if self._stopped_by:
            raise StoppedError(
                f"stopped by {signal.Signals(self._stopped_by).name} after step "
                f"{trainer.global_step}, saved in '{self.path}'; the same command with --resume "
                "continues",
                STATUSES[signal.Signals(self._stopped_by)],
            )

    def _validate(self, trainer: Trainer) -> None:
        """Validate, if that is due after the batch that a run resumes from and was not done.

        The validation is in the epoch of the batch, though Lightning has ended that already.
        """
        loop, epoch = trainer.fit_loop.epoch_loop, trainer.fit_loop.epoch_progress.current
        completed, epoch.completed = epoch.completed, self._resumed_in
        fetcher = trainer.fit_loop._data_fetcher
        if self._validated_at != loop.total_batch_idx and loop._should_check_val_fx(fetcher):
            loop.val_loop.restarting = False
            trainer.validating = True
            loop.val_loop.run()
            trainer.training = True
        epoch.completed = completed


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


def run_seed() -> int:
    """Return the seed of the run, as Lightning's `seed_everything` has set it."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def _set_to_end_of_batch(checkpoint: dict[str, dict]) -> int | None:
    """Set the progress in a checkpoint to the end of its batch, wherever it was written.

    Lightning resumes in four ways, by where a checkpoint was written. They differ in whether they
    validate, and once one has resumed from the last batch of an epoch, its count of epochs that
    have begun lacks one. The end of a batch is the way that is exact, with
    `LastCheckpoint._validate`.

    Returns:
        The epoch of the batch; None where the loader does not know it, with `overfit_batches`.
    """
    fit = checkpoint["loops"]["fit_loop"]
    loader = next(iter(fit["state_dict"].get("combined_loader", ())), None)
    if not loader:
        return None
    epoch = loader["epoch"]
    batches, epochs = fit["epoch_loop.batch_progress"], fit["epoch_progress"]
    validation = fit["epoch_loop.val_loop.batch_progress"]
    for progress in (batches["total"], batches["current"]):
        progress["completed"] = progress["processed"] - 1
    for progress in (epochs["total"], epochs["current"]):
        progress |= {"ready": epoch + 1, "started": epoch + 1}
        progress |= {"processed": epoch, "completed": epoch}
    for progress in (validation["total"], validation["current"]):
        progress |= dict.fromkeys(progress, 0)
    validation["is_last_batch"] = False
    # What loggers take for the step.
    fit["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"] - 1
    checkpoint["epoch"] = epoch
    return epoch


def _fits(trainer: Trainer) -> bool:
    """Whether a validation is one of a training, and not the check before its first step."""
    return not trainer.sanity_checking and trainer.state.fn == TrainerFn.FITTING


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
