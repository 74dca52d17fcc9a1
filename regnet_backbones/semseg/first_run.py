"""Options for a run that has no config: chosen from the training images and the device."""

import os
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from pathlib import Path
from statistics import median

import torch
from lightning.pytorch.cli import LightningCLI
from PIL import Image

from regnet_backbones.errors import UserError
from regnet_backbones.runs import first_run
from regnet_backbones.runs.image_files import upright_size
from regnet_backbones.runs.resume import seeded
from regnet_backbones.runs.trained import CONFIG_NAME, TENSORBOARD_FOLDER

CPU_SIDE, GPU_SIDE, GPU_CROP = 160, 768, 512  # pixels: of images' shorter sides, and of crops
GPU_BATCH, GIB_OF_IMAGE = 16, 2  # at most, and what a crop takes
LEAST_CROP = 64  # below it, batch norm has a single pixel of C5
OPENED = 50  # images whose size is looked at
UNSEEDED = ("--seed_everything", "false")  # what is built to look at data, or to time

# What neither needs to know of the data.
ON_CPU = {
    "model.encoder": "regnetx_002",
    "model.decoder_options.decoder_channels": "[128, 64, 32, 32, 16]",
    "model.lr": "0.001",
    "trainer.accelerator": "cpu",
}
ON_GPU = {
    "data.scale_range": "[0.5, 2.0]",
    "data.photometric": "true",
    "model.encoder": "regnety_032",
    "trainer.precision": "16-mixed",
    "trainer.benchmark": "true",
}
ON_BOTH = {"model.loss": "ce+dice", "trainer.devices": "1", "trainer.log_every_n_steps": "20"}


def is_needed(argv: Sequence[str], minutes: float | None) -> bool:
    """Return whether options have data and no config.

    Raises:
        UserError: `--minutes` with a config, or a choice for several processes.
    """
    first_run.check_minutes(minutes)
    names = _names(argv)
    if "data.layout" in names and not names & {"config", "check_data", "print_config", "help"}:
        if names & {"trainer.devices", "trainer.num_nodes"} or "WORLD_SIZE" in os.environ:
            raise UserError("a run without --config has one process; for several pass --config")
        return True
    if minutes is not None:
        raise UserError("--minutes cannot be combined with --config; set --trainer.max_steps")
    return False


def complete(
    argv: Sequence[str], minutes: float | None, build: Callable[[Sequence[str]], LightningCLI]
) -> list[str]:
    """Return what is chosen and then the given options, which win; print the choice.

    Args:
        argv: options with data, without a config. Those of a run to be resumed are its config's.
        minutes: of the training; None for the default on a CPU, and for any on a GPU.
        build: what makes data, model and trainer of options.
    """
    names, looked = _names(argv), build([*argv, *UNSEEDED, "--check_data"])
    config = Path(looked.config.output, TENSORBOARD_FOLDER, CONFIG_NAME)
    if "resume" in names and config.is_file():
        return ["--config", str(config), *argv]
    data = looked.datamodule
    data.check_everything = False
    data.setup("fit")
    images, short_side = len(data.train_set), _short_side(data.train_set.pairs.images)
    on_cpu = looked.config.trainer.accelerator == "cpu" or not torch.cuda.is_available()
    side = min(short_side, CPU_SIDE if on_cpu else GPU_SIDE)
    crop, batch = min(max(-(-side // 32) * 32, LEAST_CROP), GPU_CROP), 8
    if not on_cpu:
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        batch = max(1, min(GPU_BATCH, int(memory / GIB_OF_IMAGE)))
    given = looked.config.data.batch_size
    batch = given if "data.batch_size" in names else min(batch, images)
    workers = min(looked.config.data.num_workers, os.cpu_count() or 1)  # torch warns of more
    sizes = {"short_side": side, "crop_size": crop, "batch_size": batch, "num_workers": workers}
    chosen = {f"data.{name}": str(value) for name, value in sizes.items()}
    chosen |= ON_BOTH | (ON_CPU if on_cpu else ON_GPU)
    if not names & {"model.encoder", "model.encoder_weights"} and not first_run.published_weights(
        chosen["model.encoder"], key="--model.encoder_weights"
    ):
        chosen |= {"model.encoder_weights": "null", "model.zero_init_last": "false"}
    seconds, minutes = None, minutes or (first_run.MINUTES if on_cpu else None)
    steps = looked.config.trainer.max_steps
    if not names & {"trainer.max_steps", "trainer.max_epochs"}:
        seconds = minutes and _seconds_per_step(build([*_words(chosen), *argv, *UNSEEDED]))
        steps = first_run.steps_of(images, batch, seconds=seconds, minutes=minutes)
        chosen["trainer.max_steps"] = str(steps)
    if steps > 0 and "trainer.max_epochs" not in names:
        chosen |= {
            "trainer.val_check_interval": str(-(-steps // 2)),
            "trainer.check_val_every_n_epoch": "null",
            "model.warmup_steps": str(min(steps // 20, 500)),
        }
    facts = f"{images:,} images, {short_side} pixels high or wide, on {'cpu' if on_cpu else 'cuda'}"
    facts += "" if seconds is None else f" with {seconds:.2f} s for a step"
    words = _words({name: value for name, value in chosen.items() if name not in names})
    first_run.show(facts, words, ["train-segmenter", "--config", str(config)])
    return [*words, *argv]


def _names(argv: Sequence[str]) -> set[str]:
    return {word.partition("=")[0].removeprefix("--") for word in argv if word.startswith("--")}


def _words(options: dict[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def _short_side(files: Sequence[Path]) -> int:
    """Return the median of the shorter sides of some images, in pixels."""
    sides = []
    for file in files[:: -(-len(files) // OPENED)]:
        with Image.open(file) as image:
            sides.append(min(upright_size(image)))
    return round(median(sides))


def _seconds_per_step(run: LightningCLI) -> float:
    """Return the time of a step of a run's training, data loading included."""
    model, data, device = run.model, run.datamodule, run.trainer.strategy.root_device
    data.setup("fit")
    with seeded(0):
        model.to(device).train()
        optimizer = torch.optim.AdamW(model.parameters())
        batches = chain.from_iterable(repeat(data.train_dataloader()))

        def loss(batch: dict) -> torch.Tensor:
            return model.loss(model(batch["image"].to(device)), batch["mask"].to(device))

        return first_run.seconds_per_step(batches, loss, optimizer, device)
