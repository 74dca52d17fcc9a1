"""The command lines of `tools/evaluate.py` and `tools/predict.py`, for both kinds of model."""

import argparse
from typing import TYPE_CHECKING, get_args

from regnet_backbones.errors import UserError
from regnet_backbones.optimize.options import Dtype, Optimization
from regnet_backbones.runs.trained import Kind

if TYPE_CHECKING:
    from regnet_backbones.detection.data import CocoSplit

# Options of one kind of model, and what is told to the user of the other.
ONLY_DETECTOR = {
    "val_json": "name data of one's own with --opts, such as --opts root /data/ADE20K",
    "val_images": "name data of one's own with --opts, such as --opts root /data/ADE20K",
    "min_score": "a segmenter gives every pixel a class",
    # Of `tools/predict.py`; an evaluation takes them for both.
    "opts": "a segmenter predicts without its data, which these would change",
}
ONLY_SEGMENTER = {
    "window": "a detector takes whole images; --opts INPUT.MIN_SIZE_TEST sets their size",
    "window_stride": "a detector takes whole images; --opts INPUT.MIN_SIZE_TEST sets their size",
    "flip": "a detector averages over mirrored images with --opts TEST.AUG.ENABLED True",
    "scales": "a detector averages over sizes with --opts TEST.AUG.ENABLED True "
    "TEST.AUG.MIN_SIZES '(640, 800)'",
    "short_side": "a detector's is set with --opts INPUT.MIN_SIZE_TEST",
}


def evaluate_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of `tools/evaluate.py`."""
    parser = _parser(description)
    parser.add_argument(
        "--output", metavar="DIR", help="where to write (default: evaluation in the run's folder)"
    )
    parser.add_argument(
        "--devices", type=int, default=1, metavar="N", help="processes, one a GPU (default: 1)"
    )
    _add_segmenter_options(parser)
    add_data_options(parser)
    return parser


def predict_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of `tools/predict.py`."""
    parser = _parser(description)
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders, or patterns in quotes"
    )
    parser.add_argument(
        "--output",
        default="predictions",
        metavar="DIR",
        help="where to write (default: %(default)s)",
    )
    _add_segmenter_options(parser)
    detector = _add_detector_options(parser)
    detector.add_argument(
        "--min-score", type=float, help="leave out instances below it (default: 0.5)"
    )
    detector.add_argument(
        "--opts", nargs="*", metavar="KEY VALUE", help="what shall differ in the config"
    )
    return parser


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add what says on which data, and with what config, a trained model is looked at.

    Args:
        parser: of a command for both kinds of model.
    """
    parser.add_argument(
        "--opts",
        dest="overrides",
        nargs="*",
        metavar="KEY VALUE",
        help="what shall differ: a detector's config (INPUT.MIN_SIZE_TEST 640) or a segmenter's "
        "data (root /data/ADE20K)",
    )
    detector = _add_detector_options(parser)
    detector.add_argument("--val-images", metavar="DIR", help="folder of the images of --val-json")


def own_validation(args: argparse.Namespace) -> "CocoSplit | None":
    """Return the validation data of one's own that a command line names, None where it names none.

    Args:
        args: of a parser with `add_data_options`.

    Raises:
        ValueError: one of both options is missing, or the json cannot be used.
        FileNotFoundError: the json or the folder is not there.
    """
    from regnet_backbones.detection.data import read_coco_split

    if (args.val_json is None) != (args.val_images is None):
        missing = "--val-json" if args.val_json is None else "--val-images"
        raise UserError(f"own data needs --val-json and --val-images; missing: {missing}")
    return None if args.val_json is None else read_coco_split(args.val_json, args.val_images)


def data_overrides(args: argparse.Namespace) -> dict[str, str]:
    """Return what a segmenter's data shall have otherwise, by name.

    Args:
        args: of a parser with `add_data_options`.

    Raises:
        ValueError: keys and values do not take turns.
    """
    opts = args.overrides or []
    if len(opts) % 2:
        raise UserError(f"--opts takes pairs of a key and a value, got: {' '.join(opts)}")
    return dict(zip(opts[::2], opts[1::2], strict=True))


def optimization_of(args: argparse.Namespace) -> Optimization | None:
    """Return how a command line wants a model to be made fast, None for not at all."""
    if not (args.optimize or args.dtype or args.compile):
        return None
    return Optimization(dtype=args.dtype or "float32", compile=args.compile)


def optimization_overrides(args: argparse.Namespace) -> list[str]:
    """Return the same as keys and values in turn of a detector's config, and nothing else of it."""
    overrides = []
    if optimization_of(args) is not None:
        overrides += ["OPTIMIZE.ENABLED", "True"]
    if args.dtype:
        overrides += ["OPTIMIZE.DTYPE", args.dtype]
    if args.compile:
        overrides += ["OPTIMIZE.COMPILE", "True"]
    return overrides


def check_options(args: argparse.Namespace, kind: Kind) -> None:
    """Raise ValueError for an option that a model of this kind would ignore."""
    others = ONLY_SEGMENTER if kind == "detector" else ONLY_DETECTOR
    for name, hint in others.items():
        if getattr(args, name, None) is not None:
            other = "segmenter" if kind == "detector" else "detector"
            raise UserError(
                f"--{name.replace('_', '-')} is for a {other}, this is a {kind}: {hint}"
            )


def _parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with what both commands take."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "trained", metavar="RUN", help="folder of a training, or a checkpoint of a model"
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    speed = parser.add_argument_group(
        "speed", "each of these means --optimize; of a detector the config's OPTIMIZE, too"
    )
    speed.add_argument(
        "--optimize",
        action="store_true",
        help="fold batch norms and take the faster memory format, for the same results",
    )
    speed.add_argument(
        "--dtype",
        choices=get_args(Dtype),
        help="of the weights: reduced precision is fast where the processor has it, and rounds",
    )
    speed.add_argument(
        "--compile",
        action="store_true",
        help="compile the network, which takes a minute before the first image",
    )
    return parser


def _add_segmenter_options(parser: argparse.ArgumentParser) -> None:
    """Add how a segmenter takes an image."""
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
    """Add what only a detector needs, and return the group for more."""
    detector = parser.add_argument_group("detectors only")
    detector.add_argument(
        "--config-file", metavar="FILE", help="default: config.yaml beside the checkpoint"
    )
    detector.add_argument(
        "--val-json",
        metavar="FILE",
        help="one's own COCO json, with the categories of the training",
    )
    return detector
