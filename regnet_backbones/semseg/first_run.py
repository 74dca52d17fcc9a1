"""Options for a run that has no config: chosen from the training images and the device."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import torch
from lightning.pytorch.cli import LightningCLI
from PIL import Image

from regnet_backbones.errors import UserError
from regnet_backbones.measure.timing import interleaved_times
from regnet_backbones.runs import first_run
from regnet_backbones.runs.image_files import upright_size
from regnet_backbones.runs.resume import seeded
from regnet_backbones.runs.trained import CONFIG_NAME, TENSORBOARD_FOLDER

# Pixels: shorter side of images in training, and side of crops, on a CPU and on a GPU.
CPU_SIDE, GPU_SIDE, GPU_CROP = 160, 768, 512
GIB_OF_IMAGE = 2  # of a GPU, for a crop of it in training
OPENED = 50  # images whose size is looked at

# Of an option of Lightning's, the value as a command line has it.
Options = dict[str, str]


def is_needed(argv: Sequence[str], minutes: float | None) -> bool:
    """Return whether options have data and no config.

    Raises:
        UserError: `--minutes` with a config, or in one of several processes.
    """
    first_run.check_minutes(minutes)
    names = {word.partition("=")[0] for word in argv}
    other = {"--config", "--check_data", "--print_config", "--help"}
    if "--data.layout" in names and not names & other:
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise UserError("options are chosen in one process; pass --config")
        return True
    if minutes is not None:
        raise UserError("--minutes is for a run without --config; set --trainer.max_steps")
    return False


def complete(
    argv: Sequence[str], minutes: float | None, build: Callable[[Sequence[str]], LightningCLI]
) -> list[str]:
    """Return a command line with what was chosen before the given options, and print it.

    Args:
        argv: options with data, without a config.
        minutes: of the training; None for the default on a CPU, and any on a GPU.
        build: what makes data, model and trainer of options.
    """
    names = {word.partition("=")[0].removeprefix("--") for word in argv}
    looked = build([*argv, "--check_data"])
    output, data = looked.config.output, looked.datamodule
    config = Path(output, TENSORBOARD_FOLDER, CONFIG_NAME)
    if "resume" in names and config.is_file():
        return ["--config", str(config), *argv]
    data.check_everything = False
    data.setup("fit")
    images = len(data.train_set)
    size = _typical_size(data.train_set.pairs.images)
    accelerator = looked.config.trainer.accelerator
    on_cpu = accelerator == "cpu" or not torch.cuda.is_available()
    chosen = _for_cpu(size, images) if on_cpu else _for_gpu(size, images)
    if not names & {"model.encoder", "model.encoder_weights"}:
        network = chosen["model.encoder"]
        found = first_run.published_weights(network, key="--model.encoder_weights")
        chosen["model.encoder_weights"] = "imagenet" if found else "null"
        if not found:
            chosen["model.zero_init_last"] = "false"
    seconds, minutes = None, first_run.MINUTES if minutes is None and on_cpu else minutes
    batch = int(chosen["data.batch_size"])
    if not names & {"trainer.max_steps", "trainer.max_epochs"}:
        if minutes is not None:
            seconds = _seconds_per_step(build([*_words(chosen), *argv]))
        steps = first_run.steps_of(images, batch, seconds=seconds, minutes=minutes)
        chosen |= {
            "trainer.max_steps": str(steps),
            "trainer.val_check_interval": str(max(steps // 2, 1)),
            "trainer.check_val_every_n_epoch": "null",
            "model.warmup_steps": str(min(steps // 20, 500)),
        }
    chosen = {name: value for name, value in chosen.items() if name not in names}
    facts = (
        f"{images:,} training images of about {size[1]}x{size[0]} pixels and {data.num_classes} "
        f"classes, on {f'{os.cpu_count()} CPU cores' if on_cpu else 'a GPU'}"
    )
    facts += "" if seconds is None else f"; {seconds:.2f} s a step of {batch} images"
    command = ["regnet-backbones", "train-segmenter", "--config", str(config)]
    print(first_run.describe(facts, _words(chosen), command), flush=True)
    return [*_words(chosen), *argv]


def _for_cpu(size: tuple[int, int], images: int) -> Options:
    """Choose options for a CPU from shorter and longer side of images, and their number."""
    side = str(min(CPU_SIDE, -(-size[0] // 32) * 32))
    return {
        "data.short_side": side,
        "data.crop_size": side,
        "data.batch_size": str(min(8, images)),
        "data.num_workers": str(min(2, os.cpu_count() or 1)),
        "model.encoder": first_run.CPU_NETWORK,
        "model.decoder_options.decoder_channels": "[128, 64, 32, 32, 16]",
        "model.loss": "ce+dice",
        "model.lr": "0.001",
        "trainer.accelerator": "cpu",
        "trainer.devices": "1",
        "trainer.log_every_n_steps": "20",
    }


def _for_gpu(size: tuple[int, int], images: int) -> Options:
    """Choose options for one GPU."""
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return {
        "data.short_side": str(min(GPU_SIDE, size[0])),
        "data.crop_size": str(min(GPU_CROP, -(-size[0] // 32) * 32)),
        "data.batch_size": str(max(1, min(16, int(memory / GIB_OF_IMAGE), images))),
        "model.encoder": first_run.GPU_NETWORK,
        "model.loss": "ce+dice",
        "trainer.devices": "1",
        "trainer.precision": "16-mixed",
        "trainer.benchmark": "true",
        "trainer.log_every_n_steps": "20",
    }


def _words(options: Options) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def _typical_size(files: Sequence[Path]) -> tuple[int, int]:
    """Return the medians of the shorter and the longer sides of some images."""
    sizes = []
    for file in files[:: -(-len(files) // OPENED)]:
        with Image.open(file) as image:
            sizes.append(sorted(upright_size(image)))
    return round(median(size[0] for size in sizes)), round(median(size[1] for size in sizes))


def _seconds_per_step(run: LightningCLI) -> float:
    """Return the median time of some steps of a run's training, data loading included."""
    model, data = run.model, run.datamodule
    device = run.trainer.strategy.root_device
    data.setup("fit")
    with seeded(0):
        model.to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=model.hparams["lr"])
        loader = data.train_dataloader()

        def batches() -> Iterator[dict]:
            while True:
                yield from loader

        endless = batches()

        def step() -> None:
            batch = next(endless)
            loss = model.loss(model(batch["image"].to(device)), batch["mask"].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        times = interleaved_times({"": step}, runs=20, warmup=3, limit=15, device=device)
        endless.close()
    return median(times[""])
