"""A training or evaluation run of a detector, as `tools/train_net.py` starts it."""

import argparse
import logging
import os
import sys
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from tabulate import tabulate

from regnet_backbones.adapters.detectron2 import BUILDERS, check_weights
from regnet_backbones.adapters.detectron2_weights import fetch
from regnet_backbones.detection.ade20k import check_semantic_datasets
from regnet_backbones.detection.config import read_config
from regnet_backbones.detection.data import read_coco_split, register_splits, use_coco_splits
from regnet_backbones.detection.evaluators import contact_sheet_path
from regnet_backbones.detection.mappers import SEGMENTER
from regnet_backbones.detection.trainer import Trainer
from regnet_backbones.weights.sources import is_name

AP_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
SEMANTIC_COLUMNS = ("mIoU", "fwIoU", "mACC", "pACC")

logger = logging.getLogger(__name__)


def argument_parser(epilog: str) -> argparse.ArgumentParser:
    """Return detectron2's argument parser with the options for one's own data."""
    parser = default_argument_parser(epilog)
    own = parser.add_argument_group("own data (all four together)")
    own.add_argument("--train-json", metavar="FILE", help="COCO instance json to train on")
    own.add_argument("--train-images", metavar="DIR", help="folder of its images")
    own.add_argument("--val-json", metavar="FILE", help="COCO instance json to evaluate on")
    own.add_argument("--val-images", metavar="DIR", help="folder of its images")
    return parser


def launch_run(args: argparse.Namespace) -> int:
    """Check a run's config and data, then do it in as many processes as asked for.

    Args:
        args: what `argument_parser` parsed.

    Returns:
        The exit status: 0, or 2 for a mistake of the user, which is printed.
    """
    try:
        cfg = build_config(args)
        _fetch_weights(args, cfg)
    except (ValueError, KeyError, OSError) as error:
        text = error.args[0] if isinstance(error, KeyError) else error  # its str() is quoted
        print(f"error: {text}", file=sys.stderr)
        return 2
    launch(
        run,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args, cfg),
    )
    return 0


def run(args: argparse.Namespace, cfg: CfgNode) -> dict:
    """Train or evaluate in this process, and return the results."""
    if args.train_json:  # known to the process that checked the files, not to those it started
        register_splits(args.train_json, args.train_images, args.val_json, args.val_images)
    default_setup(cfg, args)
    share_cores(cfg)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train()
    if comm.is_main_process():
        print(summarize(cfg, results))
    return results


def build_config(args: argparse.Namespace) -> CfgNode:
    """Return the frozen config of a run; registers the user's own datasets.

    Raises:
        KeyError, ValueError, FileNotFoundError: the config or the data cannot be used.
    """
    cfg = read_config(args.config_file, args.opts)
    if cfg.MODEL.BACKBONE.NAME in BUILDERS:
        check_weights(cfg)
    _use_own_datasets(cfg, args)
    if args.eval_only and not cfg.MODEL.WEIGHTS and not args.resume:
        raise ValueError(
            "there is nothing to evaluate: give a checkpoint, MODEL.WEIGHTS path/to/model.pth, or "
            "--resume for the last one of OUTPUT_DIR"
        )
    check_semantic_datasets((*(() if args.eval_only else cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST))
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("there is no GPU: MODEL.DEVICE is cpu instead of %s", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    return cfg


def summarize(cfg: CfgNode, results: dict) -> str:
    """Format results as tables, and say where checkpoints and pictures are."""
    tables = results_tables(cfg, results)
    return f"{tables}\nconfig, metrics and checkpoints: {cfg.OUTPUT_DIR}"


def results_tables(cfg: CfgNode, results: dict) -> str:
    """Format results, in the form of detectron2's `Trainer.test`, as tables; name the pictures."""
    names = cfg.DATASETS.TEST
    by_dataset = {names[0]: results} if len(names) == 1 else results
    lines = []
    for name in names:
        tasks = dict(by_dataset.get(name, {}))
        lines.append(f"\n{name}")
        semantic = tasks.pop("sem_seg", None)
        if semantic:
            overall = _table({"sem_seg": semantic}, SEMANTIC_COLUMNS)
            lines += [_per_class_table(semantic), "", overall]
        if tasks:
            lines.append(_table(tasks, AP_COLUMNS))
        sheet = contact_sheet_path(cfg, name)
        if sheet.is_file():
            lines.append(f"ground truth beside prediction: {sheet}")
    return "\n".join(lines)


def share_cores(cfg: CfgNode) -> None:
    """Give each of several CPU processes its part of the cores: more threads stall each other."""
    processes = comm.get_local_size()
    if cfg.MODEL.DEVICE == "cpu" and processes > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def _table(tasks: dict[str, dict[str, float]], columns: tuple[str, ...]) -> str:
    """Format some metrics, a row for each task."""
    rows = [[task, *(metrics.get(c) for c in columns)] for task, metrics in tasks.items()]
    return tabulate(rows, headers=("task", *columns), floatfmt=".1f")


def _per_class_table(metrics: dict[str, float]) -> str:
    """Format what detectron2's semantic evaluator says of each class."""
    names = [key.removeprefix("IoU-") for key in metrics if key.startswith("IoU-")]
    rows = [[name, metrics[f"IoU-{name}"], metrics[f"ACC-{name}"]] for name in names]
    return tabulate(rows, headers=("class", "IoU", "ACC"), floatfmt=".1f")


def _fetch_weights(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Fetch weights from the network now: later every process would, after its data was read."""
    resumes = args.resume and (Path(cfg.OUTPUT_DIR) / "last_checkpoint").is_file()
    if is_name(cfg.MODEL.WEIGHTS) and not resumes:
        fetch(cfg.MODEL.WEIGHTS)


def _use_own_datasets(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Take the datasets of the command line, if there are any."""
    paths = {
        "--train-json": args.train_json,
        "--train-images": args.train_images,
        "--val-json": args.val_json,
        "--val-images": args.val_images,
    }
    if not any(paths.values()):
        return
    missing = [option for option, path in paths.items() if not path]
    if missing:
        raise ValueError(f"own data needs all of {', '.join(paths)}; missing: {', '.join(missing)}")
    if cfg.MODEL.META_ARCHITECTURE == SEGMENTER:
        raise ValueError(
            f"{', '.join(paths)} are for detectors, the config trains a {SEGMENTER}: give a config "
            "of a detector, or name registered datasets in DATASETS.TRAIN and DATASETS.TEST"
        )
    use_coco_splits(
        cfg,
        read_coco_split(args.train_json, args.train_images),
        read_coco_split(args.val_json, args.val_images),
    )
