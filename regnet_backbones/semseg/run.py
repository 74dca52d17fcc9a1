"""A training run of a segmenter, as `train-segmenter` starts it, on LightningCLI."""

import logging
import os
import shlex
import signal
import time
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

from jsonargparse.typing import PositiveInt
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ModelSummary, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from PIL import Image

from regnet_backbones.errors import as_user_error
from regnet_backbones.files import check_output_folder, remove_parts
from regnet_backbones.measure.timing import STEPS, estimate
from regnet_backbones.optimize.options import show_reports
from regnet_backbones.runs.image_files import sample
from regnet_backbones.runs.look import PICTURE, PICTURES, mosaic, show, table_of
from regnet_backbones.runs.resume import set_earlier_run_aside
from regnet_backbones.runs.stopping import StoppedError, StopSignals
from regnet_backbones.runs.trained import SEGMENTER_FOLDER, TENSORBOARD_FOLDER
from regnet_backbones.semseg import first_run, overlays, resume
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.labels import IGNORE, IGNORED
from regnet_backbones.semseg.loader import run_seed
from regnet_backbones.semseg.metrics import results_table
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.semseg.screen import progress_callback, without_noise

LAST = "last.ckpt"

logger = logging.getLogger(__name__)


class SegmentationCLI(LightningCLI):
    """Build data, model and trainer from YAML files and the command line."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our options, and take from the data what the model must know of it."""
        add, text = parser.add_argument, "folder of checkpoints, logs and pictures"
        # A shell leaves `~` alone in `--output=~/run`, and YAML does in any place.
        add("--output", type=os.path.expanduser, default="output/semseg", help=text)
        text = f"resume from the last checkpoint of --output ({LAST}), if there is one"
        add("--resume", action="store_true", help=text)
        text = f"steps between two writings of {LAST}; it is written after validations, too"
        add("--save_every", type=PositiveInt, default=1000, help=text)
        text = f"check every file of the data, write {PICTURE} to --output, and do not train"
        add("--check_data", action="store_true", help=text)
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        best = {"monitor": "val/miou", "mode": "max", "filename": "best"}
        best["enable_version_counter"] = False
        parser.set_defaults({f"checkpoint.{name}": value for name, value in best.items()})
        stopping = "early_stopping"
        parser.add_class_arguments(EarlyStopping, stopping, skip={"patience"}, instantiate=False)
        parser.set_defaults({f"{stopping}.monitor": "val/miou", f"{stopping}.mode": "max"})
        text = "validations without a better score before the training ends; null: it never does"
        add(f"--{stopping}.patience", type=int | None, default=None, help=text)
        parser.link_arguments("output", "checkpoint.dirpath", compute_fn=_checkpoints)
        parser.link_arguments("output", "trainer.default_root_dir")
        for name in ("num_classes", "class_names"):  # which only the data know
            parser.link_arguments("data", f"model.{name}", attrgetter(name), "instantiate")
        for name in ("mean", "std", "short_side"):
            parser.link_arguments(f"data.{name}", f"model.{name}")

    def parse_arguments(self, parser: LightningArgumentParser, args: Sequence[str] | None) -> None:
        """Parse a command line without Lightning's warning that there is another one."""
        with as_user_error(ArgumentError):
            self.config = parser.parse_args(args)

    def instantiate_classes(self) -> None:
        """Build what a training needs, or the data alone to check them."""
        check_output_folder(self.config.output, name="--output")
        if not self.config.check_data:
            # A named logger may lack its package, or refuse where it should write.
            unnamed = self.config.trainer.logger in (None, True, False)
            with as_user_error(*([] if unnamed else [ValueError])):
                super().instantiate_classes()
            return
        given = self.config.data.as_dict()
        given.pop("__path__", None)  # of the file that has it
        self.datamodule = SegmentationData(**given)
        self.datamodule.check_everything = True

    def instantiate_trainer(self, **kwargs: object) -> Trainer:
        """Build the trainer; loggers that are named are added to our TensorBoard."""
        config = self.config_init.trainer
        if (named := config.logger) is not False:
            ours = TensorBoardLogger(self.config_init.output, name="", version=TENSORBOARD_FOLDER)
            added = [named] if isinstance(named, Logger) else [] if named in (None, True) else named
            kwargs["logger"] = [ours, *added]  # the first one has the config and the pictures
        kwargs["plugins"] = [*(config.plugins or []), resume.AtomicCheckpointIO()]
        # With rich installed Lightning would take its summary, which clutters log files.
        given = list(config.callbacks or [])
        if config.enable_progress_bar is not False and not _has(given, ProgressBar):
            given.append(progress_callback())
        if config.enable_model_summary is not False and not _has(given, ModelSummary):
            given.append(ModelSummary())
        if (stopping := self.config_init.early_stopping).patience is not None:
            given.append(EarlyStopping(**stopping.as_dict()))
        kwargs |= {"callbacks": given, "enable_model_summary": False}
        # A run that is shorter than the distance of two validations is validated at its end.
        if 0 < config.max_steps < (config.val_check_interval or 0):
            kwargs["val_check_interval"] = config.max_steps
        errors = (MisconfigurationException, TypeError, ValueError)
        with as_user_error(*errors, prefix="--trainer options: "):
            return super().instantiate_trainer(**kwargs)


class PrintEstimate(Callback):
    """Print once, after a few batches, how long the others take."""

    def on_train_start(self, *_: object) -> None:
        """Begin."""
        self._ends: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, model: Segmenter, *_: object) -> None:
        """Print it, or do nothing."""
        if len(self._ends) > STEPS:
            return
        self._ends.append(time.perf_counter())
        left = int(trainer.estimated_stepping_batches) - trainer.global_step
        if len(self._ends) > STEPS and left:
            each = trainer.accumulate_grad_batches
            seconds = [each * (end - start) for start, end in pairwise(self._ends)]
            model.print(f"time left: {estimate(seconds, left, 'steps')}")


def _has(callbacks: Sequence[object], kind: type) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)


def build(argv: Sequence[str] | None) -> SegmentationCLI:
    """Build data, model and trainer of a command line; with `--check_data` the data alone."""
    return SegmentationCLI(
        Segmenter,
        SegmentationData,
        run=False,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"description": "Train a semantic segmenter.", "exit_on_error": False},
        args=argv,
    )


def launch_run(
    argv: Sequence[str] | None = None,
    *,
    minutes: float | None = None,
    report: Callable[[str], int] | None = None,
) -> int:
    """Train a segmenter as a command line (None: that of this process) says; return the status.

    Args:
        argv: options. If they have data and no config, the others are chosen.
        minutes: of such a training.
        report: what writes the page of a run's folder, if it is asked for, and returns the status.
    """
    show_reports()
    errors = as_user_error(MisconfigurationException)
    with StopSignals(wait=False) as signals, without_noise(), errors:
        if argv is not None and first_run.is_needed(argv, minutes):
            argv = first_run.complete(argv, minutes, build)
        cli = build(argv)
        if cli.config.check_data:
            data = cli.datamodule
            look_at(data, Path(cli.config.output))
            print(f"every file was read: {len(data.train_set):,} and {len(data.val_set):,} pairs")
        else:
            _train(cli, signals)
            if report and cli.trainer.is_global_zero:
                return report(cli.config.output)
    return 0


def _train(cli: SegmentationCLI, signals: StopSignals) -> None:
    """Train from the beginning or the last checkpoint, and print how good it got."""
    trainer, output = cli.trainer, Path(cli.config.output)
    last = _checkpoints(output) / LAST
    resumes = cli.config.resume and last.is_file()
    options = {name: cli.config.trainer[name] for name in resume.TRAINER}
    options |= {"processes": trainer.world_size, "seed": run_seed()}
    options["patience"] = cli.config.early_stopping.patience
    if trainer.is_global_zero:
        remove_parts(_checkpoints(output))
    if resumes:
        resume.check_resume(last, cli.model, cli.datamodule, options)
    elif trainer.is_global_zero:
        if cli.config.resume:
            logger.warning("no '%s' to resume from; the training starts from step 0", last)
        else:
            files = (f"{SEGMENTER_FOLDER}/**/*", f"{TENSORBOARD_FOLDER}/**/*")
            set_earlier_run_aside(output, files, output="--output")
        look_at(cli.datamodule, output, picture=cli.model.hparams["pictures"] > 0)
    # After the one that keeps the best checkpoint, whose state the last one has.
    settings = {"every": cli.config.save_every, "signals": signals, "options": options}
    trainer.callbacks.append(resume.LastCheckpoint(last, **settings))
    trainer.callbacks.append(PrintEstimate())
    try:
        trainer.fit(cli.model, cli.datamodule, ckpt_path=str(last) if resumes else None)
    except StoppedError:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)  # those that have received none
        if trainer.is_global_zero:
            raise
        return  # with a status, Lightning would kill the first process before it has ended
    except SystemExit as stop:  # what Lightning makes of Ctrl-C
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt(f"at step {trainer.global_step}") from stop
    if trainer.is_global_zero:
        if (results := cli.model.last_validation) is not None:
            print(results_table(results, "last validation"))
        print(f"best checkpoint: {trainer.checkpoint_callback.best_model_path or 'none'}")
        print(f"config, logs, checkpoints and pictures: {output}")
        print("all of it on one page:", shlex.join(["regnet-backbones", "report", str(output)]))


def look_at(data: SegmentationData, folder: Path, *, picture: bool = True) -> None:
    """Print how often classes are, and write training images with their masks to `data.png`."""
    data.setup("fit")
    show(folder, table=lambda: _table(data), picture=(lambda: _picture(data)) if picture else None)


def _table(data: SegmentationData) -> str:
    """Format the share of each class in the pixels of both splits, and the masks that have it."""
    rows: list[list[object]] = [[name] for name in (*data.class_names, IGNORED)]
    headers = ["class"]
    for split, counts in data.label_counts.items():
        headers += [f"{split} pixels", f"of {counts.looked_at:,} masks"]
        for row, label in zip(rows, (*range(data.num_classes), IGNORE), strict=True):
            share = counts.classes[label] / max(counts.pixels.total(), 1)
            row += [f"{share:.2%}", counts.masks[label]]
    return table_of(headers, rows)


def _picture(data: SegmentationData) -> Image.Image:
    """Draw training images, as they come out of the augmentation, next to their masks."""
    colors = overlays.colors_of(data.class_names)
    items = [data.train_set[k] for k in sample(range(len(data.train_set)), PICTURES)]
    options = {"colors": colors, "mean": data.hparams["mean"], "std": data.hparams["std"]}
    drawn = [overlays.side_by_side(item["image"], item["mask"], **options) for item in items]
    present = sorted({k for item in items for k in item["mask"].unique().tolist()} - {IGNORE})
    return overlays.with_legend(mosaic(drawn), [(data.class_names[k], colors[k]) for k in present])


def _checkpoints(output: str | Path) -> Path:
    """Return the folder of checkpoints of a run."""
    return Path(output) / SEGMENTER_FOLDER
