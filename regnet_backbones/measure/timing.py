"""Times of calls that take turns, so that a slow minute of the machine slows all of them."""

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import median
from typing import TypeVar

import torch

LEAST_ROUNDS = 3

# Steps of a training after which the rest is estimated.
STEPS = 10

Name = TypeVar("Name", bound=Hashable)


def interleaved_times(
    calls: Mapping[Name, Callable[[], object]],
    *,
    runs: int,
    warmup: int = 2,
    device: torch.device | str = "cpu",
    limit: float = math.inf,
) -> dict[Name, tuple[float, ...]]:
    """Return the seconds of each run of several calls, by name.

    Each is called once a round, in the opposite order every other round, so that what a call leaves
    behind does not always burden the same one. After three rounds and `limit` seconds it ends.
    """
    timed = _cuda_seconds if torch.device(device).type == "cuda" else _cpu_seconds
    for _ in range(warmup):
        for call in calls.values():
            call()
    times: dict[Name, list[float]] = {name: [] for name in calls}
    names, start = list(calls), time.perf_counter()
    for round_number in range(runs):
        if round_number >= LEAST_ROUNDS and time.perf_counter() - start > limit:
            break
        for name in names if round_number % 2 == 0 else reversed(names):
            times[name].append(timed(calls[name]))
    return {name: tuple(seconds) for name, seconds in times.items()}


def estimate(seconds: Sequence[float], left: int, unit: str) -> str:
    """Format the time of the steps that are left, by the median of the seconds of some steps."""
    each = median(seconds)
    minutes = each * left / 60
    rounded = f"{minutes:.1f}" if minutes < 10 else f"{minutes:,.0f}"
    return f"about {rounded} minutes for {left:,} {unit}, {each:.2g} s each, without evaluations"


def _cpu_seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _cuda_seconds(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000
