"""A report from the files of a run: its log and what an evaluation wrote; nothing is computed."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

from PIL import Image

from regnet_backbones import zoo
from regnet_backbones.design.cost import complexity, short
from regnet_backbones.report.logs import SECONDS, Log, read_log
from regnet_backbones.runs import results as written
from regnet_backbones.runs.confusion import Confusion
from regnet_backbones.runs.image_files import open_upright
from regnet_backbones.runs.trained import (
    CONFIG_NAME,
    FINAL_NAME,
    SEGMENTER_NAMES,
    TENSORBOARD_FOLDER,
    Description,
    Trained,
    last_checkpoint,
)

CHIEF = ("AP", "mIoU", "PQ")  # the number of a task that stands for it
CHARTED = (*CHIEF, "pixel accuracy")
SIDE = 224  # in pixels, at which the multiply-adds of a backbone are counted

Facts = tuple[tuple[str, str], ...]  # names and values
Curves = Mapping[str, Mapping[int, float]]  # values by name and iteration
Pictures = tuple[tuple[Image.Image, written.ImageScore], ...]


@dataclass(frozen=True)
class Metrics:
    """Results in percent: where they come from, of all classes together, and of each class.

    `confusion` has the confusion matrices by task.
    """

    source: str
    summary: tuple[written.Table, ...]
    per_class: written.Table | None = None
    confusion: Mapping[str, Confusion] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Everything on a page."""

    run: Description
    facts: Facts
    curves: Mapping[str, Curves]  # by the caption of a chart
    metrics: Metrics | None
    images: written.ImageResults | None
    pictures: Mapping[str, Pictures]  # "Best" and "Worst", the most extreme first
    speed: Facts
    missing: tuple[str, ...]  # what is not there, and why
    command: str  # to repeat the training


def config_of(trained: Trained) -> Path | None:
    """Return the config file of a run, None if only a segmenter's checkpoint holds the config."""
    folder = trained.run_folder
    files = (trained.config_file, folder / TENSORBOARD_FOLDER / CONFIG_NAME, folder / CONFIG_NAME)
    return next((file for file in files if file and file.is_file()), None)


def find_evaluation(
    trained: Trained, folders: Sequence[Path], description: Description, opts: Sequence[str] = ()
) -> written.WrittenEvaluation | None:
    """Return the most complete evaluation of a checkpoint on the data of a description."""
    wanted = {"opts": list(opts)}
    if trained.kind == "detector":
        wanted["json_file"] = description.json_file
    found = [
        evaluation
        for evaluation in map(written.read_evaluation, folders)
        if evaluation is not None
        and wanted.items() <= evaluation.settings.items()
        and evaluation.is_of(trained.checkpoint)  # reads the whole checkpoint
    ]
    return max(found, key=lambda evaluation: len(evaluation.images.images), default=None)


def read_report(
    trained: Trained,
    description: Description,
    evaluation: written.WrittenEvaluation | None,
    *,
    opts: Sequence[str] = (),
    missing: Sequence[str] = (),
) -> Report:
    """Return the report of a run, as far as its files reach.

    `opts` were overridden in the evaluation; `missing` is what else is not there, and why.
    """
    folder, is_of_log = trained.run_folder, _is_of_log(trained)
    log = read_log(folder, trained.kind)
    if evaluation and evaluation.images.complete:
        metrics = _evaluated(trained, description, evaluation)
    else:
        is_logged = is_of_log and not (opts or description.of_other_data)
        metrics = _logged(trained, description, log) if is_logged else None
    lacking = [*_unfinished(trained, description, log), *missing]
    if description.datasets > 1:
        lacking.append(f"Of DATASETS.TEST only the first, {description.dataset}, is looked at.")
    if metrics is None:
        place = folder if is_of_log else trained.checkpoint
        command = shlex.join(["regnet-backbones", "evaluate", str(place)])
        lacking.append(f"There are no metrics of all of these data: run `{command}`, same options.")
    again, config = f"{folder}_again", config_of(trained) or "CONFIG.yaml"
    words = {
        "detector": ("train-detector", "--config-file", config, "OUTPUT_DIR", again),
        "segmenter": ("train-segmenter", "--config", config, "--output", again),
    }
    losses = sorted((key for key in log if key.startswith(("loss", "total_loss"))), reverse=True)
    chief = {k: k.replace("/", " ") for k in log if "/" in k and k.rpartition("/")[2] in CHARTED}
    return Report(
        run=description,
        facts=_facts(trained, description, evaluation, opts),
        curves={
            "Losses": _curves(log, {key: key for key in losses}),
            "Learning rate": _curves(log, {"lr": "learning rate"}),
            "Validation": _curves(log, chief),
        },
        metrics=metrics,
        images=evaluation and evaluation.images,
        pictures=_pictures(evaluation) if evaluation else {},
        speed=_speed(description, evaluation, log),
        missing=tuple(lacking),
        command=shlex.join(map(str, ["regnet-backbones", *words[trained.kind]])),
    )


def _curves(log: Log, names: Mapping[str, str]) -> Curves:
    """Return what was logged under some keys, by their names, without what is not finite."""
    return {
        name: {step: value for step, value in log[key].items() if math.isfinite(value)}
        for key, name in names.items()
        if key in log
    }


def _evaluated(
    trained: Trained, description: Description, evaluation: written.WrittenEvaluation
) -> Metrics:
    found, confusion = evaluation.results, evaluation.confusion
    if trained.kind == "detector":
        results, confusion = found[description.dataset], confusion.get(description.dataset, {})
    else:
        numbers = {name: found[key] for key, name in written.SEGMENTATION.items() if key in found}
        for key, name in written.SEGMENTATION_BY_CLASS.items():
            numbers |= {f"{name}-{each}": value for each, value in found.get(key, {}).items()}
        percent = {n: None if v is None else 100 * v for n, v in numbers.items()}
        results = {"segmentation": percent}
    source = f"found by an evaluation with {evaluation.checkpoint}{_on(description)}"
    matrices = {task: Confusion(**content) for task, content in confusion.items()}
    return Metrics(source, *written.tables_of(results), matrices)


def _logged(trained: Trained, description: Description, log: Log) -> Metrics | None:
    """Return the last results that were logged for the first dataset; the best of best.ckpt."""
    start = f"{description.dataset}/" if description.datasets > 1 else ""
    named = {k.removeprefix(start): v for k, v in log.items() if k.startswith(start)}
    keys = [k.split("/") for k in named if k.count("/") == 1]
    chief = {task: named[f"{task}/{name}"] for task, name in keys if name in CHIEF}
    if not chief:
        return None
    step = max(max(values) for values in chief.values())
    if trained.checkpoint.name == SEGMENTER_NAMES[0]:
        (values,) = chief.values()
        step = max(values, key=values.get)
    results: dict[str, dict[str, float | None]] = {}
    for key, values in named.items():
        task, _, name = key.partition("/")
        if step in chief.get(task, ()) and step in values:
            value = values[step]
            results.setdefault(task, {})[name] = None if math.isnan(value) else value
    source = f"logged by the training at iteration {step}{_on(description)}"
    return Metrics(source, *written.tables_of(results))


def _is_of_log(trained: Trained) -> bool:
    """Whether results that were logged are of a checkpoint; a detector's are of its newest."""
    newest = last_checkpoint(trained.run_folder) or trained.run_folder / FINAL_NAME
    return trained.kind == "segmenter" or trained.checkpoint.name == newest.name


def _on(description: Description) -> str:
    return f", on {description.dataset}" if description.dataset else ""


def _pictures(evaluation: written.WrittenEvaluation) -> dict[str, Pictures]:
    """Return the pictures of the best and the worst images, as far as they were drawn."""
    images, folder = evaluation.images, evaluation.folder / written.PICTURES_FOLDER
    pictures = {}
    for title, name, places in (
        ("Best", written.BEST, images.best),
        ("Worst", written.WORST, images.worst),
    ):
        paths = [(folder / name.format(rank), place) for rank, place in enumerate(places, 1)]
        pictures[title] = tuple(
            (open_upright(path), images.images[place]) for path, place in paths if path.is_file()
        )
    return pictures


def _unfinished(trained: Trained, description: Description, log: Log) -> list[str]:
    """Describe what a run lacks that was stopped before its end."""
    checkpoint = trained.checkpoint.name
    if checkpoint == FINAL_NAME or not description.lengths:
        return []
    if not log:
        return [f"There is no log of the training; this page is of {checkpoint}."]
    done = dict.fromkeys(description.lengths, max((max(v) + 1 for v in log.values()), default=0))
    if "epochs" in done:
        done["epochs"] = round(max(log["epoch"].values())) + 1 if "epoch" in log else 0
    for unit, length in description.lengths.items():
        every = description.every if unit == "steps" else 1  # steps that are not logged
        is_last = trained.kind == "segmenter" or (trained.run_folder / FINAL_NAME).is_file()
        if is_last and done[unit] > length - every:
            return []
    unit, length = next(iter(description.lengths.items()))
    # An evaluation after the last iteration has a row of its own.
    last = f"{min(done[unit], length):,} of {length:,}"
    ends = f"{unit.removesuffix('s')} {last}; this page is of {checkpoint}"
    return [f"The training has not finished: the log ends at {ends}."]


def _speed(
    description: Description, evaluation: written.WrittenEvaluation | None, log: Log
) -> Facts:
    speed = []
    if SECONDS in log and description.batch:
        rate = f"{description.batch / median(log[SECONDS].values()):.1f} images per second"
        speed.append(("training", f"{rate} (batch {description.batch}, median of the log)"))
    if evaluation and evaluation.images.milliseconds is not None:
        images = evaluation.images
        how = f"median of {len(images.images)}, one at a time, while others are loaded"
        versions = ", ".join(f"{name} {v}" for name, v in evaluation.versions.items())
        speed.append(("inference", f"{images.milliseconds:.1f} ms an image ({how})"))
        speed.append(("machine of the evaluation", images.machine))
        speed.append(("versions", versions))
    return tuple(speed)


def _facts(
    trained: Trained,
    description: Description,
    evaluation: written.WrittenEvaluation | None,
    opts: Sequence[str],
) -> Facts:
    """Describe the network, its cost, and the checkpoint of the page."""
    facts, network, spaced = [], description.network, partial(short, space=" ")
    design = zoo.get(network).design if isinstance(network, str) else network
    if design is not None:
        name = network if isinstance(network, str) else "RegNet by numbers"
        numbers = (
            f"w_0 {design.w_0:g}, w_a {design.w_a:g}, w_m {design.w_m:g}, depth {design.depth}, "
            f"group width {design.group_width}"
        )
        cost = complexity(design, SIDE, num_classes=None)
        size = f"{spaced(cost.flops)} multiply-adds at {SIDE}×{SIDE}, {spaced(cost.params)}"
        facts += [("backbone", f"{name} ({numbers})"), ("its cost", f"{size} parameters")]
    if evaluation and evaluation.images.parameters:
        facts.append(("whole model", f"{spaced(evaluation.images.parameters)} parameters"))
    facts += description.facts
    facts.append(("checkpoint", trained.checkpoint.name))
    if evaluation and evaluation.how:
        facts.append(("evaluated with", evaluation.how))
    if opts:
        facts.append(("changed for this page", " ".join(opts)))
    return tuple(facts)
