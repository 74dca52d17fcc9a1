"""What a model sees in images, drawn next to the ground truth and scored image by image."""

import copy
import itertools
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from detectron2.utils.visualizer import ColorMode, VisImage, Visualizer
from PIL import Image
from pycocotools import mask as coco_masks

from regnet_backbones.adapters.detectron2 import rgb2id
from regnet_backbones.detection.architectures import outputs_of
from regnet_backbones.detection.matching import MIN_IOU, NOTHING, match
from regnet_backbones.runs.colors import class_colors
from regnet_backbones.runs.confusion import class_scores, mean_of
from regnet_backbones.runs.image_files import sample
from regnet_backbones.runs.look import SIDE, mosaic
from regnet_backbones.runs.results import ImageResults, ImageScore, ScoredImages

# White pixels between truth and prediction, and how wide each is drawn: together a tile of a sheet.
GAP = 4
WIDTH = SIDE - GAP // 2

# How pixels are drawn: all of them, as opaque as `Visualizer.draw_dataset_dict` draws the truth.
PIXELS = {"area_threshold": 0, "alpha": 0.5}

# How opaque objects are, in truth and prediction; detectron2 has 0.5 and 0.8.
ALPHA = 0.65

# Pixels that overlays are at least wide: in smaller ones the names would hide what they name.
MIN_WIDTH = 512

# What `Visualizer` reads of a dataset's metadata.
DRAWN_FIELDS = (
    *("thing_classes", "thing_colors", "stuff_classes", "stuff_colors"),
    *("keypoint_names", "keypoint_connection_rules"),
    *("label_divisor", "thing_dataset_id_to_contiguous_id"),
)

# How much lighter or darker the objects of a class are in turn: they can be told apart.
SHADES = (0, 0.25, -0.25)

# What the score of an image is, by the output that is scored.
SCORES = {
    "instances": "F1 of an image: boxes with a score of at least {:g} that match an object of "
    f"their class at an IoU of {MIN_IOU} or more",
    "sem_seg": "mean IoU of an image, over the classes in its ground truth or its prediction",
    "": "no score is known for such images",
}

logger = logging.getLogger(__name__)

Record = Mapping[str, object]
# `Instances`, the class of each pixel (H, W), or segments and what they are, by name of the output.
Seen = dict[str, object]


def seen_in(outputs: Mapping[str, object], min_score: float) -> Seen:
    """Copy to the CPU what is shown of a model's outputs; detectron2's evaluators change them."""
    seen: Seen = {}
    if "instances" in outputs:
        instances = outputs["instances"].to("cpu")
        seen["instances"] = instances[instances.scores >= min_score]
    if "sem_seg" in outputs:
        dtype = np.uint8 if len(outputs["sem_seg"]) <= 256 else np.uint16
        seen["sem_seg"] = outputs["sem_seg"].argmax(dim=0).cpu().numpy().astype(dtype)
    if "panoptic_seg" in outputs:
        segments, info = copy.deepcopy(outputs["panoptic_seg"])
        seen["panoptic_seg"] = (segments.cpu(), info)
    return seen


class Canvas(Visualizer):
    """Detectron2's drawing, with a colour for each class and texts inside the picture."""

    def __init__(self, pixels: np.ndarray, metadata: Metadata, scale: float):
        things, stuff = (metadata.get(f"{kind}_classes", ()) for kind in ("thing", "stuff"))
        colors = class_colors(stuff, things)
        self._unpainted = set(stuff) - set(colors)
        fields = {"thing_colors": [colors[name] for name in things]}
        fields["stuff_colors"] = [colors.get(name, (0, 0, 0)) for name in stuff]
        metadata = Metadata(**(fields | metadata.as_dict()))
        super().__init__(pixels, metadata, scale, instance_mode=ColorMode.SEGMENTATION)
        self._shades = itertools.cycle(SHADES)

    def instance_colors(self, classes: Sequence[int]) -> list[tuple[float, ...]]:
        """Return colours of objects, RGB from 0 to 1."""
        return [self._jitter(np.divide(self.metadata.thing_colors[k], 255)) for k in classes]

    def _jitter(self, color: Sequence[float]) -> tuple[float, ...]:
        """Return a shade of the colour of an object's class; detectron2's is another colour."""
        return self._change_color_brightness(color, next(self._shades))

    def overlay_instances(self, **options: object) -> VisImage:
        """Draw objects, annotated ones as opaque as predicted ones."""
        return super().overlay_instances(**{**options, "alpha": ALPHA})

    def draw_binary_mask(
        self,
        binary_mask: np.ndarray,
        color: object = None,
        *,
        text: str | None = None,
        **options: object,
    ) -> VisImage:
        """Draw the pixels of a class or segment, unless it is the background."""
        if text in self._unpainted:
            return self.output
        return super().draw_binary_mask(binary_mask, color, text=text, **options)

    def draw_text(self, text: str, position: Sequence[float], **options: object) -> VisImage:
        """Draw a text, white on black, moved into the picture if it would be cut off."""
        output = super().draw_text(text, position, **{**options, "color": "w"})
        drawn = output.ax.texts[-1]
        box = drawn.get_window_extent(output.canvas.get_renderer())
        width, height = output.canvas.get_width_height()
        right = max(0, -box.x0) + min(0, width - box.x1)
        up = max(0, -box.y0) + min(0, height - box.y1)
        x, y = drawn.get_position()
        drawn.set_position((x + right / output.scale, y - up / output.scale))
        return output


def draw_seen(canvas: Visualizer, seen: Seen) -> None:
    """Draw what is seen over an image: panoptic segments alone, as they are made of the others."""
    if "panoptic_seg" in seen:
        canvas.draw_panoptic_seg(*seen["panoptic_seg"], **PIXELS)
        return
    if "sem_seg" in seen:
        canvas.draw_sem_seg(seen["sem_seg"], **PIXELS)
    if "instances" in seen:
        canvas.draw_instance_predictions(seen["instances"])


def drawing_task(seen: Seen, metadata: Metadata) -> tuple[Seen, dict[str, object]]:
    """Return the last arguments of `write_overlay`, small enough to be sent to a process."""
    fields = {name: each for name, each in metadata.as_dict().items() if name in DRAWN_FIELDS}
    instances = seen.get("instances")
    if instances is not None and instances.has("pred_masks"):
        packed = np.packbits(instances.pred_masks.numpy(), axis=-1)  # a bit for each pixel
        values = {**instances.get_fields(), "pred_masks": packed}
        seen = {**seen, "instances": Instances(instances.image_size, **values)}
    return seen, fields


def write_overlay(file: Path, pixels: np.ndarray, seen: Seen, fields: dict[str, object]) -> None:
    """Write `draw_overlay` as JPEG; `seen` and `fields` are those of `drawing_task`."""
    instances = seen.get("instances")
    if instances is not None and instances.has("pred_masks"):
        width = instances.image_size[1]
        masks = np.unpackbits(instances.pred_masks, axis=-1, count=width).astype(bool)
        values = {**instances.get_fields(), "pred_masks": masks}
        seen = {**seen, "instances": Instances(instances.image_size, **values)}
    save_picture(np.asarray(draw_overlay(pixels, seen, Metadata(**fields))), file)


def draw_overlay(pixels: np.ndarray, seen: Seen, metadata: Metadata) -> Image.Image:
    """Draw what is seen over RGB pixels (H, W, 3), small ones enlarged, the same each time."""
    canvas = Canvas(pixels, metadata, max(1, MIN_WIDTH / pixels.shape[1]))
    draw_seen(canvas, seen)
    return Image.fromarray(canvas.output.get_image())


def save_picture(pixels: np.ndarray, file: Path) -> None:
    """Save a picture in a folder that may be missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, quality=90)


class PredictionPictures(DatasetEvaluator):
    """Draw images spread over a dataset, truth next to prediction (`output`), on one sheet."""

    def __init__(
        self,
        dataset_name: str,
        output: str,
        sheet: str | Path,
        *,
        count: int,
        min_score: float = 0.5,
    ):
        self._dataset_name, self.output, self.sheet = dataset_name, output, Path(sheet)
        self.count, self.min_score = count, min_score
        self.metadata = MetadataCatalog.get(dataset_name)
        self.reset()

    def reset(self) -> None:
        """Forget the predictions of the last evaluation."""
        self._seen: dict[str, Seen] = {}

    @cached_property
    def _records(self) -> dict[str, Record]:
        """The records of the images to draw, by file."""
        records = sample(DatasetCatalog.get(self._dataset_name), self.count)
        return {record["file_name"]: record for record in records}

    def process(self, inputs: Sequence[Record], outputs: Sequence[Mapping[str, object]]) -> None:
        """Keep the predictions of the images to draw."""
        for image, of_image in zip(inputs, outputs, strict=True):
            if image["file_name"] in self._records and self.output in of_image:
                seen = seen_in({self.output: of_image[self.output]}, self.min_score)
                self._seen[image["file_name"]] = seen

    def evaluate(self) -> None:
        """Write the contact sheet, and show it in TensorBoard while training."""
        seen = {name: each for part in comm.gather(self._seen) for name, each in part.items()}
        if not seen:  # or another process than the first
            return
        drawn = [self.draw(r, seen[name]) for name, r in self._records.items() if name in seen]
        sheet = mosaic(drawn)
        self.sheet.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(self.sheet)
        logger.info("ground truth next to prediction: %s", self.sheet)
        with suppress(AssertionError):  # of detectron2, where no training is running
            pixels = np.asarray(sheet).transpose(2, 0, 1)
            get_event_storage().put_image(f"{self._dataset_name}/predictions", pixels)

    def draw(self, record: Record, seen: Seen) -> Image.Image:
        """Draw an image with its annotations, and next to it with what is seen in it."""
        image = utils.read_image(record["file_name"], format="RGB")
        scale = WIDTH / image.shape[1]
        truth, found = (Canvas(image, self.metadata, scale) for _ in range(2))
        try:
            draw_seen(found, {name: each for name, each in seen.items() if name == self.output})
            self._draw_truth(truth, record)
        except Exception as error:  # of Matplotlib and others; a picture must not end a run
            message = "%s could not be drawn: %s: %s"
            logger.warning(message, record["file_name"], type(error).__name__, error)
        halves = truth.output.get_image(), found.output.get_image()
        gap = np.full((len(halves[0]), GAP, 3), 255, np.uint8)
        return Image.fromarray(np.concatenate([halves[0], gap, halves[1]], axis=1))

    def _draw_truth(self, canvas: Visualizer, record: Record) -> None:
        if self.output == "panoptic_seg" and "pan_seg_file_name" in record:
            ids = torch.from_numpy(rgb2id(utils.read_image(record["pan_seg_file_name"], "RGB")))
            canvas.draw_panoptic_seg(ids, record["segments_info"], **PIXELS)
        elif self.output == "sem_seg":
            canvas.draw_dataset_dict({"sem_seg_file_name": record["sem_seg_file_name"]})
        else:
            # Detectron2 looks at the first annotation for masks in all of them.
            boxes = [{"segmentation": [], **each} for each in record.get("annotations", ())]
            canvas.draw_dataset_dict({**record, "annotations": boxes})


class ImageScorer(DatasetEvaluator):
    """Score each image of a dataset, and draw the best and the worst of them.

    Must come before detectron2's evaluators, which change the outputs.
    """

    def __init__(self, cfg: CfgNode, dataset_name: str, pictures: PredictionPictures):
        self._records = {record["file_name"]: record for record in DatasetCatalog.get(dataset_name)}
        self._pictures, self._metadata = pictures, MetadataCatalog.get(dataset_name)
        self.available = len(self._records)
        outputs = outputs_of(cfg)
        self._scored_output = "instances" if "instances" in outputs else "sem_seg"
        if cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork":
            self._scored_output = ""
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._scored = ScoredImages(pictures=self._pictures.count > 0)

    def process(self, inputs: Sequence[Record], outputs: Sequence[Mapping[str, object]]) -> None:
        """Score a batch, and keep what is to be drawn of it."""
        for image, output in zip(inputs, outputs, strict=True):
            file = image["file_name"]
            seen = seen_in(output, self._pictures.min_score)
            score = self._score(self._records[file], seen)
            draw = partial(self._pictures.draw, self._records[file], seen)
            self._scored.add(ImageScore(Path(file).name, *score), draw)

    def finish(self, folder: str | Path, **about: object) -> ImageResults:
        """Draw pictures in each process and return all scores, with what else is `about` them."""
        scores = tuple(score for part in comm.all_gather(self._scored.scores) for score in part)
        return ImageResults(
            score=SCORES[self._scored_output].format(self._pictures.min_score),
            panels=("ground truth", "prediction"),
            available=self.available,
            images=scores,
            **self._scored.draw(folder, scores),
            **about,
        )

    def _score(self, record: Record, seen: Seen) -> tuple[float | None, ...]:
        """Return the score of an image, of instances with what it is made of."""
        if self._scored_output == "sem_seg":
            with Image.open(record["sem_seg_file_name"]) as mask:
                truth = np.asarray(mask)
            classes, ignored = len(self._metadata.stuff_classes), self._metadata.ignore_label
            return (mean_iou(truth, seen["sem_seg"], classes=classes, ignore=ignored),)
        if not self._scored_output:
            return (None,)
        things = [s for s in record.get("segments_info", ()) if s["isthing"]]
        counts = match_objects(record.get("annotations", things), seen.get("instances"))
        return (f1(*counts), *counts)


def match_objects(truth: Sequence[Record], found: Instances | None) -> tuple[int, int, int]:
    """Return how many objects of an image were found, missed and made up.

    As in COCO's evaluation, predictions, the surest first, take the free object of their class that
    they overlap most, and those of a crowd do not count.
    """
    crowd = np.array([bool(o.get("iscrowd", 0)) for o in truth], dtype=bool)
    objects = int((~crowd).sum())
    if not truth or not found:  # Panoptic-DeepLab gives None without instances
        return 0, objects, len(found or ())
    classes = np.array([o["category_id"] for o in truth])
    modes = [o.get("bbox_mode", BoxMode.XYWH_ABS) for o in truth]
    boxes = [
        BoxMode.convert(list(o["bbox"]), mode, BoxMode.XYWH_ABS)
        for o, mode in zip(truth, modes, strict=True)
    ]
    found = found[found.scores.argsort(descending=True)]
    predicted = BoxMode.convert(found.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    overlaps = coco_masks.iou(predicted.double().numpy(), np.array(boxes, dtype=float), crowd)
    same = classes == found.pred_classes.numpy()[:, None]
    taken = match(np.where(same, overlaps, 0), crowd)
    made_up = int((taken == NOTHING).sum())
    hits = int((~crowd[taken[taken != NOTHING]]).sum())
    return hits, objects - hits, made_up


def f1(found: int, missed: int, made_up: int) -> float | None:
    """Return the harmonic mean of precision and recall, None where nothing is nor is predicted."""
    total = 2 * found + missed + made_up
    return 2 * found / total if total else None


def mean_iou(truth: np.ndarray, found: np.ndarray, *, classes: int, ignore: int) -> float | None:
    """Return the mean IoU over classes in truth or found (H, W) without `ignore`; or None."""
    counted = truth != ignore
    pairs = truth[counted].astype(np.int64) * classes + found[counted]
    matrix = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    return mean_of(class_scores(matrix)["iou"])
