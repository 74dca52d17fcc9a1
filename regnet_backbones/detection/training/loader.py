"""Training batches that are a function of a seed and their number.

Detectron2's loader draws without end and forgets where it was: a run that is resumed begins again
with the first images. Here batch k can be had without those before it: images are put together on
their indices, before any is read, and each drawing is augmented with random numbers of its own,
whichever process does it. The sampler, the groups by aspect ratio and the mapper are detectron2's
(`detectron2/data/build.py`).
"""

import itertools
import logging
import random
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_train_loader
from detectron2.data.build import trivial_batch_collator
from detectron2.data.common import AspectRatioGroupedDataset, DatasetFromList
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.serialize import PicklableWrapper
from PIL import Image
from torch import Generator
from torch.utils.data import DataLoader, Dataset, Sampler

from regnet_backbones.detection.data_checks import kinds
from regnet_backbones.detection.training.mappers import Mapper
from regnet_backbones.errors import UserError
from regnet_backbones.runs.image_files import UNREADABLE, upright_size
from regnet_backbones.runs.randomness import seed_of, seeded
from regnet_backbones.runs.stopping import heed_parent_only

# Where random numbers are for: see `randomness.seed_of`.
SAMPLES = 0

logger = logging.getLogger(__name__)


def build_train_loader(cfg: CfgNode, mapper: Mapper) -> Iterable[list[dict]]:
    """Build the batches of `DATASETS.TRAIN`, as `DATALOADER` and `SOLVER.IMS_PER_BATCH` say.

    Args:
        cfg: `SEED` is that of the batches; below 0 one is drawn, for all processes the same.
        mapper: reads and augments the image of a record; None for one that cannot be used.

    Returns:
        A `TrainLoader`; for datasets that are no lists of records detectron2's own loader.

    Raises:
        ValueError: the images of a batch cannot be shared by the processes, the sampler is unknown,
            or no image has anything to train on.
    """
    processes = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH % processes:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH must be a multiple of the {processes} processes, got "
            f"{cfg.SOLVER.IMS_PER_BATCH}"
        )
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    try:
        parts = _detectron2s_parts(cfg, mapper, seed)
    except AssertionError as error:
        if not str(error).startswith("No valid data"):
            raise
        sources = (MetadataCatalog.get(n).get("data_source", n) for n in cfg.DATASETS.TRAIN)
        names = ", ".join(f"'{source}'" for source in sources)
        raise UserError(f"{names}: {kinds.NOTHING.text}") from error
    if not isinstance(parts["dataset"], list):
        logger.warning(
            "DATASETS.TRAIN has no list of records, but a %s: detectron2's own loader reads it, "
            "and a resumed run begins again with its first images",
            type(parts["dataset"]).__name__,
        )
        return build_detection_train_loader(cfg, mapper=mapper, dataset=parts["dataset"])
    records = DatasetFromList(parts["dataset"], copy=False)
    return TrainLoader(
        records,
        mapper,
        lambda seed: _detectron2s_parts(cfg, mapper, seed, records)["sampler"],
        sizes=_sizes(parts["dataset"]),
        seed=seed,
        batch_size=cfg.SOLVER.IMS_PER_BATCH // processes,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


class TrainLoader:
    """The endless batches of this process, lists of mapped records.

    Args:
        records: the dataset, in detectron2's form.
        mapper: reads and augments the image of a record; None for one that cannot be used.
        build_sampler: returns the endless indices of this process for a seed.
        sizes: width and height of each record's image, (N, 2); -1 where its file is to be asked.
        seed: of the order and of the augmentation.
        batch_size: records in a batch of this process.
        aspect_ratio_grouping: put wide images together, and others.
        num_workers: processes that read; 0 reads in this one.

    Attributes:
        records: as given.
        seed: that which was given, or that which the loader goes on with.
        first_batch: how many batches the next iteration leaves out, without reading an image.
    """

    def __init__(
        self,
        records: Dataset,
        mapper: Mapper,
        build_sampler: Callable[[int], Sampler],
        *,
        sizes: np.ndarray,
        seed: int,
        batch_size: int,
        aspect_ratio_grouping: bool = True,
        num_workers: int = 0,
    ):
        self.records, self._mapper = records, PicklableWrapper(mapper)
        self._build_sampler, self._sampler = build_sampler, build_sampler(seed)
        self._sizes = sizes
        self._batch_size = batch_size
        self._aspect_ratio_grouping = aspect_ratio_grouping
        self._num_workers = num_workers
        self.seed, self.first_batch = seed, 0

    def go_on(self, *, seed: int, batch: int) -> None:
        """Let the next iteration begin with a batch of the order of a seed."""
        if seed != self.seed:
            self.seed, self._sampler = seed, self._build_sampler(seed)
        self.first_batch = batch

    def __iter__(self) -> Iterator[list[dict]]:
        # Nothing is done before the first batch is asked for: detectron2 0.6 asks for an iterator
        # before it knows the iteration that a run goes on from.
        yield from self._read(self.first_batch, self._num_workers)

    def repeat_first(self, count: int) -> Iterator[list[dict]]:
        """Yield the first `count` batches again and again, read in this process."""
        while True:
            yield from itertools.islice(self._read(0, num_workers=0), count)

    def _read(self, first: int, num_workers: int) -> Iterator[list[dict]]:
        """Yield the batches from the given one on."""
        return iter(
            DataLoader(
                _Samples(self.records, self._mapper, self.seed),
                batch_sampler=itertools.islice(self._batches(), first, None),
                num_workers=num_workers,
                collate_fn=trivial_batch_collator,
                worker_init_fn=heed_parent_only,
                generator=Generator(),  # the loader would draw a number of the model's
            )
        )

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        """Yield batches of what is drawn: index, and position in the order of all processes."""
        positions = itertools.count(comm.get_rank(), comm.get_world_size())
        drawn = zip(self._sampler, positions, strict=True)
        if not self._aspect_ratio_grouping:
            while True:
                yield list(itertools.islice(drawn, self._batch_size))
        shapes = ({"drawn": pair, **self._shape(pair[0])} for pair in drawn)
        for batch in AspectRatioGroupedDataset(shapes, self._batch_size):
            yield [shape["drawn"] for shape in batch]

    def _shape(self, index: int) -> dict[str, int]:
        """Return the size of an image in the form of a record."""
        if self._sizes[index, 0] < 0:
            self._sizes[index] = _size_of_file(self.records[index]["file_name"])
        return {"width": self._sizes[index, 0], "height": self._sizes[index, 1]}


class _Samples(Dataset):
    """The mapped records by what is drawn: index and position."""

    def __init__(self, records: Dataset, mapper: Mapper, seed: int):
        self.records, self.mapper, self.seed = records, mapper, seed

    def __getitem__(self, drawn: tuple[int, int]) -> dict:
        index, position = drawn
        with seeded(seed_of(self.seed, SAMPLES, position)):
            for tries, candidate in enumerate(self._candidates(index)):
                sample = self.mapper(self.records[candidate])
                if sample is not None:
                    return sample
                if tries == 2:  # detectron2's MapDataset is silent as long
                    logger.warning("3 records in a row, from %d on, gave no sample", index)
        raise UserError(
            f"the mapper returned None for each of the {len(self.records)} records; check the "
            "datasets of DATASETS.TRAIN"
        )

    def _candidates(self, index: int) -> Iterator[int]:
        """Yield an index and, where that cannot be used, all in random order.

        What MapDataset takes instead depends on what the process has read before.
        """
        yield index
        yield from random.sample(range(len(self.records)), len(self.records))


def _detectron2s_parts(
    cfg: CfgNode, mapper: Mapper, seed: int, dataset: Dataset | None = None
) -> dict[str, object]:
    """Return what detectron2 builds its loader of, dataset and sampler among it, for a seed."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SEED = seed  # upstream's samplers take it from there, 0.6's draw theirs
    with seeded(seed):
        return build_detection_train_loader.from_config(cfg, mapper=mapper, dataset=dataset)


def _sizes(records: list[dict]) -> np.ndarray:
    """Return widths and heights, (N, 2), -1 where a record says nothing."""
    return np.array([(r.get("width", -1), r.get("height", -1)) for r in records], dtype=np.int64)


def _size_of_file(path: str) -> tuple[int, int]:
    """Return width and height of an image as detectron2 turns it, from its head alone."""
    try:
        with PathManager.open(path, "rb") as file, Image.open(file) as image:
            return upright_size(image)
    except UNREADABLE:
        return 0, 0  # the mapper says so
