"""How good the predictions of single images are, and pictures of the best and the worst of them."""

import contextlib
import copy
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from regnet_backbones.detection.architectures import outputs_of
from regnet_backbones.detection.evaluators import PICTURES, instances_of
from regnet_backbones.detection.pictures import InstancePictures, SemanticPictures
from regnet_backbones.runs.results import ImageResults, ImageScore, ScoredImages

# Objects that overlap so much are the same.
MIN_IOU = 0.5

# White pixels between truth and prediction.
GAP = 4

Record = Mapping[str, object]
Output = Mapping[str, object]


class ImageScorer(DatasetEvaluator):
    """Score each image of a dataset: an evaluator that comes before those that change outputs.

    Args:
        cfg: of the model.
        name: of a registered dataset.
    """

    def __init__(self, cfg: CfgNode, name: str):
        self._records = {record["file_name"]: record for record in DatasetCatalog.get(name)}
        self._score, self._explanation = _scorer_of(cfg, name, self._records)
        outputs = outputs_of(cfg)
        drawn, kind = PICTURES.get(MetadataCatalog.get(name).evaluator_type, ("", InstancePictures))
        if drawn not in outputs:
            kind = InstancePictures if "instances" in outputs else SemanticPictures
        options = {"min_score": cfg.TEST.PICTURES_MIN_SCORE} if kind is InstancePictures else {}
        self._pictures = kind(name, "", count=1, **options)
        self._draws = cfg.TEST.PICTURES > 0
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._scored = ScoredImages(pictures=self._draws)

    def process(self, inputs: Sequence[Record], outputs: Sequence[Output]) -> None:
        """Score a batch, and keep what is to be drawn of it."""
        for image, output in zip(inputs, outputs, strict=True):
            file = image["file_name"]
            kept = self._pictures.keep(output) if self._draws else None
            draw = partial(self._drawn, self._records[file], kept)
            self._scored.add(ImageScore(Path(file).name, *self._score(image, output)), draw)

    def finish(self, folder: str | Path, **about: object) -> ImageResults:
        """Draw pictures into a folder, in each process, and return what all of them have scored.

        Args:
            folder: of the evaluation.
            about: further attributes of `ImageResults`.
        """
        scores = tuple(score for part in comm.all_gather(self._scored.scores) for score in part)
        return ImageResults(
            score=self._explanation,
            panels=("ground truth", "prediction"),
            available=len(self._records),
            images=scores,
            **self._scored.draw(folder, scores),
            **about,
        )

    def _drawn(self, record: Record, kept: object) -> Image.Image:
        truth, found = self._pictures.pair(record, kept)
        gap = np.full((truth.shape[0], GAP, 3), 255, np.uint8)
        return Image.fromarray(np.concatenate([truth, gap, found], axis=1))


def match_image(
    truth: COCO,
    results: Sequence[Mapping[str, object]],
    image_id: int | str,
    *,
    kind: Literal["bbox", "segm"],
) -> tuple[int, int, int]:
    """Match predictions of an image with its truth as COCO's evaluation does, at an IoU of 0.5.

    Crowds count neither as missed nor, when they are met, as made up.

    Args:
        truth: the annotations.
        results: predictions as COCO results, only those that count.
        image_id: of the image.
        kind: whether boxes or masks must overlap.

    Returns:
        How many objects were found, missed and made up.
    """
    annotations = truth.imgToAnns[image_id]
    if not annotations and not results:
        return 0, 0, 0
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress
        alone = COCO()
        alone.dataset = {**truth.dataset, "images": [truth.imgs[image_id]]}
        alone.dataset["annotations"] = annotations
        alone.createIndex()
        predicted = alone.loadRes([dict(entry) for entry in results]) if results else COCO()
        evaluation = COCOeval(alone, predicted, kind)
        parameters = evaluation.params
        parameters.catIds = sorted({each["category_id"] for each in [*annotations, *results]})
        parameters.iouThrs = np.array([MIN_IOU])
        parameters.areaRng, parameters.areaRngLbl = [parameters.areaRng[0]], ["all"]
        parameters.maxDets = [max(1, len(results))]
        evaluation.evaluate()
    found = missed = made_up = 0
    for of_class in filter(None, evaluation.evalImgs):
        matched = of_class["dtMatches"][0] > 0
        counted = ~of_class["dtIgnore"][0].astype(bool)
        hits = int((matched & counted).sum())
        found += hits
        missed += int((~np.asarray(of_class["gtIgnore"], dtype=bool)).sum()) - hits
        made_up += int((~matched & counted).sum())
    return found, missed, made_up


def f1(found: int, missed: int, made_up: int) -> float | None:
    """Return the harmonic mean of precision and recall, None where nothing is nor is predicted."""
    total = 2 * found + missed + made_up
    return 2 * found / total if total else None


def mean_iou(
    truth: np.ndarray, prediction: np.ndarray, *, classes: int, ignore: int
) -> float | None:
    """Return the mean IoU over the classes in truth or prediction, None where there are none.

    Args:
        truth, prediction: classes of the pixels, integers (H, W).
        classes: their number.
        ignore: pixels of this truth count nowhere.
    """
    counted = truth != ignore
    pairs = truth[counted].astype(np.int64) * classes + prediction[counted]
    matrix = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    right = matrix.diagonal()
    union = matrix.sum(0) + matrix.sum(1) - right
    present = union > 0
    return float((right[present] / union[present]).mean()) if present.any() else None


def _scorer_of(
    cfg: CfgNode, name: str, records: Mapping[str, Record]
) -> tuple[Callable[[Record, Output], tuple], str]:
    """Return what gives the fields of an image's score, and what the score is."""
    outputs = outputs_of(cfg)
    if "instances" in outputs and cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork":
        least, kind = cfg.TEST.PICTURES_MIN_SCORE, "segm" if cfg.MODEL.MASK_ON else "bbox"
        metadata = MetadataCatalog.get(instances_of(name))
        ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        options = {
            "truth": _coco_of(name, metadata.get("json_file")),
            "ids": {number: category for category, number in ids.items()},
            "min_score": least,
            "kind": kind,
        }
        return partial(_instance_score, **options), (
            f"F1 of an image: {'masks' if cfg.MODEL.MASK_ON else 'boxes'} with a score of at least "
            f"{least:g} that match an object of their class at an IoU of {MIN_IOU} or more, as "
            "pycocotools matches them"
        )
    if "sem_seg" in outputs and all("sem_seg_file_name" in r for r in records.values()):
        metadata = MetadataCatalog.get(name)
        options = {"classes": len(metadata.stuff_classes), "ignore": metadata.ignore_label}
        return partial(_semantic_score, records=records, **options), (
            "mean IoU of an image, over the classes in its ground truth or its prediction"
        )
    return (lambda image, output: (None,)), "no score is known for such images"


def _coco_of(name: str, json_file: str | None) -> COCO:
    """Return the truth of a dataset, whether or not it comes from a COCO json."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(json_file)
        if json_file is None:
            truth.dataset = convert_to_coco_dict(name)
            truth.createIndex()
    return truth


def _instance_score(
    image: Record,
    output: Output,
    *,
    truth: COCO,
    ids: Mapping[int, int],
    min_score: float,
    kind: Literal["bbox", "segm"],
) -> tuple[float | None, int, int, int]:
    """Return F1 and its counts."""
    results = []
    if "instances" in output:  # Panoptic-DeepLab leaves it out if there are none
        instances = output["instances"].to("cpu")
        # A copy: detectron2's conversion moves the keypoints.
        sure = copy.deepcopy(instances[instances.scores >= min_score])
        results = instances_to_coco_json(sure, image["image_id"])
    for entry in results:
        entry["category_id"] = ids.get(entry["category_id"], entry["category_id"])
    counts = match_image(truth, results, image["image_id"], kind=kind)
    return f1(*counts), *counts


def _semantic_score(
    image: Record, output: Output, *, records: Mapping[str, Record], classes: int, ignore: int
) -> tuple[float | None]:
    """Return the mean IoU of an image."""
    with Image.open(records[image["file_name"]]["sem_seg_file_name"]) as mask:
        truth = np.asarray(mask)
    prediction = output["sem_seg"].argmax(dim=0).cpu().numpy()
    return (mean_iou(truth, prediction, classes=classes, ignore=ignore),)
