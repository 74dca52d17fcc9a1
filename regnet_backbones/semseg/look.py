"""A look at the data of a segmenter before the first step: see `regnet_backbones.runs.look`."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from regnet_backbones.runs.look import PICTURES, mosaic, show, table_of
from regnet_backbones.semseg import overlays
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.labels import IGNORE, IGNORED


class Look(Callback):
    """Look at the data when a training starts, in its first process; not when one is resumed.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, and write the picture unless the run draws none."""
        if trainer.is_global_zero and not trainer.ckpt_path:
            look_at(trainer.datamodule, self.folder, picture=pl_module.hparams["pictures"] > 0)


def look_at(data: SegmentationData, folder: Path, *, picture: bool = True) -> None:
    """Print how often classes are, and write training images with their masks to `data.png`."""
    show(folder, table=lambda: _table(data), picture=(lambda: _picture(data)) if picture else None)


def _table(data: SegmentationData) -> str:
    """Format the share of each class in the pixels of both splits, and the masks that have it."""
    classes = [*range(data.num_classes), IGNORE]
    headers, columns = ["class"], [[*data.class_names, IGNORED]]
    for split, counts in data.label_counts.items():
        headers += [f"{split} pixels", f"of {counts.looked_at:,} masks"]
        total = max(counts.pixels.total(), 1)
        columns.append([f"{counts.classes[k] / total:.2%}" for k in classes])
        columns.append([counts.masks[k] for k in classes])
    return table_of(headers, list(zip(*columns, strict=True)))


def _picture(data: SegmentationData) -> Image.Image:
    """Draw training images, as they come out of the augmentation, next to their masks."""
    colors, count = overlays.palette(data.num_classes), len(data.train_set)
    items = [data.train_set[k] for k in sorted({i * count // PICTURES for i in range(PICTURES)})]
    options = {"colors": colors, "mean": data.hparams["mean"], "std": data.hparams["std"]}
    drawn = [overlays.side_by_side(item["image"], item["mask"], **options) for item in items]
    present = sorted({k for item in items for k in item["mask"].unique().tolist()} - {IGNORE})
    return overlays.with_legend(mosaic(drawn), [(data.class_names[k], colors[k]) for k in present])
