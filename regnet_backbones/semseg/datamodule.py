"""Training and validation data of a segmenter for Lightning, from any of the layouts."""

import os
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from regnet_backbones.semseg.dataset import SegmentationDataset, check_pairs
from regnet_backbones.semseg.layouts import (
    CITYSCAPES_NAMES,
    Pairs,
    ade20k_class_names,
    ade20k_pairs,
    check_class_names,
    cityscapes_pairs,
    folder_pairs,
    numbered_class_names,
    read_class_names,
)
from regnet_backbones.semseg.resuming import (
    Loader,
    ResumableLoader,
    ResumableSampler,
    SeededSamples,
)
from regnet_backbones.semseg.transforms import train_transform, val_transform
from regnet_backbones.stopping import heed_parent_only
from regnet_backbones.zoo import IMAGENET_MEAN, IMAGENET_STD

LAYOUTS = ("ade20k", "cityscapes", "folder")

# Of processes that load where the training itself computes on the CPU: a core that they take stalls
# the threads on all others.
LOWEST_PRIORITY = 19


class SegmentationData(LightningDataModule):
    """Find, check and load a dataset; the number and names of its classes are known at once.

    Args:
        layout: how the dataset lies on disk.
        root: its folder. For layout "folder" optional: what the four folders and the class file
            are relative to.
        train_images: folder of the training images; this and the next three for layout "folder".
        train_masks: folder of their masks, PNG files of the same names.
        val_images: folder of the validation images.
        val_masks: folder of their masks.
        num_classes: number of classes. Layout "folder" needs it or a class file; the others know
            it, and a different one is an error.
        class_names_file: text file with one class name a line, for layout "folder".
        crop_size: pixels, both sides of training images.
        batch_size: images per step, shared out evenly among the processes.
        num_workers: processes per process that load; 0 loads in the process itself.
        scale_range: least and largest factor by which training images are resized.
        flip: probability of mirroring left and right.
        photometric: whether to distort colours.
        short_side: pixels of the shorter side that training images and masks are resized to before
            anything else, None for the size of the files. Validation gives images and masks in
            the size of the files: the model resizes its input, see `Segmenter`.
        mean: per RGB channel, of pixels in [0, 1]; that of the encoder's weights.
        std: per RGB channel, of pixels in [0, 1]; that of the encoder's weights.
        skip_bad: warn of files that cannot be used and go on without them.

    Attributes:
        class_names: names of the classes in their order.
        num_classes: their number.
        short_side: as given, for the model.

    Raises:
        FileNotFoundError: a folder or class file is not there.
        ValueError: arguments contradict each other or are out of range; at `setup`, the files are
            not as they should be.
    """

    def __init__(
        self,
        layout: Literal["ade20k", "cityscapes", "folder"],
        root: str | None = None,
        *,
        train_images: str | None = None,
        train_masks: str | None = None,
        val_images: str | None = None,
        val_masks: str | None = None,
        num_classes: int | None = None,
        class_names_file: str | None = None,
        crop_size: int = 512,
        batch_size: int = 8,
        num_workers: int = 4,
        scale_range: tuple[float, float] = (0.5, 2.0),
        flip: float = 0.5,
        photometric: bool = True,
        short_side: int | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        skip_bad: bool = False,
    ) -> None:
        super().__init__()
        # An evaluation finds them in the checkpoint. Not for loggers, which have the model's: some
        # are of the same name.
        self.save_hyperparameters(logger=False)
        # Checkpoints with other than plain values are not loaded safely.
        paths = {name: value for name, value in self.hparams.items() if isinstance(value, Path)}
        self.hparams.update({name: str(path) for name, path in paths.items()})
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {num_workers}")
        self.layout = layout
        self.root = root
        self.folders = {
            "train_images": train_images,
            "train_masks": train_masks,
            "val_images": val_images,
            "val_masks": val_masks,
        }
        self.class_names_file = class_names_file
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.short_side = short_side
        self.skip_bad = skip_bad
        self._check_sources()
        self.class_names = self._find_class_names(num_classes)
        self.num_classes = len(self.class_names)
        self.train_transform = train_transform(
            crop_size,
            scale_range=scale_range,
            flip=flip,
            photometric=photometric,
            mean=mean,
            std=std,
            short_side=short_side,
        )
        self.val_transform = val_transform(mean=mean, std=std)
        self.train_set: SegmentationDataset | None = None
        self.val_set: SegmentationDataset | None = None

    def setup(self, stage: str | None = None) -> None:
        """Find and check the files that a stage needs: both splits for "fit" and None.

        Raises:
            FileNotFoundError: a folder is not there.
            ValueError: files are not as they should be; the message names the first of them.
        """
        if self.train_set is None and stage in ("fit", None):
            self.train_set = self._dataset("train", self.train_transform)
        if self.val_set is None:
            self.val_set = self._dataset("val", self.val_transform)

    def train_dataloader(self) -> DataLoader:
        """Return the shuffled loader of whole batches of training crops.

        Raises:
            ValueError: there are not enough images for one batch, or a batch has no equal shares.
        """
        processes = 1 if self.trainer is None else self.trainer.world_size
        share, rest = divmod(self.batch_size, processes)
        if rest:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be shared out evenly among {processes} "
                f"processes; give a multiple of {processes}"
            )
        if len(self.train_set) < self.batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is more than the {len(self.train_set)} training "
                "images, which would give no batch at all; give a smaller one"
            )
        rank = 0 if self.trainer is None else self.trainer.global_rank
        return ResumableLoader(
            SeededSamples(self.train_set),
            batch_size=share,
            sampler=ResumableSampler(self.train_set, num_replicas=processes, rank=rank),
            drop_last=True,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
        )

    def val_dataloader(self) -> DataLoader:
        """Return the loader of single validation images, which differ in size."""
        return Loader(
            self.val_set,
            batch_size=1,
            shuffle=False,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=heed_parent_only,
        )

    def _check_sources(self) -> None:
        """Check that a layout is given what it needs and nothing that it would ignore."""
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {self.layout!r}")
        lacking = [name for name, folder in self.folders.items() if folder is None]
        if self.layout == "folder":
            if lacking:
                raise ValueError(
                    f"layout 'folder' needs {', '.join(self.folders)}; missing: "
                    f"{', '.join(lacking)}"
                )
            return
        if self.root is None:
            raise ValueError(f"layout {self.layout!r} needs root, the folder of the dataset")
        ignored = [name for name in self.folders if name not in lacking]
        ignored += ["class_names_file"] if self.class_names_file is not None else []
        if ignored:
            raise ValueError(
                f"layout {self.layout!r} finds everything below root; remove "
                f"{', '.join(ignored)}, or take layout 'folder'"
            )

    def _find_class_names(self, num_classes: int | None) -> tuple[str, ...]:
        """Return the names of the classes, whose number must be the one given."""
        if self.layout == "ade20k":
            names = ade20k_class_names(self.root)
        elif self.layout == "cityscapes":
            names = CITYSCAPES_NAMES
        elif self.class_names_file is not None:
            names = read_class_names(self._path(self.class_names_file))
        elif num_classes is not None:
            names = numbered_class_names(num_classes)
            check_class_names(names)
        else:
            raise ValueError(
                "layout 'folder' needs num_classes, or class_names_file with one name a line"
            )
        if num_classes not in (None, len(names)):
            raise ValueError(
                f"num_classes is {num_classes}, but the dataset names {len(names)} classes; leave "
                "num_classes out, or correct the names"
            )
        return names

    def _dataset(self, split: str, transform: torch.nn.Module) -> SegmentationDataset:
        """Return the checked dataset of a split."""
        pairs = check_pairs(self._find_pairs(split), self.num_classes, self.skip_bad)
        return SegmentationDataset(pairs, transform, skip_bad=self.skip_bad)

    def _find_pairs(self, split: str) -> Pairs:
        """List the files of a split."""
        if self.layout == "ade20k":
            return ade20k_pairs(self.root, split)
        if self.layout == "cityscapes":
            return cityscapes_pairs(self.root, split)
        images, masks = (
            self._path(self.folders[f"{split}_{kind}"]) for kind in ("images", "masks")
        )
        return folder_pairs(images, masks, self.class_names)

    def _path(self, path: str) -> Path:
        """Return a path, below the root where there is one and the path is relative."""
        return Path(self.root or "") / path


def _start_worker(worker: int) -> None:
    """Heed the training only, and give way to it where both need the CPU."""
    heed_parent_only(worker)
    if not torch.cuda.is_available() and hasattr(os, "nice"):
        os.nice(LOWEST_PRIORITY)
