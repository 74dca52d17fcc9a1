"""Pictures of what a model predicts, next to the ground truth."""

import copy
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.colormap import colormap
from detectron2.utils.events import get_event_storage
from detectron2.utils.visualizer import ColorMode, Visualizer
from PIL import Image

from regnet_backbones.detection.panoptic import PanopticSegments, true_segments
from regnet_backbones.runs.look import SIDE, mosaic

# White pixels between truth and prediction, and how wide each is drawn: together a tile of a sheet.
GAP = 4
WIDTH = SIDE - GAP // 2

# How pixels are drawn: all of them, as opaque as `Visualizer.draw_dataset_dict` draws the truth.
PIXELS = {"area_threshold": 0, "alpha": 0.5}
DARKER = 0.6

Prediction: TypeAlias = Instances | torch.Tensor | PanopticSegments

# Copies on the CPU of what is drawn, by output: detectron2's evaluators change what they are given.
COPIES: dict[str, Callable[[Prediction], Prediction]] = {
    "instances": lambda found: copy.deepcopy(found.to("cpu")),
    "sem_seg": lambda found: found.argmax(0).to("cpu"),
    "panoptic_seg": lambda found: (found[0].to("cpu", copy=True), copy.deepcopy(found[1])),
}

logger = logging.getLogger(__name__)


class PredictionPictures(DatasetEvaluator):
    """Draw the first images of a dataset with ground truth and prediction, on one contact sheet.

    An evaluator that measures nothing. With several processes the first one draws the images that
    it was given. Classes of pixels without `stuff_colors` get detectron2's.

    Args:
        dataset_name: a registered dataset with annotations.
        output: what is drawn of what the model gives, a key of `COPIES`.
        sheet: the PNG that each evaluation writes.
        count: how many images.
        min_score: of the instances that are drawn.
    """

    def __init__(
        self,
        dataset_name: str,
        output: str,
        sheet: str | Path,
        *,
        count: int,
        min_score: float = 0.5,
    ):
        self.metadata = MetadataCatalog.get(dataset_name)
        self.output, self.sheet, self.count = output, Path(sheet), count
        self.min_score = min_score
        self._dataset_name = dataset_name
        self._predictions: dict[str, Prediction] = {}
        if output == "sem_seg":
            classes = self.metadata.get("stuff_classes", [])
            colors = self.metadata.get("stuff_colors") or _class_colors(len(classes))
            self.metadata = Metadata(stuff_classes=classes, stuff_colors=colors)
        elif output == "panoptic_seg":
            content = json.loads(Path(self.metadata.panoptic_json).read_text())
            self._segments = {a["image_id"]: a for a in content["annotations"]}

    def keep(self, outputs: Mapping[str, Prediction]) -> Prediction | None:
        """Return what to draw of a model's outputs for an image; None for nothing."""
        return COPIES[self.output](outputs[self.output]) if self.output in outputs else None

    def reset(self) -> None:
        """Forget the predictions of the last evaluation."""
        self._predictions = {}

    def process(
        self, inputs: Sequence[dict[str, object]], outputs: Sequence[dict[str, Prediction]]
    ) -> None:
        """Keep the predictions of the first images."""
        for image, of_image in zip(inputs, outputs, strict=True):
            if len(self._predictions) < self.count:
                prediction = self.keep(of_image)
                if prediction is not None:
                    self._predictions[image["file_name"]] = prediction

    def evaluate(self) -> None:
        """Write the contact sheet, and show it in TensorBoard while training."""
        if not comm.is_main_process() or not self._predictions:
            return
        with _warning_if_not_drawn(self.sheet):
            records = {r["file_name"]: r for r in DatasetCatalog.get(self._dataset_name)}
            sheet = mosaic([self.draw(records[n], kept) for n, kept in self._predictions.items()])
            self.sheet.parent.mkdir(parents=True, exist_ok=True)
            sheet.save(self.sheet)
            logger.info("ground truth next to prediction: %s", self.sheet)
            _show_in_tensorboard(f"{self._dataset_name}/predictions", sheet)

    def draw(self, record: Mapping[str, object], prediction: Prediction) -> Image.Image:
        """Draw an image with its annotations, and next to it with what `keep` returned."""
        image = utils.read_image(record["file_name"], format="RGB")
        scale = WIDTH / image.shape[1]
        truth, found = (
            Visualizer(image, self.metadata, scale, instance_mode=ColorMode.SEGMENTATION)
            for _ in range(2)
        )
        with _warning_if_not_drawn(f"the annotations of {record['file_name']}"):
            self._draw_truth(truth, record)
        with _warning_if_not_drawn(f"the prediction of {record['file_name']}"):
            self._draw(found, prediction)
        halves = truth.output.get_image(), found.output.get_image()
        gap = np.full((len(halves[0]), GAP, 3), 255, np.uint8)
        return Image.fromarray(np.concatenate([halves[0], gap, halves[1]], axis=1))

    def _draw_truth(self, canvas: Visualizer, record: Mapping[str, object]) -> None:
        if self.output == "panoptic_seg":
            self._draw(canvas, true_segments(self._segments[record["image_id"]], self.metadata))
            return
        # Without what only some of the annotations have, which detectron2 does not draw.
        annotations = record.get("annotations", [])
        common = set.intersection(*map(set, annotations)) if annotations else set()
        same = [{key: a[key] for key in a if key in common} for a in annotations]
        canvas.draw_dataset_dict({**record, "annotations": same})

    def _draw(self, canvas: Visualizer, prediction: Prediction) -> None:
        if self.output == "instances":
            canvas.draw_instance_predictions(prediction[prediction.scores >= self.min_score])
        elif self.output == "sem_seg":
            canvas.draw_sem_seg(prediction, **PIXELS)
        else:
            canvas.draw_panoptic_seg(*prediction, **PIXELS)


@contextmanager
def _warning_if_not_drawn(what: str | Path) -> Iterator[None]:
    """Turn a failure into a warning: a picture must not end a run or take its numbers with it."""
    try:
        yield
    except Exception as error:  # whatever Matplotlib, Pillow or the disk raise
        logger.warning("%s could not be drawn: %s: %s", what, type(error).__name__, error)


def _class_colors(count: int) -> list[tuple[int, int, int]]:
    """Return RGB colours (0 to 255) of classes: detectron2's, then the same ones darker."""
    bright = colormap(rgb=True, maximum=255)
    both = np.concatenate([bright, DARKER * bright]).astype(int).tolist()
    return [tuple(both[index % len(both)]) for index in range(count)]


def _show_in_tensorboard(name: str, picture: Image.Image) -> None:
    """Hand a picture to the event storage, if a training is running."""
    try:
        storage = get_event_storage()
    except AssertionError:  # detectron2's way to report that there is none
        return
    storage.put_image(name, np.asarray(picture).transpose(2, 0, 1))
