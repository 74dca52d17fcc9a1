"""Predict images with a trained segmenter: overlays to look at, and the labels of all pixels."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.functional import to_pil_image
from tqdm import tqdm

from regnet_backbones.errors import UserError
from regnet_backbones.optimize.options import Optimization
from regnet_backbones.runs.device import check_device
from regnet_backbones.runs.image_files import output_names
from regnet_backbones.runs.results import JPEG_OPTIONS
from regnet_backbones.semseg import overlays
from regnet_backbones.semseg.checkpoints import load_segmenter
from regnet_backbones.semseg.dataset import read_image, val_transform
from regnet_backbones.semseg.exported import EngineName, check_engine, use_engine
from regnet_backbones.semseg.inference import Inference

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictions:
    """What a prediction wrote.

    Attributes:
        overlays, labels: files, in the order of the images.
        failed: images that could not be read.
    """

    overlays: tuple[Path, ...]
    labels: tuple[Path, ...]
    failed: tuple[Path, ...]


def predict(
    checkpoint: Path,
    images: Sequence[Path],
    output: Path,
    *,
    inference: Inference | None = None,
    device: str | None = None,
    optimization: Optimization | None = None,
    engine: EngineName = "torch",
    exported: str | Path | None = None,
) -> Predictions:
    """Predict the classes of all pixels of images.

    Writes `<output>/overlays/<name>.jpg`, the images with the colours of their classes and a
    legend; `<output>/labels/<name>.png`, whose values are the numbers of classes from 0; and
    `<output>/classes.txt`, their names: masks and class file of a `SegmentationData`.

    Args:
        checkpoint: a file that Lightning saved in a training of a `Segmenter`.
        images: files of different images. One that cannot be read is a warning.
        output: a folder; files in it are overwritten.
        inference: see `checkpoints.load_segmenter`.
        device: "cpu", "cuda", "cuda:1", ...; None for a GPU if present.
        optimization: how to make the network fast, None for not at all.
        engine, exported: see `evaluation.evaluate`; compared with torch on random images.

    Returns:
        The files that were written, and the images that could not be read.

    Raises:
        UserError: the checkpoint, the device or the engine cannot be used.
    """
    check_engine(engine, exported, device=device, optimization=optimization)
    on_gpu = engine == "torch" and torch.cuda.is_available()
    device = device or ("cuda" if on_gpu else "cpu")
    check_device(device)
    segmenter = load_segmenter(checkpoint, inference=inference).to(device).eval()
    if optimization is not None:
        segmenter.optimize(optimization)
    if engine != "torch":
        use_engine(segmenter, checkpoint, engine=engine, exported=exported)
    output.mkdir(parents=True, exist_ok=True)
    names = segmenter.class_names
    colors = overlays.palette(len(names))
    (output / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    painted, labelled, failed = [], [], []
    channels = len(segmenter.hparams["mean"])
    normalise = val_transform(mean=segmenter.hparams["mean"], std=segmenter.hparams["std"])
    for path, name in tqdm(output_names(images).items(), desc="predicting", unit="image"):
        try:
            image = torch.from_numpy(read_image(path, channels)).permute(2, 0, 1)
        except UserError as error:
            logger.warning("not predicted: %s", error)
            failed.append(path)
            continue
        batch = normalise(tv_tensors.Image(image)).as_subclass(torch.Tensor)[None]
        with torch.inference_mode():
            classes = segmenter.inference.classes(segmenter, batch.to(device))[0].cpu()
        present = [(names[label], colors[label]) for label in classes.unique().tolist()]
        overlay = to_pil_image(overlays.paint(image.expand(3, -1, -1), classes, colors))
        picture = Image.fromarray(classes.numpy().astype(np.uint8))
        # A palette of all 256 values: of a shorter one, Pillow writes pixels of fewer bits.
        picture.putpalette([value for color in overlays.palette(256) for value in color])
        painted.append(output / "overlays" / f"{name}.jpg")
        labelled.append(output / "labels" / f"{name}.png")
        for file in (painted[-1], labelled[-1]):
            file.parent.mkdir(parents=True, exist_ok=True)
        overlays.with_legend(overlay, present).save(painted[-1], **JPEG_OPTIONS)
        picture.save(labelled[-1])
    return Predictions(tuple(painted), tuple(labelled), tuple(failed))
