"""The report of a detector's run, as detectron2 and `tools/train_net.py` left it."""

import shlex
from collections.abc import Iterable, Mapping, Sequence

from detectron2.config import CfgNode

from regnet_backbones.adapters.detectron2.builders import BUILDERS
from regnet_backbones.adapters.detectron2.config import regnet_node
from regnet_backbones.adapters.detectron2.network import network_of
from regnet_backbones.detection.config import default_config, read_config, values_by_key
from regnet_backbones.detection.data import (
    TRAIN_NAME,
    VAL_NAME,
    CocoSplit,
    validation_of_training,
)
from regnet_backbones.detection.evaluation import evaluate_on
from regnet_backbones.detection.trained import check_whole, load_config
from regnet_backbones.report import logs
from regnet_backbones.report.attempts import predicted_or_why
from regnet_backbones.report.content import Config, Curves, Metrics, Report, Setting, Table
from regnet_backbones.report.detection_scores import Scored, score_detector
from regnet_backbones.report.facts import (
    Facts,
    inference_speed,
    machine_facts,
    overridden,
    regnet_facts,
    training_speed,
)
from regnet_backbones.report.recorded import no_metrics, recorded_results
from regnet_backbones.report.runs import Run, folder_of_repetition, is_final
from regnet_backbones.runs.trained import (
    FINAL_NAME,
    ITERATION,
    METRICS_NAME,
    read_metrics,
)

# The number of a task that stands for it in a chart, and the numbers of single classes in a table.
CHIEF = ("AP", "mIoU", "PQ")
PER_CLASS = ("AP-", "IoU-", "ACC-")

# Said by the run, or the report's own: no differences that matter.
UNINTERESTING = ("OUTPUT_DIR", "MODEL.DEVICE", "VERSION")

Results = Mapping[str, Mapping[str, float | None]]  # by task and name of the metric


def read_detector(
    run: Run,
    *,
    images: int,
    opts: Sequence[str] = (),
    device: str | None = None,
    val: CocoSplit | None = None,
) -> Report:
    """Read a run, and predict its validation images.

    What cannot be read or predicted is said to be missing.

    Args:
        run: of a detector.
        images: how many validation images to predict, at most.
        opts: keys and values in turn that override the config.
        device: see `detection.trained.load_config`.
        val: one's own validation data, in place of `DATASETS.TEST`.

    Raises:
        KeyError, ValueError: config, override, device or one's own data cannot be used.
    """
    rows = read_metrics(run.folder / METRICS_NAME)
    if run.trained is None:
        cfg = read_config(run.config_file, opts)
        check_whole(run.config_file)
    else:
        cfg = load_config(run.trained, opts=opts, device=device)
    if val is not None:
        evaluate_on(cfg, val)
    missing = _unfinished(run, cfg, rows)
    scored, problem = _scored(run, cfg, images, val)
    if problem:
        missing.append(problem)
    if len(cfg.DATASETS.TEST) > 1:
        missing.append(f"Of DATASETS.TEST only the first, {cfg.DATASETS.TEST[0]}, is looked at.")
    own = read_config(run.config_file)
    metrics = _metrics(run, cfg, own, rows, scored, opts)
    if metrics is None:
        missing.append(no_metrics(run))
    seconds = logs.seconds_per_iteration(rows)
    milliseconds = scored.predictions.milliseconds if scored else None
    speed = training_speed(seconds, cfg.SOLVER.IMS_PER_BATCH, f"median of {METRICS_NAME}")
    if milliseconds is not None:
        speed += inference_speed(milliseconds, scored.predictions.predicted)
        speed += machine_facts(cfg.MODEL.DEVICE, "detector")
    return Report(
        title=_title(cfg),
        facts=_facts(run, cfg, own, scored) + overridden(opts),
        # Without what the report has set in it.
        config=Config(changed_settings(own, default_config()), own.dump()),
        curves=_curves(cfg, rows),
        metrics=metrics,
        predictions=scored.predictions if scored else None,
        speed=speed,
        missing=tuple(missing),
        command=_command(run),
    )


def changed_settings(cfg: CfgNode, defaults: CfgNode) -> tuple[Setting, ...]:
    """List the keys of a config that differ from defaults, or are not among them."""
    ours, theirs = values_by_key(cfg), values_by_key(defaults)
    return tuple(
        Setting(key, str(value), str(theirs.get(key, "not a key")))
        for key, value in ours.items()
        if value != theirs.get(key, _NO_VALUE) and key not in UNINTERESTING
    )


def results_tables(results: Results) -> tuple[tuple[Table, ...], Table | None]:
    """Return the metrics of the tasks, and those of single classes, as tables.

    Tasks with the same metrics share a table.
    """
    by_columns, per_class = {}, {}
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


_NO_VALUE = object()


def _curves(cfg: CfgNode, rows: Sequence[Mapping[str, float]]) -> Curves:
    """Return the curves of losses, learning rate, and the chief results of validations."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    losses = sorted((k for k in keys if k.startswith("loss") or k == "total_loss"), reverse=True)
    chief = [key for key in keys if key.rpartition("/")[2] in CHIEF and "/" in key]
    return Curves(
        losses=tuple(logs.curve_of_rows(rows, key) for key in losses),
        learning_rate=(logs.curve_of_rows(rows, "lr"),) if "lr" in keys else (),
        validation=tuple(logs.curve_of_rows(rows, k, name=k.replace("/", " ")) for k in chief),
    )


def _metrics(
    run: Run,
    cfg: CfgNode,
    own: CfgNode,
    rows: Sequence[Mapping[str, float]],
    scored: Scored | None,
    opts: Sequence[str],
) -> Metrics | None:
    """Return the results on all of the data: found here, else as they were recorded."""
    name = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else ""
    if scored is not None and scored.results:
        source = (
            f"all {scored.predictions.available} images of {name}, evaluated for this page with "
            f"{run.trained.checkpoint.name}"
        )
        return Metrics(source, *results_tables(scored.results))
    data = _validation_data(cfg)
    of_training = data == _validation_data(own)
    results, iteration = _logged_results(cfg, rows) if of_training else ({}, 0)
    if results:
        source = f"logged by the training at iteration {iteration}, on {name}"
        return Metrics(source, *results_tables(results))
    recorded = recorded_results(run, {**data, "opts": list(opts)})
    if recorded is None:
        return None
    (name, results), *_ = recorded.results.items()
    return Metrics(f"{recorded.source}, on {name}", *results_tables(results))


def _validation_data(cfg: CfgNode) -> dict[str, object]:
    """Return what tells the data that a config evaluates on apart, as `results.json` has it."""
    own = cfg.DATASETS.OWN.VAL_JSON if VAL_NAME in cfg.DATASETS.TEST else None
    return {"datasets": list(cfg.DATASETS.TEST), "json_file": own}


def _logged_results(
    cfg: CfgNode, rows: Sequence[Mapping[str, float]]
) -> tuple[dict[str, dict[str, float]], int]:
    """Return the last results in metrics.json, of the first dataset, and their iteration."""
    names = cfg.DATASETS.TEST
    start = f"{names[0]}/" if len(names) > 1 else ""
    for row in reversed(rows):
        results: dict[str, dict[str, float]] = {}
        for key, value in row.items():
            task, _, metric = key.removeprefix(start).partition("/")
            if key.startswith(start) and _is_result(key.removeprefix(start), row):
                results.setdefault(task, {})[metric] = value
        if results:
            return results, int(row[ITERATION])
    return {}, 0


def _is_result(key: str, row: Mapping[str, float]) -> bool:
    """Whether a key is of a task that has one of the chief numbers in the same row."""
    task = key.partition("/")[0]
    return "/" in key and any(name.endswith(f"{task}/{chief}") for chief in CHIEF for name in row)


def _scored(
    run: Run, cfg: CfgNode, images: int, val: CocoSplit | None
) -> tuple[Scored | None, str]:
    """Predict and score validation images, or say why that cannot be."""
    if run.trained is None:
        return None, "There is no checkpoint yet, so nothing is predicted."
    if not cfg.DATASETS.TEST:
        return None, "Nothing is predicted: DATASETS.TEST names no validation images."

    def predict() -> Scored:
        own = validation_of_training(cfg) if val is None else None
        if own is not None:
            evaluate_on(cfg, own)
        return score_detector(run.trained, cfg, images=images)

    return predicted_or_why(predict)


def _unfinished(run: Run, cfg: CfgNode, rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Say what a run lacks that was stopped before its end."""
    if run.trained is not None and is_final(run.trained):
        return []
    done = int(rows[-1][ITERATION]) + 1 if rows else 0
    shown = f"; this page is of {run.trained.checkpoint.name}" if run.trained else ""
    return [
        f"The training has not finished: there is no newest {FINAL_NAME}, and the log ends at "
        f"iteration {done:,} of {cfg.SOLVER.MAX_ITER:,}{shown}."
    ]


def _title(cfg: CfgNode) -> str:
    """Name the architecture, as people call it."""
    model = cfg.MODEL
    name = model.META_ARCHITECTURE
    if name == "GeneralizedRCNN":
        kind = "Mask" if model.MASK_ON else "Keypoint" if model.KEYPOINT_ON else "Faster"
        cascade = "Cascade " if "Cascade" in model.ROI_HEADS.NAME else ""
        name = f"{cascade}{kind} R-CNN"
    if model.BACKBONE.NAME not in BUILDERS:
        return f"{name} on {model.BACKBONE.NAME}"
    network = network_of(regnet_node(cfg))
    return f"{name} on {network if isinstance(network, str) else 'a RegNet by numbers'}"


def _facts(run: Run, cfg: CfgNode, own: CfgNode, scored: Scored | None) -> Facts:
    """Say what was trained, from what, on what, and for how long."""
    facts: Facts = ()
    if cfg.MODEL.BACKBONE.NAME in BUILDERS:
        facts += regnet_facts(network_of(regnet_node(cfg)))
    facts += scored.model_facts if scored else ()
    weights = own.MODEL.WEIGHTS or "random weights"
    facts += (
        ("started from", weights),
        ("trained on", _listed(cfg, cfg.DATASETS.TRAIN)),
        ("validated on", _listed(cfg, cfg.DATASETS.TEST)),
        ("iterations", f"{cfg.SOLVER.MAX_ITER:,} of {cfg.SOLVER.IMS_PER_BATCH} images"),
    )
    return facts + ((("checkpoint", run.trained.checkpoint.name),) if run.trained else ())


def _listed(cfg: CfgNode, names: Iterable[str]) -> str:
    """List datasets by their names, those of one's own by their files."""
    own = {TRAIN_NAME: cfg.DATASETS.OWN.TRAIN_JSON, VAL_NAME: cfg.DATASETS.OWN.VAL_JSON}
    return ", ".join(own.get(name) or name for name in names) or "none"


def _command(run: Run) -> str:
    """Return the command that repeats the training."""
    words = ["tools/train_net.py", "--config-file", run.config_file]
    return shlex.join(map(str, ["python", *words, "OUTPUT_DIR", folder_of_repetition(run)]))
