"""A training or evaluation run of a detector, as `tools/train_net.py` starts it."""

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, default_argument_parser
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from regnet_backbones.adapters.detectron2.builders import BUILDERS
from regnet_backbones.adapters.detectron2.network import check_weights
from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.adapters.detectron2.weights import fetch
from regnet_backbones.cli.failures import reported
from regnet_backbones.detection.ade20k import check_semantic_datasets
from regnet_backbones.detection.completeness import WholeCheckpointer
from regnet_backbones.detection.config import read_config
from regnet_backbones.detection.config_checks import check_config, check_datasets_exist
from regnet_backbones.detection.data import (
    OPTIONS,
    names_own_data,
    register_own_data,
    use_own_data,
)
from regnet_backbones.detection.data_checks.datasets import check_datasets
from regnet_backbones.detection.data_checks.defects import Report
from regnet_backbones.detection.evaluators import check_evaluators
from regnet_backbones.detection.hints import hints_of
from regnet_backbones.detection.look import look_at
from regnet_backbones.detection.optimization import check_optimization, optimize_detector
from regnet_backbones.detection.processes import (
    check_processes,
    is_first_process,
    run_in_processes,
    started_by_torchrun,
)
from regnet_backbones.detection.results import results_tables
from regnet_backbones.detection.trained import check_whole
from regnet_backbones.detection.training.checkpoint import set_earlier_run_aside
from regnet_backbones.detection.training.trainer import Trainer
from regnet_backbones.errors import UserError
from regnet_backbones.files import check_output_folder, remove_parts
from regnet_backbones.runs.stopping import StoppedError, StopSignals
from regnet_backbones.runs.trained import CONFIG_NAME
from regnet_backbones.weights.sources import is_name

logger = logging.getLogger(__name__)


def argument_parser(epilog: str) -> argparse.ArgumentParser:
    """Return detectron2's argument parser with the options for one's own data."""
    parser = default_argument_parser(epilog)
    # Detectron2's own default is one port for all runs of a user, and of no use on other machines.
    parser.set_defaults(dist_url="auto")
    own = parser.add_argument_group("own data (all four together)")
    own.add_argument("--train-json", metavar="FILE", help="COCO instance json to train on")
    own.add_argument("--train-images", metavar="DIR", help="folder of its images")
    own.add_argument("--val-json", metavar="FILE", help="COCO instance json to evaluate on")
    own.add_argument("--val-images", metavar="DIR", help="folder of its images")
    speed = parser.add_argument_group("speed")
    speed.add_argument(
        "--optimize",
        action="store_true",
        help="make the backbone faster, as OPTIMIZE.ENABLED True does",
    )
    speed.add_argument(
        "--compile",
        action="store_true",
        help="compile it, too, which takes a minute at first; means --optimize",
    )
    checks = parser.add_mutually_exclusive_group()
    checks.add_argument(
        "--check-data",
        action="store_true",
        help="check every file of the datasets, write OUTPUT_DIR/data_report.txt, and do not train",
    )
    checks.add_argument(
        "--skip-data-check",
        action="store_true",
        help="train without a look at registered datasets and at images",
    )
    return parser


def launch_run(args: argparse.Namespace) -> int:
    """Check a run's config and data, then do it in as many processes as asked for.

    Args:
        args: what `argument_parser` parsed.

    Returns:
        The exit status, as `failures.reported` gives it.
    """
    place = (args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
    found: list[CfgNode] = []

    def prepare() -> int:
        with StopSignals(wait=False):
            check_processes(*place)
            cfg = build_config(args)
            if not args.check_data:
                _fetch_weights(args, cfg)
            report = _check_data(args, cfg)
        if not (args.check_data or report.has_errors):
            found.append(cfg)
        return 2 if report.has_errors else 0

    status = reported(prepare, quiet=not is_first_process())
    if not found:
        return status
    cfg = found[0]

    def start() -> int:
        try:
            run_in_processes(run, (args, cfg), *place)
        except StoppedError as stopped:
            if is_first_process():
                raise
            return stopped.status
        return 0

    return reported(start, hints=hints_of(cfg))


def run(args: argparse.Namespace, cfg: CfgNode) -> dict:
    """Train or evaluate in this process, and return the results."""
    with StopSignals(wait=False) as signals:
        register_own_data(cfg)  # known to the process that checked the files only
        import_projects(cfg)  # for processes of their own
        _set_up(args, cfg)
        results = _evaluate(args, cfg) if args.eval_only else _train(args, cfg, signals)
    if comm.is_main_process():
        print(summarize(cfg, results))
        if not args.eval_only:
            print(f"all of it on one page: {report_command_line(cfg)}")
    return results


def _set_up(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Start the log and seed this process.

    It takes the place of detectron2's `default_setup`, which overwrites the config of an earlier
    run, and leaves half of one where it is killed meanwhile.
    """
    start_log(cfg)
    share_cores(cfg)
    rank = comm.get_rank()
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line arguments: %s", args)
    logger.info("Running with full config:\n%s", cfg.dump())
    seed_all_rng(cfg.SEED + rank if cfg.SEED >= 0 else None)


def _evaluate(args: argparse.Namespace, cfg: CfgNode) -> dict:
    """Evaluate a checkpoint."""
    model = DefaultTrainer.build_model(cfg)  # ours is optimized for training
    checkpointer = WholeCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    results = Trainer.test(cfg, optimize_detector(cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def _train(args: argparse.Namespace, cfg: CfgNode, signals: StopSignals) -> dict:
    """Train; a folder with an earlier run changes when this run is known to be possible."""
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    trainer = Trainer(cfg, signals)
    trainer.resume_or_load(resume=args.resume)
    comm.synchronize()  # every process has loaded its weights
    if comm.is_main_process():
        remove_parts(cfg.OUTPUT_DIR)
        if not args.resume:
            set_earlier_run_aside(Path(cfg.OUTPUT_DIR))
        text = cfg.dump().encode()
        trainer.checkpointer.write(CONFIG_NAME, lambda file: file.write(text))
        if trainer.start_iter == 0 and not args.skip_data_check:
            look_at(cfg, trainer.data_loader)
    return trainer.train()


def build_config(args: argparse.Namespace) -> CfgNode:
    """Return the frozen config of a run; registers the user's own datasets.

    Raises:
        KeyError, ValueError, FileNotFoundError: the config or the data cannot be used.
        ModuleNotFoundError: the evaluation needs a package that is not installed.
    """
    cfg = read_config(args.config_file, args.opts)
    check_whole(args.config_file)
    if args.optimize or args.compile:
        cfg.OPTIMIZE.ENABLED = True
    if args.compile:
        cfg.OPTIMIZE.COMPILE = True
    import_projects(cfg)
    if cfg.MODEL.BACKBONE.NAME in BUILDERS:
        check_weights(cfg)
    _use_own_data(cfg, args)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning(
            "there is no GPU: MODEL.DEVICE is cpu instead of %s; networks that train on one in "
            "minutes are in configs/detectron2/quick",
            cfg.MODEL.DEVICE,
        )
        cfg.MODEL.DEVICE = "cpu"
    processes = args.num_gpus * args.num_machines
    if started_by_torchrun():
        processes = int(os.environ["WORLD_SIZE"])
    check_config(cfg, training=not args.eval_only, processes=processes)
    check_evaluators(cfg)
    if args.eval_only and not cfg.MODEL.WEIGHTS and not _resumes(args, cfg):
        raise UserError(
            "there is nothing to evaluate: give a checkpoint, MODEL.WEIGHTS path/to/model.pth, or "
            "--resume for the last one of OUTPUT_DIR"
        )
    check_output_folder(cfg.OUTPUT_DIR, name="OUTPUT_DIR")
    check_semantic_datasets((*(() if args.eval_only else cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST))
    if not (args.check_data or args.skip_data_check):
        check_datasets_exist(cfg, training=not args.eval_only)
    if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu" and not args.eval_only:
        raise UserError(
            "automatic mixed precision needs CUDA: set SOLVER.AMP.ENABLED False, or MODEL.DEVICE "
            "cuda on a machine with a GPU"
        )
    check_optimization(cfg, training=not args.eval_only)
    cfg.freeze()
    return cfg


def summarize(cfg: CfgNode, results: dict) -> str:
    """Format results as tables, and say where checkpoints and pictures are."""
    tables = results_tables(cfg, results)
    return f"{tables}\nconfig, metrics and checkpoints: {cfg.OUTPUT_DIR}"


def report_command_line(cfg: CfgNode) -> str:
    """Return the command that writes the page of a run."""
    return shlex.join(["python", "tools/report.py", cfg.OUTPUT_DIR])


def start_log(cfg: CfgNode) -> None:
    """Log to the terminal and to the log file of `OUTPUT_DIR`, and nowhere else."""
    for name in ("fvcore", "detectron2"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
    ours = logging.getLogger("regnet_backbones")
    ours.handlers = list(logging.getLogger("detectron2").handlers)
    ours.propagate = False
    ours.setLevel(logging.INFO)


def share_cores(cfg: CfgNode) -> None:
    """Give each of several CPU processes its part of the cores: more threads stall each other."""
    processes = comm.get_local_size()
    if cfg.MODEL.DEVICE == "cpu" and processes > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def _check_data(args: argparse.Namespace, cfg: CfgNode) -> Report:
    """Check the data once, before the run, and print what was found."""
    # Of torchrun's processes the others end with the first one.
    if args.skip_data_check or not is_first_process():
        return Report(())
    images = None if args.check_data else cfg.DATALOADER.CHECK_IMAGES
    report = check_datasets(cfg, images=images, train=not args.eval_only)
    if report.defects:
        print(report.summary(), file=sys.stderr)
    if args.check_data:
        file = Path(cfg.OUTPUT_DIR) / "data_report.txt"
        report.write(file)
        print(f"{len(report.defects):,} errors and notes, all of them in {file}")
        if not args.eval_only:
            look_at(cfg)
    elif report.has_errors:
        print(
            "all of them, and those of the other images: --check-data; to train all the same: "
            "--skip-data-check",
            file=sys.stderr,
        )
    return report


def _fetch_weights(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Fetch weights from the network now: later every process would, after its data was read."""
    if is_name(cfg.MODEL.WEIGHTS) and not _resumes(args, cfg):
        fetch(cfg.MODEL.WEIGHTS)


def _resumes(args: argparse.Namespace, cfg: CfgNode) -> bool:
    """Tell whether a run goes on from a checkpoint of its own."""
    return args.resume and (Path(cfg.OUTPUT_DIR) / "last_checkpoint").is_file()


def _use_own_data(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Take the data that the command line or the config names as one's own, if there are any."""
    for key, option in OPTIONS.items():
        path = getattr(args, key.lower())
        if path == "":
            raise UserError(f"{option} is empty; give a path")
        if path:
            cfg.DATASETS.OWN[key] = path
    if names_own_data(cfg):
        named = [key for key in args.opts[::2] if key in ("DATASETS.TRAIN", "DATASETS.TEST")]
        if named:
            raise UserError(
                f"{named[0]} and data of one's own were given, which take its place: leave one out"
            )
    use_own_data(cfg)
