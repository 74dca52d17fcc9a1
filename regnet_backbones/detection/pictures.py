"""Pictures of what a detector predicts, beside the ground truth."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from detectron2.utils.visualizer import ColorMode, Visualizer
from PIL import Image, ImageDraw, ImageFont

TILE_WIDTH = 256
PAIRS_PER_ROW = 3
MARGIN = 8
CAPTION_HEIGHT = 22

logger = logging.getLogger(__name__)


class PredictionPictures(DatasetEvaluator):
    """Draw the first images of a dataset with ground truth and prediction, on one contact sheet.

    An evaluator that measures nothing: it sees what the others see and writes a picture. With
    several processes the first one draws the images that it was given.

    Args:
        dataset_name: a registered dataset with instance annotations.
        output_file: the PNG to write, at every evaluation anew.
        count: how many images.
        min_score: predictions below this score are not drawn.
    """

    def __init__(
        self, dataset_name: str, output_file: str | Path, *, count: int, min_score: float = 0.5
    ):
        self.metadata = MetadataCatalog.get(dataset_name)
        self.output_file = Path(output_file)
        self.count = count
        self.min_score = min_score
        self._dataset_name = dataset_name
        self._predictions: dict[str, Instances] = {}

    def reset(self) -> None:
        """Forget the predictions of the last evaluation."""
        self._predictions = {}

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Keep the predictions of the first images."""
        for image, output in zip(inputs, outputs, strict=True):
            if len(self._predictions) < self.count and "instances" in output:
                self._predictions[image["file_name"]] = output["instances"].to("cpu")

    def evaluate(self) -> None:
        """Write the contact sheet, and show it in TensorBoard while training."""
        if not comm.is_main_process() or not self._predictions:
            return
        records = {record["file_name"]: record for record in DatasetCatalog.get(self._dataset_name)}
        pairs = [
            (self._draw_truth(records[name]), self._draw_prediction(name, instances))
            for name, instances in self._predictions.items()
        ]
        sheet = contact_sheet(pairs)
        self.output_file.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(self.output_file)
        logger.info("ground truth beside prediction: %s", self.output_file)
        _show_in_tensorboard(f"{self._dataset_name}/predictions", sheet)

    def _visualizer(self, file_name: str) -> Visualizer:
        """Return a canvas with the image, scaled to the width of a tile."""
        image = utils.read_image(file_name, format="RGB")
        scale = TILE_WIDTH / image.shape[1]
        return Visualizer(image, self.metadata, scale, instance_mode=ColorMode.SEGMENTATION)

    def _draw_truth(self, record: dict) -> np.ndarray:
        """Draw an image with its annotations."""
        return self._visualizer(record["file_name"]).draw_dataset_dict(record).get_image()

    def _draw_prediction(self, file_name: str, instances: Instances) -> np.ndarray:
        """Draw an image with the instances found in it."""
        sure = instances[instances.scores >= self.min_score]
        return self._visualizer(file_name).draw_instance_predictions(sure).get_image()


def contact_sheet(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Image.Image:
    """Lay pairs of pictures out in rows, ground truth left of prediction.

    Args:
        pairs: RGB pictures (H, W, 3), uint8; both of a pair have the same size.
    """
    width = max(truth.shape[1] for truth, _ in pairs)
    height = max(truth.shape[0] for truth, _ in pairs)
    columns = min(PAIRS_PER_ROW, len(pairs))
    rows = -(-len(pairs) // columns)
    cell_width, cell_height = 2 * width + 3 * MARGIN, height + MARGIN
    sheet = Image.new(
        "RGB", (columns * cell_width, rows * cell_height + CAPTION_HEIGHT + MARGIN), "white"
    )
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


def _show_in_tensorboard(name: str, picture: Image.Image) -> None:
    """Hand a picture to the event storage, if a training is running."""
    try:
        storage = get_event_storage()
    except AssertionError:  # how detectron2 says that there is none
        return
    storage.put_image(name, np.asarray(picture).transpose(2, 0, 1))
