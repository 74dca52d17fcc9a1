"""A training or evaluation run of a detector, from its command line on."""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng

import regnet_backbones.detection.processes as launching
from regnet_backbones.adapters.detectron2.builders import BUILDERS
from regnet_backbones.adapters.detectron2.network import check_weights
from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.detection.config import read_config, use_cpu_without_gpu
from regnet_backbones.detection.config_checks import check_config, check_datasets_exist
from regnet_backbones.detection.data import OPTIONS, register_own_data, use_own_data, use_sources
from regnet_backbones.detection.data_checks.coco import CocoSplit
from regnet_backbones.detection.data_checks.datasets import check_datasets
from regnet_backbones.detection.evaluation import (
    check_best_metric,
    check_evaluators,
    results_tables,
)
from regnet_backbones.detection.first_run import FirstRun, is_needed
from regnet_backbones.detection.look import look_at
from regnet_backbones.detection.trained import WholeCheckpointer, for_inference
from regnet_backbones.detection.training.checkpoint import RUN_FILES
from regnet_backbones.detection.training.trainer import Trainer
from regnet_backbones.errors import UserError
from regnet_backbones.files import check_output_folder, remove_parts
from regnet_backbones.runs.resume import set_earlier_run_aside
from regnet_backbones.runs.stopping import StoppedError, StopSignals
from regnet_backbones.runs.trained import CONFIG_NAME, LAST_NAME, last_checkpoint
from regnet_backbones.weights.sources import find_source, is_name, local_file

logger = logging.getLogger(__name__)


def launch_run(args: argparse.Namespace, report: Callable[[str], int] | None = None) -> int:
    """Check config and data, run in all processes, and return the status: 2 for unusable data.

    `report` writes the page of a folder for `--report` or without a config; it returns the status.
    """
    place = (args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
    trains = not (args.eval_only or args.check_data)
    if args.report and not trains:
        raise UserError("--report needs a training; for an earlier run use the command `report`")
    reports = trains and (not args.config_file if args.report is None else args.report)
    try:
        with StopSignals(wait=False):
            launching.check_processes(*place)
            first = FirstRun(args) if is_needed(args) else None
            cfg, read = read_run_config(args, first)
            if not args.check_data and is_name(cfg.MODEL.WEIGHTS) and not _resumes(args, cfg):
                # Now, or every process would, after its data was read.
                local_file(find_source(cfg.MODEL.WEIGHTS))
            has_errors = _check_data(args, cfg, read)
            del read  # of large datasets a gigabyte
            if first and not (args.check_data or has_errors):
                cfg = first.fit_length(cfg)
    except (UserError, StoppedError) as error:  # in every process of torchrun's: one prints it
        if launching.is_first_process():
            raise
        return error.status
    if args.check_data or has_errors:
        return 2 if has_errors else 0
    device = cfg.MODEL.DEVICE
    launching.run_in_processes(run, (args, cfg), place, output=cfg.OUTPUT_DIR, device=device)
    if report and reports and launching.is_first_process() and args.machine_rank == 0:
        return report(cfg.OUTPUT_DIR)
    return 0


def read_run_config(
    args: argparse.Namespace, first: FirstRun | None = None
) -> tuple[CfgNode, dict[str, CocoSplit]]:
    """Return the checked config of a run, given or chosen by `first`, and your datasets by name."""
    training = not args.eval_only
    cfg = first.base() if first else read_config(args.config_file, args.opts)
    cfg.OPTIMIZE.ENABLED |= args.optimize or args.compile
    cfg.OPTIMIZE.COMPILE |= args.compile
    import_projects(cfg)
    if cfg.MODEL.BACKBONE.NAME in BUILDERS and not first:
        check_weights(cfg)
    table = use_sources(cfg, args)
    for key in () if args.train or args.val_fraction else OPTIONS:
        cfg.DATASETS.OWN[key] = getattr(args, key.lower()) or cfg.DATASETS.OWN[key]
    own = [option for key, option in OPTIONS.items() if cfg.DATASETS.OWN[key]]
    named = [key for key in args.opts[::2] if key in ("DATASETS.TRAIN", "DATASETS.TEST")]
    if own and named:
        raise UserError(f"{own[0]} replaces {named[0]}; pass one or the other, not both")
    if table and launching.is_first_process():
        print(table)
    read = use_own_data(cfg)
    use_cpu_without_gpu(cfg)
    if first:
        first.fit(cfg, read)
        check_weights(cfg)
    processes = args.num_gpus * args.num_machines
    if launching.started_by_torchrun():
        processes = int(os.environ["WORLD_SIZE"])
    check_config(cfg, training=training, processes=processes)
    if not (training or cfg.MODEL.WEIGHTS or _resumes(args, cfg)):
        raise UserError(
            "nothing to evaluate; pass MODEL.WEIGHTS path/to/model.pth, or --resume for "
            "the last checkpoint of OUTPUT_DIR"
        )
    check_output_folder(cfg.OUTPUT_DIR, name="OUTPUT_DIR")
    check_datasets_exist(cfg, training=training)
    check_evaluators(cfg)
    if training:
        check_best_metric(cfg)
    cfg.freeze()
    return cfg, read


def run(args: argparse.Namespace, cfg: CfgNode) -> dict:
    """Train or evaluate in this process, and return the results.

    Detectron2's `default_setup` would overwrite the config of an earlier run, perhaps with half of
    one.
    """
    with StopSignals(wait=False) as signals:
        register_own_data(cfg)  # known to the process that checked the files only
        import_projects(cfg)  # for processes of their own
        rank = comm.get_rank()
        logger.debug("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
        logger.debug("Environment info:\n%s\nCommand line arguments: %s", collect_env_info(), args)
        logger.debug("Running with full config:\n%s", cfg.dump())
        seed_all_rng(cfg.SEED + rank if cfg.SEED >= 0 else None)
        results = _evaluate(args, cfg) if args.eval_only else _train(args, cfg, signals)
    if comm.is_main_process():
        print(results_tables(results, cfg.OUTPUT_DIR))
        print(f"config, metrics and checkpoints: {cfg.OUTPUT_DIR}")
        if not args.eval_only:
            command = shlex.join(["regnet-backbones", "report", cfg.OUTPUT_DIR])
            print(f"to see all on one page, run: {command}")
    return results


def _evaluate(args: argparse.Namespace, cfg: CfgNode) -> dict:
    """Evaluate a checkpoint."""
    model = DefaultTrainer.build_model(cfg)  # ours is made fast for training
    checkpointer = WholeCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    results = Trainer.test(cfg, for_inference(cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def _train(args: argparse.Namespace, cfg: CfgNode, signals: StopSignals) -> dict:
    """Train; a folder with an earlier run changes when this run is known to be possible."""
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    resumes = _resumes(args, cfg)
    trainer = Trainer(cfg, signals)
    trainer.resume_or_load(resume=args.resume)
    comm.synchronize()  # every process has loaded its weights
    if comm.is_main_process():
        output = Path(cfg.OUTPUT_DIR)
        remove_parts(output)
        if args.resume and not resumes:
            text = "--resume found no '%s'; the training starts at iteration 0"
            logger.warning(text, output / LAST_NAME)
        if not resumes and (not args.resume or any(output.glob("model_*.pth"))):
            set_earlier_run_aside(output, RUN_FILES, output="OUTPUT_DIR", along=(CONFIG_NAME,))
        text = cfg.dump().encode()
        trainer.checkpointer.write(CONFIG_NAME, lambda file: file.write(text))
        if trainer.start_iter == 0 and not args.skip_data_check:
            look_at(cfg, trainer.data_loader)
    return trainer.train()


def _check_data(args: argparse.Namespace, cfg: CfgNode, read: dict[str, CocoSplit]) -> bool:
    """Check the data once, print what was found, and return whether it has errors."""
    # Of torchrun's processes the others end with the first one.
    if args.skip_data_check or not launching.is_first_process():
        return False
    images = None if args.check_data else cfg.DATALOADER.CHECK_IMAGES
    report = check_datasets(cfg, images=images, train=not args.eval_only, read=read)
    if report.defects:
        print(report.summary(), file=sys.stderr)
    if args.check_data:
        file = Path(cfg.OUTPUT_DIR) / "data_report.txt"
        report.write(file)
        print(f"{len(report.defects):,} errors and notes, listed in {file}")
        if not args.eval_only:
            look_at(cfg)
    elif report.has_errors:
        hint = "--check-data lists all errors, of all images"
        print(f"{hint}; --skip-data-check trains without a check", file=sys.stderr)
    return report.has_errors


def _resumes(args: argparse.Namespace, cfg: CfgNode) -> bool:
    """Return whether a run continues from a checkpoint of its own; it must be there."""
    output = Path(cfg.OUTPUT_DIR)
    last = last_checkpoint(output) if args.resume else None
    if last is not None and not last.is_file():
        way_out = "write the name of another checkpoint to it, or leave out --resume"
        raise UserError(f"'{output / LAST_NAME}' names '{last}', which is missing; {way_out}")
    return last is not None
