"""What trainings logged: rows of detectron2's metrics.json, and Lightning's TensorBoard events.

A segmenter's log gets the names of a detector's, and its results are in percent, too.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from regnet_backbones.runs import trained

if TYPE_CHECKING:
    from tensorboard.backend.event_processing.event_accumulator import ScalarEvent

Log = dict[str, dict[int, float]]  # values by name and step

SECONDS = "time"  # detectron2's key of the seconds of an iteration

# What Lightning logs, detectron2's names for it, and factors.
SEGMENTER_IOU = "val/iou/"
SEGMENTER_NAMES = {
    "train/loss": ("loss", 1),
    "train/lr": ("lr", 1),
    "val/miou": ("segmentation/mIoU", 100),
    "val/accuracy": ("segmentation/pixel accuracy", 100),
}


def read_log(folder: Path, kind: trained.Kind) -> Log:
    """Return what a run logged, empty if there is no log."""
    log: Log = {}
    if kind == "detector":
        for row in trained.read_metrics(folder / trained.METRICS_NAME):
            for name, value in row.items():
                if isinstance(value, (int, float)):
                    log.setdefault(name, {})[int(row[trained.ITERATION])] = value
        return log
    events = read_events(folder / trained.TENSORBOARD_FOLDER)
    for tag, of_tag in events.items():
        name, factor = SEGMENTER_NAMES.get(tag, (tag, 1))
        if tag.startswith(SEGMENTER_IOU):
            name, factor = f"segmentation/IoU-{tag.removeprefix(SEGMENTER_IOU)}", 100
        log[name] = {event.step: factor * event.value for event in of_tag}
    log[SECONDS] = {
        after.step: (after.wall_time - before.wall_time) / (after.step - before.step)
        for before, after in pairwise(events.get("train/loss", ()))
    }
    return {name: values for name, values in log.items() if values}


def read_events(folder: str | Path) -> "dict[str, Sequence[ScalarEvent]]":
    """Return the scalars of a folder of TensorBoard by tag, the last ones of each step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not Path(folder).is_dir():
        return {}
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})  # all of them
    accumulator.Reload()
    found = {}
    for tag in accumulator.Tags()["scalars"]:
        by_step = {event.step: event for event in accumulator.Scalars(tag)}
        found[tag] = [by_step[step] for step in sorted(by_step)]
    return found
