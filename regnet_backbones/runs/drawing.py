"""Pictures drawn by other processes while a model predicts the next images.

Each process is a fresh interpreter. A fork of a process with the threads of torch or of a runtime
may crash, and multiprocessing's other ways of starting one import the caller's `__main__` again. A
process reads pickled arguments from its stdin, a pipe that nobody else writes to, and ends when it
is closed: with the command, even if that is killed.
"""

import os
import pickle
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from pkgutil import resolve_name
from queue import SimpleQueue
from types import TracebackType

from regnet_backbones.errors import UserError

# So many pictures are drawn before another process has imported what it needs.
FEW = 8

# A process that draws for detectron2 needs about 0.3 GiB of memory.
MAX_PROCESSES = 4

# With `-c` the current folder is the first place to import from: the caller may not do so.
START = """
import sys
sys.path[:] = sys.argv[2:]
from regnet_backbones.runs.drawing import serve
serve(sys.argv[1])
"""

# One thread a process, no GPU, and no warnings that the command has shown already.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}


class Drawing:
    """Draw pictures, in other processes too if there are many.

    A context manager: at its end all pictures are drawn, and no process is left. After an error
    pictures may be missing.

    Args:
        draw: a function at the top level of a module that writes a picture, whose arguments can be
            pickled.
        count: how many pictures there are at most. `FEW` are drawn in this process.
    """

    def __init__(self, draw: Callable[..., None], count: int):
        self._draw = draw
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._waiting: deque[Future[None]] = deque()
        self._processes = [_start(draw) for _ in range(process_count(count))]
        for process in self._processes:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(max(1, len(self._processes)))

    def add(self, image: Path, *args: object) -> None:
        """Draw the picture of an image, `draw(*args)`, now or until the end.

        It is drawn in this process while two pictures a process wait: that bounds memory.
        Arguments may be changed afterwards.

        Raises:
            Exception: what `draw` raised, of this picture or of one before, with a note that names
                the image.
            UserError: a process was killed.
        """
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft().result()
        if len(self._waiting) < 2 * len(self._processes):
            task = pickle.dumps(args, pickle.HIGHEST_PROTOCOL)
            self._waiting.append(self._threads.submit(self._send, image, task))
            return
        with _named(image):
            self._draw(*args)

    def _send(self, image: Path, task: bytes) -> None:
        """Have an idle process draw a picture; raise what it raised."""
        process = self._idle.get()
        try:
            process.stdin.write(task)
            process.stdin.flush()
            error = pickle.load(process.stdout)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError) as ended:
            process.kill()  # it has ended, unless something else wrote to its stdout
            raise UserError(
                f"the process that drew the picture of '{image}' ended with status "
                f"{process.wait()}. Negative ones are signals: it was probably killed because the "
                "machine ran out of memory; --no-pictures predicts without such processes"
            ) from ended
        finally:
            self._idle.put(process)
        if error is not None:
            with _named(image):
                raise error

    def __enter__(self) -> "Drawing":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            while self._waiting and kind is None:
                self._waiting.popleft().result()
        finally:
            for process in self._processes:
                process.kill()  # idle, unless there was an error
            self._threads.shutdown(cancel_futures=True)
            for process in self._processes:
                with suppress(BrokenPipeError), process:  # closes its pipes and waits for it
                    pass


@contextmanager
def _named(image: Path) -> Iterator[None]:
    """Add a note to an error that names the image whose picture is drawn."""
    try:
        yield
    except Exception as error:
        error.add_note(f"The picture of '{image}' could not be drawn.")
        raise


def process_count(pictures: int) -> int:
    """Return how many processes draw so many pictures: at most half as many as there are cores."""
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return 0 if pictures <= FEW else min(MAX_PROCESSES, cores // 2)


def serve(name: str) -> None:
    """Draw in a process of `Drawing`, until its stdin is closed.

    Args:
        name: of the function, "module:name".
    """
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not a reply
    draw = resolve_name(name)
    # A command that is killed may have sent half of a task.
    with suppress(EOFError, BrokenPipeError, pickle.UnpicklingError):
        while True:
            replies.write(pickle.dumps(_attempt(draw, pickle.load(sys.stdin.buffer))))
            replies.flush()
    os._exit(0)  # nothing to write is left, and nobody reads


def _attempt(draw: Callable[..., None], args: tuple[object, ...]) -> Exception | None:
    """Draw a picture, and return the error; one of another kind may not be pickled as it is."""
    try:
        draw(*args)
    except (OSError, MemoryError) as error:
        return error
    except Exception:
        return RuntimeError(f"in a process that draws:\n{traceback.format_exc()}")
    return None


def _start(draw: Callable[..., None]) -> "subprocess.Popen[bytes]":
    """Start a process; in a session of its own Ctrl-C does not reach it."""
    name = f"{draw.__module__}:{draw.__qualname__}"
    return subprocess.Popen(
        [sys.executable, "-c", START, name, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT},
        start_new_session=True,
    )
