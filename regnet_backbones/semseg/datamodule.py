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
from regnet_backbones.semseg.coco import coco_labels, coco_masks
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
        layout: layout of the dataset on disk.
        root: folder of the dataset; optional for layouts "folder" and "coco", whose other paths may
            be relative to it.
        train_images: folder of the training images (layouts "folder" and "coco").
        train_masks: folder of the training masks, named like the images; with a panoptic COCO json,
            folder of its PNGs.
        val_images: folder of the validation images.
        val_masks: folder of the validation masks.
        num_classes: number of classes; 1 for background and object. Layout "folder" needs it or
            class names; other layouts check it.
        train_json: COCO json of the training images, instances or panoptic (layout "coco").
        val_json: COCO json of the validation images, with the same categories.
        background: make pixels of no instance class 0 (true) or ignore them (false). None: class 0,
            but ignored in a panoptic json.
        class_names_file: text file with one class name per line (this and all options to `val_list`
            are for layout "folder"). Two names without `num_classes` mean background and object.
        ignore_label: label of ignored pixels; None for 255 (the object in binary masks), -1 for no
            such label.
        label_map: map of labels to a class number, a class name or "ignore", or a text file with
            "LABEL CLASS" per line; None if labels are class numbers.
        colors: text file with "NAME R G B" per line, such as CVAT's `labelmap.txt`, or its lines;
            None if masks have labels.
        mask_suffix: ending of mask names after the image name, such as "_mask".
        train_list: text file with the names of the training images; None for the whole folder.
        val_list: text file with the names of the validation images; None for the whole folder.
        crop_size: side of the square training crops, in pixels.
        batch_size: images per step in all processes together.
        num_workers: processes that load data, for each training process; 0 loads in the training
            process.
        scale_range: smallest and largest factor for resizing training images at random. Recipes of
            80,000 or more steps use 0.5 to 2; it lowers the mIoU of short trainings.
        flip: probability of a horizontal flip.
        photometric: distort brightness, contrast, saturation and hue.
        augmentation: your own augmentation instead of `scale_range`, `flip` and `photometric`:
            `module:function` or `module:Class`. It gets an image, uint8 (H, W, 3), and a mask of
            classes and 255, uint8 (H, W), as numpy arrays resized to `short_side`, and returns both
            in any size. Crop and normalisation follow.
        short_side: shorter side that training images are resized to first, in pixels; None keeps
            their size. For validation see `Segmenter`.
        mean: mean per RGB channel, for pixels in [0, 1], as the encoder's weights expect. With one
            number for `mean` and for `std`, images are read as grey, for a network of one channel.
        std: standard deviation per RGB channel, for pixels in [0, 1].
        skip_bad: read all files before the training and skip unreadable ones with a warning.

    Attributes:
        class_names: names of the `num_classes` classes in their order, 2 for binary segmentation.
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
        label_map: dict[int | str, int | str | float | bool | None] | str | None = None,
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
            better = f"leave out, or use layout '{foreign[others[0]] or 'folder'}'"
            raise UserError(f"layout {layout!r} has no {', '.join(others)}; {better}")
        if layout == "folder":
            self._labels = self._find_labels()
            self.class_names = self._labels.class_names
        elif layout == "coco":
            # Of the validation, which is there when a trained model is evaluated, too.
            self._labels = coco_labels(self._path(val_json), background, num_classes)
            self.class_names = self._labels.class_names
        else:
            names = layouts.NAMES[layout](self._path(""))
            self.class_names = check_class_names(names, num_classes)
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
                dataset.find_augmentation(augmentation)
            self.train_set = self._dataset("train", self.train_transform)
        if self.val_set is None:
            self.val_set = self._dataset("val", self.val_transform)
            trained = set(self.train_set.pairs.images) if self.train_set else set()
            if both := len(trained.intersection(self.val_set.pairs.images)):
                text = "%d of the %d validation images are also training images"
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
            if wrong := [of for of in label_map.values() if type(of) not in (int, str)]:
                rule = "class numbers or names; put names such as no, yes and null in quotes"
                raise UserError(f"{labels.LABEL_MAP} must map to {rule}, got {wrong[0]!r}")
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
            json_file, images = (
                self._path(given[f"{split}_{kind}"]) for kind in ("json", "images")
            )
            masks = given[f"{split}_masks"] and self._path(given[f"{split}_masks"])
            layouts.check_folder(images, "image folder")
            if masks:
                layouts.check_folder(masks, "mask folder")
            options = {"background": given["background"], "panoptic_root": masks}
            found = coco_masks(json_file, images, self._labels, **options)
            pairs = layouts.Pairs(*found, self._labels)
        else:
            pairs = layouts.PAIRS[given["layout"]](self._path(""), split)
        everything = self.check_everything
        pairs, counts = check_pairs(pairs, skip_bad=given["skip_bad"], everything=everything)
        counts.check(train=split == "train")
        self.label_counts[split] = counts
        return SegmentationDataset(pairs, transform, channels=len(given["mean"]))

    def _path(self, path: str) -> Path:
        """Return a path, below the root if that is given and the path is relative.

        A shell leaves `~` alone in `--data.root=~/mine`, and YAML does in any place.
        """
        return Path(self.hparams["root"] or "").expanduser() / Path(path).expanduser()

    def _lines(self, path: str) -> list[str]:
        return labels.lines_of(self._path(path))
