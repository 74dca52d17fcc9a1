"""What trainings logged: rows of detectron2's metrics.json, and Lightning's TensorBoard events."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from regnet_backbones.report.content import Curve
from regnet_backbones.runs.trained import (
    ITERATION,
    METRICS_NAME,
    TENSORBOARD_FOLDER,
    Kind,
    read_metrics,
)

# The key under which detectron2 logs the seconds of an iteration, and what Lightning logs steps by.
SECONDS, STEPS = "time", "train/loss"


@dataclass(frozen=True)
class Event:
    """A value that was logged: when in seconds (0 if unknown), at which step, and what."""

    seconds: float
    step: int
    value: float


Log = dict[str, list[Event]]  # by name, in the order of steps


def read_log(folder: Path, kind: Kind) -> Log:
    """Return what a run logged, empty if there is no log."""
    if kind == "segmenter":
        return read_events(folder / TENSORBOARD_FOLDER)
    log: Log = {}
    for row in read_metrics(folder / METRICS_NAME):
        for key, value in row.items():
            log.setdefault(key, []).append(Event(0, int(row[ITERATION]), value))
    return log


def read_events(folder: str | Path) -> Log:
    """Return the scalars of a folder of TensorBoard by tag."""
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


def curve_of(events: Iterable[Event], name: str, *, factor: float = 1.0) -> Curve:
    """Return the curve of events, times a factor, without what is not finite."""
    finite = [e for e in events if e.value is not None and math.isfinite(e.value)]
    return Curve(name, tuple(e.step for e in finite), tuple(factor * e.value for e in finite))


def seconds_per_iteration(log: Log) -> float | None:
    """Return the median time of an iteration, None where it is not known.

    Between events of TensorBoard, validations and pauses of a run are few and so do not count.
    """
    times = [event.value for event in log.get(SECONDS, ())] or [
        (after.seconds - before.seconds) / (after.step - before.step)
        for before, after in pairwise(log.get(STEPS, ()))
    ]
    return median(times) if times else None


def iterations_done(log: Log) -> int:
    """Return the number of iterations up to the last one that was logged."""
    return max((events[-1].step + 1 for events in log.values()), default=0)
