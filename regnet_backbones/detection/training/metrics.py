"""`metrics.json` of runs that are killed and resumed: the rows of an unbroken run, in order.

Rows are detectron2's: medians of the last iterations, every 20 iterations and after evaluations.
Checkpoints keep what the medians are of. Rows of a killed run after its last checkpoint are dropped
when they are written again, and a row that a checkpoint came before is written by the resumed run.
"""

import json
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

from regnet_backbones.files import write_whole
from regnet_backbones.runs.trained import ITERATION, METRICS_NAME, read_metrics

# Iterations between two rows, and iterations that a row is the median of: detectron2's own.
PERIOD = WINDOW = 20


class WriteMetrics(HookBase):
    """Write what a training logs, in the first process.

    Args:
        eval_period: iterations between evaluations, whose results are written at once; 0 for none.
    """

    def __init__(self, eval_period: int):
        self._periods = [period for period in (PERIOD, eval_period) if period > 0]
        self._writers: list[EventWriter] | None = None
        self._saved: dict[str, tuple[bool, list[tuple[float, int]]]] = {}

    def lacks_row(self) -> bool:
        """Whether the run was killed between its last checkpoint and the row of that iteration."""
        last = self.trainer.start_iter - 1
        rows = read_metrics(self._file) if last >= 0 and self._is_due(last) else [{ITERATION: last}]
        return all(row[ITERATION] != last for row in rows)

    def restore(self, *, with_last: bool) -> None:
        """Put back what a checkpoint has kept.

        Args:
            with_last: log the values of its own iteration again, for a row that is lacking.
        """
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
        """Write the last evaluation; what a run has not finished, it writes when it is resumed."""
        if self.trainer.iter == self.trainer.max_iter and self.trainer.storage.latest():
            self._write()
        for writer in self._writers or ():
            writer.close()

    def state_dict(self) -> dict[str, tuple[bool, list[tuple[float, int]]]]:
        """Return the values by name that next rows are of, and whether these have their median."""
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
        """Whether an iteration has a row."""
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
        """Drop the rows that a killed run wrote after its last checkpoint."""
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
