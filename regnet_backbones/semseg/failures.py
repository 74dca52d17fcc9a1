"""Failures of Lightning and torch in the words of a segmenter's options."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from jsonargparse import Namespace
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from regnet_backbones.cli.failure_lines import Cause
from regnet_backbones.errors import UserError

GO_ON = "--resume goes on from the last checkpoint, if there is one"

# What they say, and the line in its place; groups of the first may stand in the second.
REWORDED = {
    r"No supported gpu backend found": "--trainer.accelerator gpu: torch sees no GPU here; take "
    "--trainer.accelerator cpu, or install a driver and a torch that fit the GPU",
    r"You requested gpu: (\[.*?\])\s+But your machine only has: (\[.*?\])": "--trainer.devices "
    r"asks for the GPUs \1 and this machine has \2; ask for as many as there are",
    r"`Trainer\(devices=(.*?)\)` value is not a valid input using (\w+)": "--trainer.devices must "
    r"be a number of devices from 1, or auto, got \1",
    r"`devices` selected with `CPUAccelerator`": "--trainer.devices must be a number of processes "
    "from 1, or auto, on a CPU; -1 and lists are for GPUs",
    r"invalid accelerator name: `accelerator='(.*?)'`.*?are: (.*?)\.?$": "--trainer.accelerator "
    r"must be one of \2 or gpu, got \1; which of the GPUs is for --trainer.devices, such as [0]",
    r"`Trainer\(barebones=True": "--trainer.barebones would leave out checkpoints, logs and "
    "metrics; leave it out",
    r"invalid strategy name: `strategy='(.*?)'`": "--trainer.strategy must be auto, ddp, fsdp or "
    r"another of Lightning's strategies, got \1",
    r"`val_check_interval` \((\d+)\) must be less than.*?training batches \((\d+)\)": "one epoch "
    r"has \2 steps, and --trainer.val_check_interval is \1; set --trainer.check_val_every_n_epoch "
    "null, with which steps are counted over epochs, or lower the interval",
    r"`val_check_interval` should be an integer": "--trainer.val_check_interval must be a number "
    "of steps, a whole number, where --trainer.check_val_every_n_epoch is null; a part of an "
    "epoch needs --trainer.check_val_every_n_epoch 1",
    r"Expected more than 1 value per channel when training, got input size .*?(\d+), 1, 1\]": (
        "batch norm has one pixel of one image to learn from, as the deepest map of the crop is "
        "1x1; take two images per process or more (--data.batch_size), or a larger "
        "--data.crop_size"
    ),
    r"Calculated output size: \(.*?\). Output size is too small": "the deepest map of the crop is "
    "too small for this decoder, which pools it; take a larger --data.crop_size",
    r"gloo.*Connection (closed|reset) by peer|remote worker crashing|NCCL.*remote process exited": (
        "another process of this run has ended; what it says is the cause"
    ),
}


@contextmanager
def reworded() -> Iterator[None]:
    """Raise, for what Lightning and torch find wrong with options, a ValueError that names them.

    Raises:
        ValueError: a `MisconfigurationException` was raised, or an error that is known here.
    """
    try:
        yield
    except (MisconfigurationException, ValueError, RuntimeError, TypeError) as error:
        text = " ".join(str(error).split())
        line = next((line for pattern in REWORDED if (line := _filled(pattern, text))), None)
        if line is None and not isinstance(error, MisconfigurationException):
            raise
        raise UserError(line or text) from error


def hints_of(config: Namespace) -> dict[Cause, str]:
    """Return what to do about a failure of a training, with the present values of its options."""
    data, output = config.data, config.output
    smaller = (
        f"lower --data.batch_size (now {data.batch_size}) or --data.crop_size (now "
        f"{data.crop_size})"
    )
    precision = config.trainer.precision
    if precision in (None, 32, "32", "32-true"):
        smaller += ", or take --trainer.precision bf16-mixed"
    fewer = f"lower --data.num_workers (now {data.num_workers})"
    return {
        Cause.INTERRUPTED: GO_ON,
        Cause.OUT_OF_MEMORY: f"{smaller}; {GO_ON}",
        Cause.SHARED_MEMORY: f"{fewer}, or give /dev/shm more space (docker run --shm-size 8g)",
        Cause.DISK_FULL: f"make space for --output {output}; {GO_ON}",
        Cause.NOT_WRITABLE: f"choose another --output than {output}",
        Cause.TOO_MANY_FILES: f"{fewer}, or raise the limit with `ulimit -n 65536`",
        Cause.WORKER_KILLED: f"it is mostly the lack of memory that kills one: {fewer}; {GO_ON}",
        Cause.NO_GPU: "take --trainer.accelerator cpu, or install a driver and a torch that fit "
        "the GPU",
    }


def _filled(pattern: str, text: str) -> str | None:
    """Return the line for a text, with what its pattern finds in it; None for another's text."""
    found = re.search(pattern, text)
    return found.expand(REWORDED[pattern]) if found else None
