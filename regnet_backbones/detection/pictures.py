"""Pictures of what a model predicts, next to the ground truth."""

import copy
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
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
from PIL import Image, ImageDraw, ImageFont

from regnet_backbones.detection.panoptic import PanopticSegments, true_segments

TILE_WIDTH = 256
PAIRS_PER_ROW = 3
MARGIN = 8
CAPTION_HEIGHT = 22

# How opaque `Visualizer.draw_dataset_dict` draws masks of the ground truth.
TRUTH_ALPHA = 0.5
DARKER = 0.6

Prediction: TypeAlias = Instances | torch.Tensor | PanopticSegments

logger = logging.getLogger(__name__)


class PredictionPictures(DatasetEvaluator, ABC):
    """Draw the first images of a dataset with ground truth and prediction, on one contact sheet.

    An evaluator that measures nothing: it sees what the others see and writes a picture. With
    several processes the first one draws the images that it was given. Its subclasses draw the
    kinds of predictions.

    Args:
        dataset_name: a registered dataset with annotations.
        output_file: the PNG that each evaluation writes.
        count: how many images.
    """

    def __init__(self, dataset_name: str, output_file: str | Path, *, count: int):
        self.metadata = MetadataCatalog.get(dataset_name)
        self.output_file = Path(output_file)
        self.count = count
        self._dataset_name = dataset_name
        self._predictions: dict[str, Prediction] = {}

    @abstractmethod
    def keep(self, output: Mapping[str, Prediction]) -> Prediction | None:
        """Return what to draw of a model's output for an image, on the CPU; None for nothing."""

    @abstractmethod
    def _draw(self, canvas: Visualizer, prediction: Prediction) -> None:
        """Draw what was kept."""

    def _draw_truth(self, canvas: Visualizer, record: Mapping[str, object]) -> None:
        """Draw the annotations of a dataset's record, without what only some of them have."""
        annotations = record.get("annotations", [])
        common = set.intersection(*map(set, annotations)) if annotations else set()
        same = [{key: a[key] for key in a if key in common} for a in annotations]
        canvas.draw_dataset_dict({**record, "annotations": same})

    def reset(self) -> None:
        """Forget the predictions of the last evaluation."""
        self._predictions = {}

    def process(
        self, inputs: Sequence[dict[str, object]], outputs: Sequence[dict[str, Prediction]]
    ) -> None:
        """Keep the predictions of the first images."""
        for image, output in zip(inputs, outputs, strict=True):
            if len(self._predictions) < self.count:
                prediction = self.keep(output)
                if prediction is not None:
                    self._predictions[image["file_name"]] = prediction

    def evaluate(self) -> None:
        """Write the contact sheet, and show it in TensorBoard while training."""
        if not comm.is_main_process() or not self._predictions:
            return
        with _warning_if_not_drawn(self.output_file):
            records = {r["file_name"]: r for r in DatasetCatalog.get(self._dataset_name)}
            pairs = [self.pair(records[name], kept) for name, kept in self._predictions.items()]
            sheet = contact_sheet(pairs)
            self.output_file.parent.mkdir(parents=True, exist_ok=True)
            sheet.save(self.output_file)
            logger.info("ground truth next to prediction: %s", self.output_file)
            _show_in_tensorboard(f"{self._dataset_name}/predictions", sheet)

    def pair(
        self, record: Mapping[str, object], prediction: Prediction
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw an image twice: with its annotations, and with what `keep` returned for it.

        Returns:
            RGB pictures (H, W, 3), uint8, both `TILE_WIDTH` pixels wide.
        """
        image = utils.read_image(record["file_name"], format="RGB")
        scale = TILE_WIDTH / image.shape[1]
        truth, found = (
            Visualizer(image, self.metadata, scale, instance_mode=ColorMode.SEGMENTATION)
            for _ in range(2)
        )
        with _warning_if_not_drawn(f"the annotations of {record['file_name']}"):
            self._draw_truth(truth, record)
        with _warning_if_not_drawn(f"the prediction of {record['file_name']}"):
            self._draw(found, prediction)
        return truth.output.get_image(), found.output.get_image()


class InstancePictures(PredictionPictures):
    """Pictures of instances: boxes, masks, keypoints, names and scores of at least `min_score`."""

    def __init__(
        self, dataset_name: str, output_file: str | Path, *, count: int, min_score: float = 0.5
    ):
        super().__init__(dataset_name, output_file, count=count)
        self.min_score = min_score

    def keep(self, output: Mapping[str, Prediction]) -> Instances | None:
        """Return the instances of an image."""
        if "instances" not in output:
            return None
        # A copy: detectron2's evaluator moves the keypoints.
        return copy.deepcopy(output["instances"].to("cpu"))

    def _draw(self, canvas: Visualizer, prediction: Instances) -> None:
        canvas.draw_instance_predictions(prediction[prediction.scores >= self.min_score])


class SemanticPictures(PredictionPictures):
    """Pictures of semantic segmentations, both halves of a pair in the same colours.

    A dataset without `stuff_colors` gets detectron2's.
    """

    def __init__(self, dataset_name: str, output_file: str | Path, *, count: int):
        super().__init__(dataset_name, output_file, count=count)
        classes = self.metadata.stuff_classes
        colors = self.metadata.get("stuff_colors") or _class_colors(len(classes))
        self.metadata = Metadata(stuff_classes=classes, stuff_colors=colors)

    def keep(self, output: Mapping[str, Prediction]) -> torch.Tensor | None:
        """Return the most probable class of each pixel, int64 (H, W)."""
        return output["sem_seg"].argmax(0).to("cpu") if "sem_seg" in output else None

    def _draw(self, canvas: Visualizer, prediction: torch.Tensor) -> None:
        canvas.draw_sem_seg(prediction, area_threshold=0, alpha=TRUTH_ALPHA)


class PanopticPictures(PredictionPictures):
    """Pictures of panoptic segments; the truth is that of the dataset's `panoptic_json`."""

    def __init__(self, dataset_name: str, output_file: str | Path, *, count: int):
        super().__init__(dataset_name, output_file, count=count)
        content = json.loads(Path(self.metadata.panoptic_json).read_text())
        self._truth = {a["image_id"]: a for a in content["annotations"]}

    def keep(self, output: Mapping[str, Prediction]) -> PanopticSegments | None:
        """Return the segments of an image."""
        if "panoptic_seg" not in output:
            return None
        # A copy: detectron2's evaluator counts from 1, and with the dataset's category ids.
        segments, info = output["panoptic_seg"]
        return segments.to("cpu", copy=True), copy.deepcopy(info)

    def _draw_truth(self, canvas: Visualizer, record: Mapping[str, object]) -> None:
        truth = true_segments(self._truth[record["image_id"]], self.metadata)
        canvas.draw_panoptic_seg(*truth, area_threshold=0, alpha=TRUTH_ALPHA)

    def _draw(self, canvas: Visualizer, prediction: PanopticSegments) -> None:
        canvas.draw_panoptic_seg(*prediction, area_threshold=0, alpha=TRUTH_ALPHA)


def contact_sheet(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Image.Image:
    """Lay pairs of RGB pictures (H, W, 3) out in rows, ground truth left of prediction."""
    width = max(truth.shape[1] for truth, _ in pairs)
    height = max(truth.shape[0] for truth, _ in pairs)
    columns = min(PAIRS_PER_ROW, len(pairs))
    rows = -(-len(pairs) // columns)
    cell_width, cell_height = 2 * width + 3 * MARGIN, height + MARGIN
    size = (columns * cell_width, rows * cell_height + CAPTION_HEIGHT + MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=CAPTION_HEIGHT - MARGIN)
    for column in range(columns):
        for offset, caption in ((MARGIN, "ground truth"), (width + 2 * MARGIN, "prediction")):
            draw.text((column * cell_width + offset, MARGIN // 2), caption, "black", font)
    for index, pair in enumerate(pairs):
        top = CAPTION_HEIGHT + index // columns * cell_height + MARGIN // 2
        for place, picture in enumerate(pair):
            left = index % columns * cell_width + MARGIN + place * (width + MARGIN)
            sheet.paste(Image.fromarray(picture), (left, top))
    return sheet


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
