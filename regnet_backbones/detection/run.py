"""A training or evaluation run of a detector, as `tools/train_net.py` starts it."""

import argparse
import logging
import os
import sys
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from tabulate import tabulate

from regnet_backbones.adapters.detectron2 import BUILDERS, check_weights
from regnet_backbones.adapters.detectron2_weights import fetch
from regnet_backbones.detection.data import read_coco_split, register_splits, use_coco_splits
from regnet_backbones.detection.trainer import Trainer, contact_sheet_path
from regnet_backbones.weights.sources import is_name

AP_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")

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
    _share_cores(cfg)
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
    cfg = get_cfg()
    if not args.config_file or not Path(args.config_file).is_file():
        raise FileNotFoundError(
            f"no config file '{args.config_file}'; give one with --config-file, such as "
            "configs/detectron2/quick/mask_rcnn_regnet_small_fpn.yaml"
        )
    try:
        cfg.merge_from_file(args.config_file)
        cfg.merge_from_list(args.opts)
    except AssertionError as error:  # how yacs says that an override is wrong
        raise ValueError(
            f"{error}; overrides are pairs of a config key and a value, such as SOLVER.BASE_LR 0.01"
        ) from error
    if cfg.MODEL.BACKBONE.NAME in BUILDERS:
        check_weights(cfg)
    _use_own_datasets(cfg, args)
    if args.eval_only and not cfg.MODEL.WEIGHTS and not args.resume:
        raise ValueError(
            "there is nothing to evaluate: give a checkpoint, MODEL.WEIGHTS path/to/model.pth, or "
            "--resume for the last one of OUTPUT_DIR"
        )
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("there is no GPU: MODEL.DEVICE is cpu instead of %s", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    return cfg


def summarize(cfg: CfgNode, results: dict) -> str:
    """Format results as a table, and say where checkpoints and pictures are."""
    names = cfg.DATASETS.TEST
    by_dataset = {names[0]: results} if len(names) == 1 else results
    lines = []
    for name in names:
        tasks = by_dataset.get(name, {})
        rows = [[task, *(tasks[task].get(c) for c in AP_COLUMNS)] for task in tasks]
        lines.append(f"\n{name}")
        lines.append(tabulate(rows, headers=("task", *AP_COLUMNS), floatfmt=".1f"))
        sheet = contact_sheet_path(cfg, name)
        if sheet.is_file():
            lines.append(f"ground truth beside prediction: {sheet}")
    lines.append(f"config, metrics and checkpoints: {cfg.OUTPUT_DIR}")
    return "\n".join(lines)


def _fetch_weights(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Fetch weights from the network now: later every process would, after its data was read."""
    resumes = args.resume and (Path(cfg.OUTPUT_DIR) / "last_checkpoint").is_file()
    if is_name(cfg.MODEL.WEIGHTS) and not resumes:
        fetch(cfg.MODEL.WEIGHTS)


def _share_cores(cfg: CfgNode) -> None:
    """Give each of several CPU processes its part of the cores: more threads stall each other."""
    processes = comm.get_local_size()
    if cfg.MODEL.DEVICE == "cpu" and processes > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


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
    use_coco_splits(
        cfg,
        read_coco_split(args.train_json, args.train_images),
        read_coco_split(args.val_json, args.val_images),
    )
