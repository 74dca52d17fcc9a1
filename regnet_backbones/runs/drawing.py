"""Pictures drawn by other processes while a model predicts the next images.

On Linux these are forks, as the workers of torch's `DataLoader` are: they have imported all that
they need. Elsewhere starting one takes seconds and imports the caller's `__main__` again, so that
pictures are drawn in this process.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from regnet_backbones.errors import UserError

FEW = 2  # so many pictures are drawn before another process is of use
MAX_PROCESSES = 4


class Drawing:
    """Draw pictures, in other processes too if there are many.

    A context manager: at its end all pictures are drawn, and no process is left. After an error
    pictures may be missing. `draw` is a function at the top level of a module that writes a
    picture; there are at most `count` of them.
    """

    def __init__(self, draw: Callable[..., None], count: int):
        self._draw, self._count = draw, process_count(count)
        self._waiting: deque[tuple[Path, Future[None]]] = deque()
        context = multiprocessing.get_context("fork") if self._count else None
        # It starts its processes for the first picture.
        self._pool = ProcessPoolExecutor(self._count or 1, context, initializer=_begin)

    def add(self, image: Path, *args: object) -> None:
        """Draw the picture of an image, `draw(*args)`, now or until the end.

        It is drawn in this process while two pictures a process wait: that bounds memory. Errors
        may be those of a picture before; their notes name the image.
        """
        while self._waiting and self._waiting[0][1].done():
            self._finish_first()
        if len(self._waiting) < 2 * self._count:
            task = pickle.dumps(args, pickle.HIGHEST_PROTOCOL)
            self._waiting.append((image, self._pool.submit(_call, self._draw, task)))
            return
        with _named(image):
            self._draw(*args)

    def _finish_first(self) -> None:
        image, picture = self._waiting.popleft()
        with _named(image):
            picture.result()

    def __enter__(self) -> "Drawing":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while self._waiting and kind is None:
                self._finish_first()
        finally:
            for process in list((self._pool._processes or {}).values()):
                process.kill()  # idle, unless there was an error
            self._pool.shutdown(cancel_futures=True)


@contextmanager
def _named(image: Path) -> Iterator[None]:
    """Name the image in an error of its picture."""
    try:
        yield
    except BrokenProcessPool as error:
        text = f"a process was killed that drew '{image}' or another picture"
        way_out = "probably, the machine ran out of memory; use --no-pictures"
        raise UserError(f"{text}; {way_out}") from error
    except Exception as error:
        error.add_note(f"The picture of '{image}' could not be drawn.")
        raise


def process_count(pictures: int) -> int:
    """Return how many processes draw so many pictures: at most half as many as there are cores."""
    if pictures <= FEW or sys.platform != "linux":
        return 0
    return min(MAX_PROCESSES, len(os.sched_getaffinity(0)) // 2)


def _begin() -> None:
    """Prepare a fork: Ctrl-C does not reach it, it has one thread, and ends with its parent."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    # Of the threads that its parent had started it has none.
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    if (cv2 := sys.modules.get("cv2")) is not None:
        cv2.setNumThreads(0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _call(draw: Callable[..., None], task: bytes) -> None:
    draw(*pickle.loads(task))
