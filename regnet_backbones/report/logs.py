"""What trainings logged: rows of detectron2's metrics.json, and Lightning's TensorBoard events."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from regnet_backbones.report.content import Curve
from regnet_backbones.runs.trained import ITERATION

# The key under which detectron2 has the seconds of an iteration.
SECONDS = "time"


@dataclass(frozen=True)
class Event:
    """A value of TensorBoard: when it was logged in seconds, at which step, and what."""

    seconds: float
    step: int
    value: float


def read_events(folder: str | Path) -> dict[str, list[Event]]:
    """Return the scalars of a folder of TensorBoard by tag, in the order of steps.

    Raises:
        ModuleNotFoundError: tensorboard is not installed.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not Path(folder).is_dir():
        return {}
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})  # all of them
    accumulator.Reload()
    found = {}
    for tag in accumulator.Tags()["scalars"]:
        by_step = {e.step: Event(e.wall_time, e.step, e.value) for e in accumulator.Scalars(tag)}
        found[tag] = [by_step[step] for step in sorted(by_step)]
    return found


def curve_of_rows(rows: Iterable[Mapping[str, float]], key: str, *, name: str = "") -> Curve:
    """Return the curve of a key of metrics.json; what is not finite is left out."""
    points = [(row[ITERATION], row[key]) for row in rows if _is_number(row.get(key))]
    return Curve(name or key, *_columns(points))


def curve_of_events(events: Iterable[Event], name: str, *, factor: float = 1.0) -> Curve:
    """Return the curve of a tag of TensorBoard, times a factor, without what is not finite."""
    points = [(e.step, factor * e.value) for e in events if _is_number(e.value)]
    return Curve(name, *_columns(points))


def seconds_per_iteration(rows: Iterable[Mapping[str, float]]) -> float | None:
    """Return the median time of an iteration in metrics.json, None where there is none."""
    times = [row[SECONDS] for row in rows if SECONDS in row]
    return median(times) if times else None


def seconds_per_step(events: Iterable[Event]) -> float | None:
    """Return the median time of a step between events, None for fewer than two.

    Validations, and pauses between runs, lie between few of them and so do not count.
    """
    steps = [
        (after.seconds - before.seconds) / (after.step - before.step)
        for before, after in pairwise(events)
    ]
    return median(steps) if steps else None


def _columns(
    points: list[tuple[int, float]],
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return points as their two columns."""
    return tuple(x for x, _ in points), tuple(y for _, y in points)


def _is_number(value: float | None) -> bool:
    """Whether something is a finite number."""
    return value is not None and math.isfinite(value)
