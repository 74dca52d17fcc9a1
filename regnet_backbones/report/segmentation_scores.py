"""Predict a segmenter's validation images: a score for each, results for all, pictures of some."""

from dataclasses import dataclass

import torch
from tqdm import tqdm

from regnet_backbones.errors import UserError
from regnet_backbones.report.content import Picture, Predictions
from regnet_backbones.report.scores import Score, best_and_worst
from regnet_backbones.report.semantic import count_pixels, mean_iou
from regnet_backbones.report.timing import Stopwatch
from regnet_backbones.semseg import metrics, overlays
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.evaluation import Evaluation
from regnet_backbones.semseg.layouts import IGNORE
from regnet_backbones.semseg.module import Segmenter


@dataclass(frozen=True)
class Scored:
    """What became of the validation images.

    Attributes:
        predictions: for the page.
        evaluation: of all images; None unless all were predicted.
        device: on which they were.
    """

    predictions: Predictions
    evaluation: Evaluation | None
    device: str


def score_segmenter(
    segmenter: Segmenter, data: SegmentationData, *, images: int, device: str | None = None
) -> Scored:
    """Predict the first validation images as a validation does.

    Args:
        segmenter: as `checkpoints.load_segmenter` returns it.
        data: set up for "validate", of the classes of the segmenter.
        images: how many, at most.
        device: None for a GPU where there is one.

    Raises:
        ValueError: the classes differ in number.
    """
    names = segmenter.class_names
    if len(names) != data.num_classes:
        raise UserError(
            f"the segmenter knows {len(names)} classes and the data have {data.num_classes}; give "
            "the data of its training with --opts"
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    segmenter = segmenter.to(device).eval()
    watch, scores = Stopwatch(device), []
    total = torch.zeros(len(names), len(names), dtype=torch.int64)
    chosen = range(min(images, len(data.val_set)))
    for index in tqdm(chosen, unit="image", disable=None):
        item = data.val_set[index]
        matrix = count_pixels(
            item["mask"],
            _classes(segmenter, item["image"], watch),
            classes=len(names),
            ignore=IGNORE,
        )
        total += matrix
        scores.append(Score(index, mean_iou(matrix)))
    best, worst = best_and_worst(scores)
    predictions = Predictions(
        best=tuple(_picture(segmenter, data, score) for score in best),
        worst=tuple(_picture(segmenter, data, score) for score in worst),
        score="mean IoU of an image, over the classes in its ground truth or its prediction",
        panels=("image", "ground truth", "prediction"),
        predicted=len(chosen),
        available=len(data.val_set),
        milliseconds=watch.milliseconds(),
        legend=dict(zip(names, overlays.palette(len(names)), strict=True)),
    )
    complete = len(chosen) == len(data.val_set)
    return Scored(
        predictions, _evaluation(segmenter, total, len(chosen)) if complete else None, device
    )


def _evaluation(segmenter: Segmenter, matrix: torch.Tensor, images: int) -> Evaluation:
    """Return the results of all images in the form of `semseg.evaluation.evaluate`."""
    values = metrics.summarize(matrix, segmenter.class_names)
    values = {name: None if value != value else value for name, value in values.items()}  # NaN
    return Evaluation(
        miou=values[metrics.MIOU],
        accuracy=values[metrics.ACCURACY],
        iou={name: values[f"{metrics.IOU}{name}"] for name in segmenter.class_names},
        images=images,
        settings=segmenter.inference.describe(),
    )


@torch.inference_mode()
def _classes(
    segmenter: Segmenter, image: torch.Tensor, watch: Stopwatch | None = None
) -> torch.Tensor:
    """Return the classes, int64 (H, W) on the CPU, of a normalised image (3, H, W)."""

    def predict() -> torch.Tensor:
        return segmenter.inference.classes(segmenter, image[None].to(segmenter.device))[0].cpu()

    return watch.time(predict) if watch else predict()


def _picture(segmenter: Segmenter, data: SegmentationData, score: Score) -> Picture:
    """Draw image, truth and prediction."""
    item = data.val_set[score.index]
    picture = overlays.side_by_side(
        item["image"],
        item["mask"],
        _classes(segmenter, item["image"]),
        mean=segmenter.hparams["mean"],
        std=segmenter.hparams["std"],
        colors=overlays.palette(len(segmenter.class_names)),
    )
    return Picture(picture, item["name"], score.value, score.note)
