"""A training run of a segmenter, as `train-segmenter` starts it, on LightningCLI."""

import logging
import os
import shlex
import signal
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path

from jsonargparse.typing import PositiveInt
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ModelSummary, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from PIL import Image

from regnet_backbones.errors import as_user_error
from regnet_backbones.files import check_output_folder, remove_parts
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
from regnet_backbones.semseg.screen import (
    progress_callback,
    without_noise,
    without_warnings_of_data,
)

LAST = "last.ckpt"

logger = logging.getLogger(__name__)


class SegmentationCLI(LightningCLI):
    """Build data, model and trainer from YAML files and the command line."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our options, and link arguments of the model to those of the data."""
        add, text = parser.add_argument, "output folder for checkpoints, logs and pictures"
        # A shell leaves `~` alone in `--output=~/run`, and YAML does in any place.
        add("--output", type=os.path.expanduser, default="output/semseg", help=text)
        text = f"resume from the last checkpoint in --output ({LAST}), if present"
        add("--resume", action="store_true", help=text)
        text = f"write {LAST} every so many steps; it is also written after each validation"
        add("--save_every", type=PositiveInt, default=1000, help=text)
        text = f"check every data file and write {PICTURE} to --output; do not train"
        add("--check_data", action="store_true", help=text)
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        best = {"monitor": "val/miou", "mode": "max", "filename": "best"}
        best["enable_version_counter"] = False
        parser.set_defaults({f"checkpoint.{name}": value for name, value in best.items()})
        stopping = "early_stopping"
        parser.add_class_arguments(EarlyStopping, stopping, skip={"patience"}, instantiate=False)
        parser.set_defaults({f"{stopping}.monitor": "val/miou", f"{stopping}.mode": "max"})
        text = "stop after so many validations without a better score; null: never"
        add(f"--{stopping}.patience", type=int | None, default=None, help=text)
        parser.link_arguments("output", "checkpoint.dirpath", compute_fn=_checkpoints)
        parser.link_arguments("output", "trainer.default_root_dir")
        for name in ("num_classes", "class_names"):  # which only the data have
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
        if config.enable_model_summary and not _has(given, ModelSummary):
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
    """Train a segmenter with the options `argv` (None: those of this process); return the status.

    If they have data and no config, the others are chosen, for a training of some `minutes`.
    `report` writes the page of the run's folder.
    """
    show_reports()
    errors = as_user_error(MisconfigurationException)
    with StopSignals(wait=False) as signals, without_noise(), errors:
        if argv is not None and first_run.is_needed(argv, minutes):
            with without_warnings_of_data():
                argv = first_run.complete(argv, minutes, build)
        cli = build(argv)
        if cli.config.check_data:
            data = cli.datamodule
            look_at(data, Path(cli.config.output))
            counts = f"{len(data.train_set):,} training and {len(data.val_set):,} validation pairs"
            print(f"checked every file: {counts}")
        else:
            _train(cli, signals)
            if report and cli.trainer.is_global_zero:
                with without_warnings_of_data():
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
            logger.warning("--resume found no '%s'; the training starts at step 0", last)
        if not cli.config.resume or any(last.parent.glob("*.ckpt")):
            files = (f"{SEGMENTER_FOLDER}/**/*", f"{TENSORBOARD_FOLDER}/**/*")
            set_earlier_run_aside(output, files, output="--output")
        look_at(cli.datamodule, output, picture=cli.model.hparams["pictures"] > 0)
    # After the one that keeps the best checkpoint, whose state the last one has.
    settings = {"every": cli.config.save_every, "signals": signals, "options": options}
    trainer.callbacks.append(resume.LastCheckpoint(last, **settings))
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
        print(
            "to see all on one page, run:", shlex.join(["regnet-backbones", "report", str(output)])
        )


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
