"""Evaluating a trained detector, in as many processes as asked for."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import DatasetEvaluators, inference_on_dataset
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn
from torch.utils.data import Subset

from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.detection.architectures import number_of_classes, outputs_of
from regnet_backbones.detection.config_checks import check_semantic_datasets
from regnet_backbones.detection.data import (
    VAL_NAME,
    CocoSplit,
    read_coco_split,
    register_own_data,
    use_validation,
    validation_of_training,
)
from regnet_backbones.detection.data_checks.datasets import check_datasets
from regnet_backbones.detection.evaluators import check_evaluators, results_tables
from regnet_backbones.detection.image_scores import ImageScorer
from regnet_backbones.detection.optimization import optimization_of, optimize_detector
from regnet_backbones.detection.processes import run_in_processes
from regnet_backbones.detection.run import share_cores, start_log
from regnet_backbones.detection.trained import load_config, load_weights, with_test_augmentation
from regnet_backbones.detection.training.trainer import Trainer
from regnet_backbones.errors import UserError
from regnet_backbones.runs.device import device_name
from regnet_backbones.runs.results import (
    RESULTS_NAME,
    Results,
    median_milliseconds,
    write_images,
    write_results,
)
from regnet_backbones.runs.stopping import heed_parent_only
from regnet_backbones.runs.trained import Trained

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """How good a detector is.

    Attributes:
        results: in percent, by dataset, task and name of the metric; None where one is not defined.
        table: those of all classes together as text, and where the pictures are.
    """

    results: Mapping[str, Results]
    table: str


def evaluate(
    trained: Trained,
    output: str | Path,
    *,
    opts: Sequence[str] = (),
    device: str | None = None,
    processes: int = 1,
    val: CocoSplit | None = None,
    images: int | None = None,
) -> Evaluation:
    """Evaluate a detector on `DATASETS.TEST`, with the evaluators of its training.

    Writes what `runs.results` describes, a log, and the predictions. Images are scored one by one,
    and drawn, for the first dataset.

    Args:
        trained: a detector, as `find_trained` finds it.
        output: the folder to write to.
        opts: keys and values in turn that override the config.
        device: None for that of the config, or the CPU where there is no GPU.
        processes: how many share the images, each on its own GPU where there are GPUs.
        val: your own data, of `read_coco_split`, to evaluate on in place of `DATASETS.TEST`; None
            for these, which may be the data of its own that the detector was trained with.
        images: how many images of the first dataset to predict at most, None for all of all
            datasets. If there are more, they are scored one by one and there are no `results`.

    Returns:
        The numbers of `results.json`, and the chief ones as a table.

    Raises:
        UserError: config, data or checkpoint cannot be used, or do not belong together, or the
            evaluation needs a package that is not installed.
    """
    cfg = load_config(trained, opts=opts, device=device)
    cfg.OUTPUT_DIR = str(output)
    _check_processes(cfg, processes)
    if val is None:
        val = validation_of_training(cfg)
    if val is not None:
        evaluate_on(cfg, val)
    elif not cfg.DATASETS.TEST:
        raise UserError(
            "there is nothing to evaluate on: DATASETS.TEST is empty; give your own data with "
            "--val-json and --val-images, or a registered dataset with --opts DATASETS.TEST "
            "\"('coco_2017_val',)\""
        )
    else:
        check_evaluators(cfg)
        check_semantic_datasets(cfg.DATASETS.TEST)
    if images is not None:
        cfg.DATASETS.TEST = cfg.DATASETS.TEST[:1]
    optimization = optimization_of(cfg)
    settings = {
        "datasets": list(cfg.DATASETS.TEST),
        "json_file": None if val is None else cfg.DATASETS.OWN.VAL_JSON,
        "min_size_test": cfg.INPUT.MIN_SIZE_TEST,
        "max_size_test": cfg.INPUT.MAX_SIZE_TEST,
        "test_augmentation": dict(cfg.TEST.AUG) if cfg.TEST.AUG.ENABLED else None,
        "optimization": None if optimization is None else optimization.describe(),
        "opts": list(opts),
    }
    cfg.freeze()
    run_in_processes(_evaluate, (cfg, trained, settings, images), processes, 1, 0, "auto")
    results = json.loads((Path(output) / RESULTS_NAME).read_text())["results"]
    names = cfg.DATASETS.TEST
    in_detectron2s_form = results[names[0]] if len(names) == 1 else results
    return Evaluation(results, results_tables(cfg, in_detectron2s_form))


def evaluate_on(cfg: CfgNode, val: CocoSplit) -> None:
    """Let a detector's config evaluate on a COCO json, which is checked as before a training."""
    if val.root is not None and list(val.root) in map(list, cfg.DATASETS.OWN.CATEGORIES):
        val = read_coco_split(val.json_file, val.image_root, keep_root=True)
    _check_fit(cfg, val)
    use_validation(cfg, val)
    report = check_datasets(
        cfg, images=cfg.DATALOADER.CHECK_IMAGES, train=False, read={VAL_NAME: val}
    )
    if report.has_errors:
        errors = report.errors.summary()
        raise UserError(f"'{val.json_file}' cannot be evaluated on:\n{errors}")
    if report.defects:
        logger.warning("%s", report.summary())


class _Timed(nn.Module):
    """A model that notes the seconds of its calls; test-time augmentation runs no hooks."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.seconds: list[float] = []

    def forward(self, inputs: Sequence[Mapping]) -> Sequence[Mapping]:
        start = time.perf_counter()
        outputs = self.model(inputs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - start)
        return outputs


def _evaluate(
    cfg: CfgNode, trained: Trained, settings: Mapping[str, object], images: int | None
) -> None:
    """Do the part of this process, and in the first one write the results."""
    register_own_data(cfg)  # known to the process that read them, not to those it started
    start_log(cfg)
    share_cores(cfg)
    import_projects(cfg)
    model = build_model(cfg)
    load_weights(model, cfg.MODEL.WEIGHTS)
    parameters = sum(p.numel() for p in model.parameters())
    model = _Timed(with_test_augmentation(cfg, optimize_detector(cfg, model)))
    scorer = ImageScorer(cfg, cfg.DATASETS.TEST[0])
    results: dict[str, Mapping] = {}
    for name in cfg.DATASETS.TEST:
        loader = Trainer.build_test_loader(cfg, name)
        if images is not None and images < len(loader.dataset):
            some, workers = Subset(loader.dataset, range(images)), loader.num_workers
            loader = build_detection_test_loader(some, mapper=None, num_workers=workers)
            loader.worker_init_fn, evaluators = heed_parent_only, DatasetEvaluators([])
        else:
            evaluators = Trainer.build_evaluator(cfg, name)
        if not results:
            evaluators = DatasetEvaluators([scorer, evaluators])
        results[name] = inference_on_dataset(model, loader, evaluators)
    scored = scorer.finish(
        cfg.OUTPUT_DIR,
        milliseconds=median_milliseconds(model.seconds),
        machine=device_name(cfg.MODEL.DEVICE),
        parameters=parameters,
    )
    if comm.is_main_process():
        write_images(cfg.OUTPUT_DIR, scored)
        write_results(cfg.OUTPUT_DIR, trained, results=results, settings=settings)


def _check_fit(cfg: CfgNode, val: CocoSplit) -> None:
    """Raise UserError where a json does not belong to a detector."""
    if "instances" not in outputs_of(cfg):
        raise UserError(
            f"a COCO json is for detectors, this is a {cfg.MODEL.META_ARCHITECTURE}; name a "
            "registered dataset with --opts DATASETS.TEST"
        )
    count, given = number_of_classes(cfg), list(val.categories.values())
    trained = [name for _, name in cfg.DATASETS.OWN.CATEGORIES]
    if count != len(given) or (trained and trained != given):
        raise UserError(
            f"the detector has {count} classes{': ' if trained else ''}{', '.join(trained)}; those "
            f"of '{val.json_file}', in the order of their ids, are {', '.join(given)}; give a json "
            "with the categories of the training"
        )


def _check_processes(cfg: CfgNode, processes: int) -> None:
    """Raise UserError where there are not as many devices as processes."""
    if processes < 1:
        raise UserError(f"the number of processes must be at least 1, got {processes}")
    gpus = torch.cuda.device_count() if cfg.MODEL.DEVICE == "cuda" else 0
    if processes > max(1, gpus) and cfg.MODEL.DEVICE != "cpu":
        raise UserError(
            f"{processes} processes need as many GPUs and the device 'cuda', got {gpus} GPUs and "
            f"'{cfg.MODEL.DEVICE}'"
        )
