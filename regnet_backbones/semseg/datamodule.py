"""Training and validation data of a segmenter for Lightning, from any of the layouts."""

import logging
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from regnet_backbones.errors import UserError
from regnet_backbones.runs.stopping import heed_parent_only
from regnet_backbones.semseg import dataset, labels, layouts
from regnet_backbones.semseg.coco import coco_labels
from regnet_backbones.semseg.dataset import PairTransform, SegmentationDataset, check_pairs
from regnet_backbones.semseg.labels import LabelCounts, Labels, check_class_names
from regnet_backbones.semseg.loader import ResumableLoader, ResumableSampler
from regnet_backbones.zoo import IMAGENET_MEAN, IMAGENET_STD

logger = logging.getLogger(__name__)

# Arguments that a layout needs (others than these: the root), and all that some layouts take.
FOLDERS = ("train_images", "train_masks", "val_images", "val_masks")
JSONS = ("train_json", "train_images", "val_json", "val_images")
NEEDED = {"folder": FOLDERS, "coco": JSONS}
TAKEN = {
    "folder": (
        *FOLDERS,
        *("class_names_file", "ignore_label", "label_map", "colors", "mask_suffix"),
        *("train_list", "val_list"),
    ),
    "coco": (*JSONS, "train_masks", "val_masks", "background"),
}


class SegmentationData(LightningDataModule):
    """Find, check and load a dataset; the number and names of its classes are known at once.

    Args:
        layout: how the dataset lies on disk.
        root: its folder; of layouts "folder" and "coco" what other paths are relative to, if it is
            given.
        train_images: folder of the training images; this and the next three for layouts "folder"
            and "coco".
        train_masks: folder of their masks, files of the same names, or paths below the folder; of
            layout "coco" that of the PNGs of a panoptic json.
        val_images: folder of the validation images.
        val_masks: folder of their masks.
        num_classes: number of classes; 1 for binary segmentation, into background and object.
            Layout "folder" needs it or names; the others know it, and a different one is an error.
        train_json: COCO json of the training images, with instances or panoptic; this and the next
            two for layout "coco".
        val_json: that of the validation images, with the same categories.
        background: whether pixels of no instance are a class, 0, or are ignored. None: they are a
            class, and in a panoptic json they are ignored.
        class_names_file: text file with one class name a line; this and the next six for layout
            "folder". Two names without `num_classes` are binary segmentation, too.
        ignore_label: label of pixels that count nowhere, None for 255 (in binary masks 255 is the
            object), -1 for none.
        label_map: class, its name, or "ignore", of each label; or a text file with "LABEL CLASS" a
            line. None for labels that are the classes.
        colors: text file that says which class each colour is, "NAME R G B" a line (CVAT's
            `labelmap.txt` is one), or its lines. None for masks of labels.
        mask_suffix: what names of masks have after those of their images, such as "_mask".
        train_list: text file with the names of the training images, None for all of the folder.
        val_list: text file with the names of the validation images, None for all of the folder.
        crop_size: pixels, both sides of training images.
        batch_size: images per step, shared out evenly among the processes.
        num_workers: processes per process that load; 0 loads in the process itself.
        scale_range: least and largest factor by which training images are resized. Published
            recipes of 80,000 steps and more have 0.5 to 2, which costs short trainings mIoU.
        flip: probability of mirroring left and right.
        photometric: whether to distort colours, as published recipes do, too.
        augmentation: your own in place of `scale_range`, `flip` and `photometric`, as
            `module:function` or `module:Class`: a callable from an image, uint8 (H, W, 3), and a
            mask, uint8 (H, W) of classes and 255, numpy arrays resized to `short_side`, to the same
            of any size. The crop and the normalisation follow. It is imported for a training only.
        short_side: pixels of the shorter side that training images and masks are resized to first,
            None for the size of the files. Those of validation keep it, see `Segmenter`.
        mean: per RGB channel, of pixels in [0, 1]; that of the encoder's weights. One number for
            `mean` and for `std`: images are read as grey, and the network takes one channel.
        std: per RGB channel, of pixels in [0, 1]; that of the encoder's weights.
        skip_bad: read all files before the training, and leave out bad ones with a warning.

    Attributes:
        class_names: names of the classes in their order.
        num_classes: their number, 2 for binary segmentation.
        check_everything: whether `setup` is to read all files in full.
        label_counts: what the masks of a split hold, by "train" and "val", once it is set up.

    Raises:
        UserError: arguments contradict each other; at `setup`, files are missing or bad.
    """

    def __init__(
        self,
        layout: Literal["ade20k", "cityscapes", "coco", "folder"],
        root: str | None = None,
        *,
        train_images: str | None = None,
        train_masks: str | None = None,
        val_images: str | None = None,
        val_masks: str | None = None,
        num_classes: int | None = None,
        train_json: str | None = None,
        val_json: str | None = None,
        background: bool | None = None,
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
        scale_range: tuple[float, float] = (0.9, 1.1),
        flip: float = 0.5,
        photometric: bool = False,
        augmentation: str | None = None,
        short_side: int | None = None,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        skip_bad: bool = False,
    ) -> None:
        super().__init__()
        # For evaluations. Loggers have the model's, of which some are of the same name.
        self.save_hyperparameters(logger=False)
        given = self.hparams  # plain values, for checkpoints
        given.update({name: str(v) for name, v in given.items() if isinstance(v, Path)})
        if missing := [name for name in NEEDED.get(layout, ("root",)) if given[name] is None]:
            raise UserError(f"layout {layout!r} needs {', '.join(missing)}")
        foreign = {k: of for of, names in TAKEN.items() for k in names} | dict.fromkeys(FOLDERS)
        others = [k for k in foreign if k not in TAKEN.get(layout, ())]
        if others := [k for k in others if given[k] not in (None, "", [])]:
            better = f"take layout '{foreign[others[0]] or 'folder'}'"
            raise UserError(f"layout {layout!r} takes no {', '.join(others)}; {better}")
        if layout == "folder":
            self._labels = self._find_labels()
            self.class_names = self._labels.class_names
        elif layout == "coco":
            # Of the validation, which is there when a trained model is evaluated, too.
            self._labels = coco_labels(self._path(val_json), background, num_classes)
            self.class_names = self._labels.class_names
        else:
            self.class_names = check_class_names(layouts.NAMES[layout](root), num_classes)
        self.num_classes = len(self.class_names)
        self.check_everything = False
        self.label_counts: dict[str, LabelCounts] = {}
        drawn = ("crop_size", "scale_range", "flip", "photometric", "augmentation", "mean", "std")
        drawn += ("short_side",)
        self.train_transform = dataset.train_transform(**{name: given[name] for name in drawn})
        self.val_transform = dataset.val_transform(mean=mean, std=std)
        self.train_set: SegmentationDataset | None = None
        self.val_set: SegmentationDataset | None = None

    def setup(self, stage: str | None = None) -> None:
        """Find and check the files that a stage needs: both splits for "fit" and None."""
        if self.train_set is None and stage in ("fit", None):
            if (augmentation := self.hparams["augmentation"]) is not None:
                dataset.find_callable(augmentation)
            self.train_set = self._dataset("train", self.train_transform)
        if self.val_set is None:
            self.val_set = self._dataset("val", self.val_transform)
            trained = set(self.train_set.pairs.images) if self.train_set else set()
            if both := len(trained.intersection(self.val_set.pairs.images)):
                text = "%d of the %d validation images are training images, too"
                logger.warning(text, both, len(self.val_set))

    def train_dataloader(self) -> DataLoader:
        """Return the shuffled loader of whole batches of training crops."""
        processes, rank = 1, 0
        if self.trainer is not None:
            processes, rank = self.trainer.world_size, self.trainer.global_rank
        size, images = self.hparams["batch_size"], len(self.train_set)
        if size % processes or size > images:
            limits = f"a multiple of {processes} (processes) and at most {images} (training images)"
            raise UserError(f"batch_size must be {limits}, got {size}")
        sampler = ResumableSampler(self.train_set, num_replicas=processes, rank=rank)
        options = {"batch_size": size // processes, "sampler": sampler, "drop_last": True}
        return self._loader(self.train_set, **options)

    def val_dataloader(self) -> DataLoader:
        """Return the loader of single validation images, which differ in size."""
        return self._loader(self.val_set)

    def _loader(self, samples: Dataset, **options: object) -> ResumableLoader:
        workers = self.hparams["num_workers"]
        return ResumableLoader(
            samples,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=heed_parent_only,
            **options,
        )

    def _find_labels(self) -> Labels:
        """Return what the values in the masks of layout "folder" mean, and complete `hparams`."""
        given = self.hparams
        names, colors, label_map = (given[k] for k in ("class_names_file", "colors", "label_map"))
        if isinstance(colors, str):
            colors = given["colors"] = self._lines(colors)
        if isinstance(label_map, dict):
            label_map = [f"{value}: {of}" for value, of in label_map.items()]
        elif label_map is not None:
            label_map = self._lines(label_map)
        if label_map is not None:
            label_map = given["label_map"] = labels.read_table(label_map, labels.LABEL_MAP)
        return labels.folder_labels(
            given["num_classes"],
            names and self._lines(names),
            ignore_label=given["ignore_label"],
            label_map=label_map,
            colors=None if colors is None else labels.read_table(colors, labels.COLORS),
        )

    def _dataset(self, split: str, transform: PairTransform) -> SegmentationDataset:
        """Return the checked dataset of a split."""
        given = self.hparams
        if given["layout"] == "folder":
            folders = (self._path(given[f"{split}_{kind}"]) for kind in ("images", "masks"))
            names = given[f"{split}_list"] and self._lines(given[f"{split}_list"])
            options = {"mask_suffix": given["mask_suffix"], "listed": names}
            pairs = layouts.folder_pairs(*folders, self._labels, **options)
        elif given["layout"] == "coco":
            paths = (self._path(given[f"{split}_{kind}"]) for kind in ("json", "images"))
            masks = given[f"{split}_masks"] and self._path(given[f"{split}_masks"])
            options = {"background": given["background"], "masks": masks}
            pairs = layouts.coco_pairs(*paths, self._labels, **options)
        else:
            pairs = layouts.PAIRS[given["layout"]](given["root"], split)
        everything = self.check_everything
        pairs, counts = check_pairs(pairs, skip_bad=given["skip_bad"], everything=everything)
        counts.check(train=split == "train")
        self.label_counts[split] = counts
        return SegmentationDataset(pairs, transform, channels=len(given["mean"]))

    def _path(self, path: str) -> Path:
        """Return a path, below the root if that is given and the path is relative."""
        return Path(self.hparams["root"] or "") / path

    def _lines(self, path: str) -> list[str]:
        return labels.lines_of(self._path(path))
