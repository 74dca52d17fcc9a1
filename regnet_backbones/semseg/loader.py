"""Training batches that follow from the seed and the epoch, and in which a run resumes."""

import logging
import os
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from regnet_backbones.runs.resume import SAMPLES, seed_of, seeded
from regnet_backbones.runs.stopping import heed_parent_only, held_signals

# Of processes that load where the training itself computes on the CPU: a core that they take stalls
# the threads on all others.
LOWEST_PRIORITY = 19

logger = logging.getLogger(__name__)


def run_seed() -> int:
    """Return the seed of the run, as Lightning's `seed_everything` has set it."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def start_worker(worker: int) -> None:
    """Heed the training only, and give way to it where both need the CPU."""
    heed_parent_only(worker)
    if not torch.cuda.is_available() and hasattr(os, "nice"):
        os.nice(LOWEST_PRIORITY)


class ResumableSampler(DistributedSampler):
    """Shuffle the images in every epoch, and share them out among processes.

    An item is an index and the seed of the sample's augmentation; both follow from the seed of the
    run and the epoch alone. Of one epoch, the images that a resumed run has had are left out.
    """

    def __init__(self, dataset: Dataset, *, num_replicas: int = 1, rank: int = 0) -> None:
        seed = run_seed()
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed, drop_last=True)
        self.had_in: dict[int, int] = {}

    @property
    def had(self) -> int:
        """Number of images of the present epoch that are left out."""
        return self.had_in.get(self.epoch, 0)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for index in islice(super().__iter__(), self.had, None):
            yield index, seed_of(self.seed, SAMPLES, self.epoch, index)


class SeededSamples(Dataset):
    """Samples of a dataset, each drawn with the seed that a `ResumableSampler` gives."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, drawn: tuple[int, int] | int) -> dict[str, Tensor | str]:
        if isinstance(drawn, int):  # from the sampler of Lightning's `overfit_batches`
            return self.dataset[drawn]
        index, seed = drawn
        with seeded(seed):
            return self.dataset[index]


class Loader(DataLoader):
    """A loader whose workers do not get the signals that stop a training."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        with held_signals():
            return super().__iter__()


class ResumableLoader(Loader):
    """A loader that resumes in the epoch, and at the batch, that a checkpoint was written at.

    Its sampler is a `ResumableSampler`; with another one (Lightning's `overfit_batches` puts it
    there) it is a loader like any other. Batches that workers have ready do not count.
    """

    _batches = 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # As a generator it shuffles and starts workers when the first batch is wanted: Lightning
        # asks for an iterator before it sets the epoch.
        had = self.sampler.had if isinstance(self.sampler, ResumableSampler) else 0
        self._batches = had // self.batch_size
        for batch in super().__iter__():
            self._batches += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return where the run is in its data, for a checkpoint of Lightning's."""
        sampler = self.sampler
        if not isinstance(sampler, ResumableSampler):
            return {}
        place = {"seed": sampler.seed, "epoch": sampler.epoch, "batches": self._batches}
        return {**place, "batches_per_epoch": len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume where a checkpoint was written; with other batches, at the same number of them."""
        sampler = self.sampler
        if not state or not isinstance(sampler, ResumableSampler):
            return
        self._batches = state["batches"]
        if state["batches_per_epoch"] != len(self):
            logger.warning(
                "an epoch had %d batches and has %d now: the run resumes after batch %d of the "
                "new ones, and its images are not those of an unbroken run",
                *(state["batches_per_epoch"], len(self), self._batches),
            )
        sampler.seed = state["seed"]
        sampler.had_in = {state["epoch"]: self._batches * self.batch_size}
        sampler.set_epoch(state["epoch"])
