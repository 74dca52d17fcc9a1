"""Evaluating a trained detector, in as many processes as asked for."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import launch
from detectron2.modeling import build_model
from detectron2.utils import comm

from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.detection.ade20k import check_semantic_datasets
from regnet_backbones.detection.architectures import architecture_of, number_of_classes
from regnet_backbones.detection.data import (
    VAL_NAME,
    CocoSplit,
    read_coco_split,
    register_own_data,
    use_validation,
    validation_of_training,
)
from regnet_backbones.detection.data_checks.datasets import check_datasets
from regnet_backbones.detection.evaluators import check_evaluators
from regnet_backbones.detection.optimization import optimization_of, optimize_detector
from regnet_backbones.detection.processes import share_cores
from regnet_backbones.detection.results import results_tables
from regnet_backbones.detection.run import start_log
from regnet_backbones.detection.trained import load_config, load_weights, with_test_augmentation
from regnet_backbones.detection.training.trainer import Trainer
from regnet_backbones.errors import UserError
from regnet_backbones.runs.results import RESULTS_NAME, write_results
from regnet_backbones.runs.trained import Trained

# By dataset, task and name of the metric; None where it is not defined.
Results = Mapping[str, Mapping[str, Mapping[str, float | None]]]


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """How good a detector is.

    Attributes:
        results: in percent, by dataset, task and name of the metric; None where one is not defined.
        table: the chief ones as text, and where the pictures are.
    """

    results: Results
    table: str


def evaluate(
    trained: Trained,
    output: str | Path,
    *,
    opts: Sequence[str] = (),
    device: str | None = None,
    processes: int = 1,
    val: CocoSplit | None = None,
) -> Evaluation:
    """Evaluate a detector on `DATASETS.TEST`, with the evaluators of its training.

    Writes `results.json`, a log, the predictions, and pictures of some.

    Args:
        trained: a detector, as `find_trained` finds it.
        output: the folder to write to.
        opts: keys and values in turn that override the config.
        device: None for that of the config, or the CPU where there is no GPU.
        processes: how many share the images, each on a GPU of its own where there are GPUs.
        val: one's own data, of `read_coco_split`, to evaluate on in place of `DATASETS.TEST`; None
            for these, which may be the data of its own that the detector was trained with.

    Returns:
        The numbers of `results.json`, and the chief ones as a table.

    Raises:
        KeyError, ValueError, FileNotFoundError: config, data or checkpoint cannot be used, or do
            not belong together.
        ModuleNotFoundError: the evaluation needs a package that is not installed.
    """
    cfg = load_config(trained, opts=opts, device=device)
    cfg.OUTPUT_DIR = str(output)
    _check_processes(cfg, processes)
    if val is None:
        val = validation_of_training(cfg)
    if val is not None:
        evaluate_on(cfg, val)
    else:
        _check_datasets(cfg)
    cfg.freeze()
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
    launch(_evaluate, processes, dist_url="auto", args=(cfg, trained, settings))
    # What a process of its own finds out comes back as the file that it wrote.
    results = json.loads((Path(output) / RESULTS_NAME).read_text())["results"]
    names = cfg.DATASETS.TEST
    in_detectron2s_form = results[names[0]] if len(names) == 1 else results
    return Evaluation(results, results_tables(cfg, in_detectron2s_form))


def evaluate_on(cfg: CfgNode, val: CocoSplit) -> None:
    """Let a detector be evaluated on a COCO json, which is checked as before a training.

    Args:
        cfg: of the detector; changed in place, see `use_validation`.
        val: the json, of `read_coco_split`.

    Raises:
        ValueError: the config is no detector's, the json has other classes, the detector predicts
            masks, and the json has none, or annotations or images would stop an evaluation or
            spoil its result.
    """
    if val.coco.root is not None and list(val.coco.root) in map(list, cfg.DATASETS.OWN.CATEGORIES):
        val = read_coco_split(val.json_file, val.image_root, keep_root=True)
    _check_fit(cfg, val)
    use_validation(cfg, val)
    report = check_datasets(
        cfg, images=cfg.DATALOADER.CHECK_IMAGES, train=False, read={VAL_NAME: val.coco}
    )
    if report.has_errors:
        errors = report.of("error").summary()
        raise UserError(f"'{val.json_file}' cannot be evaluated on:\n{errors}")
    if report.defects:
        logger.warning("%s", report.summary())


def _check_fit(cfg: CfgNode, val: CocoSplit) -> None:
    """Raise ValueError where a json is not of the kind or the classes that a detector gives."""
    if "instances" not in architecture_of(cfg).outputs:
        raise UserError(
            f"a COCO json is for detectors, the config is of a {cfg.MODEL.META_ARCHITECTURE}; "
            "name a registered dataset with --opts DATASETS.TEST"
        )
    count = number_of_classes(cfg)
    if count != len(val.categories):
        raise UserError(
            f"the detector has {count} classes, and '{val.json_file}' "
            f"{len(val.categories)} ({', '.join(val.categories.values())}); give a json with the "
            "categories of the training"
        )
    trained = [name for _, name in cfg.DATASETS.OWN.CATEGORIES]
    given = list(val.categories.values())
    if trained and trained != given:
        raise UserError(
            f"the detector was trained on the classes {', '.join(trained)}, and those of "
            f"'{val.json_file}', in the order of their ids, are {', '.join(given)}; give a json "
            "with the categories of the training"
        )
    if cfg.MODEL.MASK_ON and val.without_mask:
        raise UserError(
            f"the detector predicts masks, and {val.without_mask}; add it, remove the "
            "annotations, or evaluate boxes only with --opts MODEL.MASK_ON False"
        )


def _evaluate(cfg: CfgNode, trained: Trained, settings: Mapping[str, object]) -> None:
    """Do the part of this process, and in the first one write the results."""
    register_own_data(cfg)  # known to the process that read them, not to those it started
    start_log(cfg)
    share_cores(cfg.MODEL.DEVICE)
    import_projects(cfg)
    model = build_model(cfg)
    load_weights(model, cfg.MODEL.WEIGHTS)
    model = with_test_augmentation(cfg, optimize_detector(cfg, model))
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        names = cfg.DATASETS.TEST
        results = {names[0]: results} if len(names) == 1 else results
        write_results(cfg.OUTPUT_DIR, trained, results=results, settings=settings)


def _check_processes(cfg: CfgNode, processes: int) -> None:
    """Raise ValueError where there are not as many devices as processes."""
    if processes < 1:
        raise UserError(f"the number of processes must be at least 1, got {processes}")
    if processes == 1 or cfg.MODEL.DEVICE == "cpu":
        return
    if cfg.MODEL.DEVICE != "cuda" or processes > torch.cuda.device_count():
        raise UserError(
            f"{processes} processes need as many GPUs and the device 'cuda', got "
            f"{torch.cuda.device_count()} GPUs and '{cfg.MODEL.DEVICE}'"
        )


def _check_datasets(cfg: CfgNode) -> None:
    """Raise where the config names no dataset, or one that is not there."""
    names = cfg.DATASETS.TEST
    known = DatasetCatalog.list()
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        problem = f"names '{unknown[0]}', which is not registered" if unknown else "is empty"
        raise UserError(
            f"there is nothing to evaluate on: DATASETS.TEST {problem}; give one's own data with "
            "--val-json and --val-images, or a registered dataset with --opts DATASETS.TEST "
            "\"('coco_2017_val',)\""
        )
    check_semantic_datasets(names)
    check_evaluators(cfg)
