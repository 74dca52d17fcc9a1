"""`tools/export.py`: a name of the zoo or a trained model, exported and checked.

Detectron2 and Lightning are imported when a model needs them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from regnet_backbones import zoo
from regnet_backbones.backbone import RegNetFeatures
from regnet_backbones.cli.failure_lines import Cause
from regnet_backbones.cli.failures import reported
from regnet_backbones.errors import UserError
from regnet_backbones.export import Checked, export_onnx, export_program, export_torchscript
from regnet_backbones.export.formats import IMAGE_SIZE, OPSET
from regnet_backbones.runs.image_paths import find_images
from regnet_backbones.runs.trained import Trained, find_trained

EXPORTS = {"onnx": export_onnx, "program": export_program, "torchscript": export_torchscript}
FORMATS = {".onnx": "onnx", ".pt2": "program", ".ts": "torchscript", ".pt": "torchscript"}

HINTS = {
    Cause.OUT_OF_MEMORY: "take a smaller --image-size",
    Cause.NOT_WRITABLE: "choose another --output",
}

# Options, and the only kind of export that has a use for them.
ONLY_FOR = {
    "pretrained": "a name of the zoo",
    "config_file": "a detector",
    "opts": "a detector",
    "part": "a detector",
    "images": "a whole detector",
    "image_size": "a network that is exported with random images",
    "opset": "the format onnx",
}


def export_command(argv: Sequence[str] | None, *, description: str) -> int:
    """Export as a command line says, and print the errors at the checked sizes.

    Args:
        argv: the command line, None for that of this process.
        description: of the tool.

    Returns:
        The exit status, as `failures.reported` gives it: 2 for a network that cannot be exported
        so, too.
    """
    args = export_parser(description).parse_args(argv)

    def export() -> int:
        print(_export(args))
        return 0

    return reported(export, hints=HINTS)


def _export(args: argparse.Namespace) -> Checked:
    """Export a model of any kind."""
    file_format = _format_of(args)
    if file_format != "onnx":
        _refuse(args, "opset")
    is_name = Path(args.model).name == args.model and not Path(args.model).exists()
    if is_name:
        name = zoo.get(args.model).name
        _refuse(args, "config_file", "opts", "part", "images")
        network = RegNetFeatures(name, pretrained=args.pretrained or False)
        if not args.pretrained:
            print(f"{name} has random weights; --pretrained takes those of the zoo")
        return _export_network(network, args, file_format)
    _refuse(args, "pretrained")
    trained = find_trained(args.model, config_file=args.config_file)
    if trained.kind == "detector":
        return _export_detector(trained, args, file_format)
    _refuse(args, "opts", "part", "images")
    from regnet_backbones.semseg.checkpoints import load_segmenter

    return _export_network(load_segmenter(trained.checkpoint).network, args, file_format)


def _export_detector(trained: Trained, args: argparse.Namespace, file_format: str) -> Checked:
    """Export a detector, the whole or its backbone."""
    part = args.part or ("whole" if file_format == "torchscript" else "backbone")
    if part == "whole" and file_format != "torchscript":
        raise UserError(
            f"a whole detector cannot be exported to {file_format}: what it does depends on how "
            "many boxes it finds. --part backbone exports backbone and FPN; a whole one is traced "
            "with --format torchscript, to a file that ends in .ts"
        )
    _refuse(args, "image_size" if part == "whole" else "images")
    from regnet_backbones.detection.tracing import images_for, load_detector, trace_detector

    cfg, model = load_detector(trained, opts=args.opts or ())
    if part == "backbone":
        return _export_network(model, args, file_format)
    images = images_for(cfg, find_images(args.images or ()))
    return trace_detector(model, args.output, images=images, fold=not args.no_fold)


def _export_network(model: nn.Module, args: argparse.Namespace, file_format: str) -> Checked:
    """Export what takes a batch of images and gives maps."""
    options = {"image_size": tuple(args.image_size or IMAGE_SIZE), "fold": not args.no_fold}
    if file_format == "onnx":
        options["opset"] = OPSET if args.opset is None else args.opset
    return EXPORTS[file_format](model, args.output, **options)


def _format_of(args: argparse.Namespace) -> str:
    """Return the format that is asked for, or that the suffix says."""
    suffix = Path(args.output).suffix.lower()
    if args.format is None and suffix not in FORMATS:
        raise UserError(f"--output must end in one of {', '.join(FORMATS)}, got '{args.output}'")
    return args.format or FORMATS[suffix]


def _refuse(args: argparse.Namespace, *names: str) -> None:
    """Raise ValueError for an option that would be ignored."""
    for name in names:
        if getattr(args, name) is not None:
            raise UserError(
                f"--{name.replace('_', '-')} is for {ONLY_FOR[name]}, which this export is not; "
                "leave it out"
            )


def export_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a name of the zoo, the folder of a training, or a checkpoint of a model",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="the new file")
    parser.add_argument(
        "--format", choices=tuple(EXPORTS), help="default: what the suffix of --output says"
    )
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the images it is exported with (default: {} {})".format(*IMAGE_SIZE),
    )
    parser.add_argument("--opset", type=int, help=f"of ONNX (default: {OPSET})")
    parser.add_argument(
        "--no-fold", action="store_true", help="leave batch norm out of the convolutions"
    )
    parser.add_argument(
        "--pretrained",
        nargs="?",
        const=True,
        metavar="WEIGHTS",
        help="of a name of the zoo: its default weights, a tag, a source or a file",
    )
    detector = parser.add_argument_group("detectors only")
    detector.add_argument(
        "--part",
        choices=("backbone", "whole"),
        help="what is exported (default: backbone, and whole for TorchScript)",
    )
    detector.add_argument(
        "--images",
        nargs="+",
        metavar="IMAGE",
        help="of a whole detector: files, folders or patterns in quotes, in which it sees "
        "something; the first is what it is traced with (default: drawn shapes)",
    )
    detector.add_argument(
        "--config-file", metavar="FILE", help="default: config.yaml beside the checkpoint"
    )
    detector.add_argument(
        "--opts", nargs="*", metavar="KEY VALUE", help="what shall differ in the config"
    )
    return parser
