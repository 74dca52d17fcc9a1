"""How long single images take."""

import time
from collections.abc import Callable
from statistics import median
from typing import TypeVar

import torch

# The first images are slower: memory is asked for, and kernels are chosen.
WARMUP = 2

Result = TypeVar("Result")


class Stopwatch:
    """Time calls on a device."""

    def __init__(self, device: torch.device | str):
        self._on_gpu = torch.device(device).type == "cuda"
        self._seconds: list[float] = []

    def time(self, call: Callable[[], Result]) -> Result:
        """Call, and return the result once the device has done its work."""
        self._wait()
        start = time.perf_counter()
        result = call()
        self._wait()
        self._seconds.append(time.perf_counter() - start)
        return result

    def milliseconds(self) -> float | None:
        """Return the median of the calls, the first ones left out where there are more; or None."""
        counted = self._seconds[WARMUP:] or self._seconds
        return 1000 * median(counted) if counted else None

    def _wait(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()
