"""How good the predictions of single images are, and pictures of the best and the worst of them."""

import contextlib
import copy
import io
from collections.abc import Mapping, Sequence
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
from regnet_backbones.detection.evaluators import build_pictures, instances_of
from regnet_backbones.runs.results import ImageResults, ImageScore, ScoredImages

# Objects that overlap so much are the same.
MIN_IOU = 0.5

Record = Mapping[str, object]
Output = Mapping[str, object]


class ImageScorer(DatasetEvaluator):
    """Score each image of a dataset: an evaluator that comes before those that change outputs."""

    def __init__(self, cfg: CfgNode, name: str):
        self._records = {record["file_name"]: record for record in DatasetCatalog.get(name)}
        self._pictures = build_pictures(cfg, name)
        self._draws = cfg.TEST.PICTURES > 0
        outputs = outputs_of(cfg)
        self._score: _InstanceScore | _SemanticScore | None = None
        if "instances" in outputs and cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork":
            self._score = _InstanceScore(cfg, name)
        elif "sem_seg" in outputs and all("sem_seg_file_name" in r for r in self._records.values()):
            self._score = _SemanticScore(name, self._records)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._scored = ScoredImages(pictures=self._draws)

    def process(self, inputs: Sequence[Record], outputs: Sequence[Output]) -> None:
        """Score a batch, and keep what is to be drawn of it."""
        for image, output in zip(inputs, outputs, strict=True):
            file = image["file_name"]
            kept = self._pictures.keep(output) if self._draws else None
            score = self._score(image, output) if self._score else (None,)
            draw = partial(self._pictures.draw, self._records[file], kept)
            self._scored.add(ImageScore(Path(file).name, *score), draw)

    def finish(self, folder: str | Path, **about: object) -> ImageResults:
        """Draw pictures in each process and return all scores, with what else is `about` them."""
        scores = tuple(score for part in comm.all_gather(self._scored.scores) for score in part)
        return ImageResults(
            score=self._score.explanation if self._score else "no score is known for such images",
            panels=("ground truth", "prediction"),
            available=len(self._records),
            images=scores,
            **self._scored.draw(folder, scores),
            **about,
        )


class _InstanceScore:
    """F1 of an image, and what it is made of."""

    def __init__(self, cfg: CfgNode, name: str):
        self.min_score = cfg.TEST.PICTURES_MIN_SCORE
        self.kind, shown = ("segm", "masks") if cfg.MODEL.MASK_ON else ("bbox", "boxes")
        self.explanation = (
            f"F1 of an image: {shown} with a score of at least {self.min_score:g} that match an "
            f"object of their class at an IoU of {MIN_IOU} or more, as pycocotools matches them"
        )
        metadata = MetadataCatalog.get(instances_of(name))
        ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        self.ids = {number: category for category, number in ids.items()}
        json_file = metadata.get("json_file")
        with contextlib.redirect_stdout(io.StringIO()):
            self.truth = COCO(json_file)
            if json_file is None:
                self.truth.dataset = convert_to_coco_dict(name)
                self.truth.createIndex()

    def __call__(self, image: Record, output: Output) -> tuple[float | None, int, int, int]:
        results = []
        if "instances" in output:  # Panoptic-DeepLab leaves it out if there are none
            instances = output["instances"].to("cpu")
            # A copy: detectron2's conversion moves the keypoints.
            sure = copy.deepcopy(instances[instances.scores >= self.min_score])
            results = instances_to_coco_json(sure, image["image_id"])
        for entry in results:
            entry["category_id"] = self.ids.get(entry["category_id"], entry["category_id"])
        counts = match_image(self.truth, results, image["image_id"], kind=self.kind)
        return f1(*counts), *counts


class _SemanticScore:
    """Mean IoU of an image."""

    explanation = "mean IoU of an image, over the classes in its ground truth or its prediction"

    def __init__(self, name: str, records: Mapping[str, Record]):
        metadata = MetadataCatalog.get(name)
        self.classes, self.ignore = len(metadata.stuff_classes), metadata.ignore_label
        self.records = records

    def __call__(self, image: Record, output: Output) -> tuple[float | None]:
        with Image.open(self.records[image["file_name"]]["sem_seg_file_name"]) as mask:
            truth = np.asarray(mask)
        prediction = output["sem_seg"].argmax(dim=0).cpu().numpy()
        return (mean_iou(truth, prediction, classes=self.classes, ignore=self.ignore),)


def match_image(
    truth: COCO,
    results: Sequence[Mapping[str, object]],
    image_id: int | str,
    *,
    kind: Literal["bbox", "segm"],
) -> tuple[int, int, int]:
    """Return how many objects of an image were found, missed and made up, as COCO matches them.

    Crowds count neither as missed nor, when they are met, as made up.
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
    """Return the mean IoU over the classes in truth or prediction (H, W), None without any.

    Pixels whose truth is `ignore` count nowhere.
    """
    counted = truth != ignore
    pairs = truth[counted].astype(np.int64) * classes + prediction[counted]
    matrix = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    right = matrix.diagonal()
    union = matrix.sum(0) + matrix.sum(1) - right
    present = union > 0
    return float((right[present] / union[present]).mean()) if present.any() else None
