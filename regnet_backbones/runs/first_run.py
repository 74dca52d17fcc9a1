"""What both trainers choose for a run without a config: its length, its weights."""

import logging
import shlex
from collections.abc import Callable, Iterable, Iterator
from statistics import median

import torch

from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.measure.timing import interleaved_times
from regnet_backbones.weights.sources import find_source, is_available, local_file

MINUTES = 10.0  # of a training on a CPU

# Images that a training sees on a GPU: EPOCHS of a large dataset, at most MOST_EPOCHS of a small
# one, for which SEEN are enough. On a CPU, from random weights, MOST_EPOCHS_ON_CPU.
EPOCHS, MOST_EPOCHS, SEEN = 12, 100, 24_000
MOST_EPOCHS_ON_CPU = 300
LEAST_STEPS = 100

logger = logging.getLogger(__name__)


def check_minutes(minutes: float | None) -> None:
    """Raise UserError for a time that no training can have."""
    if minutes is not None and not 0 < minutes < float("inf"):
        raise UserError(f"--minutes must be above 0, got {minutes:g}")


def steps_of(images: int, batch: int, *, seconds: float | None, minutes: float | None) -> int:
    """Return the steps of a training, a multiple of 10.

    They follow from the number of training images, and from the measured `seconds` of a step and
    the `minutes` that the training may take without its evaluations, if both are given.
    """
    if seconds is None or minutes is None:
        seen = max(EPOCHS * images, min(MOST_EPOCHS * images, SEEN))
        steps = max(seen // batch, LEAST_STEPS)
    else:
        useful = max(MOST_EPOCHS_ON_CPU * images // batch, LEAST_STEPS)
        steps = min(int(60 * minutes / seconds), useful)
    return max(steps // 10, 1) * 10


def seconds_per_step(
    batches: Iterator, loss: Callable, optimizer: torch.optim.Optimizer, device: str | torch.device
) -> float:
    """Return the median time of some steps: a batch, its loss, and the weights' change."""

    def step() -> None:
        value = loss(next(batches))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return median(interleaved_times({"": step}, runs=20, warmup=3, limit=15, device=device)[""])


def published_weights(network: str, *, key: str) -> str:
    """Return the name of a network's default weights; "", with a warning, if they are not found.

    `key` is the option that sets them, for the warning.
    """
    name = f"timm://{network}"
    try:
        source = find_source(name)
        if is_available(source):
            local_file(source)
            return name
        why = f"{source.url} does not answer"
    except (MissingFileError, UserError) as error:
        why = str(error).partition(". ")[0]
    text = "training from random weights, which takes longer: no %s (%s); pass a file with %s FILE"
    logger.warning(text, name, why, key)
    return ""


def show(facts: str, options: Iterable[str], command: list[str]) -> None:
    """Print what was chosen, from which facts, and the command that repeats the run."""
    command = ["regnet-backbones", *command]
    print(f"no config; options chosen for {facts}:", *options, sep="\n    ")
    print(f"to repeat this run: {shlex.join(command)}", flush=True)
