"""Training batches that are a function of a seed and their number, and how images are read.

Detectron2's loader forgets where it was: a resumed run begins again with the first images. Here
batch k can be had without reading those before it, and each drawing is augmented with random
numbers of its own. Sampler, groups by aspect ratio and mapper are detectron2's.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from functools import partial
from pkgutil import resolve_name

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.data.build import trivial_batch_collator
from detectron2.data.common import AspectRatioGroupedDataset, DatasetFromList
from detectron2.data.detection_utils import build_augmentation
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from PIL import Image
from torch import Generator
from torch.utils.data import DataLoader, Dataset, Subset

from regnet_backbones.detection.architectures import architecture_of
from regnet_backbones.detection.config import changed
from regnet_backbones.errors import UserError
from regnet_backbones.runs.functions import find_function
from regnet_backbones.runs.image_files import depth_problem, sample, upright_size
from regnet_backbones.runs.resume import SAMPLES, seed_of, seeded
from regnet_backbones.runs.stopping import heed_parent_only

Mapper = Callable[[dict], dict | None]


def images_per_process(cfg: CfgNode, processes: int) -> int:
    """Return how many images of a batch each process has; raise UserError for a remainder."""
    images = cfg.SOLVER.IMS_PER_BATCH
    if images % processes:
        rule = f"a multiple of the {processes} processes"
        raise UserError(f"SOLVER.IMS_PER_BATCH must be {rule}, got {images}")
    return images // processes


class TrainLoader:
    """The endless batches of `DATASETS.TRAIN` in this process: lists of mapped records."""

    def __init__(self, cfg: CfgNode, mapper: Mapper):
        self._batch_size = images_per_process(cfg, comm.get_world_size())
        with seeded(0):  # a sampler draws its seed
            records = build_detection_train_loader.from_config(cfg, mapper=mapper)["dataset"]
        self.records = DatasetFromList(records, copy=False)
        self._cfg, self._mapper = cfg, PicklableWrapper(mapper)
        # Width and height of each image; -1 where its file is to be asked.
        sizes = [(record.get("width", -1), record.get("height", -1)) for record in records]
        self._sizes = np.array(sizes, dtype=np.int64)
        self._seed = -1
        self.resume(seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(), batch=0)

    def resume(self, *, seed: int, batch: int) -> None:
        """Let the next iteration begin with a batch of the order of a seed."""
        if seed != self._seed:
            # Upstream's samplers take the seed from the config, 0.6's draw theirs.
            cfg = changed(self._cfg, "SEED", seed)
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
            with Image.open(self.records[index]["file_name"]) as image:
                self._sizes[index] = upright_size(image)
        return {"width": self._sizes[index, 0], "height": self._sizes[index, 1]}


class _Samples(Dataset):
    """The mapped records by what is drawn: index and position."""

    def __init__(self, records: Dataset, mapper: Mapper, seed: int):
        self.records, self.mapper, self.seed = records, mapper, seed

    def __getitem__(self, drawn: tuple[int, int]) -> dict:
        index, position = drawn
        with seeded(seed_of(self.seed, SAMPLES, position)):
            sample, count = self.mapper(self.records[index]), len(self.records)
            if sample is None:  # it cannot be used
                others = (self.records[other] for other in random.sample(range(count), count))
                sample = next((s for s in map(self.mapper, others) if s is not None), None)
        if sample is None:
            raise UserError(f"none of {count} training images is usable; check the annotations")
        return sample


def build_test_loader(
    cfg: CfgNode, dataset_name: str, images: int | None = None, mapper: Mapper | None = None
) -> DataLoader:
    """Build the batches of an evaluation, of `images` spread over a dataset or of all."""
    mapper = mapper or partial(_map_8_bits, DatasetMapper(cfg, is_train=False))
    loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
    if images is not None and images < len(loader.dataset):
        chosen = sample(range(len(loader.dataset)), images)
        some, workers = Subset(loader.dataset, chosen), loader.num_workers
        loader = build_detection_test_loader(some, mapper=None, num_workers=workers)
    loader.worker_init_fn = heed_parent_only
    return loader


def train_mapper(cfg: CfgNode) -> Mapper:
    """Return what makes a training input of a dataset's record, in the way of the architecture."""
    return _train_mapper(cfg, own_augmentations(cfg))


def loss_mapper(cfg: CfgNode) -> Mapper:
    """Return what makes a training input of an image as it is evaluated, without augmentation."""
    cfg = changed(cfg, "INPUT.CROP.ENABLED", False)  # or boxes would be those of masks
    return _train_mapper(cfg, build_augmentation(cfg, is_train=False))


def own_augmentations(cfg: CfgNode) -> list[T.Augmentation | T.Transform] | None:
    """Return what the function of `INPUT.AUGMENTATION` returns; None for no function."""
    name, key = cfg.INPUT.AUGMENTATION, "INPUT.AUGMENTATION"
    if not name:
        return None
    made = find_function(name, key)(cfg)
    kinds = T.Augmentation | T.Transform
    if not isinstance(made, list) or not all(isinstance(each, kinds) for each in made):
        raise UserError(
            f"{key}: '{name}' must return a list of Augmentations and Transforms, got {made!r}"
        )
    return made


def _train_mapper(cfg: CfgNode, augmentations: list[T.Augmentation] | None) -> Mapper:
    """Return the mapper of an architecture; None for the augmentations of the config."""
    build = architecture_of(cfg).mapper
    build = resolve_name(build) if build else partial(DatasetMapper, is_train=True)
    options = {} if augmentations is None else {"augmentations": augmentations}
    return partial(_map_8_bits, build(cfg, **options))


def _map_8_bits(mapper: Mapper, record: dict) -> dict | None:
    """Map a record, unless its image has more bits, which detectron2 reads as white."""
    with Image.open(record["file_name"]) as image:
        problem = depth_problem(image)
    if problem:
        raise UserError(f"image '{record['file_name']}' {problem}")
    return mapper(record)


def segmenter_train_mapper(
    cfg: CfgNode, augmentations: list[T.Augmentation] | None = None
) -> DatasetMapper:
    """Return what reads and augments a training image of a segmenter and its mask.

    Default: resize, crop with at most `INPUT.CROP.SINGLE_CATEGORY_MAX_AREA` of one class, flip, and
    change colours (`INPUT.COLOR_AUG_SSD`).
    """
    if augmentations is not None:
        return DatasetMapper(cfg, is_train=True, augmentations=augmentations)
    crop = cfg.INPUT.CROP
    augmentations = build_augmentation(cfg, is_train=True)  # resize, flip
    if crop.ENABLED:
        ignored = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        limits = (crop.TYPE, crop.SIZE, crop.SINGLE_CATEGORY_MAX_AREA, ignored)
        augmentations.insert(1, T.RandomCrop_CategoryAreaConstraint(*limits))
    if cfg.INPUT.COLOR_AUG_SSD:
        from detectron2.projects.point_rend import ColorAugSSDTransform

        augmentations.append(ColorAugSSDTransform(img_format=cfg.INPUT.FORMAT))
    return DatasetMapper(cfg, is_train=True, augmentations=augmentations)
