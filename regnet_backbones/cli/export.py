"""`export`: a name of the zoo or a trained model, exported and checked."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from regnet_backbones import zoo
from regnet_backbones.cli.command_lines import command_parser, find_config
from regnet_backbones.cli.models import pairs_of
from regnet_backbones.cli.run import subcommand
from regnet_backbones.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from regnet_backbones.export import Checked, Normalization
    from regnet_backbones.export.int8 import Ranges
    from regnet_backbones.runs.trained import Trained

DESCRIPTION = """\
Export a network to ONNX, torch.export or TorchScript, and check the file against it.

    %(prog)s regnety_032 --output regnety_032.onnx --pretrained
    %(prog)s output/demo --output backbone.pt2
    %(prog)s output/demo --output detector.ts --images 'photos/*.jpg'
    %(prog)s output/demo_semseg --output segmenter.onnx --normalize
    %(prog)s output/demo_semseg --output int8.onnx --int8 --calibration datasets/train

The suffix is the format: .onnx, .pt2 (torch.export), .ts or .pt (TorchScript). Height, width and
number of images are free. Of a detector, backbone and FPN are exported to .onnx and .pt2; the whole
is traced to TorchScript. The input is normalised images, or with --normalize pixels from 0 to 255;
of a whole detector, one image from 0 to 255. --int8 quantises convolutions to 8 bits, calibrated on
images; of a segmenter the results before and after are printed.
"""

INT8_OPTIONS = ("int8", "calibration", "ranges", "max_loss")

# Options that an export does not use, by what is exported.
UNUSED = {
    "a name of the zoo": ("images", "config_file", "opts", "max_loss"),
    "a segmenter": ("pretrained", "images"),
    "the backbone of a detector": ("pretrained", "images", "normalize", *INT8_OPTIONS),
    "a whole detector": ("pretrained", "image_size", "opset", "normalize", *INT8_OPTIONS),
}
MAX_LOSS = 1.0  # points of mIoU
COMPARED = 8  # calibration images on which maps of a name of the zoo are compared


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
    text = "take RGB pixels from 0 to 255, and normalise them in the file"
    add("--normalize", action="store_true", default=None, help=text)
    add = parser.add_argument_group("8 bits (.onnx; names of the zoo and segmenters)").add_argument
    add("--int8", action="store_true", default=None, help="quantise the convolutions")
    text = "folder, file or pattern in quotes of images that are not evaluated; 128 are taken"
    add("--calibration", metavar="IMAGES", help=text)
    choices = ("percentile", "entropy", "minmax")
    add("--ranges", choices=choices, help="how ranges of activations are chosen (percentile)")
    text = f"percentage points of mIoU that a segmenter may lose (default: {MAX_LOSS})"
    add("--max-loss", type=float, metavar="POINTS", help=text)
    add = parser.add_argument_group("detectors only").add_argument
    text = "in which a whole detector detects something (default: drawn shapes)"
    add("--images", nargs="+", metavar="IMAGE", help=text)
    add("--config-file", metavar="CONFIG", help="default: config.yaml next to the checkpoint")
    text = "what differs from the config; with --int8, from a segmenter's data (root /data/ADE20K)"
    add("--opts", nargs="*", metavar="KEY VALUE", help=text)
    return parser


@subcommand(export_parser)
def export_command(args: argparse.Namespace) -> int:
    """Export, and print the errors at the checked sizes."""
    _check_int8(args)
    print(_export(args))
    return 0


def _export(args: argparse.Namespace) -> "Checked | str":
    if Path(args.model).name == args.model and not Path(args.model).exists():
        return _export_variant(args, zoo.get(args.model).name)
    from regnet_backbones.runs.trained import find_trained

    config = args.config_file and find_config(args.config_file, "detectron2")
    trained = find_trained(args.model, config_file=config)
    if trained.kind == "detector":
        return _export_detector(args, trained)
    return _export_segmenter(args, trained)


def _export_variant(args: argparse.Namespace, name: str) -> "Checked | str":
    """Export a name of the zoo."""
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
    export = partial(_export_network, args, network, normalization, metadata)
    if not args.int8:
        return export(args.output)
    from regnet_backbones.runs.image_files import find_images

    images = find_images([args.calibration])
    return export_int8(
        args.output,
        export,
        lambda: _calibration_images(images, args.image_size, normalization, args.normalize),
        ranges=args.ranges,
    )


def _export_segmenter(args: argparse.Namespace, trained: "Trained") -> "Checked | str":
    """Export a segmenter; with 8 bits, evaluate the file before and after."""
    unused = () if args.int8 else ("opts",)
    _refuse_unused(args, "a segmenter", *unused)
    from regnet_backbones.semseg import exported
    from regnet_backbones.semseg.checkpoints import load_data, load_segmenter

    segmenter = load_segmenter(trained.checkpoint).eval()
    metadata = exported.metadata_of(segmenter, trained.checkpoint)
    normalization = exported.normalization(segmenter)
    export = partial(_export_network, args, segmenter.network, normalization, metadata)
    if not args.int8:
        return export(args.output)
    from regnet_backbones.export.int8 import MAX_IMAGES
    from regnet_backbones.runs.image_files import check_apart, find_images, sample
    from regnet_backbones.semseg.evaluation import evaluate

    overrides = pairs_of(args.opts or ())
    data = load_data(trained.checkpoint, overrides)
    data.setup("validate")
    images = sample(find_images([args.calibration]), MAX_IMAGES)
    check_apart(images, data.val_set.pairs.images)

    def miou(path: Path) -> float:
        options = {"engine": "onnxruntime", "exported": path, "accelerator": "cpu"}
        found = evaluate(trained.checkpoint, overrides=overrides, **options)["miou"]
        return 100 * (found or 0.0)

    return export_int8(
        args.output,
        export,
        lambda: exported.calibration_inputs(segmenter, images, normalize=bool(args.normalize)),
        ranges=args.ranges,
        evaluate=miou,
        metric="mIoU",
        max_loss=MAX_LOSS if args.max_loss is None else args.max_loss,
    )


def export_int8(
    output: str | Path,
    export: Callable[[Path], "Checked"],
    inputs: Callable[[], Iterable["torch.Tensor"]],
    *,
    ranges: "Ranges | None" = None,
    evaluate: Callable[[Path], float] | None = None,
    metric: str = "",
    max_loss: float = MAX_LOSS,
) -> str:
    """Export to ONNX, quantise to 8 bits, and compare both files.

    Args:
        output: the new file; none is left if an error is raised.
        export: writes the float32 file.
        inputs: gives what the file takes of the calibration images, each time that it is called.
        ranges: see `export.int8.quantize`; None for its default.
        evaluate: returns how good a file is, in percent; None to compare outputs on calibration
            images instead.
        metric: name of what `evaluate` returns.
        max_loss: percentage points that 8 bits may lose.

    Returns:
        A few lines for people.

    Raises:
        ExportError: more is lost.
    """
    from regnet_backbones.export import ExportError
    from regnet_backbones.export.formats import written_whole
    from regnet_backbones.export.int8 import largest_errors, quantize

    options = {} if ranges is None else {"ranges": ranges}
    with TemporaryDirectory() as folder, written_whole(Path(output)) as target:
        whole = Path(folder) / "float32.onnx"
        lines = [str(size) for size in export(whole).sizes]
        quantize(whole, target, inputs(), **options)
        if evaluate is None:
            errors = largest_errors(whole, target, islice(inputs(), COMPARED))
            listed = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
            lines.append(f"int8 against float32, calibration images: relative error {listed}")
        else:
            before, after = evaluate(whole), evaluate(target)
            lines.append(f"{metric} {before:.2f} in float32, {after:.2f} in int8")
            if not before - after <= max_loss:
                raise ExportError(
                    f"int8 loses {before - after:.2f} points of {metric} ({before:.2f} to "
                    f"{after:.2f}), --max-loss is {max_loss}; no file is written. Try other "
                    "--ranges, or more --calibration images that look like those of later use"
                )
        sizes = [file.stat().st_size / 2**20 for file in (whole, target)]
    lines.append(f"{sizes[0]:.1f} MiB in float32, {sizes[1]:.1f} MiB in int8")
    return "\n".join([*lines, f"written: {output}"])


def _calibration_images(
    paths: Sequence[Path],
    image_size: Sequence[int] | None,
    normalization: "Normalization",
    as_pixels: bool | None,
) -> Iterator["torch.Tensor"]:
    """Give images (1, 3, H, W) with the shorter side of `image_size`, as a file takes them."""
    from torchvision.transforms.functional import pil_to_tensor, resize

    from regnet_backbones.export.formats import IMAGE_SIZE
    from regnet_backbones.export.inputs import Normalizer
    from regnet_backbones.export.int8 import MAX_IMAGES
    from regnet_backbones.runs.image_files import open_upright, sample

    normalizer = Normalizer(normalization)
    for path in sample(paths, MAX_IMAGES):
        pixels = pil_to_tensor(open_upright(path).convert("RGB"))
        pixels = resize(pixels, min(image_size or IMAGE_SIZE), antialias=True)[None].float()
        yield pixels if as_pixels else normalizer(pixels)


def _export_detector(args: argparse.Namespace, trained: "Trained") -> "Checked":
    """Trace a whole detector to TorchScript, or export its backbone."""
    is_whole = Path(args.output).suffix.lower() in (".ts", ".pt")
    _refuse_unused(args, "a whole detector" if is_whole else "the backbone of a detector")
    from regnet_backbones.detection.tracing import images_for, trace_detector
    from regnet_backbones.detection.trained import load_detector
    from regnet_backbones.runs.image_files import find_images

    cfg, model = load_detector(trained, opts=args.opts or ())
    if not is_whole:
        return _export_network(args, model, None, None, args.output)
    images = images_for(cfg, find_images(args.images or ()))
    return trace_detector(model, args.output, images=images, fold=not args.no_fold)


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
        raise UserError("--opset is for ONNX; leave it out")
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
                raise UserError(f"--{name.replace('_', '-')} is for --int8; add it, or leave both")
        return
    if Path(args.output).suffix.lower() != ".onnx":
        raise UserError(f"--int8 writes ONNX: --output must end in .onnx, got '{args.output}'")
    if args.calibration is None:
        raise UserError("--int8 needs --calibration, images that look like those of later use")
    if args.max_loss is not None and not args.max_loss >= 0:
        raise UserError(f"--max-loss must be 0 or more percentage points, got {args.max_loss}")


def _refuse_unused(args: argparse.Namespace, exported: str, *others: str) -> None:
    for name in (*UNUSED[exported], *others):
        if getattr(args, name) is not None:
            option = name.replace("_", "-")
            raise UserError(f"--{option} cannot be used with {exported}; leave it out")
