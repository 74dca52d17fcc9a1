"""What resuming a run means: the contract that both trainers fulfil.

- Batches, augmentation and what the model draws are functions of the seed and the step
  (`seed_of`). Everything else that a step depends on is in the checkpoint, which is written whole.
- A signal ends a run after its step, in all processes after the same one, with a checkpoint of
  that step (`stopping`). What a killed run had no time for (a validation, a row of the logs, the
  final checkpoint) is done first by the run that resumes it.
"""

import itertools
import logging
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist

from regnet_backbones.errors import UserError
from regnet_backbones.weights.state_dicts import shown

# What random numbers are for, the first number of a place: augmentation, a step of the model, or
# the losses of images for validation.
SAMPLES, STEPS, LOSSES = 0, 1, 2

logger = logging.getLogger(__name__)


def seed_of(seed: int, *place: int) -> int:
    """Return the 32-bit seed of a place in a run: numbers of at least 0."""
    return int(np.random.SeedSequence((seed, *place)).generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seed `random`, numpy and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed `random`, numpy and torch on the CPU, and restore their states afterwards."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def largest_anywhere(number: int, device: torch.device) -> int:
    """Return the largest number that any process calls this with; all of them must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return number
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


@dataclass(frozen=True)
class ResumeRules:
    """Which values of a config a resumed run may change."""

    output: str  # option or key of the folder of a run
    fixed: tuple[str, ...] = ()  # the weights depend on these: another value is an error
    kept: tuple[str, ...] = ()  # the checkpoint holds these: another value has no effect
    free: tuple[str, ...] = ()  # no step depends on these; `TEST.` stands for all keys below it
    names: Mapping[str, str] = field(default_factory=dict)  # how messages call a key

    def is_free(self, key: str) -> bool:
        """Whether no step depends on a key."""
        return key in self.free or key.startswith(tuple(f for f in self.free if f.endswith(".")))


def check_changes(
    before: Mapping[str, object], now: Mapping[str, object], rules: ResumeRules, *, source: object
) -> None:
    """Warn of values that a resumed run has changed, and raise a UserError for fixed ones."""
    changed = {
        key: f"{rules.names.get(key, key)} was {shown(before[key])} and is {shown(now[key])}"
        for key in before
        if key in now and not rules.is_free(key) and _plain(before[key]) != _plain(now[key])
    }
    refused = [changed[key] for key in rules.fixed if key in changed]
    if refused:
        way_out = f"restore the old value, or set another {rules.output} to start over"
        raise UserError(f"cannot --resume from '{source}': {'; '.join(refused)}; {way_out}")
    no_effect = " (no effect: the checkpoint's is kept)"
    texts = [f"{text}{no_effect if key in rules.kept else ''}" for key, text in changed.items()]
    if texts:
        logger.warning(
            "resuming with a config that differs from '%s': %s. Restore the old values to resume "
            "exactly, or set another %s to start over",
            *(source, "; ".join(texts), rules.output),
        )


def _plain(value: object) -> object:
    if isinstance(value, str):
        return value.lower()
    return tuple(value) if isinstance(value, list) else value


def check_length(done: int, length: int, *, source: object, option: str, output: str) -> None:
    """Refuse to resume a run that has done more steps than it is to have."""
    if done > length:
        way_out = f"raise it to continue, or set another {output} to start over"
        raise UserError(f"{option} is {length}, but '{source}' has done {done} steps; {way_out}")


def set_earlier_run_aside(
    folder: Path, patterns: Iterable[str], *, output: str, along: Iterable[str] = ()
) -> None:
    """Move the files of an earlier run, which match `patterns`, to `earlier_run_<N>`, and warn.

    What `along` matches is moved, too, but does not make a run alone.
    """
    files = [file for each in patterns for file in sorted(folder.glob(each)) if file.is_file()]
    if not files:
        return
    files += [file for each in along for file in folder.glob(each)]
    places = (folder / f"earlier_run_{number}" for number in itertools.count(1))
    aside = next(place for place in places if not os.path.lexists(place))
    for file in files:
        place = aside / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
    text = "moved the earlier run in '%s' to '%s'. Use another %s for a new run, or --resume"
    logger.warning(text, folder, aside, output)
