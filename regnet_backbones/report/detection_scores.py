"""Predict a detector's validation images: a score for each, results for all, pictures of some."""

import contextlib
import copy
import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from PIL import Image
from pycocotools.coco import COCO
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.detection.config_checks import check_semantic_datasets
from regnet_backbones.detection.evaluators import (
    PICTURES,
    build_evaluators,
    check_evaluators,
    instances_of,
    outputs_of,
)
from regnet_backbones.detection.optimization import optimize_detector
from regnet_backbones.detection.pictures import InstancePictures, SemanticPictures
from regnet_backbones.detection.trained import load_weights, with_test_augmentation
from regnet_backbones.detection.training.trainer import Trainer
from regnet_backbones.report.content import Picture, Predictions
from regnet_backbones.report.facts import Facts, model_facts
from regnet_backbones.report.scores import Score, best_and_worst, match_instances
from regnet_backbones.report.semantic import count_pixels, mean_iou
from regnet_backbones.report.timing import Stopwatch
from regnet_backbones.runs.trained import Trained

# Pixels between truth and prediction.
GAP = 4

Record = Mapping[str, object]
Output = Mapping[str, object]


@dataclass(frozen=True)
class Scored:
    """What became of the validation images.

    Attributes:
        predictions: for the page.
        results: by task and metric, as an evaluation gives them; None unless all images were
            predicted.
        model_facts: size of the model.
    """

    predictions: Predictions
    results: Mapping[str, Mapping[str, float]] | None
    model_facts: Facts


def score_detector(trained: Trained, cfg: CfgNode, *, images: int) -> Scored:
    """Predict the first validation images of the first dataset of `DATASETS.TEST`.

    Args:
        trained: the checkpoint.
        cfg: its config, of `detection.trained.load_config`.
        images: how many, at most.

    Raises:
        KeyError, ValueError, FileNotFoundError: data or checkpoint cannot be used.
        ModuleNotFoundError: the evaluation needs a package that is not installed.
    """
    import_projects(cfg)
    check_evaluators(cfg)
    check_semantic_datasets(cfg.DATASETS.TEST)
    name = cfg.DATASETS.TEST[0]
    model = build_model(cfg)
    load_weights(model, str(trained.checkpoint))
    facts = model_facts(model)
    model = with_test_augmentation(cfg, optimize_detector(cfg, model)).eval()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        cfg = _evaluating_in(cfg, folder)
        dataset = Trainer.build_test_loader(cfg, name).dataset
        chosen = range(min(images, len(dataset)))
        evaluator = build_evaluators(cfg, name) if len(chosen) == len(dataset) else None
        if evaluator:
            evaluator.reset()
        scorer = _scorer(cfg, name, Path(folder))
        watch = Stopwatch(cfg.MODEL.DEVICE)
        for index in tqdm(chosen, unit="image", disable=None):
            image = dataset[index]
            output = _predict(model, image, watch)
            if scorer:
                scorer.add(index, image, output)
            if evaluator:  # last: it changes what it is given
                evaluator.process([image], [output])
        results = evaluator.evaluate() if evaluator else None
        best, worst = best_and_worst(scorer.scores()) if scorer else ([], [])
        draw = _drawer(cfg, name, model, dataset)
        predictions = Predictions(
            best=tuple(draw(score) for score in best),
            worst=tuple(draw(score) for score in worst),
            score=scorer.explanation if scorer else "no score is known for such images",
            panels=("ground truth", "prediction"),
            predicted=len(chosen),
            available=len(dataset),
            milliseconds=watch.milliseconds(),
        )
    return Scored(predictions, results, facts)


class _InstanceScorer:
    """F1 of the instances of an image."""

    def __init__(self, cfg: CfgNode, name: str, folder: Path):
        metadata = MetadataCatalog.get(instances_of(name))
        json_file = metadata.get("json_file")
        if json_file is None:
            json_file = str(folder / "truth.json")
            convert_to_coco_json(name, json_file)
        self._truth = COCO(json_file)
        self._ids = _ids_by_class(metadata.get("thing_dataset_id_to_contiguous_id") or {})
        self._min_score = cfg.TEST.PICTURES_MIN_SCORE
        self._kind = "segm" if cfg.MODEL.MASK_ON else "bbox"
        self._results: list[dict[str, object]] = []
        self._images: list[int] = []
        what = "masks" if cfg.MODEL.MASK_ON else "boxes"
        self.explanation = (
            f"F1 of an image: {what} with a score of at least {self._min_score:g} that match an "
            "object of their class at an IoU of 0.5 or more, as pycocotools matches them"
        )

    def add(self, index: int, image: Record, output: Output) -> None:
        """Keep what is predicted for an image."""
        self._images.append(image["image_id"])
        if "instances" not in output:  # as Panoptic-DeepLab says that it sees none
            return
        instances = output["instances"].to("cpu")
        # A copy: detectron2's conversion moves the keypoints.
        sure = copy.deepcopy(instances[instances.scores >= self._min_score])
        for entry in instances_to_coco_json(sure, image["image_id"]):
            number = entry["category_id"]
            self._results.append({**entry, "category_id": self._ids.get(number, number)})

    def scores(self) -> list[Score]:
        """Return the score of each image, in the order in which they were added."""
        matches = match_instances(self._truth, self._results, self._images, kind=self._kind)
        return [matches[image].score(index) for index, image in enumerate(self._images)]


class _SemanticScorer:
    """Mean IoU of the classes of an image."""

    explanation = "mean IoU of an image, over the classes in its ground truth or its prediction"

    def __init__(self, name: str):
        metadata = MetadataCatalog.get(name)
        self._ignore, self._classes = metadata.ignore_label, len(metadata.stuff_classes)
        self._masks = {r["file_name"]: r["sem_seg_file_name"] for r in DatasetCatalog.get(name)}
        self._scores: list[Score] = []

    def add(self, index: int, image: Record, output: Output) -> None:
        """Count the pixels of an image."""
        prediction = output["sem_seg"].argmax(dim=0).cpu()
        truth = torch.from_numpy(np.array(Image.open(self._masks[image["file_name"]])))
        matrix = count_pixels(truth, prediction, classes=self._classes, ignore=self._ignore)
        self._scores.append(Score(index, mean_iou(matrix)))

    def scores(self) -> list[Score]:
        """Return the score of each image."""
        return self._scores


def _scorer(cfg: CfgNode, name: str, folder: Path) -> _InstanceScorer | _SemanticScorer | None:
    """Return what scores the images of a model, None where their truth is not of its kind."""
    outputs = outputs_of(cfg)
    if "instances" in outputs and cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork":
        return _InstanceScorer(cfg, name, folder)
    if "sem_seg" in outputs and all("sem_seg_file_name" in r for r in DatasetCatalog.get(name)):
        return _SemanticScorer(name)
    return None


def _drawer(
    cfg: CfgNode, name: str, model: nn.Module, dataset: Dataset
) -> Callable[[Score], Picture]:
    """Return what predicts an image again and draws it, as the training's own pictures are."""
    outputs = outputs_of(cfg)
    drawn, kind = PICTURES.get(MetadataCatalog.get(name).evaluator_type, ("", InstancePictures))
    if drawn not in outputs:
        kind = InstancePictures if "instances" in outputs else SemanticPictures
    options = {"min_score": cfg.TEST.PICTURES_MIN_SCORE} if kind is InstancePictures else {}
    pictures = kind(name, "", count=1, **options)
    records = {record["file_name"]: record for record in DatasetCatalog.get(name)}

    def draw(score: Score) -> Picture:
        image = dataset[score.index]
        kept = pictures.keep(_predict(model, image))
        truth, found = pictures.pair(records[image["file_name"]], kept)
        gap = np.full((truth.shape[0], GAP, 3), 255, np.uint8)
        sheet = Image.fromarray(np.concatenate([truth, gap, found], axis=1))
        return Picture(sheet, Path(image["file_name"]).name, score.value, score.note)

    return draw


@torch.no_grad()
def _predict(model: nn.Module, image: Record, watch: Stopwatch | None = None) -> Output:
    """Return what a model gives for an image."""

    def predict() -> Sequence[Output]:
        return model([image])

    return (watch.time(predict) if watch else predict())[0]


def _evaluating_in(cfg: CfgNode, folder: str) -> CfgNode:
    """Return a config of an evaluation of the first dataset that leaves its files in a folder."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR, cfg.DATASETS.TEST = folder, cfg.DATASETS.TEST[:1]
    cfg.TEST.PICTURES = 0
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


def _ids_by_class(numbers: Mapping[int, int]) -> dict[int, int]:
    """Return the category ids of a dataset by class number."""
    return {number: category for category, number in numbers.items()}
