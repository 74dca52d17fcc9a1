"""What both trainers choose for a run without a config: its length, its weights."""

import logging
import shlex
from collections.abc import Iterable

from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.weights.sources import find_source, is_available, local_file

MINUTES = 10.0  # of a training on a CPU

# What is learned from random weights in minutes, and what weights of ImageNet are fine-tuned for.
CPU_NETWORK, GPU_NETWORK = "regnetx_002", "regnety_032"

# Images that a training sees on a GPU: EPOCHS of a large dataset, at most MOST_EPOCHS of a small
# one, for which SEEN are enough.
EPOCHS, MOST_EPOCHS, SEEN = 12, 100, 24_000
MOST_EPOCHS_ON_CPU = 300  # from random weights
LEAST_STEPS = 100

logger = logging.getLogger(__name__)


def steps_of(images: int, batch: int, *, seconds: float | None, minutes: float | None) -> int:
    """Return the steps of a training, a multiple of 10.

    Args:
        images: of the training data.
        batch: images of a step.
        seconds: of a step, measured; None to follow from the number of images alone.
        minutes: that the training may take, without its evaluations; for `seconds` only.

    Returns:
        At least `LEAST_STEPS`, or fewer where they would take longer than `minutes`.
    """
    if seconds is None or minutes is None:
        seen = max(EPOCHS * images, min(MOST_EPOCHS * images, SEEN))
        steps = max(seen // batch, LEAST_STEPS)
    else:
        useful = max(MOST_EPOCHS_ON_CPU * images // batch, LEAST_STEPS)
        steps = min(int(60 * minutes / seconds), useful)
    return max(steps // 10, 1) * 10


def check_minutes(minutes: float | None) -> None:
    """Raise UserError for a time that no training can have."""
    if minutes is not None and not 0 < minutes < float("inf"):
        raise UserError(f"--minutes must be above 0, got {minutes:g}")


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
    logger.warning(
        "the training starts from random weights, which learn less in the same time: no weights %s "
        "(%s); with a file of them pass %s FILE",
        *(name, why, key),
    )
    return ""


def describe(facts: str, options: Iterable[str], command: list[str]) -> str:
    """Format what was chosen, from which facts, and the command that repeats the run."""
    lines = [f"no config was given; chosen for {facts}:", *(f"    {each}" for each in options)]
    return "\n".join([*lines, f"to repeat this run: {shlex.join(command)}"])
