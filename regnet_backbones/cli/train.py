"""`train-detector`, `train-segmenter` and `check-data`: options for the two trainers."""

import argparse
import sys
from collections.abc import Sequence

from regnet_backbones.cli.report import report_command
from regnet_backbones.cli.run import add_split_options, find_config, run_command, subcommand

DETECTOR = """\
Train or evaluate a detector or segmenter on a RegNet, with Detectron2's conventions.

    %(prog)s --config-file mask_rcnn_regnety_032_fpn_1x --num-gpus 8
    %(prog)s --config-file CONFIG --resume
    %(prog)s --config-file CONFIG --eval-only MODEL.WEIGHTS output/model_final.pth
    %(prog)s --config-file CONFIG --train-json train.json --train-images images/train \\
        --val-json val.json --val-images images/val SOLVER.MAX_ITER 3000
    %(prog)s --config-file CONFIG --train yolo:data.yaml --val yolo:data.yaml
    %(prog)s --train voc:folder --val-fraction 0.2

Without a config, one is chosen for the data and the device, printed, and written to OUTPUT_DIR.
CONFIG is a YAML file, or the name of one that comes with the package. SOURCE is
coco:FILE,IMAGES, yolo:data.yaml, voc:FOLDER or labelme:FOLDER. The number and the names of the
classes are those of the data.
"""

SEGMENTER = """\
Train a semantic segmenter on a RegNet: ADE20K, Cityscapes, or folders of images and masks.

    %(prog)s --config unet_regnet_small_shapes
    %(prog)s --config CONFIG --model.encoder regnety_032 --trainer.max_steps 2000
    %(prog)s --config CONFIG --data.layout folder \\
        --data.train_images images/train --data.train_masks masks/train \\
        --data.val_images images/val --data.val_masks masks/val --data.num_classes 5

Without a config, the other options are chosen for the data and the device, and printed.
CONFIG is a YAML file, or the name of one that comes with the package.
"""

# Lightning's parser, which knows every option, takes seconds to build.
SEGMENTER_OPTIONS = """\
  --config CONFIG  options as YAML; later ones and options on the command line win
  --output DIR     folder of checkpoints, logs and pictures (default: output/semseg)
  --resume         resume from the last checkpoint of --output, if there is one
  --check_data     check all data and exit
  --save_every N   save the last checkpoint every N steps (default: 1000)
  --minutes N      length of a training without a config (default: 10 on a CPU)
  --report         write a report at the end (default without a config), or --no-report
  --full-help      print all others: --data.*, --model.*, --trainer.*, --checkpoint.*\
"""

CHECK = """\
usage: {prog} [options of train-detector or train-segmenter]

Check every file of your data, without a training: for a detector, or for a segmenter.

    {prog} --train-json train.json --train-images images/train \\
        --val-json val.json --val-images images/val
    {prog} --config CONFIG --data.layout folder --data.num_classes 5 \\
        --data.train_images images/train --data.train_masks masks/train \\
        --data.val_images images/val --data.val_masks masks/val\
"""
SEGMENTER_DATA = ("layout", "root", "train_masks", "val_masks")
MINUTES = "length of a training without a config (default: 10 on a CPU)"
REPORT = "write a report at the end (default: only without a config)"
DETECTOR_CONFIG = "mask_rcnn_regnety_032_fpn_1x"  # for a check without a config


def detector_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `train-detector`: Detectron2's options, and ours for custom data."""
    add = parser.add_argument
    add("--config-file", default="", metavar="CONFIG", help="YAML file, or a name of the package")
    add("--resume", action="store_true", help="resume from the last checkpoint of OUTPUT_DIR")
    add("--eval-only", action="store_true", help="evaluate instead of training")
    add("--num-gpus", type=int, default=1, metavar="N", help="GPUs of this machine (default: 1)")
    add("--num-machines", type=int, default=1, metavar="N", help="machines (default: 1)")
    add("--machine-rank", type=int, default=0, metavar="N", help="of this machine (default: 0)")
    add("--dist-url", default="auto", metavar="URL", help="tcp://HOST:PORT of the first machine")
    add("--optimize", action="store_true", help="make the backbone faster")
    add("--compile", action="store_true", help="also compile it, which takes a minute")
    data = parser.add_argument_group("your COCO data (all four together)")
    for split in ("train", "val"):
        data.add_argument(f"--{split}-json", metavar="FILE", help="COCO instance json")
        data.add_argument(f"--{split}-images", metavar="DIR", help="folder of its images")
    data = parser.add_argument_group("your data in any format")
    for split in ("train", "val"):
        data.add_argument(f"--{split}", metavar="SOURCE", help="FORMAT:PATH, such as voc:folder")
    add_split_options(data)
    data.add_argument("--minutes", type=float, metavar="N", help=MINUTES)
    add("--report", action=argparse.BooleanOptionalAction, help=REPORT)
    checks = parser.add_mutually_exclusive_group()
    checks.add_argument("--check-data", action="store_true", help="check all data and exit")
    checks.add_argument("--skip-data-check", action="store_true", help="do not check the data")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys to override")


@subcommand(DETECTOR, detector_arguments)
def train_detector(args: argparse.Namespace) -> int:
    """Train or evaluate with Detectron2."""
    args.config_file = find_config(args.config_file, "detectron2")
    from regnet_backbones.detection.run import launch_run

    return launch_run(args, report=_report)


def _report(folder: str) -> int:
    """Write the page of a run that has ended."""
    return report_command([folder], "report")


def train_segmenter(argv: Sequence[str], prog: str) -> int:
    """Train with Lightning, whose parser reads the options."""
    if {"-h", "--help"} & set(argv):
        print(f"usage: {prog} [options]\n\n{SEGMENTER % {'prog': prog}}\n{SEGMENTER_OPTIONS}")
        return 0

    parser = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--report", action=argparse.BooleanOptionalAction)
    ours, others = parser.parse_known_args(argv)
    names = {word.partition("=")[0] for word in others}
    reports = "--config" not in names if ours.report is None else ours.report

    def train() -> int:
        options = with_config_paths(others)
        from regnet_backbones.semseg.run import launch_run

        options = ["--help" if word == "--full-help" else word for word in options]
        return launch_run(options, minutes=ours.minutes, report=_report if reports else None)

    return run_command(train)


def with_config_paths(argv: Sequence[str]) -> list[str]:
    """Return options of Lightning's with the path of each `--config`."""
    options = list(argv)
    for i, word in enumerate(options):
        if i and options[i - 1] == "--config":
            options[i] = find_config(word, "semseg")
        elif word.startswith("--config="):
            options[i] = f"--config={find_config(word.removeprefix('--config='), 'semseg')}"
    return options


def check_data(argv: Sequence[str], prog: str) -> int:
    """Check data as the trainer does whose options are given."""
    names = {word.partition("=")[0] for word in argv}
    if names & {"-h", "--help"}:
        print(CHECK.format(prog=prog))
        return 0
    detector = names & {"--config-file", "--train-json", "--val-json", "--train"}
    segmenter = names & {"--config", *(f"--data.{name}" for name in SEGMENTER_DATA)}
    if bool(detector) == bool(segmenter):
        usage = CHECK.format(prog=prog)
        print(f"error: pass data of a detector or of a segmenter\n\n{usage}", file=sys.stderr)
        return 2
    if segmenter:
        return train_segmenter(["--check_data", *argv], prog)
    config = [] if "--config-file" in names else ["--config-file", DETECTOR_CONFIG]
    return train_detector(["--check-data", *config, *argv], prog)
