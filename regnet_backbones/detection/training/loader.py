"""Training batches that are a function of a seed and their number.

Detectron2's loader forgets where it was: a resumed run begins again with the first images. Here
batch k can be had without reading those before it, and each drawing is augmented with random
numbers of its own. Sampler, groups by aspect ratio and mapper are detectron2's.
"""

import itertools
import logging
import random
from collections.abc import Iterable, Iterator

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
from torch.utils.data import DataLoader, Dataset

from regnet_backbones.detection.data_checks import kinds
from regnet_backbones.detection.training.mappers import Mapper
from regnet_backbones.errors import UserError
from regnet_backbones.runs.image_files import UNREADABLE, upright_size
from regnet_backbones.runs.resume import SAMPLES, seed_of, seeded
from regnet_backbones.runs.stopping import heed_parent_only

logger = logging.getLogger(__name__)


def build_train_loader(cfg: CfgNode, mapper: Mapper) -> Iterable[list[dict]]:
    """Build the batches of `DATASETS.TRAIN`, of a seed that is drawn where `SEED` is below 0.

    Datasets that are not lists of records get detectron2's own loader.
    """
    images, processes = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    if images % processes:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH must be a multiple of the {processes} processes, got {images}"
        )
    try:
        with seeded(0):  # a sampler draws its seed
            records = build_detection_train_loader.from_config(cfg, mapper=mapper)["dataset"]
    except AssertionError as error:
        if not str(error).startswith("No valid data"):
            raise
        sources = (MetadataCatalog.get(n).get("data_source", n) for n in cfg.DATASETS.TRAIN)
        names = ", ".join(f"'{source}'" for source in sources)
        raise UserError(f"{names}: {kinds.NOTHING.text}") from error
    if isinstance(records, list):
        return TrainLoader(cfg, mapper, records)
    logger.warning(
        "DATASETS.TRAIN is a %s and not a list of records: detectron2's own loader reads it, and a "
        "resumed run begins again with its first images",
        type(records).__name__,
    )
    return build_detection_train_loader(cfg, mapper=mapper, dataset=records)


class TrainLoader:
    """The endless batches of this process, lists of mapped `records`; see `build_train_loader`."""

    def __init__(self, cfg: CfgNode, mapper: Mapper, records: list[dict]):
        self.records = DatasetFromList(records, copy=False)
        self._cfg, self._mapper = cfg, PicklableWrapper(mapper)
        self._batch_size = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
        # Width and height of each image; -1 where its file is to be asked.
        sizes = [(record.get("width", -1), record.get("height", -1)) for record in records]
        self._sizes = np.array(sizes, dtype=np.int64)
        self._seed = -1
        self.resume(seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(), batch=0)

    def resume(self, *, seed: int, batch: int) -> None:
        """Let the next iteration begin with a batch of the order of a seed."""
        if seed != self._seed:
            cfg = self._cfg.clone()
            cfg.defrost()
            cfg.SEED = seed  # upstream's samplers take it from there, 0.6's draw theirs
            with seeded(seed):
                parts = build_detection_train_loader.from_config(
                    cfg, mapper=self._mapper, dataset=self.records
                )
            self._seed, self._sampler = seed, parts["sampler"]
        self._first_batch = batch

    def __iter__(self) -> Iterator[list[dict]]:
        # A generator: detectron2 0.6 asks for it before it knows the iteration to resume at.
        yield from self._read(self._first_batch, self._cfg.DATALOADER.NUM_WORKERS)

    def repeat_first(self, count: int) -> Iterator[list[dict]]:
        """Yield the first `count` batches again and again, read in this process."""
        while True:
            yield from itertools.islice(self._read(0, num_workers=0), count)

    def _read(self, first: int, num_workers: int) -> Iterator[list[dict]]:
        """Yield the batches from the given one on."""
        return iter(
            DataLoader(
                _Samples(self.records, self._mapper, self._seed),
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
        if not self._cfg.DATALOADER.ASPECT_RATIO_GROUPING:
            while True:
                yield list(itertools.islice(drawn, self._batch_size))
        shapes = ({"drawn": pair, **self._shape(pair[0])} for pair in drawn)
        for batch in AspectRatioGroupedDataset(shapes, self._batch_size):
            yield [shape["drawn"] for shape in batch]

    def _shape(self, index: int) -> dict[str, int]:
        """Return the size of an image, as detectron2 turns it, in the form of a record."""
        if self._sizes[index, 0] < 0:
            try:
                with (
                    PathManager.open(self.records[index]["file_name"], "rb") as file,
                    Image.open(file) as image,
                ):
                    self._sizes[index] = upright_size(image)
            except UNREADABLE:
                self._sizes[index] = 0  # the mapper will say why
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
        """Yield an index and, where that cannot be used, all in random order."""
        yield index
        yield from random.sample(range(len(self.records)), len(self.records))
