"""The report of a segmenter's run, as Lightning and `tools/train_semseg.py` left it."""

import inspect
import shlex
from collections.abc import Mapping

import yaml
from lightning import Trainer

from regnet_backbones import zoo
from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError
from regnet_backbones.files import read_text
from regnet_backbones.report import logs
from regnet_backbones.report.attempts import predicted_or_why
from regnet_backbones.report.content import Config, Curve, Curves, Metrics, Report, Setting, Table
from regnet_backbones.report.facts import (
    Facts,
    inference_speed,
    machine_facts,
    model_facts,
    overridden,
    regnet_facts,
    training_speed,
)
from regnet_backbones.report.recorded import no_metrics, recorded_results
from regnet_backbones.report.runs import Run, folder_of_repetition
from regnet_backbones.report.segmentation_scores import Scored, score_segmenter
from regnet_backbones.runs.device import check_device
from regnet_backbones.runs.trained import TENSORBOARD_FOLDER
from regnet_backbones.runs.yaml_files import read_yaml
from regnet_backbones.semseg import metrics
from regnet_backbones.semseg.checkpoints import load_data, load_segmenter, read_segmenter_checkpoint
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.evaluation import Evaluation
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.semseg.run import LAST

LOSS, LEARNING_RATE = "train/loss", "train/lr"

# Groups of the config, and whose arguments they are.
GROUPS = {"trainer": Trainer, "model": Segmenter, "data": SegmentationData}

# Says where a run is, not what it is.
UNINTERESTING = ("trainer.default_root_dir",)

Settings = Mapping[str, Mapping[str, object]]


def read_segmenter(
    run: Run,
    *,
    images: int,
    overrides: Mapping[str, object] | None = None,
    device: str | None = None,
) -> Report:
    """Read a run, and predict its validation images.

    What cannot be read or predicted is said to be missing.

    Args:
        run: of a segmenter.
        images: how many validation images to predict, at most.
        overrides: arguments of the data that differ, see `checkpoints.load_data`.
        device: None for a GPU where there is one.

    Raises:
        FileNotFoundError, ValueError: checkpoint, override or device cannot be used.
    """
    if device is not None:
        check_device(device)
    if overrides and run.trained:
        load_data(run.trained.checkpoint, overrides)  # what was said here is not just missing
    events = logs.read_events(run.folder / TENSORBOARD_FOLDER)
    segmenter = load_segmenter(run.trained.checkpoint) if run.trained else None
    config, text = _read_config(run, segmenter)
    _check_groups(run, config)
    missing = _unfinished(run, config, events)
    scored, problem = _scored(run, segmenter, images, overrides, device)
    if problem:
        missing.append(problem)
    changed = [str(word) for pair in (overrides or {}).items() for word in pair]
    found = _metrics(run, segmenter, events, scored, changed)
    if found is None:
        missing.append(no_metrics(run))
    batch = config.get("data", {}).get("batch_size", 0)
    batch *= config.get("trainer", {}).get("accumulate_grad_batches") or 1
    seconds = logs.seconds_per_step(events.get(LOSS, ())) if batch else None
    milliseconds = scored.predictions.milliseconds if scored else None
    speed = training_speed(seconds, batch, "median of TensorBoard's times")
    if milliseconds is not None:
        speed += inference_speed(milliseconds, scored.predictions.predicted)
        speed += machine_facts(scored.device, "segmenter")
    return Report(
        title=_title(config.get("model", {})),
        facts=_facts(run, config, segmenter) + overridden(changed),
        config=Config(changed_settings(config), text),
        curves=_curves(events),
        metrics=found,
        predictions=scored.predictions if scored else None,
        speed=speed,
        missing=tuple(missing),
        command=_command(run),
    )


def changed_settings(config: Settings) -> tuple[Setting, ...]:
    """List the arguments of trainer, model and data that differ from their defaults."""
    changed = []
    for group, of in GROUPS.items():
        defaults = {
            name: parameter.default for name, parameter in inspect.signature(of).parameters.items()
        }
        for name, value in config.get(group, {}).items():
            default, key = defaults.get(name, inspect.Parameter.empty), f"{group}.{name}"
            if _plain(value) != _plain(default) and key not in UNINTERESTING:
                known = default is not inspect.Parameter.empty
                changed.append(Setting(key, str(value), str(default) if known else "required"))
    return tuple(changed)


def evaluation_tables(evaluation: Evaluation) -> tuple[tuple[Table, ...], Table]:
    """Return the results of an evaluation in percent: of all classes together, and of each."""
    whole = (_percent(evaluation["miou"]), _percent(evaluation["accuracy"]))
    rows = tuple((name, (_percent(value),)) for name, value in evaluation["iou"].items())
    summary = Table(("mIoU", "pixel accuracy"), (("segmentation", whole),))
    return (summary,), Table(("IoU",), rows)


def _plain(value: object) -> object:
    """Return a value as YAML would have it."""
    return list(value) if isinstance(value, tuple) else value


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _read_config(run: Run, segmenter: Segmenter | None) -> tuple[Settings, str]:
    """Return the config and its text; of a run without one, the arguments of its model."""
    if run.config_file is not None:
        settings = read_yaml(run.config_file)
        return settings if isinstance(settings, dict) else {}, read_text(run.config_file)
    settings = {"model": {name: _plain(value) for name, value in segmenter.hparams.items()}}
    return settings, yaml.safe_dump(settings, sort_keys=False)


def _check_groups(run: Run, config: Settings) -> None:
    """Raise a ValueError for the config of a run that was cut off between its groups."""
    lacking = [group for group in GROUPS if not isinstance(config.get(group), Mapping)]
    if run.config_file is not None and lacking:
        raise UserError(
            f"'{run.config_file}' is cut off or not the config of a segmenter's training: it has "
            f"no {', '.join(lacking)}; remove it, and the report takes the checkpoint's settings"
        )


def _curves(events: Mapping[str, list[logs.Event]]) -> Curves:
    """Return the curves of loss, learning rate, and the validations."""

    def curves(names: Mapping[str, str], factor: float = 1.0) -> tuple[Curve, ...]:
        return tuple(
            logs.curve_of_events(events[tag], name, factor=factor)
            for tag, name in names.items()
            if tag in events
        )

    return Curves(
        losses=curves({LOSS: "loss"}),
        learning_rate=curves({LEARNING_RATE: "learning rate"}),
        validation=curves({metrics.MIOU: "mIoU", metrics.ACCURACY: "pixel accuracy"}, 100),
    )


def _metrics(
    run: Run,
    segmenter: Segmenter | None,
    events: Mapping[str, list[logs.Event]],
    scored: Scored | None,
    changed: list[str],
) -> Metrics | None:
    """Return the results on all of the data: found here, else as they were recorded."""
    if scored is not None and scored.evaluation is not None:
        source = (
            f"all {scored.predictions.available} validation images, evaluated for this page with "
            f"{run.trained.checkpoint.name}"
        )
        return Metrics(source, *evaluation_tables(scored.evaluation))
    recorded = recorded_results(run, {"opts": changed})
    if recorded is not None:
        return Metrics(recorded.source, *evaluation_tables(recorded.results))
    if metrics.MIOU not in events or changed:
        return None
    step = _step_of(run, events)
    at_step = {tag: e.value for tag, of in events.items() for e in of if e.step == step}
    if metrics.MIOU not in at_step:
        return None
    names = [t.removeprefix(metrics.IOU) for t in events if t.startswith(metrics.IOU)]
    logged = Evaluation(
        miou=at_step[metrics.MIOU],
        accuracy=at_step.get(metrics.ACCURACY),
        iou={
            name: at_step.get(f"{metrics.IOU}{name}")
            for name in (segmenter.class_names if segmenter else names)
        },
        images=0,
        settings={},
    )
    return Metrics(f"logged by the training at step {step + 1}", *evaluation_tables(logged))


def _step_of(run: Run, events: Mapping[str, list[logs.Event]]) -> int:
    """Return the step that Lightning logged the validation of the checkpoint with."""
    if run.trained is None:
        return events[metrics.MIOU][-1].step
    return read_segmenter_checkpoint(run.trained.checkpoint)["global_step"] - 1


def _scored(
    run: Run,
    segmenter: Segmenter | None,
    images: int,
    overrides: Mapping[str, object] | None,
    device: str | None,
) -> tuple[Scored | None, str]:
    """Predict and score validation images, or say why that cannot be."""
    if segmenter is None:
        return None, "There is no checkpoint yet, so nothing is predicted."

    def score() -> Scored:
        data = load_data(run.trained.checkpoint, overrides)
        data.setup("validate")
        return score_segmenter(segmenter, data, images=images, device=device)

    return predicted_or_why(score)


def _unfinished(run: Run, config: Settings, events: Mapping[str, list[logs.Event]]) -> list[str]:
    """Say what a run lacks that was stopped before its end."""
    last = run.trained and run.trained.checkpoint.with_name(LAST)
    state = read_segmenter_checkpoint(last) if last and last.is_file() else {}
    steps, epochs = state.get("global_step", 0), state.get("epoch", -1) + 1
    trainer = config.get("trainer", {})
    bounds = [
        (trainer.get("max_steps"), steps, "step"),
        (trainer.get("max_epochs"), epochs, "epoch"),
    ]
    bounds = [(end, done, unit) for end, done, unit in bounds if end is not None and end > 0]
    if not bounds or any(done >= end for end, done, _ in bounds):
        return []
    end, done, unit = bounds[0]
    logged = f"; the log ends at step {events[LOSS][-1].step + 1:,}" if events.get(LOSS) else ""
    where = f"its last checkpoint is of {unit} {done:,} of {end:,}" if state else "no checkpoint"
    return [f"The training has not finished: {where}{logged}."]


def _title(model: Mapping[str, object]) -> str:
    """Name decoder and encoder."""
    encoder = model.get("encoder", inspect.signature(Segmenter).parameters["encoder"].default)
    name = encoder if isinstance(encoder, str) else "a RegNet by numbers"
    return f"{model.get('decoder', 'Segmenter')} on {name}"


def _facts(run: Run, config: Settings, segmenter: Segmenter | None) -> Facts:
    """Say what was trained, from what, on what, and for how long."""
    model, data, trainer = (config.get(group, {}) for group in ("model", "data", "trainer"))
    encoder, facts = model.get("encoder"), ()
    if isinstance(encoder, Mapping):
        facts += regnet_facts(RegNetDesign(**encoder))
    elif encoder in zoo.names():
        facts += regnet_facts(encoder)
    facts += model_facts(segmenter.network) if segmenter else ()
    facts += (("started from", str(model.get("encoder_weights") or "random weights")),)
    if data:
        facts += (("data", str(data.get("root") or data.get("train_images"))),)
    units = {"max_steps": "steps", "max_epochs": "epochs"}
    length = [f"{trainer[key]:,} {unit}" for key, unit in units.items() if trainer.get(key)]
    if length:
        facts += (("length", f"{', '.join(length)} of {data.get('batch_size', '?')} images"),)
    return facts + ((("checkpoint", run.trained.checkpoint.name),) if run.trained else ())


def _command(run: Run) -> str:
    """Return the command that repeats the training."""
    config = run.config_file or "CONFIG.yaml"
    words = ["tools/train_semseg.py", "--config", config, "--output", folder_of_repetition(run)]
    return shlex.join(map(str, ["python", *words]))
