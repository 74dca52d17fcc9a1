"""What a trained detector sees in images: pictures, COCO results, label and segment maps."""

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image

from regnet_backbones.adapters.detectron2 import id2rgb
from regnet_backbones.detection import architectures
from regnet_backbones.detection.classes import KnownClasses, class_names, known_classes
from regnet_backbones.detection.data import read_image_ids
from regnet_backbones.detection.engines import Engine, build_engine, check_engine, use_exported
from regnet_backbones.detection.pictures import (
    Seen,
    draw_overlay,
    drawing_task,
    save_picture,
    seen_in,
    write_overlay,
)
from regnet_backbones.detection.trained import load_config, load_weights, model_input
from regnet_backbones.detection.windows import SlidingDetector, in_own_size, window_settings
from regnet_backbones.errors import UserError
from regnet_backbones.runs.drawing import Drawing
from regnet_backbones.runs.image_files import batches, check_batch_size
from regnet_backbones.runs.predictions import Result, present_classes
from regnet_backbones.runs.results import json_list, write_json
from regnet_backbones.runs.trained import Trained
from regnet_backbones.runs.videos import ImageReader

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class DetectorPredictor:
    """A trained detector that takes images of any size, once `build` has made the model.

    Args:
        trained, opts, device: see `evaluation.evaluate`.
        min_score: instances below this score are left out.
        val_json: a COCO json with the categories of the training, and perhaps ids of images; None
            for the categories of `DATASETS.TEST`, if it is registered.
        engine, exported, window, window_stride: see `evaluation.evaluate`.

    Raises:
        UserError: config, json, exported file or an argument cannot be used.
    """

    def __init__(
        self,
        trained: Trained,
        *,
        min_score: float = 0.5,
        opts: Sequence[str] = (),
        device: str | None = None,
        val_json: str | Path | None = None,
        engine: Engine = "torch",
        exported: str | Path | None = None,
        window: int | None = None,
        window_stride: int | None = None,
    ):
        if not 0 <= min_score <= 1:
            raise UserError(f"min_score must be from 0 to 1, got {min_score}")
        device = check_engine(engine, exported=exported, device=device)
        self._windows = window_settings(window, window_stride)
        self.cfg = load_config(trained, opts=opts, device=device)
        use_exported(self.cfg, engine, exported)
        if engine == "torch":  # an exported file has a threshold of its own
            architectures.raise_score_threshold(self.cfg, min_score)
        self.classes, self.val_json = known_classes(self.cfg, val_json), val_json
        self._min_score, self._engine, self._exported = min_score, engine, exported

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes of objects; of pixels without objects."""
        return class_names(self.cfg, self.classes)

    def build(self, examples: Sequence[Path] = ()) -> None:
        """Build the model with its weights.

        Args:
            examples: image files, with the first of which an engine exports the model.
        """
        model = build_model(self.cfg)
        load_weights(model, self.cfg.MODEL.WEIGHTS)
        self._model = build_engine(self.cfg, model, self._engine, self._exported, examples)
        if self._windows["window"] is not None:
            self._model = SlidingDetector(self.cfg, self._model, *self._windows.values())
            self.cfg = in_own_size(self.cfg)

    def __call__(
        self, images: Iterable[tuple[Item, Image.Image]], batch_size: int = 1
    ) -> Iterator[tuple[Item, Seen]]:
        """Yield what is seen in images, each with the item that came with it.

        Consecutive images that are resized to one size are in a batch, and windows of one image.
        """
        if isinstance(self._model, SlidingDetector):
            self._model.batch_size = batch_size
        inputs = (
            (item, {"image": model_input(self.cfg, i), "height": i.height, "width": i.width})
            for item, i in images
        )
        for batch in batches(inputs, batch_size, lambda each: each[1]["image"].shape):
            with torch.no_grad():
                predicted = self._model([given for _, given in batch])
            for (item, _), outputs in zip(batch, predicted, strict=True):
                yield item, seen_in(outputs, self._min_score)

    def results(self, images: Iterable[Image.Image], batch_size: int = 1) -> Iterator[Result]:
        """Predict images.

        Args:
            images: upright images of any size.
            batch_size: see `predict`.

        Returns:
            What is seen in each, as arrays.
        """
        for image, seen in self(((image, image) for image in images), batch_size):
            yield self._result(np.array(image.convert("RGB")), seen)

    def _result(self, pixels: np.ndarray, seen: Seen) -> Result:
        if not seen:
            name = self.cfg.MODEL.META_ARCHITECTURE
            raise UserError(f"a {name} predicts neither objects nor classes of pixels")
        found: dict[str, object] = {}
        given = self.classes.metadata
        things, stuff = tuple(given.thing_classes), tuple(given.stuff_classes)
        if "sem_seg" in seen:
            found |= {"labels": seen["sem_seg"], "label_names": stuff}
        if "panoptic_seg" in seen:
            ids, info = _coco_segments(seen["panoptic_seg"], self.classes)
            found |= {"segments": ids, "segments_info": info}
        # Panoptic-DeepLab gives no instances of an image without objects.
        known = architectures.architecture_of(self.cfg) is not architectures.OTHER
        known = known and "instances" in architectures.outputs_of(self.cfg)
        if "instances" in seen or known or "sem_seg" not in seen:
            found |= {"class_names": things, **_arrays(seen.get("instances"), pixels.shape[:2])}
        else:
            found |= {"class_names": stuff, **present_classes(seen["sem_seg"])}
        return Result(image=pixels, drawing=partial(draw_overlay, pixels, seen, given), **found)


def predict(
    detector: DetectorPredictor,
    read: ImageReader,
    output: Path,
    *,
    pictures: bool = True,
    batch_size: int = 1,
) -> None:
    """Predict images and frames of videos, and write what is seen in them.

        overlays/<name>.jpg   the image with what is seen drawn over it, small ones enlarged
        predictions.json      instances as COCO results, with `file_name` and `category`
        panoptic/<name>.png   ids of segments as colours, of a panoptic model, and
        panoptic.json         what they are, as COCO's panoptic results, with `category`
        labels/<name>.png     the class of each pixel, from 0, of a model with semantic output
        classes.txt           names of these classes, one a line, if they are known

    A frame is named `<video>_<number from 0>`; the overlays of a video are `<video>.mp4`.

    Args:
        detector: not built yet.
        read: the images; those that cannot be read are in its `failed` afterwards.
        output: a folder; files in it are overwritten.
        pictures: whether to draw overlays.
        batch_size: how many images of one size after resizing, or windows of one image, the model
            takes at a time. Results may differ in the last bits.

    Raises:
        UserError: the checkpoint, a video or the batch size cannot be used.
    """
    check_batch_size(batch_size)
    classes = detector.classes
    ids, free_ids = _image_ids(read.stills, detector.val_json)
    append, panoptic, given = None, [], set()
    with ExitStack() as files, Drawing(write_overlay, read.count if pictures else 0) as drawing:
        detector.build(read.stills)
        inputs = ((picture, picture.image) for picture in read)
        for picture, seen in detector(inputs, batch_size):
            file = f"{picture.name}.png"
            id_ = ids[picture.file] if picture.frame is None else next(free_ids)
            given |= seen.keys()
            if pictures:
                overlay = output / "overlays" / f"{picture.name}.jpg"
                pixels = np.asarray(picture.image.convert("RGB"))
                task = drawing_task(seen, classes.metadata)
                drawing.add(picture.file, overlay, pixels, *task)
            if "instances" in seen:
                append = append or files.enter_context(json_list(output / "predictions.json"))
                where = {"file_name": str(picture.file)}
                where |= {} if picture.frame is None else {"frame": picture.frame}
                for entry in _coco_instances(seen["instances"], id_, classes):
                    append(entry | where)
            if "sem_seg" in seen:
                save_picture(seen["sem_seg"], output / "labels" / file)
            if "panoptic_seg" in seen:
                segments, info = _coco_segments(seen["panoptic_seg"], classes)
                save_picture(id2rgb(segments), output / "panoptic" / file)
                about = {"image_id": id_, "file_name": file, "segments_info": info}
                panoptic.append(about)
    if pictures:
        read.join_overlays(output / "overlays")
    if "panoptic_seg" in given:
        write_json(output / "panoptic.json", {"annotations": panoptic})
    if "sem_seg" in given and classes.stuff_are_named:
        (output / "classes.txt").write_text("\n".join(classes.metadata.stuff_classes) + "\n")


def _image_ids(
    images: Sequence[Path], val_json: str | Path | None
) -> tuple[dict[Path, int | str], Iterator[int]]:
    """Return the ids of images in a json, and further free ones; other images get some of these.

    A json names images relative to a folder: the images' common one, or one above it.
    """
    known = {} if val_json is None else read_image_ids(val_json)
    by_name = {PurePosixPath(name.replace("\\", "/")): id_ for name, id_ in known.items()}
    paths = {image: Path(os.path.abspath(image)) for image in images}
    common = Path(os.path.commonpath([path.parent for path in paths.values()] or [Path()]))
    by_root = []
    for root in (*reversed(common.parents), common):
        names = {image: PurePosixPath(path.relative_to(root)) for image, path in paths.items()}
        by_root.append({image: by_name[name] for image, name in names.items() if name in by_name})
    found = max(by_root, key=len)  # of equal ones that of the longest names
    numbers = (id_ for id_ in known.values() if isinstance(id_, int))
    free = itertools.count(max(numbers, default=0) + 1)
    others = [image for image in images if image not in found]
    if known and others:
        logger.warning(
            "%d of %d images are not in '%s', such as '%s'; COCO's tools reject their image_id",
            *(len(others), len(images), val_json, others[0]),
        )
    return found | {image: next(free) for image in others}, free


def _coco_instances(
    instances: Instances, image_id: int | str, classes: KnownClasses
) -> Iterator[dict[str, object]]:
    """Yield the instances of an image as COCO results, with `category`."""
    for entry in instances_to_coco_json(instances, image_id):
        label = entry["category_id"]
        known = {"category_id": classes.ids[label]}
        yield {**entry, **known, "category": classes.metadata.thing_classes[label]}


def _coco_segments(
    predicted: tuple[torch.Tensor, list[dict] | None], classes: KnownClasses
) -> tuple[np.ndarray, list[dict]]:
    """Return segments in COCO's panoptic form: ids (H, W), 0 for none, and what they are.

    An id of Panoptic-DeepLab is class number * `label_divisor` + a number; -1 means no segment.
    """
    segments, info = predicted
    ids = segments.numpy().astype(np.int64)
    if info is None:
        of_things = set(classes.metadata.thing_dataset_id_to_contiguous_id.values())
        info = []
        for label in np.unique(ids[ids >= 0]).tolist():
            number = label // classes.metadata.label_divisor
            info.append({"id": label + 1, "category_id": number, "isthing": number in of_things})
        ids = ids + 1  # from -1 to COCO's 0
    things = classes.ids, classes.metadata.thing_classes
    stuff = classes.stuff_ids, classes.metadata.stuff_classes
    found = []
    for segment in info:
        numbers, names = things if segment["isthing"] else stuff
        number = segment["category_id"]
        known = {"category_id": numbers[number], "category": names[number]}
        found.append({"id": int(segment["id"]), "isthing": int(segment["isthing"]), **known})
    return ids, found


def _arrays(objects: Instances | None, size: tuple[int, int]) -> dict[str, np.ndarray | None]:
    """Return what a `Result` says of objects; None is of an image of a size without any."""
    if objects is None:
        objects = Instances(size, scores=torch.zeros(0), pred_classes=torch.zeros(0))
        objects.pred_boxes = Boxes(torch.zeros(0, 4))
    if not isinstance(objects.pred_boxes, Boxes):
        raise UserError("rotated boxes are not supported; use a model of upright boxes")
    found = {
        "boxes": objects.pred_boxes.tensor.float().numpy(),
        "scores": objects.scores.float().numpy(),
        "classes": objects.pred_classes.long().numpy(),
    }
    if objects.has("pred_masks"):
        found["masks"] = objects.pred_masks.numpy()
    if objects.has("pred_keypoints"):
        found["keypoints"] = objects.pred_keypoints.float().numpy()
    return found
