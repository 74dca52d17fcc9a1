"""`export`: a name of the zoo or a trained model, exported and checked."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from regnet_backbones import zoo
from regnet_backbones.cli.command_lines import command_parser, find_config
from regnet_backbones.cli.run import subcommand
from regnet_backbones.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from regnet_backbones.export import Checked
    from regnet_backbones.runs.trained import Trained

DESCRIPTION = """\
Export a network to ONNX, torch.export or TorchScript, and check the file against it.

    %(prog)s regnety_032 --output regnety_032.onnx --pretrained
    %(prog)s output/demo --output detector.onnx --images 'photos/*.jpg'
    %(prog)s output/demo --output backbone.onnx --backbone
    %(prog)s output/demo_semseg --output segmenter.onnx

The suffix is the format: .onnx, .pt2 (torch.export), .ts or .pt (TorchScript). Height, width and
number of images are free. A detector is exported whole, for one image with values from 0 to 255;
its backbone and FPN with --backbone, and always to .pt2. Other networks take normalised images.
"""

# Options that an export does not use, by what is exported.
UNUSED = {
    "a name of the zoo": ("images", "config_file", "opts", "resize", "backbone"),
    "a segmenter": ("pretrained", "images", "opts", "resize", "backbone"),
    "the backbone of a detector": ("pretrained", "images", "resize"),
    "a whole detector": ("pretrained", "image_size", "opset"),
}


def export_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of `export`."""
    parser = command_parser(prog, DESCRIPTION)
    add = parser.add_argument
    add("model", metavar="MODEL", help="a name of the zoo, a run's folder, or a checkpoint")
    add("--output", required=True, metavar="FILE", help="the new file")
    sides = ("HEIGHT", "WIDTH")
    add("--image-size", type=int, nargs=2, metavar=sides, help="of the example (default: 256 320)")
    add("--opset", type=int, help="of ONNX (default: 20)")
    add("--no-fold", action="store_true", help="do not fold batch norms into the convolutions")
    add("--pretrained", nargs="?", const=True, metavar="WEIGHTS", help="a tag, a source or a file")
    add = parser.add_argument_group("detectors only").add_argument
    text = "in which a whole detector detects something (default: drawn shapes)"
    add("--images", nargs="+", metavar="IMAGE", help=text)
    text = "take images of any size, and resize them in the file as the tests of the config do"
    add("--resize", action="store_true", default=None, help=text)
    text = "export backbone and FPN, without the heads"
    add("--backbone", action="store_true", default=None, help=text)
    add("--config-file", metavar="CONFIG", help="default: config.yaml next to the checkpoint")
    add("--opts", nargs="*", metavar="KEY VALUE", help="what differs from the config")
    return parser


@subcommand(export_parser)
def export_command(args: argparse.Namespace) -> int:
    """Export, and print the errors at the checked sizes."""
    print(_export(args))
    return 0


def _export(args: argparse.Namespace) -> "Checked":
    if Path(args.model).name == args.model and not Path(args.model).exists():
        name = zoo.get(args.model).name
        _refuse_unused(args, "a name of the zoo")
        from regnet_backbones.backbone import RegNetFeatures

        network = RegNetFeatures(name, pretrained=args.pretrained or False)
        if not args.pretrained:
            print(f"{name} has random weights; --pretrained loads those of the zoo")
        return _export_network(args, network)
    from regnet_backbones.runs.trained import find_trained

    config = args.config_file and find_config(args.config_file, "detectron2")
    trained = find_trained(args.model, config_file=config)
    if trained.kind == "detector":
        return _export_detector(args, trained)
    _refuse_unused(args, "a segmenter")
    from regnet_backbones.semseg.checkpoints import load_segmenter

    return _export_network(args, load_segmenter(trained.checkpoint).network)


def _export_detector(args: argparse.Namespace, trained: "Trained") -> "Checked":
    """Export a whole detector, or its backbone."""
    is_whole = not args.backbone and Path(args.output).suffix.lower() != ".pt2"
    _refuse_unused(args, "a whole detector" if is_whole else "the backbone of a detector")
    from regnet_backbones.detection.exporting import export_detector, images_for
    from regnet_backbones.detection.trained import load_detector
    from regnet_backbones.runs.image_files import find_images

    cfg, model = load_detector(trained, opts=args.opts or ())
    if not is_whole:
        return _export_network(args, model)
    resize = bool(args.resize)
    images = images_for(cfg, find_images(args.images or ()), resize=resize)
    return export_detector(
        cfg, model, args.output, images=images, resize=resize, fold=not args.no_fold
    )


def _export_network(args: argparse.Namespace, model: "nn.Module") -> "Checked":
    from regnet_backbones.export import export_onnx, export_program, export_torchscript

    exports = {".onnx": export_onnx, ".pt2": export_program}
    exports |= {".ts": export_torchscript, ".pt": export_torchscript}
    suffix = Path(args.output).suffix.lower()
    if suffix not in exports:
        raise UserError(f"--output must end in one of {', '.join(exports)}, got '{args.output}'")
    if suffix != ".onnx" and args.opset is not None:
        raise UserError("--opset is for ONNX; leave it out")
    given = {"image_size": args.image_size and tuple(args.image_size), "opset": args.opset}
    options = {name: value for name, value in given.items() if value is not None}
    return exports[suffix](model, args.output, fold=not args.no_fold, **options)


def _refuse_unused(args: argparse.Namespace, exported: str) -> None:
    for name in UNUSED[exported]:
        if getattr(args, name) is not None:
            option = name.replace("_", "-")
            raise UserError(f"--{option} cannot be used with {exported}; leave it out")
