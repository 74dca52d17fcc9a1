"""Options of `evaluate`, `predict` and `report`, for both kinds of trained models."""

import argparse
from typing import TYPE_CHECKING

from regnet_backbones.cli.command_lines import command_parser
from regnet_backbones.errors import UserError

if TYPE_CHECKING:
    from regnet_backbones.detection.data import CocoSplit
    from regnet_backbones.optimize.options import Optimization
    from regnet_backbones.runs.trained import Kind

EVALUATE = """\
Evaluate what was trained: a detector (Detectron2) or a segmenter (Lightning and SMP).

    %(prog)s output/demo
    %(prog)s output/demo/model_final.pth --opts TEST.AUG.ENABLED True
    %(prog)s output/mine --val-json val.json --val-images images/val
    %(prog)s output/semseg --window 512 --flip --scales 0.5 0.75 1.0 1.25 1.5 1.75
    %(prog)s output/semseg/checkpoints/best.ckpt --opts root /data/ADE20K
    %(prog)s output/demo --optimize
    %(prog)s output/demo --dtype bfloat16 --compile

The results are printed, and written to `results.json` in the folder `evaluation` of the run. A
detector trained on custom data finds them where they were, or with --val-json and --val-images; a
segmenter is evaluated on the data of its training, which --opts moves or changes.
"""

PREDICT = """\
Predict images with what was trained: a detector (Detectron2) or a segmenter (Lightning and SMP).

    %(prog)s output/demo photos/ --output predictions
    %(prog)s output/mine photos/ --val-json val.json --min-score 0.7
    %(prog)s output/semseg 'photos/*.jpg' one.png --window 512
    %(prog)s output/demo photos/ --optimize
    %(prog)s output/demo photos/ --dtype bfloat16 --compile

Below --output are overlays/ with pictures to look at. A model that classifies pixels writes labels/
with one PNG per image, whose values are class numbers from 0, and classes.txt with their names; a
detector predictions.json in COCO's results format, with masks or keypoints if it predicts them; a
panoptic model panoptic/ and panoptic.json in COCO's. A detector trained on custom data takes the
names of its classes from --val-json.
"""

# Lightning's name of a kind of device.
ACCELERATORS = {None: "auto", "cpu": "cpu", "cuda": "gpu", "mps": "mps"}

# Options of one kind of model, and what to do with the other kind.
ONLY_DETECTOR = {
    "val_json": "set its data with --opts, such as --opts root /data/ADE20K",
    "val_images": "set its data with --opts, such as --opts root /data/ADE20K",
    "min_score": "a segmenter gives every pixel a class",
    "opts": "a segmenter predicts without its data, which these would change",  # of predict
}
ONLY_SEGMENTER = {
    "window": "a detector takes whole images; --opts INPUT.MIN_SIZE_TEST sets their size",
    "window_stride": "a detector takes whole images; --opts INPUT.MIN_SIZE_TEST sets their size",
    "flip": "a detector averages over mirrored images with --opts TEST.AUG.ENABLED True",
    "scales": "a detector averages over sizes with --opts TEST.AUG.ENABLED True "
    "TEST.AUG.MIN_SIZES '(640, 800)'",
    "short_side": "a detector's is set with --opts INPUT.MIN_SIZE_TEST",
}


def evaluate_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of `evaluate`."""
    parser = _model_parser(prog, EVALUATE)
    parser.add_argument(
        "--output", metavar="DIR", help="where to write (default: evaluation in the run's folder)"
    )
    parser.add_argument(
        "--devices", type=int, default=1, metavar="N", help="processes, one a GPU (default: 1)"
    )
    _add_segmenter_options(parser)
    add_data_options(parser)
    return parser


def predict_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of `predict`."""
    parser = _model_parser(prog, PREDICT)
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders, or patterns in quotes"
    )
    parser.add_argument(
        "--output", default="predictions", metavar="DIR", help="where to write (%(default)s)"
    )
    _add_segmenter_options(parser)
    detector = _add_detector_options(parser)
    detector.add_argument("--min-score", type=float, help="drop instances below it (default: 0.5)")
    detector.add_argument(
        "--opts", nargs="*", metavar="KEY VALUE", help="what differs from the config"
    )
    return parser


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say on which data, and with what config, a model is evaluated."""
    parser.add_argument(
        "--opts",
        dest="overrides",
        nargs="*",
        metavar="KEY VALUE",
        help="what differs: in a detector's config (INPUT.MIN_SIZE_TEST 640) or in a segmenter's "
        "data (root /data/ADE20K)",
    )
    detector = _add_detector_options(parser)
    detector.add_argument("--val-images", metavar="DIR", help="folder of the images of --val-json")


def own_validation(args: argparse.Namespace) -> "CocoSplit | None":
    """Return the custom validation data of `add_data_options`, None if none are given."""
    from regnet_backbones.detection.data import read_coco_split

    if (args.val_json is None) != (args.val_images is None):
        missing = "--val-json" if args.val_json is None else "--val-images"
        raise UserError(f"custom data need --val-json and --val-images; missing: {missing}")
    return None if args.val_json is None else read_coco_split(args.val_json, args.val_images)


def data_overrides(args: argparse.Namespace) -> dict[str, str]:
    """Return what differs in a segmenter's data, by name, of `add_data_options`."""
    opts = args.overrides or []
    if len(opts) % 2:
        raise UserError(f"--opts takes pairs of a key and a value, got: {' '.join(opts)}")
    return dict(zip(opts[::2], opts[1::2], strict=True))


def optimization_of(args: argparse.Namespace) -> "Optimization | None":
    """Return how to make a model fast, None for not at all."""
    from regnet_backbones.optimize.options import Optimization

    if not (args.optimize or args.dtype or args.compile):
        return None
    return Optimization(dtype=args.dtype or "float32", compile=args.compile)


def optimization_overrides(args: argparse.Namespace) -> list[str]:
    """Return the same as keys and values of a detector's config."""
    overrides = []
    if args.optimize or args.dtype or args.compile:
        overrides += ["OPTIMIZE.ENABLED", "True"]
    if args.dtype:
        overrides += ["OPTIMIZE.DTYPE", args.dtype]
    if args.compile:
        overrides += ["OPTIMIZE.COMPILE", "True"]
    return overrides


def accelerator_of(args: argparse.Namespace) -> str:
    """Return Lightning's name of the device that a segmenter is evaluated on."""
    if args.device not in ACCELERATORS:
        allowed = ", ".join(filter(None, ACCELERATORS))
        raise UserError(f"a segmenter is evaluated on one of {allowed}, got '{args.device}'")
    return ACCELERATORS[args.device]


def check_options(args: argparse.Namespace, kind: "Kind") -> None:
    """Raise UserError for an option that a model of this kind would ignore."""
    is_detector = kind == "detector"
    for name, hint in (ONLY_SEGMENTER if is_detector else ONLY_DETECTOR).items():
        if getattr(args, name, None) is not None:
            other = "segmenter" if is_detector else "detector"
            option = name.replace("_", "-")
            raise UserError(f"--{option} is for a {other}, this is a {kind}: {hint}")


def _model_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that `evaluate` and `predict` share."""
    parser = command_parser(prog, description)
    parser.add_argument(
        "trained", metavar="RUN", help="folder of a training, or a checkpoint of a model"
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")
    speed = parser.add_argument_group(
        "speed", "each of these implies --optimize; the config of a detector may, too"
    )
    speed.add_argument(
        "--optimize",
        action="store_true",
        help="fold batch norms and use the faster memory format, for the same results",
    )
    speed.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights: reduced precision rounds, and is fast if the processor supports it",
    )
    speed.add_argument(
        "--compile",
        action="store_true",
        help="compile the network, which takes a minute before the first image",
    )
    return parser


def _add_segmenter_options(parser: argparse.ArgumentParser) -> None:
    segmenter = parser.add_argument_group("segmenters only")
    segmenter.add_argument(
        "--short-side",
        type=int,
        metavar="PIXELS",
        help="resize images to this shorter side first (default: that of the training)",
    )
    segmenter.add_argument(
        "--window", type=int, metavar="PIXELS", help="slide a window of this side over the image"
    )
    segmenter.add_argument(
        "--window-stride",
        type=int,
        metavar="PIXELS",
        help="from one window to the next (default: two thirds of the window)",
    )
    segmenter.add_argument(
        "--flip", action="store_true", default=None, help="average with the mirrored image"
    )
    segmenter.add_argument(
        "--scales", type=float, nargs="+", metavar="FACTOR", help="average over these sizes"
    )


def _add_detector_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options that only a detector needs, and return the group for more."""
    detector = parser.add_argument_group("detectors only")
    detector.add_argument(
        "--config-file", metavar="CONFIG", help="default: config.yaml next to the checkpoint"
    )
    detector.add_argument(
        "--val-json",
        metavar="FILE",
        help="COCO json of custom data, with the categories of the training",
    )
    return detector
