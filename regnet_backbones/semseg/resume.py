"""Exact resuming with Lightning: the contract of `runs.resume` for segmenters.

Batches follow from the seed and the epoch (see `loader`), the random numbers of a step from its
place. `LastCheckpoint` brings Lightning back to the end of the batch of a checkpoint.
"""

from collections.abc import Mapping
from pathlib import Path
from signal import Signals

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint

from regnet_backbones.files import write_whole
from regnet_backbones.runs import resume
from regnet_backbones.runs.stopping import StoppedError, StopSignals
from regnet_backbones.semseg.checkpoints import DATA_KEY, MODEL_KEY, read_checkpoint, read_segmenter
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.loader import run_seed
from regnet_backbones.semseg.module import Segmenter

# Where a checkpoint has the options of the trainer, and which of them a step depends on.
TRAINER_KEY = "trainer_options"
TRAINER = (
    *("accumulate_grad_batches", "gradient_clip_algorithm", "gradient_clip_val"),
    *("limit_train_batches", "max_epochs", "max_steps", "overfit_batches", "precision"),
)

RULES = resume.ResumeRules(
    output="--output",
    fixed=(
        *("--model.num_classes", "--model.decoder", "--model.decoder_options", "--model.encoder"),
        *("--model.output_stride", "--model.optimizer", "--model.auxiliary_weight"),
        *("--model.freeze_stages", "--model.layer_decay", "--model.ema_decay"),
    ),
    kept=(
        *("--model.lr", "--model.encoder_lr_factor", "--model.weight_decay", "--model.momentum"),
        *("--trainer.seed", "--trainer.patience"),
    ),
    free=(
        *("--model.encoder_weights", "--model.pictures", "--data.root", "--data.skip_bad"),
        *("--model.mean", "--model.std", "--model.short_side"),  # those of the data are compared
        *("--data.train_images", "--data.train_masks", "--data.val_images", "--data.val_masks"),
        *("--data.class_names_file", "--data.num_classes", "--data.num_workers"),
        *("--data.train_json", "--data.val_json"),
    ),
    names={
        "--trainer.processes": "the number of processes",
        "--trainer.seed": "--seed_everything",
        "--trainer.patience": "--early_stopping.patience",
    },
)

# What checkpoints of earlier versions do not name.
ADDED = {"auxiliary_weight": None, "freeze_stages": 0, "layer_decay": 1.0, "ema_decay": None}


def check_resume(
    checkpoint: Path, segmenter: Segmenter, data: SegmentationData, trainer: Mapping[str, object]
) -> None:
    """Raise UserError if a run cannot resume from a checkpoint; warn of options that differ."""
    content = read_segmenter(checkpoint)
    model = ADDED | content[MODEL_KEY]
    before = _by_option(model, content[DATA_KEY], content.get(TRAINER_KEY, {}))
    now = _by_option(segmenter.hparams, data.hparams, trainer)
    resume.check_changes(before, now, RULES, source=checkpoint)
    if (length := trainer["max_steps"]) >= 0:  # -1 for no limit
        names = {"option": "--trainer.max_steps", "output": RULES.output}
        resume.check_length(content["global_step"], length, source=checkpoint, **names)


def _by_option(model: Mapping, data: Mapping, trainer: Mapping) -> dict[str, object]:
    groups = {"model": model, "data": data, "trainer": trainer}
    return {f"--{group}.{name}": v for group, of in groups.items() for name, v in of.items()}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints whole or not at all, and read them without running anything.

    Lightning moves the file from a temporary folder, perhaps of another disk: half, if killed.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None
    ) -> None:
        """Write a checkpoint, or raise an OSError and leave the one that was there."""
        write_whole(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: str | Path, *_: object, **__: object) -> dict[str, object]:
        """Read a checkpoint onto the CPU, from where Lightning moves it; options do nothing."""
        return read_checkpoint(path)


class LastCheckpoint(Checkpoint):
    """Write the last checkpoint, and resume from it; seed what each step draws, such as dropout.

    It is written `every` so many steps, after every validation, at the end, and when one of the
    `signals` stops the run. Lightning runs a `Checkpoint` after other callbacks.
    """

    def __init__(
        self, path: Path, *, every: int, signals: StopSignals, options: Mapping[str, object]
    ):
        self.path, self.every, self.signals, self.options = path, every, signals, dict(options)
        self._step = self._written_at = self._stopped_by = 0
        self._accumulating = False
        self._validated_at = -1
        self._resumed_in: int | None = None
        self._max_steps: int | None = None

    def state_dict(self) -> dict[str, int]:
        """Return the batch after which it was validated last."""
        return {"validated_at": self._validated_at}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take over what `state_dict` returned."""
        self._validated_at = state_dict["validated_at"]

    def on_save_checkpoint(self, trainer: Trainer, _: object, checkpoint: dict) -> None:
        """Put the options of the trainer into a checkpoint, and its progress in one form."""
        checkpoint[TRAINER_KEY] = self.options
        _set_to_end_of_batch(checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, _: object, checkpoint: dict) -> None:
        """Note the epoch of a checkpoint, and update paths, before Lightning reads its states."""
        self._resumed_in = _set_to_end_of_batch(checkpoint)
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if state and isinstance(callback, ModelCheckpoint) and callback.dirpath:
                _move_best(state, Path(callback.dirpath))

    def on_fit_start(self, trainer: Trainer, _: object) -> None:
        """Let a run that is resumed at its last step begin, as its validation may be missing."""
        loop = trainer.fit_loop.epoch_loop
        if self._resumed_in is not None and loop.max_steps > 0:
            self._max_steps, loop.max_steps = loop.max_steps, loop.max_steps + 1

    def on_train_start(self, trainer: Trainer, _: object) -> None:
        """From here on a signal waits for its step; validate if the checkpoint lacks that."""
        stops = [c for c in trainer.callbacks if isinstance(c, EarlyStopping)]
        trainer.should_stop |= any(c.wait_count >= c.patience for c in stops)
        self.signals.wait = True
        self.signals.install()  # Lightning has installed its own handler
        self._step = self._written_at = trainer.global_step
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps = self._max_steps
        if self._resumed_in is not None:
            self._validate(trainer)

    def on_train_batch_start(self, trainer: Trainer, _: object, __: object, index: int) -> None:
        """Stop between two steps, when the one before is logged, too; or seed the next."""
        self._raise_if_stopped(trainer)
        seed = getattr(trainer.train_dataloader.sampler, "seed", run_seed())
        place = (trainer.global_rank, trainer.current_epoch, index)
        resume.seed_everything(resume.seed_of(seed, resume.STEPS, *place))

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Write it, if it is time; steps that accumulate gradients are one."""
        self._accumulating = trainer.global_step == self._step
        self._step = trainer.global_step
        if not self._accumulating:
            self._look_for_signals(trainer)
            if self._stopped_by or self._step % self.every == 0:
                self._write(trainer)

    def on_validation_batch_start(self, trainer: Trainer, *_: object) -> None:
        """Stop in a validation, unless a step is not finished: no checkpoint can hold it."""
        if not trainer.sanity_checking and not self._accumulating:
            self._look_for_signals(trainer)
            if self._stopped_by and self._written_at != self._step:
                self._write(trainer)
            self._raise_if_stopped(trainer)

    def on_validation_end(self, trainer: Trainer, _: object) -> None:
        """Write it, so that the validation is not repeated, unless a step is not finished."""
        if not trainer.sanity_checking:
            self._validated_at = trainer.fit_loop.total_batch_idx
            if not self._accumulating:
                self._write(trainer)

    def on_train_end(self, trainer: Trainer, _: object) -> None:
        """Write it, if it is not of the last step."""
        if trainer.global_step != self._written_at:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        for log in trainer.loggers:
            log.save()  # what a killed run has not saved is not logged again
        trainer.save_checkpoint(self.path, weights_only=False)
        self._written_at = trainer.global_step

    def _look_for_signals(self, trainer: Trainer) -> None:
        """Note a signal that any of the processes has received, all of them at one step."""
        device = trainer.strategy.root_device
        received = self._stopped_by or self.signals.received or 0
        self._stopped_by = resume.largest_anywhere(received, device)

    def _raise_if_stopped(self, trainer: Trainer) -> None:
        if self._stopped_by:
            received = Signals(self._stopped_by)
            raise StoppedError.after(received, f"step {trainer.global_step}", self.path)

    def _validate(self, trainer: Trainer) -> None:
        """Validate, if that is due after the batch that a run resumes from and was not done."""
        # The validation is in the epoch of the batch, though Lightning has ended that already.
        loop, epoch = trainer.fit_loop.epoch_loop, trainer.fit_loop.epoch_progress.current
        completed, epoch.completed = epoch.completed, self._resumed_in
        fetcher = trainer.fit_loop._data_fetcher
        if self._validated_at != loop.total_batch_idx and loop._should_check_val_fx(fetcher):
            loop.val_loop.restarting = False
            trainer.validating = True
            loop.val_loop.run()
            trainer.training = True
        epoch.completed = completed


def _move_best(state: dict, folder: Path) -> None:
    """Give the state of a `ModelCheckpoint` the paths of its files in a folder that was moved.

    Otherwise it forgets how good they were, and the next validation overwrites them.
    """
    best = {str(folder / Path(path).name): score for path, score in state["best_k_models"].items()}
    if all(Path(path).is_file() for path in best):
        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        state |= {name: state[name] and str(folder / Path(state[name]).name) for name in paths}
        state |= {"dirpath": str(folder), "best_k_models": best}


def _set_to_end_of_batch(checkpoint: dict[str, dict]) -> int | None:
    """Set the progress in a checkpoint to the end of its batch, and return the epoch of that.

    Lightning resumes in four ways, by where a checkpoint was written, which differ in validations
    and in how epochs are counted. This one is exact, with `LastCheckpoint._validate`. With
    `overfit_batches` the loader has no epoch, and nothing is changed.
    """
    fit = checkpoint["loops"]["fit_loop"]
    loader = next(iter(fit["state_dict"].get("combined_loader", ())), None)
    if not loader:
        return None
    epoch = loader["epoch"]
    batches, epochs = fit["epoch_loop.batch_progress"], fit["epoch_progress"]
    validation = fit["epoch_loop.val_loop.batch_progress"]
    for scope in ("total", "current"):
        batches[scope]["completed"] = batches[scope]["processed"] - 1
        epochs[scope] |= {"ready": epoch + 1, "started": epoch + 1}
        epochs[scope] |= {"processed": epoch, "completed": epoch}
        validation[scope] |= dict.fromkeys(validation[scope], 0)
    validation["is_last_batch"] = False
    # What loggers take for the step.
    fit["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"] - 1
    checkpoint["epoch"] = epoch
    return epoch
