"""What watches a training: averaged weights, bad losses, signals in an evaluation, metrics."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.engine.hooks import LRScheduler
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from timm.utils import ModelEmaV3
from torch import nn

from regnet_backbones.errors import DivergedError, UserError
from regnet_backbones.files import write_whole
from regnet_backbones.runs.resume import largest_anywhere
from regnet_backbones.runs.stopping import StopSignals
from regnet_backbones.runs.trained import ITERATION, METRICS_NAME, read_metrics

# Iterations between two rows of the metrics, and iterations that a row is the median of:
# detectron2's own.
PERIOD = WINDOW = 20


def build_average(cfg: CfgNode, model: nn.Module) -> ModelEmaV3 | None:
    """Build the running average of the weights that `MODEL.EMA` asks for; None for none.

    Buffers, such as the statistics of batch norm, are copied.
    """
    ema = cfg.MODEL.EMA
    if not ema.ENABLED:
        return None
    if not 0 < ema.DECAY < 1:
        raise UserError(f"MODEL.EMA.DECAY must be between 0 and 1, got {ema.DECAY}")
    average = ModelEmaV3(model, decay=ema.DECAY, use_warmup=ema.WARMUP, exclude_buffers=True)
    average.module.train()  # precise batch norm is for layers in training; evaluation sets its own
    return average


class StopAtBadLosses(HookBase):
    """Raise DivergedError in all processes, before the backward pass, if a loss is not finite.

    Detectron2 checks it afterwards, in its first process alone, and leaves the others waiting.
    """

    def before_train(self) -> None:
        """Look at all that the model returns from here on."""
        model = self.trainer.model
        self._handles = [
            model.register_forward_pre_hook(self._note_files),
            model.register_forward_hook(self._check_losses),
        ]

    def after_train(self) -> None:
        """Leave the model alone."""
        for handle in self._handles:
            handle.remove()

    def check(self, found: str) -> None:
        """Raise DivergedError if any process found something; all of them must call it."""
        device = next(self.trainer.model.parameters()).device
        if largest_anywhere(bool(found), device):
            texts = comm.all_gather(f"  {found}\n  of {self._files}" if found else "")
            raise DivergedError(self._report(texts))

    def _note_files(self, model: nn.Module, arguments: tuple) -> None:
        if model.training:
            names = [str(record.get("file_name", "(no name)")) for record in arguments[0]]
            self._files = ", ".join(names)

    def _check_losses(self, model: nn.Module, arguments: tuple, output: object) -> None:
        if not model.training:
            return
        losses = output if isinstance(output, Mapping) else {"total_loss": output}
        values = torch.stack([loss.detach().float().sum() for loss in losses.values()])
        found = []
        if not values.isfinite().all():
            pairs = zip(losses, values.tolist(), strict=True)
            found = [f"{name} {value:.6g}" for name, value in pairs]
        self.check(", ".join(found))

    def _report(self, found: list[str]) -> str:
        """Report what happened in which process, and what to do."""
        trainer = self.trainer
        group = LRScheduler.get_best_param_group_id(trainer.optimizer)
        precision = "SOLVER.AMP.ENABLED False, " if trainer.cfg.SOLVER.AMP.ENABLED else ""
        return "\n".join(
            [
                f"the loss of iteration {trainer.iter} is not finite:",
                *(f"process {i}:\n{text}" for i, text in enumerate(found) if text),
                f"learning rate: {trainer.optimizer.param_groups[group]['lr']:.6g}",
                f"last good checkpoint: {trainer.checkpointer.get_checkpoint_file() or 'none yet'}",
                "what to try: a lower SOLVER.BASE_LR or a longer SOLVER.WARMUP_ITERS, "
                f"SOLVER.CLIP_GRADIENTS.ENABLED True, {precision}a look at these images and their "
                "annotations; then --resume",
            ]
        )


class StoppableEvaluators(DatasetEvaluators):
    """Evaluators of a dataset that stop in all processes if a signal came in one.

    Each process has other images, and may have more of them than others. So each calls
    `stop_if_asked`, which all must, once: when it got a signal, or when its images are done.
    """

    def __init__(
        self,
        evaluators: DatasetEvaluators,
        signals: StopSignals,
        stop_if_asked: Callable[[], object],
    ):
        super().__init__([evaluators])
        self._signals, self._stop_if_asked = signals, stop_if_asked

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take the predictions of some images."""
        super().process(inputs, outputs)
        if self._signals.received:
            self._stop_if_asked()

    def evaluate(self) -> dict:
        """Return the results."""
        self._stop_if_asked()
        return super().evaluate()


class WriteMetrics(HookBase):
    """Write `metrics.json` in the first process: of killed runs, too, the rows of an unbroken one.

    Rows are detectron2's, medians of the last iterations, which checkpoints keep. Rows that a
    killed run wrote after its last checkpoint are dropped, and a row that a checkpoint came before
    is written by the resumed run.
    """

    def __init__(self, eval_period: int):
        self._periods = [period for period in (PERIOD, eval_period) if period > 0]
        self._writers: list[EventWriter] | None = None
        self._saved: dict[str, tuple[bool, list[tuple[float, int]]]] = {}

    def lacks_row(self) -> bool:
        """Whether the run was killed between its last checkpoint and the row of that iteration."""
        last = self.trainer.start_iter - 1
        if last < 0 or not self._is_due(last):
            return False
        return all(row[ITERATION] != last for row in read_metrics(self._file))

    def restore(self, *, with_last: bool) -> None:
        """Restore what a checkpoint has kept; log its last values again if their row is missing."""
        storage, histories = self.trainer.storage, self.trainer.storage.histories()
        for name, (is_smoothed, values) in self._saved.items():
            *before, (last, iteration) = values
            again = with_last and iteration == self.trainer.start_iter - 1
            for value in before if again else values:
                histories[name].update(*value)
            if again:
                storage.put_scalar(name, last, smoothing_hint=is_smoothed)

    def after_step(self) -> None:
        """Write a row where one is due."""
        if self._is_due(self.trainer.iter):
            self._write()

    def after_train(self) -> None:
        """Write the last evaluation of a finished run; of another one, a resumed run does."""
        if self.trainer.iter == self.trainer.max_iter and self.trainer.storage.latest():
            self._write()
        for writer in self._writers or ():
            writer.close()

    def state_dict(self) -> dict[str, tuple[bool, list[tuple[float, int]]]]:
        """Return, by name, whether rows have its median, and the values that they are of."""
        storage = self.trainer.storage
        return self._saved | {
            name: (is_smoothed, storage.history(name).values()[-WINDOW:])
            for name, is_smoothed in storage.smoothing_hints().items()
        }

    def load_state_dict(self, state_dict: dict[str, tuple[bool, list[tuple[float, int]]]]) -> None:
        """Keep the values of a checkpoint until the training begins."""
        self._saved = state_dict

    @property
    def _file(self) -> Path:
        return Path(self.trainer.cfg.OUTPUT_DIR) / METRICS_NAME

    def _is_due(self, iteration: int) -> bool:
        done = iteration + 1
        return done == self.trainer.max_iter or any(done % each == 0 for each in self._periods)

    def _write(self) -> None:
        """Write a row; before the first one drop those that this run writes again."""
        if not comm.is_main_process():
            return
        if self._writers is None:
            if self._file.is_file():
                self._drop_rows_to_come()
            self._writers = self.trainer.build_writers()
        for writer in self._writers:
            writer.write()

    def _drop_rows_to_come(self) -> None:
        """Drop the rows after the last checkpoint of a killed run."""
        start, end = self.trainer.start_iter, self.trainer.max_iter
        rows = [
            row
            for row in read_metrics(self._file)
            if row[ITERATION] < start
            # The last evaluation of a finished run, which a higher MAX_ITER makes a longer one.
            or (row[ITERATION] == start < end and "total_loss" not in row)
        ]
        text = "".join(f"{json.dumps(row, sort_keys=True)}\n" for row in rows)
        write_whole(self._file, lambda file: file.write(text.encode()))
