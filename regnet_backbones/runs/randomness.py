"""Random numbers that follow from a seed and a place in the training: nothing is to be saved."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_of(seed: int, *place: int) -> int:
    """Return the seed, 32 bits, of a place: numbers of at least 0 that say where it is."""
    return int(np.random.SeedSequence((seed, *place)).generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seed `random`, numpy and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed `random`, numpy and torch on the CPU, and put their states back in the end."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
