"""An evaluation during a training, which a signal ends as it ends the training itself."""

from collections.abc import Callable
from signal import Signals

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from regnet_backbones.runs.stopping import StopSignals


class StoppableEvaluator(DatasetEvaluator):
    """An evaluator that stops in all processes where a signal came in one.

    Each process has other images and may have more of them than others. So each asks the others
    once: when it got a signal, or when its images are done.

    Args:
        evaluator: which is asked as long as no signal comes.
        signals: of this process.
        stop: called with the signal; must raise.
    """

    def __init__(
        self,
        evaluator: DatasetEvaluator,
        signals: StopSignals,
        stop: Callable[[Signals], object],
    ):
        self._evaluator, self._signals, self._stop = evaluator, signals, stop

    def reset(self) -> None:
        """Prepare for a round of evaluation."""
        self._evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take the predictions of some images."""
        self._evaluator.process(inputs, outputs)
        if self._signals.received:
            self._stop_together()

    def evaluate(self) -> dict:
        """Return the results."""
        self._stop_together()
        return self._evaluator.evaluate()

    def _stop_together(self) -> None:
        """Stop if a process got a signal."""
        received = [number for number in comm.all_gather(self._signals.received) if number]
        if received:
            self._stop(received[0])
