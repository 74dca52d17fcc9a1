"""`export`: a name of the zoo or a trained model, exported and checked."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from regnet_backbones import zoo
from regnet_backbones.cli.models import pairs_of
from regnet_backbones.cli.run import find_config, subcommand
from regnet_backbones.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from regnet_backbones.export import Checked, Normalization
    from regnet_backbones.runs.trained import Trained

DESCRIPTION = """\
Export a network to ONNX, torch.export or TorchScript, and check the file against it.

    %(prog)s regnety_032 --output regnety_032.onnx --pretrained
    %(prog)s output/demo --output detector.onnx --images 'photos/*.jpg'
    %(prog)s output/demo --output backbone.onnx --backbone
    %(prog)s output/demo_semseg --output segmenter.onnx --normalize
    %(prog)s output/demo_semseg --output int8.onnx --int8 --calibration datasets/train

The suffix is the format: .onnx, .pt2 (torch.export), .ts or .pt (TorchScript). Height, width and
number of images are free. A detector is exported whole, for one image with values from 0 to 255;
its backbone and FPN with --backbone, and always to .pt2. Other networks take normalised images, or
with --normalize pixels from 0 to 255. --int8 quantises convolutions to 8 bits, calibrated on
images; of a trained model the results before and after are printed.
"""

INT8_OPTIONS = ("int8", "calibration", "ranges", "max_loss")

# Options that an export does not use, by what is exported.
UNUSED = {
    "a name of the zoo": ("images", "config_file", "opts", "resize", "backbone", "max_loss"),
    "a segmenter": ("pretrained", "images", "resize", "backbone"),
    "the backbone of a detector": ("pretrained", "images", "resize", "normalize", *INT8_OPTIONS),
    "a whole detector": ("pretrained", "image_size", "opset", "normalize"),
}


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="name, run folder, checkpoint or hf-hub:OWNER/NAME")
    add("--output", required=True, metavar="FILE", help="file to write")
    sides = ("HEIGHT", "WIDTH")
    add("--image-size", type=int, nargs=2, metavar=sides, help="of the example (default: 256 320)")
    add("--opset", type=int, help="ONNX opset (default: 20)")
    add("--no-fold", action="store_true", help="do not fold batch norms into the convolutions")
    add("--pretrained", nargs="?", const=True, metavar="WEIGHTS", help="a tag, source or file")
    add("--normalize", action="store_true", default=None, help="take RGB pixels from 0 to 255")
    add = parser.add_argument_group("8 bits, of an .onnx file").add_argument
    add("--int8", action="store_true", default=None, help="quantise the convolutions")
    text = "folder, file or quoted pattern of up to 128 images, apart from the evaluated ones"
    add("--calibration", metavar="IMAGES", help=text)
    choices = ("percentile", "entropy", "minmax")
    add("--ranges", choices=choices, help="how to choose ranges (default: percentile)")
    text = "percentage points of AP or mIoU that a trained model may lose (default: 1)"
    add("--max-loss", type=float, metavar="POINTS", help=text)
    add = parser.add_argument_group("detectors only").add_argument
    text = "examples in which the detector detects something (default: drawn shapes)"
    add("--images", nargs="+", metavar="IMAGE", help=text)
    text = "take images of any size, and resize them in the file as the tests of the config do"
    add("--resize", action="store_true", default=None, help=text)
    add("--backbone", action="store_true", default=None, help="export without the heads")
    add("--config-file", metavar="CONFIG", help="default: config.yaml next to the checkpoint")
    text = "config keys to override; with --int8 those of a segmenter's data (root /data/ADE20K)"
    add("--opts", nargs="*", metavar="KEY VALUE", help=text)


class Exportable(NamedTuple):
    """A model to export, and what quantising it to 8 bits takes."""

    export: "Callable[[str | Path], Checked]"
    inputs: "Callable[[Sequence[Path]], Iterable[torch.Tensor]]"  # of a file, for images
    evaluated: Sequence[Path] = ()  # images that must not calibrate
    evaluate: Callable[[Path], Mapping[str, float]] | None = None  # metrics of a file in percent


@subcommand(DESCRIPTION, export_arguments)
def export_command(args: argparse.Namespace) -> int:
    """Export, and print the errors at the checked sizes; with 8 bits, the results of both files."""
    _check_int8(args)
    model = _find(args)
    if not args.int8:
        print(model.export(args.output))
        return 0
    from regnet_backbones.export.int8 import MAX_IMAGES, export_quantized
    from regnet_backbones.runs.image_files import check_apart, find_images, sample

    images = sample(find_images([args.calibration]), MAX_IMAGES)
    check_apart(images, model.evaluated)
    given = {"ranges": args.ranges, "max_loss": args.max_loss}
    options = {name: value for name, value in given.items() if value is not None}
    inputs = partial(model.inputs, images)
    print(export_quantized(args.output, model.export, inputs, evaluate=model.evaluate, **options))
    return 0


def _find(args: argparse.Namespace) -> Exportable:
    if Path(args.model).name == args.model and not Path(args.model).exists():
        return _variant(args, zoo.get(args.model).name)
    from regnet_backbones.runs.trained import find_trained

    config = args.config_file and find_config(args.config_file, "detectron2")
    trained = find_trained(args.model, config_file=config)
    return (_detector if trained.kind == "detector" else _segmenter)(args, trained)


def _variant(args: argparse.Namespace, name: str) -> Exportable:
    """Return a name of the zoo."""
    _refuse_unused(args, "a name of the zoo")
    from regnet_backbones.backbone import RegNetFeatures
    from regnet_backbones.export import Normalization
    from regnet_backbones.export.inputs import TASK

    network = RegNetFeatures(name, pretrained=args.pretrained or False)
    if not args.pretrained:
        print(f"{name} has random weights; --pretrained loads those of the zoo")
    known = network.loaded
    mean, std = (known.mean, known.std) if known and known.mean else (None, None)
    normalization = Normalization(mean or zoo.IMAGENET_MEAN, std or zoo.IMAGENET_STD)
    metadata = {TASK: "features"} | normalization.metadata()
    return Exportable(
        partial(_export_network, args, network, normalization, metadata),
        partial(_calibration_images, args, normalization),
    )


def _segmenter(args: argparse.Namespace, trained: "Trained") -> Exportable:
    unused = () if args.int8 else ("opts",)
    _refuse_unused(args, "a segmenter", *unused)
    from regnet_backbones.semseg import exported
    from regnet_backbones.semseg.checkpoints import load_data, load_segmenter

    segmenter = load_segmenter(trained.checkpoint).eval()
    metadata = exported.metadata_of(segmenter, trained.checkpoint)
    normalization = exported.normalization(segmenter)
    export = partial(_export_network, args, segmenter.network, normalization, metadata)
    inputs = partial(exported.calibration_inputs, segmenter, normalize=bool(args.normalize))
    if not args.int8:
        return Exportable(export, inputs)
    from regnet_backbones.semseg.evaluation import evaluate

    overrides = pairs_of(args.opts or ())
    data = load_data(trained.checkpoint, overrides)
    data.setup("validate")

    def miou(path: Path) -> dict[str, float]:
        options = {"engine": "onnxruntime", "exported": path, "accelerator": "cpu"}
        found = evaluate(trained.checkpoint, overrides=overrides, **options)["miou"]
        return {"mIoU": 100 * (found or 0.0)}

    return Exportable(export, inputs, data.val_set.pairs.images, miou)


def _detector(args: argparse.Namespace, trained: "Trained") -> Exportable:
    """Return a whole detector, or its backbone."""
    is_whole = not args.backbone and Path(args.output).suffix.lower() != ".pt2"
    _refuse_unused(args, "a whole detector" if is_whole else "the backbone of a detector")
    from regnet_backbones.detection.exporting import export_detector, images_for
    from regnet_backbones.detection.trained import load_detector
    from regnet_backbones.runs.image_files import find_images

    opts = args.opts or ()
    cfg, model = load_detector(trained, opts=opts)
    how = {"resize": bool(args.resize)}

    def inputs(images: Sequence[Path]) -> Iterator["torch.Tensor"]:
        return (images_for(cfg, [path], **how)[0].float() for path in images)

    if not is_whole:
        return Exportable(partial(_export_network, args, model, None, None), inputs)
    images = images_for(cfg, find_images(args.images or ()), **how)
    export = partial(export_detector, cfg, model, images=images, fold=not args.no_fold, **how)
    if not args.int8:
        return Exportable(export, inputs)
    from regnet_backbones.detection.evaluation import average_precisions, evaluated_images

    evaluated = evaluated_images(trained, opts=opts)
    return Exportable(export, inputs, evaluated, partial(average_precisions, trained, opts=opts))


def _calibration_images(
    args: argparse.Namespace, normalization: "Normalization", paths: Sequence[Path]
) -> Iterator["torch.Tensor"]:
    """Give images (1, 3, H, W) with the shorter side of `image_size`, as a file takes them."""
    from torchvision.transforms.functional import pil_to_tensor, resize

    from regnet_backbones.export.formats import IMAGE_SIZE
    from regnet_backbones.export.inputs import Normalizer
    from regnet_backbones.runs.image_files import open_upright

    normalizer = Normalizer(normalization)
    for path in paths:
        pixels = pil_to_tensor(open_upright(path).convert("RGB"))
        pixels = resize(pixels, min(args.image_size or IMAGE_SIZE), antialias=True)[None].float()
        yield pixels if args.normalize else normalizer(pixels)


def _export_network(
    args: argparse.Namespace,
    model: "nn.Module",
    normalization: "Normalization | None",
    metadata: "Mapping[str, str] | None",
    output: str | Path,
) -> "Checked":
    """Export in the format of a file; metadata are of ONNX files."""
    from regnet_backbones.export import export_onnx, export_program, export_torchscript

    suffix = Path(output).suffix.lower()
    if suffix not in (".onnx", ".pt2", ".ts", ".pt"):
        raise UserError(f"--output must end in .onnx, .pt2, .ts or .pt, got '{output}'")
    if suffix != ".onnx" and args.opset is not None:
        raise UserError("--opset needs an .onnx file; leave it out")
    given = {"image_size": args.image_size and tuple(args.image_size), "opset": args.opset}
    options = {name: value for name, value in given.items() if value is not None}
    options |= {"fold": not args.no_fold, "normalize": normalization if args.normalize else None}
    if suffix == ".onnx":
        return export_onnx(model, output, metadata=metadata, **options)
    export = export_program if suffix == ".pt2" else export_torchscript
    return export(model, output, **options)


def _check_int8(args: argparse.Namespace) -> None:
    """Raise UserError for options of 8 bits that contradict each other."""
    if not args.int8:
        for name in INT8_OPTIONS:
            if getattr(args, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} needs --int8; add it or leave both")
        return
    if Path(args.output).suffix.lower() != ".onnx":
        raise UserError(f"--int8 writes ONNX: --output must end in .onnx, got '{args.output}'")
    if args.calibration is None:
        raise UserError("--int8 needs --calibration; pass images like those of later use")
    if args.max_loss is not None and not args.max_loss >= 0:
        raise UserError(f"--max-loss must be 0 or more percentage points, got {args.max_loss}")


def _refuse_unused(args: argparse.Namespace, exported: str, *others: str) -> None:
    for name in (*UNUSED[exported], *others):
        if getattr(args, name) is not None:
            option = name.replace("_", "-")
            raise UserError(f"--{option} cannot be used with {exported}; leave it out")
