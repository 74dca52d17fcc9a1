"""A training run of a segmenter, as `tools/train_semseg.py` starts it, on LightningCLI."""

import logging
import math
import os
import shlex
import signal
import time
from argparse import ArgumentError
from collections.abc import Sequence
from datetime import timedelta
from operator import attrgetter
from pathlib import Path

import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from PIL import Image
from tabulate import tabulate

from regnet_backbones.errors import UserError
from regnet_backbones.files import check_output_folder, remove_parts, write_whole
from regnet_backbones.optimize.options import show_reports
from regnet_backbones.optimize.passes import has_native
from regnet_backbones.runs.look import PICTURE, PICTURES, mosaic, show, table_of
from regnet_backbones.runs.resume import set_earlier_run_aside
from regnet_backbones.runs.stopping import StoppedError, StopSignals
from regnet_backbones.runs.trained import SEGMENTER_FOLDER, TENSORBOARD_FOLDER
from regnet_backbones.semseg import overlays
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.labels import IGNORE, IGNORED
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.semseg.resume import (
    TRAINER,
    AtomicCheckpointIO,
    LastCheckpoint,
    MovedFolder,
    SeedSteps,
    check_continuation,
    run_seed,
)

LAST = "last.ckpt"
DESCRIPTION = "Train a semantic segmenter."

# Options that Lightning divides by, unchecked.
ABOVE_ZERO = ("trainer.accumulate_grad_batches", "trainer.val_check_interval")

logger = logging.getLogger(__name__)


class SaveConfig(SaveConfigCallback):
    """Write the config of the run whole, so that a killed run leaves none that is cut off."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it to the folder of the logs."""
        folder = trainer.log_dir or trainer.default_root_dir  # a broadcast: in every process
        if trainer.is_global_zero:
            text = self.parser.dump(self.config, skip_none=False)
            path = Path(folder) / self.config_filename
            write_whole(path, lambda file: file.write(text.encode()))


class SegmentationCLI(LightningCLI):
    """Build data, model and trainer from YAML files and the command line.

    In addition to Lightning's `--config`, `--data.*`, `--model.*` and `--trainer.*` it
    takes `--output`, the folder of everything that a run writes, `--resume`, `--save_every`, and
    `--checkpoint.*`.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our options, and take from the data what the model must know of it."""
        parser.add_argument(
            "--output", default="output/semseg", help="folder of checkpoints, logs and pictures"
        )
        parser.add_argument(
            "--resume",
            action="store_true",
            help=f"resume from the last checkpoint of --output ({LAST}), if there is one",
        )
        parser.add_argument(
            "--save_every",
            type=PositiveInt,
            default=1000,
            help=f"steps between two writings of {LAST}; it is written after validations, too",
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        best = {"monitor": "val/miou", "mode": "max", "filename": "best"}
        best["enable_version_counter"] = False
        parser.set_defaults({f"checkpoint.{name}": value for name, value in best.items()})
        parser.link_arguments("output", "checkpoint.dirpath", compute_fn=_checkpoints)
        parser.link_arguments("output", "trainer.default_root_dir")
        parser.add_argument(
            "--check_data",
            action="store_true",
            help=f"check every file of the data, write {PICTURE} to --output, and do not train",
        )
        for name in ("num_classes", "class_names"):  # which only the data know
            found = attrgetter(name)
            parser.link_arguments("data", f"model.{name}", found, apply_on="instantiate")
        for name in ("mean", "std", "short_side"):
            parser.link_arguments(f"data.{name}", f"model.{name}")

    def parse_arguments(self, parser: LightningArgumentParser, args: Sequence[str] | None) -> None:
        """Parse the command line; what is wrong with it is said in one line."""
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            raise UserError(" ".join(str(error).split())) from error
        for key in ABOVE_ZERO:
            value = self.config[key]
            if isinstance(value, int | float) and value <= 0:
                raise UserError(f"--{key} must be above 0, got {value}")
        # As Lightning does with the paths in this folder that it is given.
        self.config.output = os.path.expanduser(self.config.output)

    def before_instantiate_classes(self) -> None:
        """Check where the run writes, before its data and its network."""
        check_output_folder(self._get(self.config, "output"), name="--output")

    def instantiate_classes(self) -> None:
        """Build what a training needs, or the data alone to check them."""
        if not self.config.check_data:
            super().instantiate_classes()
            return
        given = self.config.data.as_dict()
        given.pop("__path__", None)  # of the file that has it
        self.datamodule = SegmentationData(**given)
        self.datamodule.check_everything = True

    def instantiate_trainer(self, **kwargs: object) -> Trainer:
        """Build the trainer, and TensorBoard where no logger is named.

        A run that is shorter than the distance of two validations is validated at its end.
        """
        output = self._get(self.config_init, "output")
        config = self._get(self.config_init, "trainer")
        if config["logger"] is None:
            kwargs["logger"] = TensorBoardLogger(output, name="", version=TENSORBOARD_FOLDER)
        plugins = config["plugins"] or []
        kwargs["plugins"] = [
            *(plugins if isinstance(plugins, list) else [plugins]),
            AtomicCheckpointIO(),
        ]
        steps, interval = config["max_steps"], config["val_check_interval"]
        if isinstance(interval, int) and 0 < steps < interval:
            kwargs["val_check_interval"] = steps
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise UserError(f"--trainer options: {error}") from error
        if trainer.logger is not None:
            trainer.callbacks.append(LearningRateMonitor(logging_interval="step"))
        return trainer


def launch_run(argv: Sequence[str] | None = None) -> int:
    """Train a segmenter as a command line says, and print how good it got.

    Args:
        argv: the command line, None for that of this process.

    Returns:
        The exit status, 0.

    Raises:
        UserError: an option or the data cannot be used.
        StoppedError: a signal stopped the training, whose state is saved.
        KeyboardInterrupt: a second Ctrl-C did, at once.
    """
    show_reports()
    with StopSignals(wait=False) as signals:
        try:
            cli = SegmentationCLI(
                Segmenter,
                SegmentationData,
                run=False,
                auto_configure_optimizers=False,
                seed_everything_default=0,
                save_config_callback=SaveConfig,
                parser_kwargs={"description": DESCRIPTION, "exit_on_error": False},
                args=None if argv is None else list(argv),
            )
            if cli.config.check_data:
                _check_data(cli.datamodule, Path(cli.config.output))
            else:
                _train(cli, signals)
        except MisconfigurationException as error:  # Lightning's, about options
            raise UserError(" ".join(str(error).split())) from error
    return 0


def _train(cli: SegmentationCLI, signals: StopSignals) -> None:
    """Train from the beginning or the last checkpoint, and print how good it got."""
    trainer, output = cli.trainer, cli.config.output
    last = _checkpoints(output) / LAST
    resumes = cli.config.resume and last.is_file()
    options = {name: cli.config.trainer[name] for name in TRAINER}
    options |= {"processes": trainer.world_size, "seed": run_seed()}
    if trainer.is_global_zero:
        for folder in (SEGMENTER_FOLDER, TENSORBOARD_FOLDER):
            remove_parts(Path(output) / folder)
        _warn_of_emulation(trainer)
    if resumes:
        check_continuation(last, cli.model, cli.datamodule, options)
    elif cli.config.resume and trainer.is_global_zero:
        logger.warning("there is no '%s' to resume from; the training starts from step 0", last)
    elif trainer.is_global_zero:
        files = (f"{SEGMENTER_FOLDER}/**/*", f"{TENSORBOARD_FOLDER}/**/*")
        set_earlier_run_aside(Path(output), files, output="--output")
    # After the one that keeps the best checkpoint, whose state the last one has.
    every = cli.config.save_every
    writes_last = LastCheckpoint(last, every=every, signals=signals, options=options)
    trainer.callbacks += [writes_last, SeedSteps(), MovedFolder(), Look()]
    start = time.monotonic()
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
        took = timedelta(seconds=round(time.monotonic() - start))
        print(summarize(trainer, cli.model, output))
        print(f"time, validations included: {took}")


def _check_data(data: SegmentationData, output: Path) -> None:
    """Check every file, and look at the data."""
    data.setup("fit")
    look_at(data, output)
    print(f"every file was read: {len(data.train_set):,} and {len(data.val_set):,} pairs")


class Look(Callback):
    """Look at the data when a training starts, in its first process; not when one is resumed."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, and write the picture unless the run draws none."""
        if trainer.is_global_zero and not trainer.ckpt_path:
            folder = Path(trainer.default_root_dir)
            look_at(trainer.datamodule, folder, picture=pl_module.hparams["pictures"] > 0)


def look_at(data: SegmentationData, folder: Path, *, picture: bool = True) -> None:
    """Print how often classes are, and write training images with their masks to `data.png`."""
    show(folder, table=lambda: _table(data), picture=(lambda: _picture(data)) if picture else None)


def _table(data: SegmentationData) -> str:
    """Format the share of each class in the pixels of both splits, and the masks that have it."""
    classes = [*range(data.num_classes), IGNORE]
    headers, columns = ["class"], [[*data.class_names, IGNORED]]
    for split, counts in data.label_counts.items():
        headers += [f"{split} pixels", f"of {counts.looked_at:,} masks"]
        total = max(counts.pixels.total(), 1)
        columns.append([f"{counts.classes[k] / total:.2%}" for k in classes])
        columns.append([counts.masks[k] for k in classes])
    return table_of(headers, list(zip(*columns, strict=True)))


def _picture(data: SegmentationData) -> Image.Image:
    """Draw training images, as they come out of the augmentation, next to their masks."""
    colors, count = overlays.palette(data.num_classes), len(data.train_set)
    items = [data.train_set[k] for k in sorted({i * count // PICTURES for i in range(PICTURES)})]
    options = {"colors": colors, "mean": data.hparams["mean"], "std": data.hparams["std"]}
    drawn = [overlays.side_by_side(item["image"], item["mask"], **options) for item in items]
    present = sorted({k for item in items for k in item["mask"].unique().tolist()} - {IGNORE})
    return overlays.with_legend(mosaic(drawn), [(data.class_names[k], colors[k]) for k in present])


def _warn_of_emulation(trainer: Trainer) -> None:
    """Warn of mixed precision on a CPU that computes it slower than float32."""
    mixed = str(trainer.precision).endswith("-mixed") or str(trainer.precision).startswith("bf16")
    if mixed and trainer.strategy.root_device.type == "cpu" and not has_native(torch.bfloat16):
        logger.warning(
            "this CPU has no bfloat16 instructions and emulates --trainer.precision %s, which "
            "takes many times as long as --trainer.precision 32-true",
            trainer.precision,
        )


def summarize(trainer: Trainer, segmenter: Segmenter, output: str | Path) -> str:
    """Format the last validation as a table, and say where checkpoints and pictures are.

    A class that was neither there nor predicted has no IoU; where nothing was validated, as the run
    was at its end already, there is no table.
    """
    rows = [
        [name.removeprefix("val/"), None if math.isnan(value) else value]
        for name, value in (segmenter.last_validation or {}).items()
    ]
    header = ("last validation", "value")
    table = [tabulate(rows, headers=header, floatfmt=".4f", missingval="-")] if rows else []
    return "\n".join(
        [
            *table,
            f"best checkpoint: {trainer.checkpoint_callback.best_model_path or 'none'}",
            f"config, logs, checkpoints and pictures: {output}",
            f"all of it on one page: {shlex.join(['python', 'tools/report.py', str(output)])}",
        ]
    )


def _checkpoints(output: str | Path) -> Path:
    """Return the folder of checkpoints of a run."""
    return Path(output) / SEGMENTER_FOLDER
