"""SIGTERM, SIGHUP and Ctrl-C: a training finishes its step, saves, and exits with a status."""

import signal
import threading
from types import FrameType

# Slurm, `timeout` and `docker stop` send SIGTERM, a closed terminal SIGHUP, Ctrl-C SIGINT. The
# exit statuses are those that a shell reports for SIGTERM and SIGINT.
STATUSES = {signal.SIGTERM: 143, signal.SIGHUP: 143, signal.SIGINT: 130}


class StoppedError(Exception):
    """A signal stopped a training, which has saved its state.

    Args:
        message: one line for the user: the signal, where the training is, and how to resume.
        status: exit status of the command.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message, status)  # both, so that it survives being pickled
        self.message, self.status = message, status

    def __str__(self) -> str:
        return self.message


class StopSignals:
    """Note a signal instead of dying from it, as a context manager.

    A second signal has its usual effect at once. In other threads than the main one nothing is
    caught, as Python handles signals in the main thread only.

    Attributes:
        received: the first signal, None as long as there is none.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note) for number in STATUSES}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Note a signal; the next one is handled as it was before."""
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        """Put the handlers from before back."""
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, handler)
