"""What the training and the evaluation of a segmenter show on the screen."""

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

from regnet_backbones.runs.progress import progress

# Warnings of Lightning's that a user cannot act on: of its own code, of a log interval within an
# epoch (ours is of all steps), of workers (the training names its own), of a resumed run's folder.
NOISE = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    r"The 'val_dataloader' does not have many workers",
    r"Checkpoint directory .* exists and is not empty",
)
ADVERTISEMENTS = ("💡 Tip:", *(f"{kind} available: False" for kind in ("GPU", "TPU", "HPU")))


@contextmanager
def without_noise() -> Iterator[None]:
    """Leave out `NOISE` and `ADVERTISEMENTS` while Lightning's trainer works."""
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    log.addFilter(_is_news)
    try:
        with warnings.catch_warnings():
            for message in NOISE:
                warnings.filterwarnings("ignore", message, module=r"lightning\.")
            yield
    finally:
        log.removeFilter(_is_news)


@contextmanager
def without_warnings_of_data() -> Iterator[None]:
    """Log no warnings of a segmenter's data: the training does, before or afterwards."""
    log = logging.getLogger("regnet_backbones.semseg")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(ADVERTISEMENTS)


def progress_callback() -> ProgressBar:
    """Return a bar for a terminal, and for anything else what prints lines."""
    return Bar() if sys.stdout.isatty() else Lines()


def _in_percent(metrics: Mapping) -> dict:
    """Return metrics without Lightning's version number, and mIoU, from 0 to 1, in percent."""
    others = {name: value for name, value in metrics.items() if name not in ("v_num", "val/miou")}
    miou = {"val/mIoU": f"{100 * float(metrics['val/miou']):.2f}%"} if "val/miou" in metrics else {}
    return others | miou


def _time_left(trainer: Trainer, since: int, seconds: float) -> str | None:
    """Return the time left, h:mm:ss, from that of the steps since one; None if unknown."""
    step, last = trainer.global_step, trainer.estimated_stepping_batches
    if step == since or last == float("inf"):
        return None
    return str(timedelta(seconds=round((last - step) * seconds / (step - since))))


class Bar(TQDMProgressBar):
    """Lightning's bar, of an epoch, with results in percent and the time left of the training."""

    def on_train_start(self, trainer: Trainer, *args: object) -> None:
        """Start the watch."""
        super().on_train_start(trainer, *args)
        self._step, self._start = trainer.global_step, time.perf_counter()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict:
        """Return what is written next to the bar."""
        metrics = _in_percent(super().get_metrics(trainer, pl_module))
        if trainer.sanity_checking:  # before the start
            return metrics
        left = _time_left(trainer, self._step, time.perf_counter() - self._start)
        return metrics if left is None else metrics | {"left": left}


class Lines(ProgressBar):
    """Print a line every `log_every_n_steps` of a training, and one for each validation."""

    is_enabled = True  # also asked by `LightningModule.print`

    def disable(self) -> None:
        """Print nothing: Lightning calls it in all processes but the first."""
        self.is_enabled = False

    def on_train_start(self, trainer: Trainer, *_: object) -> None:
        """Start the watch, which stands still in validations."""
        self._step, self._images, self._start = trainer.global_step, 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, _: object, __: object, batch: Mapping, ___: int
    ) -> None:
        """Print step, loss, learning rate, speed and the time that is left."""
        self._images += len(batch["image"]) * trainer.world_size
        step, last = trainer.global_step, trainer.estimated_stepping_batches
        if step == self._step or (step % trainer.log_every_n_steps and step != last):
            return
        seconds = time.perf_counter() - self._start
        loss, lr = (trainer.callback_metrics[f"train/{name}"] for name in ("loss", "lr"))
        text = f"loss {loss:.4g}, lr {lr:.4g}, {self._images / seconds:.1f} images/s"
        left = _time_left(trainer, self._step, seconds)
        text += "" if left is None else f", {left} left"
        self._print(f"step {step:,} of {last:,}: {text}")
        self.on_train_start(trainer)

    def on_validation_start(self, trainer: Trainer, *_: object) -> None:
        """Start to count images."""
        self._paused = time.perf_counter()
        options = {"total": sum(trainer.num_val_batches), "disable": trainer.sanity_checking}
        options["disable"] |= not self.is_enabled
        self._validated = progress(desc="validation", unit=" images", **options)

    def on_validation_batch_end(self, *_: object) -> None:
        """Count an image."""
        self._validated.update()

    def on_validation_end(self, trainer: Trainer, *_: object) -> None:
        """Print the results of a validation in a training."""
        self._validated.close()
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._start += time.perf_counter() - self._paused
            found = _in_percent(trainer.progress_bar_metrics).items()
            words = [f"{k.removeprefix('val/')} {v}" for k, v in found if k.startswith("val/")]
            self._print(f"validation at step {trainer.global_step:,}: {', '.join(words)}")

    def _print(self, text: str) -> None:
        if self.is_enabled:
            print(text, flush=True)
