"""Batches that follow from the seed and the epoch, and in which a run resumes."""

import os
from collections.abc import Iterator
from itertools import islice

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from regnet_backbones.runs.resume import SAMPLES, seed_of
from regnet_backbones.runs.stopping import held_signals


def run_seed() -> int:
    """Return the seed of the run, as Lightning's `seed_everything` has set it."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


class ResumableSampler(DistributedSampler):
    """Shuffle the images in every epoch, and share them out among processes.

    An item is an index and a seed for augmentation, of the seed of the run and the epoch alone. Of
    one epoch, the images that a resumed run has had are left out.
    """

    def __init__(self, dataset: Dataset, *, num_replicas: int = 1, rank: int = 0) -> None:
        seed = run_seed()
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed, drop_last=True)
        self.had_in: dict[int, int] = {}  # number of images by epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for index in islice(super().__iter__(), self.had_in.get(self.epoch, 0), None):
            yield index, seed_of(self.seed, SAMPLES, self.epoch, index)


class ResumableLoader(DataLoader):
    """A loader that resumes in the epoch, and at the batch, of a checkpoint (`ResumableSampler`).

    Batches that workers have ready do not count. Workers get no signals that stop a training.
    """

    _batches = 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # Lightning asks for an iterator, then sets the epoch; a generator starts after both.
        had = self.sampler.had_in.get(self.sampler.epoch, 0) if self._resumes() else 0
        self._batches = had // (self.batch_size or 1)
        with held_signals():
            batches = super().__iter__()
        for batch in batches:
            self._batches += 1
            yield batch

    def _resumes(self) -> bool:
        return isinstance(self.sampler, ResumableSampler)

    def state_dict(self) -> dict[str, int]:
        """Return where the run is in its data, for a checkpoint of Lightning's."""
        if not self._resumes():
            return {}
        return {"seed": self.sampler.seed, "epoch": self.sampler.epoch, "batches": self._batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume where a checkpoint was written; with other batches, at the same number of them."""
        if state and self._resumes():
            self._batches = state["batches"]
            self.sampler.seed = state["seed"]
            self.sampler.had_in = {state["epoch"]: self._batches * self.batch_size}
            self.sampler.set_epoch(state["epoch"])
