"""A report from the files of a run: its log and what an evaluation wrote; nothing is computed.

Detectors and segmenters log under other names and count to 100 or to 1. From there on both have
results by task, as detectron2 has them.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from regnet_backbones import zoo
from regnet_backbones.design import RegNetDesign, complexity
from regnet_backbones.report.content import (
    Curve,
    Facts,
    Metrics,
    Picture,
    Report,
    Table,
)
from regnet_backbones.report.logs import (
    Log,
    curve_of,
    iterations_done,
    read_log,
    seconds_per_iteration,
)
from regnet_backbones.report.runs import Run
from regnet_backbones.runs.image_files import open_upright
from regnet_backbones.runs.results import (
    BEST,
    PICTURES_FOLDER,
    WORST,
    WrittenEvaluation,
    read_evaluation,
)
from regnet_backbones.runs.trained import FINAL_NAME, SEGMENTER_NAMES, Description

# The number of a detector's task that stands for it in a chart, and those of single classes.
CHIEF = ("AP", "mIoU", "PQ")
PER_CLASS = ("AP-", "IoU-", "ACC-")

# What a segmenter logs, from 0 to 1, and how a page calls it.
SEGMENTER_METRICS = {"val/miou": "mIoU", "val/accuracy": "pixel accuracy"}
SEGMENTER_IOU = "val/iou/"

SIDE = 224  # in pixels, at which the multiply-adds of a backbone are counted

Results = Mapping[str, Mapping[str, float | None]]  # by task and name of the metric, in percent


def find_evaluation(
    run: Run, folders: Sequence[Path], *, description: Description, opts: Sequence[str] = ()
) -> WrittenEvaluation | None:
    """Return the most complete evaluation of a run's checkpoint on these data.

    Args:
        run: whose checkpoint it must be of.
        folders: to look in.
        description: of the run and the validation data.
        opts: what was overridden in the evaluation.

    Raises:
        UserError: a file is not what an evaluation writes.
    """
    if run.trained is None:
        return None
    wanted = {"opts": [str(word) for word in opts]}
    if run.kind == "detector":
        wanted["json_file"] = description.json_file
    found = [
        evaluation
        for evaluation in map(read_evaluation, folders)
        if evaluation is not None
        and evaluation.checkpoint == run.trained.checkpoint.name
        and evaluation.written >= run.trained.checkpoint.stat().st_mtime
        and wanted.items() <= evaluation.settings.items()
    ]
    return max(found, key=lambda e: len(e.images.images) if e.images else 0, default=None)


def read_report(
    run: Run,
    description: Description,
    evaluation: WrittenEvaluation | None,
    *,
    opts: Sequence[str] = (),
    missing: Sequence[str] = (),
) -> Report:
    """Return the report of a run, as far as its files reach.

    Args:
        run: of a detector or a segmenter.
        description: of the run and the validation data.
        evaluation: of `find_evaluation`; None where there is none.
        opts: what was overridden in the evaluation.
        missing: what else is known not to be there, and why.

    Raises:
        UserError: a picture of the evaluation cannot be read.
    """
    log = read_log(run.folder, run.kind)
    images = evaluation.images if evaluation else None
    metrics = _metrics(run, description, evaluation, log, opts)
    lacking = [*_unfinished(run, description, log), *missing]
    if description.datasets > 1:
        lacking.append(f"Of DATASETS.TEST only the first, {description.dataset}, is looked at.")
    if metrics is None:
        command = shlex.join(["regnet-backbones", "evaluate", str(run.folder)])
        lacking.append(f"There are no metrics of all of these data: run `{command}`, same options.")
    facts = _regnet_facts(description.network) if description.network else ()
    if images and images.parameters:
        facts += (("whole model", f"{_short(images.parameters)} parameters"),)
    facts += description.facts
    if run.trained:
        facts += (("checkpoint", run.trained.checkpoint.name),)
    if opts:
        facts += (("changed for this page", " ".join(map(str, opts))),)
    again = run.folder if run.folder.name not in ("", "..") else run.folder.resolve()
    again = again.with_name(f"{again.name}_again")
    words = {
        "detector": ["train-detector", "--config-file", run.config_file, "OUTPUT_DIR", again],
        "segmenter": [
            *("train-segmenter", "--config", run.config_file or "CONFIG.yaml"),
            *("--output", again),
        ],
    }
    return Report(
        title=description.title,
        facts=facts,
        config=description.config,
        changed=description.changed,
        curves=_curves(run, log),
        metrics=metrics,
        images=images,
        pictures=_pictures(evaluation) if images else {},
        speed=_speed(description, evaluation, log),
        missing=tuple(lacking),
        command=shlex.join(map(str, ["regnet-backbones", *words[run.kind]])),
    )


def results_tables(results: Results) -> tuple[tuple[Table, ...], Table | None]:
    """Return the metrics of the tasks, and those of single classes, as tables.

    Tasks with the same metrics share a table.
    """
    by_columns: dict[tuple[str, ...], list] = {}
    per_class: dict[str, dict[str, float | None]] = {}
    for task, metrics in results.items():
        whole = {name: v for name, v in metrics.items() if not name.startswith(PER_CLASS)}
        by_columns.setdefault(tuple(whole), []).append((task, tuple(whole.values())))
        for name, value in metrics.items():
            kind = next((start for start in PER_CLASS if name.startswith(start)), None)
            if kind is not None:
                column = f"{task} {kind.removesuffix('-')}"
                per_class.setdefault(column, {})[name.removeprefix(kind)] = value
    summary = tuple(Table(columns, tuple(rows)) for columns, rows in by_columns.items())
    if not per_class:
        return summary, None
    names = dict.fromkeys(name for values in per_class.values() for name in values)
    rows = tuple((name, tuple(v.get(name) for v in per_class.values())) for name in names)
    return summary, Table(tuple(per_class), rows)


def _curves(run: Run, log: Log) -> dict[str, tuple[Curve, ...]]:
    """Return the curves of losses, learning rate, and the chief results of validations."""
    if run.kind == "segmenter":
        losses, rate, factor = {"train/loss": "loss"}, {"train/lr": "learning rate"}, 100.0
        validation = SEGMENTER_METRICS
    else:
        named = sorted((k for k in log if k.startswith("loss") or k == "total_loss"), reverse=True)
        losses, rate, factor = {key: key for key in named}, {"lr": "lr"}, 1.0
        chief = [key for key in log if "/" in key and key.rpartition("/")[2] in CHIEF]
        validation = {key: key.replace("/", " ") for key in chief}

    def curves(names: Mapping[str, str], factor: float = 1.0) -> tuple[Curve, ...]:
        return tuple(curve_of(log[k], n, factor=factor) for k, n in names.items() if k in log)

    return {
        "Losses": curves(losses),
        "Learning rate": curves(rate),
        "Validation": curves(validation, factor),
    }


def _metrics(
    run: Run,
    description: Description,
    evaluation: WrittenEvaluation | None,
    log: Log,
    opts: Sequence[str],
) -> Metrics | None:
    """Return the results on all data: of the evaluation, else as the training logged them."""
    on = f", on {description.dataset}" if description.dataset else ""
    if evaluation is not None and (evaluation.images is None or evaluation.images.complete):
        results = evaluation.results
        if run.kind == "segmenter":
            results = {"segmentation": _segmenter_results(results)}
        else:
            results = results[description.dataset]
        source = f"found by an evaluation with {evaluation.checkpoint}{on}"
        return Metrics(source, *results_tables(results))
    if opts or description.of_other_data:
        return None
    logged = _logged_by_segmenter if run.kind == "segmenter" else _logged_by_detector
    results, step = logged(run, description, log)
    if not results:
        return None
    source = f"logged by the training at iteration {step}{on}"
    return Metrics(source, *results_tables(results))


def _segmenter_results(found: Mapping[str, object]) -> dict[str, float | None]:
    """Return the results of a segmenter in the form of a task."""
    numbers = {"mIoU": found["miou"], "pixel accuracy": found["accuracy"]}
    numbers |= {f"IoU-{name}": value for name, value in found["iou"].items()}
    return {name: None if value is None else 100 * value for name, value in numbers.items()}


def _logged_by_segmenter(run: Run, description: Description, log: Log) -> tuple[Results, int]:
    """Return what was logged of the checkpoint, and when: of the best one, or the last results."""
    chief, accuracy = SEGMENTER_METRICS
    validations = log.get(chief)
    if not validations:
        return {}, 0
    best = run.trained is not None and run.trained.checkpoint.name == SEGMENTER_NAMES[0]
    step = (max(validations, key=lambda e: e.value) if best else validations[-1]).step
    at_step = {tag: e.value for tag, events in log.items() for e in events if e.step == step}
    iou = {
        tag.removeprefix(SEGMENTER_IOU): at_step.get(tag)
        for tag in log
        if tag.startswith(SEGMENTER_IOU)
    }
    found = {"miou": at_step[chief], "accuracy": at_step.get(accuracy), "iou": iou}
    return {"segmentation": _segmenter_results(found)}, step + 1


def _logged_by_detector(run: Run, description: Description, log: Log) -> tuple[Results, int]:
    """Return the last results of the first dataset, and their iteration in metrics.json."""
    start = f"{description.dataset}/" if description.datasets > 1 else ""
    chief = [
        key for key in log if key.startswith(start) and key.removeprefix(start).count("/") == 1
    ]
    chief = [key for key in chief if key.rpartition("/")[2] in CHIEF]
    if not chief:
        return {}, 0
    step = max(log[key][-1].step for key in chief)
    results: dict[str, dict[str, float | None]] = {}
    for task in (key.rpartition("/")[0] for key in chief if log[key][-1].step == step):
        for key, events in log.items():
            if key.startswith(f"{task}/") and events[-1].step == step:
                value = events[-1].value
                numbers = results.setdefault(task.removeprefix(start), {})
                numbers[key.removeprefix(f"{task}/")] = None if value != value else value
    return results, step


def _pictures(evaluation: WrittenEvaluation) -> dict[str, tuple[Picture, ...]]:
    """Return the pictures of the best and the worst images, as far as they were drawn."""
    images, pictures = evaluation.images, {}
    for title, name, places in (("Best", BEST, images.best), ("Worst", WORST, images.worst)):
        scores = [images.images[place] for place in places]
        paths = [
            evaluation.folder / PICTURES_FOLDER / name.format(number)
            for number in range(1, len(places) + 1)
        ]
        pictures[title] = tuple(
            Picture(open_upright(path), score.file, score.score, score.note)
            for path, score in zip(paths, scores, strict=True)
            if path.is_file()
        )
    return pictures


def _unfinished(run: Run, description: Description, log: Log) -> list[str]:
    """Say what a run lacks that was stopped before its end."""
    if run.kind == "detector" and run.trained and run.trained.checkpoint.name == FINAL_NAME:
        return []
    counted = {"epochs": round(log["epoch"][-1].value) + 1} if log.get("epoch") else {}
    bounds = []
    for unit, length in description.lengths.items():
        every = description.every if unit == "steps" else 1
        done = counted.get(unit, 0) if unit == "epochs" else iterations_done(log)
        finished = run.kind == "segmenter" and run.trained and done > length - every
        bounds.append((finished, unit.removesuffix("s"), done, length))
    if not bounds or any(finished for finished, *_ in bounds):
        return []
    _, unit, done, length = bounds[0]
    shown = f"this page is of {run.trained.checkpoint.name}" if run.trained else "no checkpoint yet"
    return [
        f"The training has not finished: the log ends at {unit} {done:,} of {length:,}; {shown}."
    ]


def _speed(description: Description, evaluation: WrittenEvaluation | None, log: Log) -> Facts:
    """Say how fast training and prediction were, and what was measured on."""
    speed: Facts = ()
    seconds = seconds_per_iteration(log)
    if seconds and description.batch:
        rate = f"{description.batch / seconds:.1f} images per second"
        speed += (("training", f"{rate} (batch {description.batch}, median of the log)"),)
    images = evaluation.images if evaluation else None
    if images and images.milliseconds is not None:
        speed += (
            (
                "inference",
                f"{images.milliseconds:.1f} ms an image (median of {len(images.images)}, one at a "
                "time, while others are loaded)",
            ),
            ("machine of the evaluation", images.machine),
            ("versions", ", ".join(f"{name} {v}" for name, v in evaluation.versions.items())),
        )
    return speed


def _regnet_facts(network: str | RegNetDesign) -> Facts:
    """Say which RegNet a backbone is, and what it costs without a classifier."""
    design = zoo.get(network).design if isinstance(network, str) else network
    name = network if isinstance(network, str) else "RegNet by numbers"
    cost = complexity(design, SIDE, num_classes=None)
    numbers = (
        f"w_0 {design.w_0:g}, w_a {design.w_a:g}, w_m {design.w_m:g}, depth {design.depth}, "
        f"group width {design.group_width}"
    )
    size = f"{_short(cost.flops)} multiply-adds at {SIDE}×{SIDE}, {_short(cost.params)} parameters"
    return (("backbone", f"{name} ({numbers})"), ("its cost", size))


def _short(number: int) -> str:
    """Format a count with three digits."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)
