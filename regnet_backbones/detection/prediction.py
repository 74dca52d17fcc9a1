"""What a trained detector sees in images: pictures, COCO results, label and segment maps."""

import itertools
import logging
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.data.detection_utils import build_augmentation, convert_PIL_to_numpy
from detectron2.data.transforms import AugInput, AugmentationList
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from detectron2.utils.visualizer import ColorMode, Visualizer
from PIL import Image
from tqdm import tqdm

from regnet_backbones.detection.classes import KnownClasses, known_classes
from regnet_backbones.detection.data import read_image_ids
from regnet_backbones.detection.optimization import optimize_detector
from regnet_backbones.detection.panoptic import coco_categories, coco_segments
from regnet_backbones.detection.trained import load_config, load_weights, with_test_augmentation
from regnet_backbones.errors import UserError
from regnet_backbones.runs.image_files import open_upright
from regnet_backbones.runs.image_paths import output_names
from regnet_backbones.runs.results import write_json
from regnet_backbones.runs.trained import Trained

# How much of a pixel's colour is that of its class.
ALPHA = 0.6

JPEG_QUALITY = 90

# Pixels that pictures are at least wide: in smaller ones the names would hide what they name.
MIN_WIDTH = 512

logger = logging.getLogger(__name__)


def predict(
    trained: Trained,
    images: Sequence[Path],
    output: str | Path,
    *,
    min_score: float = 0.5,
    opts: Sequence[str] = (),
    device: str | None = None,
    val_json: str | Path | None = None,
) -> list[Path]:
    """Predict images, and write what is seen in them.

        overlays/<name>.jpg   the image with what is seen drawn over it, small ones enlarged
        predictions.json      instances as COCO results: `bbox` is x, y, width, height in pixels,
                              `segmentation` run-length encoded, `keypoints` x, y, score in turn;
                              `image_id` is that of `val_json`; other images, and all without a
                              json, are counted, from 1 or from the json's largest id on;
                              `category_id` is the dataset's, or the class from 0 where that is
                              not known; further keys are `file_name` and `category`
        panoptic/<name>.png   ids of segments as colours, of a panoptic model, and
        panoptic.json         what they are, as COCO's panoptic results
        labels/<name>.png     the class of each pixel, from 0, of a model with semantic output
        classes.txt           names of these classes, one a line, where they are known

    An image that cannot be read is left out with a warning.

    Args:
        trained: a detector, as `find_trained` finds it.
        images: files, as `find_images` finds them; their `output_names` are the names.
        output: the folder to write to.
        min_score: instances below this score are left out.
        opts: keys and values in turn that override the config.
        device: None for that of the config, or the CPU where there is no GPU.
        val_json: a COCO json whose categories are those of the training, and whose images, if it
            has them, give the ids; None for the categories of `DATASETS.TEST`, if it is registered.

    Returns:
        The images that could not be read.

    Raises:
        UserError: config, checkpoint, json or an argument cannot be used.
    """
    if not 0 <= min_score <= 1:
        raise UserError(f"min_score must be from 0 to 1, got {min_score}")
    cfg = load_config(trained, opts=opts, device=device)
    classes = known_classes(cfg, val_json)
    numbers, names = _image_ids(images, val_json), output_names(images)
    model = build_model(cfg)
    load_weights(model, cfg.MODEL.WEIGHTS)
    model = with_test_augmentation(cfg, optimize_detector(cfg, model)).eval()
    results, failed = _Results(Path(output), classes), []
    for image in tqdm(images, unit="image", disable=None):
        try:
            upright = open_upright(image)
        except ValueError as error:
            logger.warning("not predicted: %s", error)
            failed.append(image)
            continue
        size = {"height": upright.height, "width": upright.width}
        with torch.no_grad():
            (outputs,) = model([{"image": model_input(cfg, upright), **size}])
        seen = _to_cpu(outputs, min_score)
        # First: detectron2's conversion to COCO results moves the keypoints.
        picture = _draw(np.asarray(upright.convert("RGB")), seen, classes.metadata)
        _save(picture, Path(output) / "overlays" / f"{names[image]}.jpg")
        results.add(seen, number=numbers[image], image=image, name=names[image])
    results.write()
    return failed


def model_input(cfg: CfgNode, image: Image.Image) -> torch.Tensor:
    """Return an image (C, H, W) as a model of a config takes it, resized as in its tests."""
    resized = AugInput(convert_PIL_to_numpy(image, cfg.INPUT.FORMAT))
    AugmentationList(build_augmentation(cfg, is_train=False))(resized)
    return torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))


def _image_ids(images: Sequence[Path], val_json: str | Path | None) -> dict[Path, int | str]:
    """Return the ids that images have in a json; others are counted from its largest id on."""
    known = {} if val_json is None else read_image_ids(val_json)
    by_parts = {_parts(name.replace("\\", "/")): identity for name, identity in known.items()}
    found: dict[Path, int | str] = {}
    given: set[int | str] = set()
    for image in images:
        path = _parts(os.path.abspath(image))
        # The longest name that the path ends with: two folders may have files of one name.
        ends = (by_parts.get(path[start:]) for start in range(len(path)))
        identity = next((end for end in ends if end is not None), None)
        if identity is not None and identity not in given:
            found[image] = identity
            given.add(identity)
    free = itertools.count(max((i for i in known.values() if isinstance(i, int)), default=0) + 1)
    others = [image for image in images if image not in found]
    if known and others:
        logger.warning(
            "%d of %d images are not in '%s', or are there under the name of another one, such as "
            "'%s': their image_id counts on from its largest one, and COCO's tools refuse them",
            *(len(others), len(images), val_json, others[0]),
        )
    return found | dict(zip(others, free, strict=False))


def _parts(path: str) -> tuple[str, ...]:
    """Return the parts of a path, accents composed."""
    return PurePosixPath(unicodedata.normalize("NFC", path)).parts


class _Results:
    """What is written next to the pictures: maps at once, and lists when all images are done."""

    def __init__(self, output: Path, classes: KnownClasses):
        self._output, self._classes = output, classes
        self._given: set[str] = set()  # the outputs of the model
        self._instances: list[dict[str, object]] = []
        self._segments: list[dict[str, object]] = []
        self._images: list[dict[str, object]] = []

    def add(self, seen: Mapping[str, object], *, number: int | str, image: Path, name: str) -> None:
        """Add what is seen in an image."""
        file = f"{name}.png"
        self._given |= seen.keys()
        if "instances" in seen:
            for entry in instances_to_coco_json(seen["instances"], number):
                label = entry["category_id"]
                entry["category_id"] = self._classes.ids[label]
                entry["category"] = self._classes.metadata.thing_classes[label]
                self._instances.append({**entry, "file_name": str(image)})
        if "sem_seg" in seen:
            _save(Image.fromarray(seen["sem_seg"]), self._output / "labels" / file)
        if "panoptic_seg" in seen:
            colours, info = coco_segments(seen["panoptic_seg"], self._classes)
            _save(Image.fromarray(colours), self._output / "panoptic" / file)
            height, width = colours.shape[:2]
            size = {"height": height, "width": width}
            self._images.append({"id": number, "file_name": str(image), **size})
            ids = {"image_id": number, "file_name": file}
            self._segments.append({**ids, "segments_info": info})

    def write(self) -> None:
        """Write the lists."""
        if "instances" in self._given:
            write_json(self._output / "predictions.json", self._instances)
        if "panoptic_seg" in self._given:
            content = {
                "images": self._images,
                "annotations": self._segments,
                "categories": coco_categories(self._classes),
            }
            write_json(self._output / "panoptic.json", content)
        if "sem_seg" in self._given and self._classes.stuff_are_named:
            names = "\n".join(self._classes.metadata.stuff_classes)
            (self._output / "classes.txt").write_text(names + "\n")


def _to_cpu(outputs: Mapping[str, object], min_score: float) -> dict[str, object]:
    """Return the instances that are sure enough, the classes of the pixels, and the segments."""
    seen = {}
    if "instances" in outputs:
        instances = outputs["instances"].to("cpu")
        seen["instances"] = instances[instances.scores >= min_score]
    if "sem_seg" in outputs:
        number = outputs["sem_seg"].shape[0]
        labels = outputs["sem_seg"].argmax(dim=0).cpu().numpy()
        seen["sem_seg"] = labels.astype(np.uint8 if number <= 256 else np.uint16)
    if "panoptic_seg" in outputs:
        segments, info = outputs["panoptic_seg"]
        seen["panoptic_seg"] = (segments.cpu(), info)
    return seen


def _draw(rgb: np.ndarray, seen: Mapping[str, object], metadata: Metadata) -> Image.Image:
    """Draw over an image, uint8 (H, W, 3), what is seen in it."""
    scale = max(1, MIN_WIDTH / rgb.shape[1])
    visualizer = Visualizer(rgb, metadata, scale, instance_mode=ColorMode.SEGMENTATION)
    if "panoptic_seg" in seen:  # made of the other two
        visualizer.draw_panoptic_seg(*seen["panoptic_seg"], alpha=ALPHA)
    else:
        if "sem_seg" in seen:
            visualizer.draw_sem_seg(seen["sem_seg"], alpha=ALPHA)
        if "instances" in seen:
            visualizer.draw_instance_predictions(seen["instances"])
    return Image.fromarray(visualizer.get_output().get_image())


def _save(picture: Image.Image, path: Path) -> None:
    """Save a picture in a folder that may be missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=JPEG_QUALITY)
