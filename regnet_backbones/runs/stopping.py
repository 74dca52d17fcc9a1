"""SIGTERM, SIGHUP and Ctrl-C: a training finishes its step, saves, and exits with a status."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Exit statuses, as a shell reports them. Slurm, `timeout` and `docker stop` send SIGTERM, a closed
# terminal SIGHUP.
STATUSES = {signal.SIGTERM: 143, signal.SIGHUP: 143, signal.SIGINT: 130}

# Seconds in which a signal that comes twice is one: `timeout` sends it to the command and then to
# its process group, and a run forwards it to the processes that it has started.
REPEATED = 1.0

PARENT_CHECKED = 2.0  # seconds in which a data worker notices that its training was killed


class StoppedError(Exception):
    """A signal stopped a training: which one, where, how to resume; and the exit status."""

    def __init__(self, message: str, status: int):
        super().__init__(message, status)  # both, so that it survives being pickled
        self.status = status

    def __str__(self) -> str:
        return self.args[0]

    @classmethod
    def after(cls, received: signal.Signals, place: str, checkpoint: object) -> "StoppedError":
        """Return the error of a training that stopped after a step and saved a checkpoint."""
        text = f"stopped by {received.name} after {place}, saved in '{checkpoint}'"
        return cls(f"{text}; continue with the same command and --resume", STATUSES[received])


class StopSignals:
    """Note a signal instead of dying from it, as a context manager: `received`.

    A second signal has its usual effect. One that is ignored, as SIGHUP under `nohup`, stays so.
    Without `wait`, as long as a training has nothing to save, it raises a `StoppedError` at once.
    """

    def __init__(self, *, wait: bool = True) -> None:
        self.wait = wait
        self.received: signal.Signals | None = None
        self._received_at = 0.0
        self._handlers: dict[signal.Signals, Callable[[int, FrameType | None], object] | int] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in STATUSES:
                handler = signal.getsignal(number)
                if handler not in (None, signal.SIG_IGN):
                    self._handlers[number] = handler
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        if self.received is not None:
            _end_workers()

    def install(self) -> None:
        """Catch the signals, again where a framework has installed handlers of its own."""
        if self.received is None:
            for number in self._handlers:
                signal.signal(number, self.note)

    def early_stop(self) -> StoppedError:
        """Return the error of a training that a signal stopped before its first step."""
        assert self.received is not None
        text = f"stopped by {self.received.name} before the first step; run the command again"
        return StoppedError(text, STATUSES[self.received])

    def note(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; handle the second one as it was before."""
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = signal.Signals(number), now
            if not self.wait:
                raise self.early_stop()
        elif number != self.received or now - self._received_at > REPEATED:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def heed_parent_only(worker: int) -> None:
    """Let a data worker ignore signals of others than its parent; a `worker_init_fn`.

    A worker that dies from those of a terminal or Slurm would end its training before that has
    saved. A worker of a killed parent ends itself.
    """
    parent = multiprocessing.parent_process()  # of a forkserver's child, os.getppid() is not it
    pid = parent.pid if parent else os.getppid()

    def wait() -> None:
        while True:
            received = signal.sigtimedwait(STATUSES, PARENT_CHECKED)
            if received is None:
                ended = not parent.is_alive() if parent else os.getppid() != pid
            else:
                ended = received.si_pid == pid
            if ended:
                os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, STATUSES)
    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def held_signals() -> Iterator[None]:
    """Hold the signals back; data workers started inside get none before `heed_parent_only`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STATUSES)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_workers() -> None:
    """End the data workers of this process before Python waits for them.

    The SIGTERM that Python sends once is lost where one of another process is still pending.
    """
    for worker in multiprocessing.active_children():
        for _ in range(50):
            if worker.daemon and worker.is_alive():
                worker.terminate()
                worker.join(0.2)
