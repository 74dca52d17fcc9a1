"""Training and validation data of a segmenter for Lightning, from any of the layouts."""

import logging
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from regnet_backbones.errors import UserError
from regnet_backbones.semseg import labels, layouts, loader
from regnet_backbones.semseg.dataset import SegmentationDataset, check_pairs
from regnet_backbones.semseg.transforms import PairTransform, train_transform, val_transform
from regnet_backbones.zoo import IMAGENET_MEAN, IMAGENET_STD

logger = logging.getLogger(__name__)

LAYOUTS = (*layouts.PAIRS, "folder")

# Arguments that layout "folder" needs, and others that only it takes.
FOLDERS = ("train_images", "train_masks", "val_images", "val_masks")
OF_FOLDERS = (
    *("class_names_file", "ignore_label", "label_map", "colors", "mask_suffix"),
    *("train_list", "val_list"),
)

LEAST = {"batch_size": 1, "num_workers": 0, "crop_size": 1, "short_side": 1}


class SegmentationData(LightningDataModule):
    """Find, check and load a dataset; the number and names of its classes are known at once.

    Args:
        layout: how the dataset lies on disk.
        root: its folder. For layout "folder" optional: what the four folders and the class file
            are relative to.
        train_images: folder of the training images; this and the next three for layout "folder".
        train_masks: folder of their masks, files of the same names, or paths below the folder.
        val_images: folder of the validation images.
        val_masks: folder of their masks.
        num_classes: number of classes; 1 for binary segmentation, into background and object.
            Layout "folder" needs it or names; the others know it, and a different one is an error.
        class_names_file: text file with one class name a line; this and the next six for layout
            "folder". Two names without `num_classes` are binary segmentation, too.
        ignore_label: label of pixels that count nowhere, None for 255 (in binary masks 255 is the
            object), -1 for none.
        label_map: class, its name, or "ignore", of each label; or a text file with "LABEL CLASS" a
            line. None for labels that are the classes.
        colors: text file that says which class each colour is, "NAME R G B" a line, or its lines.
            None for masks of labels, or CVAT's `labelmap.txt` where masks lie with it.
        mask_suffix: what names of masks have after those of their images, such as "_mask".
        train_list: text file with the names of the training images, None for all of the folder.
        val_list: text file with the names of the validation images, None for all of the folder.
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
        skip_bad: warn of files that cannot be used and go on without them; all are read in full
            before the training.

    What the values in masks mean is in `hparams` in full, and with them in checkpoints: it is not
    guessed a second time.

    Attributes:
        class_names: names of the classes in their order.
        num_classes: their number, 2 for binary segmentation.
        check_everything: whether `setup` is to read all files in full.
        label_counts: what the masks of a split hold, by "train" and "val", once it is set up.

    Raises:
        UserError: arguments contradict each other or are out of range, or a folder or class file is
            not there; at `setup`, the files are not as they should be.
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
        ignore_label: int | None = None,
        label_map: dict[int | str, int | str] | str | None = None,
        colors: list[str] | str | None = None,
        mask_suffix: str = "",
        train_list: str | None = None,
        val_list: str | None = None,
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
        labels.check_numbers(self.hparams, least=LEAST)
        self._check_sources()
        if layout == "folder":
            self._labels = self._find_labels()
            self.class_names = self._labels.class_names
        else:
            names = layouts.NAMES[layout](root)
            self.class_names = labels.check_class_names(names, num_classes)
        self.num_classes = len(self.class_names)
        self.check_everything = False
        self.label_counts: dict[str, labels.LabelCounts] = {}
        drawn = ("crop_size", "scale_range", "flip", "photometric", "mean", "std", "short_side")
        self.train_transform = train_transform(**{name: self.hparams[name] for name in drawn})
        self.val_transform = val_transform(mean=mean, std=std)
        self.train_set: SegmentationDataset | None = None
        self.val_set: SegmentationDataset | None = None

    def setup(self, stage: str | None = None) -> None:
        """Find and check the files that a stage needs: both splits for "fit" and None."""
        if self.train_set is None and stage in ("fit", None):
            self.train_set = self._dataset("train", self.train_transform)
        if self.val_set is None:
            self.val_set = self._dataset("val", self.val_transform)
            trained = set() if self.train_set is None else set(self.train_set.pairs.images)
            if both := len(trained.intersection(self.val_set.pairs.images)):
                logger.warning(
                    "%d of the %d validation images are training images, too: results on them do "
                    "not say how good the model is on new images",
                    *(both, len(self.val_set)),
                )

    def train_dataloader(self) -> DataLoader:
        """Return the shuffled loader of whole batches of training crops."""
        processes, rank = 1, 0
        if self.trainer is not None:
            processes, rank = self.trainer.world_size, self.trainer.global_rank
        size = self.hparams["batch_size"]
        if size % processes:
            raise UserError(
                f"batch_size {size} cannot be shared out among {processes} processes; give a "
                f"multiple of {processes}"
            )
        if len(self.train_set) < size:
            raise UserError(
                f"batch_size {size} is more than the {len(self.train_set)} training images, which "
                "would give no batch at all; give a smaller one"
            )
        sampler = loader.ResumableSampler(self.train_set, num_replicas=processes, rank=rank)
        return loader.ResumableLoader(
            loader.SeededSamples(self.train_set),
            batch_size=size // processes,
            sampler=sampler,
            drop_last=True,
            **self._loading(),
        )

    def val_dataloader(self) -> DataLoader:
        """Return the loader of single validation images, which differ in size."""
        return loader.Loader(self.val_set, **self._loading())

    def _loading(self) -> dict[str, object]:
        """Return the options of both loaders."""
        workers = self.hparams["num_workers"]
        return {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": loader.start_worker,
        }

    def _check_sources(self) -> None:
        """Check that a layout is given what it needs and nothing that it would ignore."""
        layout, given = self.hparams["layout"], self.hparams
        if layout not in LAYOUTS:
            raise UserError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
        needed = FOLDERS if layout == "folder" else ("root",)
        if missing := [name for name in needed if given[name] is None]:
            raise UserError(f"layout {layout!r} needs {', '.join(missing)}")
        others = [k for k in (*FOLDERS, *OF_FOLDERS) if given[k] not in (None, "", [])]
        if layout != "folder" and others:
            raise UserError(f"layout {layout!r} takes no {', '.join(others)}; take layout 'folder'")

    def _find_labels(self) -> labels.Labels:
        """Return what the values in the masks of layout "folder" mean, and complete `hparams`."""
        given = self.hparams
        names, colors, label_map = (given[k] for k in ("class_names_file", "colors", "label_map"))
        if colors is None and label_map is None:
            masks = self._path(given["train_masks"])
            colors = layouts.find_color_table(masks, Path(given["root"] or masks))
        if isinstance(colors, str | Path):
            colors = labels.lines_of(self._path(colors), f"file of {labels.COLORS}")
        if label_map is not None:
            file = self._path(label_map) if isinstance(label_map, str) else label_map
            given["label_map"] = labels.read_table(file, labels.LABEL_MAP)
        given["colors"] = list(colors or [])
        if names is not None:
            source = f"class file '{self._path(names)}'"
            names = labels.lines_of(self._path(names), "class file")
            labels.check_class_names(names, source=source)
        return labels.folder_labels(
            given["num_classes"],
            names,
            ignore_label=given["ignore_label"],
            label_map=given["label_map"],
            colors=labels.read_table(colors, labels.COLORS) if colors else None,
        )

    def _dataset(self, split: layouts.Split, transform: PairTransform) -> SegmentationDataset:
        """Return the checked dataset of a split."""
        given = self.hparams
        if given["layout"] == "folder":
            listed = given[f"{split}_list"]
            pairs = layouts.folder_pairs(
                self._path(given[f"{split}_images"]),
                self._path(given[f"{split}_masks"]),
                self._labels,
                mask_suffix=given["mask_suffix"],
                listed=listed and labels.lines_of(self._path(listed), "list of images"),
            )
        else:
            pairs = layouts.PAIRS[given["layout"]](given["root"], split)
        pairs, counts = check_pairs(
            pairs, skip_bad=given["skip_bad"], everything=self.check_everything
        )
        counts.check(train=split == "train")
        self.label_counts[split] = counts
        return SegmentationDataset(pairs, transform)

    def _path(self, path: str) -> Path:
        """Return a path, below the root where there is one and the path is relative."""
        return Path(self.hparams["root"] or "") / path
