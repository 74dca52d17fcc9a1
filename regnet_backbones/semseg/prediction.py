"""Predict images with a trained segmenter: overlays to look at, and the labels of all pixels."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from regnet_backbones.optimize.options import Optimization
from regnet_backbones.runs.device import check_device
from regnet_backbones.runs.drawing import Drawing
from regnet_backbones.runs.engines import Engine
from regnet_backbones.runs.image_files import batches, check_batch_size
from regnet_backbones.runs.predictions import Result, present_classes
from regnet_backbones.runs.videos import ImageReader
from regnet_backbones.semseg import overlays
from regnet_backbones.semseg.checkpoints import load_segmenter
from regnet_backbones.semseg.dataset import pixels_of, val_transform
from regnet_backbones.semseg.exported import check_engine, use_engine
from regnet_backbones.semseg.inference import Inference

Item = TypeVar("Item")


class SegmenterPredictor:
    """A trained segmenter that takes images of any size.

    Args:
        checkpoint: a file that Lightning saved in a training of a `Segmenter`.
        inference: see `checkpoints.load_segmenter`.
        device: "cpu", "cuda", "cuda:1", ...; None for a GPU if present.
        optimization: how to make the network fast, None for not at all.
        engine, exported: see `evaluation.evaluate`; compared with torch on random images.
    """

    def __init__(
        self,
        checkpoint: Path,
        *,
        inference: Inference | None = None,
        device: str | None = None,
        optimization: Optimization | None = None,
        engine: Engine = "torch",
        exported: str | Path | None = None,
    ):
        check_engine(engine, exported, device=device, optimization=optimization)
        on_gpu = engine == "torch" and torch.cuda.is_available()
        self._device = device or ("cuda" if on_gpu else "cpu")
        check_device(self._device)
        self._segmenter = load_segmenter(checkpoint, inference=inference).to(self._device).eval()
        if optimization is not None:
            self._segmenter.optimize(optimization)
        if engine != "torch":
            use_engine(self._segmenter, checkpoint, engine=engine, exported=exported)
        self.class_names = tuple(self._segmenter.class_names)
        self.colors = overlays.colors_of(self.class_names)
        mean, std = (self._segmenter.hparams[name] for name in ("mean", "std"))
        self._channels, self._normalise = len(mean), val_transform(mean=mean, std=std)

    def __call__(
        self, images: Iterable[tuple[Item, Image.Image]], batch_size: int = 1
    ) -> Iterator[tuple[Item, np.ndarray, np.ndarray]]:
        """Yield the item that came with an image, its pixels, and the class of each, uint8 (H, W).

        Consecutive images of one size are in a batch.
        """
        segmenter = self._segmenter
        inputs = ((item, pixels_of(image, self._channels)) for item, image in images)
        for batch in batches(inputs, batch_size, lambda each: each[1].shape):
            normalised = torch.stack(
                [self._normalise(_as_image(each)).as_subclass(torch.Tensor) for _, each in batch]
            )
            with torch.inference_mode():
                found = segmenter.inference.classes(segmenter, normalised.to(self._device)).cpu()
            for (item, pixels), classes in zip(batch, found.numpy(), strict=True):
                yield item, pixels, classes.astype(np.uint8)

    def results(self, images: Iterable[Image.Image], batch_size: int = 1) -> Iterator[Result]:
        """Yield the classes of the pixels of images as arrays.

        Args:
            images: of any mode and size.
            batch_size: how many consecutive images of one size the network takes at a time.

        Yields:
            The result of each image.
        """
        names = self.class_names
        for image, pixels, labels in self(((image, image) for image in images), batch_size):
            yield Result(
                image=np.array(image.convert("RGB")),
                class_names=names,
                label_names=names,
                labels=labels,
                **present_classes(labels),
                drawing=partial(overlays.draw_overlay, pixels, labels, names, self.colors),
            )


def predict(
    predictor: SegmenterPredictor,
    read: ImageReader,
    output: Path,
    *,
    pictures: bool = True,
    batch_size: int = 1,
) -> None:
    """Predict the classes of all pixels of images, and of the frames of videos.

    Writes `<output>/overlays/<name>.jpg`, images with the colours of classes and a legend;
    `<output>/labels/<name>.png`, whose values are class numbers from 0; and `classes.txt` with
    their names: masks and class file of a `SegmentationData`. A frame is named
    `<video>_<number from 0>`; the overlays of a video are `<video>.mp4`.

    Args:
        predictor: the model.
        read: the images; those that cannot be read are in its `failed` afterwards.
        output: a folder; files in it are overwritten.
        pictures: whether to draw overlays.
        batch_size: how many consecutive images of one size the network takes at a time.
    """
    check_batch_size(batch_size)
    output.mkdir(parents=True, exist_ok=True)
    names, colors = predictor.class_names, predictor.colors
    (output / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    inputs = ((picture, picture.image) for picture in read)
    with Drawing(overlays.write_overlay, read.count if pictures else 0) as drawing:
        for picture, pixels, classes in predictor(inputs, batch_size):
            _save_labels(classes, colors, output / "labels" / f"{picture.name}.png")
            if pictures:
                overlay = output / "overlays" / f"{picture.name}.jpg"
                drawing.add(picture.file, overlay, pixels, classes, names, colors)
    if pictures:
        read.join_overlays(output / "overlays")


def _as_image(pixels: np.ndarray) -> tv_tensors.Image:
    """Return pixels (H, W, channels) as torchvision's transforms take them."""
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))


def _save_labels(classes: np.ndarray, colors: overlays.Colors, file: Path) -> None:
    """Save the class of each pixel, uint8 (H, W), as a PNG file; the background is black."""
    picture = Image.fromarray(classes)
    # A palette of all 256 values: of a shorter one, Pillow writes pixels of fewer bits.
    rgb = [value for color in colors for value in color or (0, 0, 0)]
    picture.putpalette([*rgb, *[0] * (3 * 256 - len(rgb))])
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file)
