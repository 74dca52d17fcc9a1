"""`export`: a name of the zoo or a trained model, exported and checked."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from regnet_backbones import zoo
from regnet_backbones.cli.command_lines import command_parser, find_config
from regnet_backbones.cli.run import run_command
from regnet_backbones.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from regnet_backbones.export import Checked
    from regnet_backbones.runs.trained import Trained

DESCRIPTION = """\
Export a network to ONNX, torch.export or TorchScript, and check the file against it.

    %(prog)s regnety_032 --output regnety_032.onnx --pretrained
    %(prog)s regnety_032 --output regnety_032.pt2 --pretrained ra_in1k
    %(prog)s output/demo --output backbone.onnx
    %(prog)s output/demo --output detector.ts --images 'photos/*.jpg'
    %(prog)s output/demo_semseg --output segmenter.onnx

The suffix is the format: .onnx, .pt2 (torch.export), .ts or .pt (TorchScript). Height, width and
number of images are free, and each file is compared with the network at two other sizes before it
gets its name. Outputs are c2 to c5 of a name of the zoo; p2 to p6 of a detector, whose backbone
with FPN is exported; logits of a segmenter. Their input is normalised images, RGB as in the
training (a detector's in the order of INPUT.FORMAT). A whole detector is traced to TorchScript,
which takes one image with values from 0 to 255.
"""

FORMATS = {".onnx": "onnx", ".pt2": "program", ".ts": "torchscript", ".pt": "torchscript"}

# Options, and the only kind of export that uses them.
ONLY_FOR = {
    "pretrained": "a name of the zoo",
    "config_file": "a detector",
    "opts": "a detector",
    "part": "a detector",
    "images": "a whole detector",
    "image_size": "a network that is exported with random images",
    "opset": "the format onnx",
}


def export_command(argv: Sequence[str], prog: str) -> int:
    """Export, and print the errors at the checked sizes."""
    args = export_parser(prog).parse_args(argv)

    def export() -> int:
        print(_export(args))
        return 0

    return run_command(export)


def export_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of `export`."""
    parser = command_parser(prog, DESCRIPTION)
    add = parser.add_argument
    add("model", metavar="MODEL", help="a name of the zoo, a run's folder, or a checkpoint")
    add("--output", required=True, metavar="FILE", help="the new file")
    formats = tuple(dict.fromkeys(FORMATS.values()))
    add("--format", choices=formats, help="default: that of the suffix of --output")
    add(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the images it is exported with (default: 256 320)",
    )
    add("--opset", type=int, help="of ONNX (default: 20)")
    add("--no-fold", action="store_true", help="do not fold batch norms into the convolutions")
    add(
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
        help="of a whole detector: files, folders or patterns in quotes, in which it detects "
        "something; it is traced with the first one (default: drawn shapes)",
    )
    detector.add_argument(
        "--config-file", metavar="CONFIG", help="default: config.yaml next to the checkpoint"
    )
    detector.add_argument(
        "--opts", nargs="*", metavar="KEY VALUE", help="what differs from the config"
    )
    return parser


def _export(args: argparse.Namespace) -> "Checked":
    """Export a model of any kind."""
    suffix = Path(args.output).suffix.lower()
    if args.format is None and suffix not in FORMATS:
        raise UserError(f"--output must end in one of {', '.join(FORMATS)}, got '{args.output}'")
    args.format = args.format or FORMATS[suffix]
    if args.format != "onnx":
        _refuse(args, "opset")
    if Path(args.model).name == args.model and not Path(args.model).exists():
        return _export_backbone(args)
    from regnet_backbones.runs.trained import find_trained

    _refuse(args, "pretrained")
    config = args.config_file and find_config(args.config_file, "detectron2")
    trained = find_trained(args.model, config_file=config)
    if trained.kind == "detector":
        return _export_detector(args, trained)
    _refuse(args, "opts", "part", "images")
    from regnet_backbones.semseg.checkpoints import load_segmenter

    return _export_network(args, load_segmenter(trained.checkpoint).network)


def _export_backbone(args: argparse.Namespace) -> "Checked":
    """Export a name of the zoo."""
    name = zoo.get(args.model).name
    _refuse(args, "config_file", "opts", "part", "images")
    from regnet_backbones.backbone import RegNetFeatures

    network = RegNetFeatures(name, pretrained=args.pretrained or False)
    if not args.pretrained:
        print(f"{name} has random weights; --pretrained loads those of the zoo")
    return _export_network(args, network)


def _export_detector(args: argparse.Namespace, trained: "Trained") -> "Checked":
    """Export a detector, the whole or its backbone."""
    part = args.part or ("whole" if args.format == "torchscript" else "backbone")
    if part == "whole" and args.format != "torchscript":
        raise UserError(
            f"a whole detector cannot be exported to {args.format}: its graph depends on how many "
            "boxes it finds. Use --part backbone for backbone and FPN, or trace the whole detector "
            "with --format torchscript, to a file that ends in .ts"
        )
    _refuse(args, "image_size" if part == "whole" else "images")
    from regnet_backbones.detection.tracing import images_for, trace_detector
    from regnet_backbones.detection.trained import load_detector
    from regnet_backbones.runs.image_paths import find_images

    cfg, model = load_detector(trained, opts=args.opts or ())
    if part == "backbone":
        return _export_network(args, model)
    images = images_for(cfg, find_images(args.images or ()))
    return trace_detector(model, args.output, images=images, fold=not args.no_fold)


def _export_network(args: argparse.Namespace, model: "nn.Module") -> "Checked":
    """Export what takes a batch of images and returns maps."""
    from regnet_backbones.export import export_onnx, export_program, export_torchscript

    exports = {"onnx": export_onnx, "program": export_program, "torchscript": export_torchscript}
    given = {"image_size": args.image_size and tuple(args.image_size), "opset": args.opset}
    options = {name: value for name, value in given.items() if value is not None}
    return exports[args.format](model, args.output, fold=not args.no_fold, **options)


def _refuse(args: argparse.Namespace, *names: str) -> None:
    """Raise UserError for an option that would be ignored."""
    for name in names:
        if getattr(args, name) is not None:
            option = name.replace("_", "-")
            raise UserError(
                f"--{option} is for {ONLY_FOR[name]}, and this export is not; leave it out"
            )
