"""The command `regnet-backbones`. A subcommand is imported when it is asked for."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

PROG = "regnet-backbones"

# By name: module and function, and a summary. The function takes the arguments and how the command
# is called, and returns the exit status; it imports torch and frameworks after parsing.
COMMANDS = {
    "train-detector": ("train:train_detector", "train or evaluate a detector with Detectron2"),
    "train-segmenter": ("train:train_segmenter", "train a segmenter with Lightning and SMP"),
    "check-data": ("train:check_data", "check every file of your data, without a training"),
    "evaluate": ("models:evaluate_command", "evaluate a trained detector or segmenter"),
    "predict": ("models:predict_command", "predict images, and draw what was found"),
    "report": ("report:report_command", "write one HTML page about a training"),
    "export": ("export:export_command", "export a network to ONNX, torch.export or TorchScript"),
    "push": ("push:push_command", "upload a trained model to the Hugging Face hub"),
    "convert-weights": ("weights:convert_weights", "convert weights from any form to any other"),
    "convert-data": ("datasets:convert_data", "write COCO jsons of YOLO, Pascal VOC or labelme"),
    "design": ("design:design_command", "show, fit, sample, search and scale designs"),
    "install-detectron2": ("install:install_detectron2", "install Detectron2 0.6 with any pip"),
    "completion": ("install:completion", "print the completion for bash, zsh or tcsh"),
    "shapes": ("datasets:draw_shapes", "draw the demo dataset"),
    "prepare-ade20k": ("datasets:prepare_ade20k", "write ADE20K's masks for Detectron2"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that a command line names, and return the exit status."""
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name == "--version":
        from regnet_backbones import __version__

        print(f"{PROG} {__version__}")
        return 0
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        print(f"error: unknown command '{name}'; {hint}see {PROG} --help", file=sys.stderr)
        return 2
    return run_subcommand(name, rest)


def run_subcommand(name: str, argv: Sequence[str] | None = None, *, prog: str = "") -> int:
    """Run one of `COMMANDS`, and return the exit status; `prog` is how its help calls it."""
    module, _, function = COMMANDS[name][0].partition(":")
    command = getattr(import_module(f"regnet_backbones.cli.{module}"), function)
    return command(sys.argv[1:] if argv is None else list(argv), prog or f"{PROG} {name}")


def _usage() -> str:
    """Return the help of the command."""
    width = max(map(len, COMMANDS))
    commands = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    head = f"usage: {PROG} COMMAND ...\n\nRegNets: train, evaluate, predict, export, design."
    last = f"{PROG} COMMAND --help explains a command; {PROG} --version prints the version."
    return "\n".join([head, "", *commands, "", last])
