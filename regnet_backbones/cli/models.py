"""`evaluate` and `predict`: find a trained model, and hand it to its framework.

Detectron2 and Lightning are imported when a model needs them: one of the two is enough.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from regnet_backbones.cli.run import find_config, subcommand
from regnet_backbones.errors import UserError
from regnet_backbones.files import check_output_folder

if TYPE_CHECKING:
    from regnet_backbones.detection.data import CocoSplit
    from regnet_backbones.optimize.options import Optimization
    from regnet_backbones.runs.trained import Kind, Trained
    from regnet_backbones.semseg.inference import Inference

EVALUATE = """\
Evaluate a trained detector (Detectron2) or segmenter (Lightning and SMP).

    %(prog)s output/demo
    %(prog)s output/demo/model_final.pth --opts TEST.AUG.ENABLED True
    %(prog)s output/mine --val-json val.json --val-images images/val
    %(prog)s output/semseg --window 512 --flip --scales 0.5 0.75 1.0 1.25 1.5 1.75

Results are printed, and written to `evaluation/results.json` in the folder of the run. The data are
those of the training, unless --val-json and --val-images, or --opts, name others.
"""

PREDICT = """\
Predict images with a trained detector (Detectron2) or segmenter (Lightning and SMP).

    %(prog)s output/demo photos/ --output predictions
    %(prog)s output/mine photos/ --val-json val.json --min-score 0.7
    %(prog)s output/semseg 'photos/*.jpg' one.png --window 512
    %(prog)s output/demo clip.mp4 --every 5

Writes pictures to overlays/ below --output, and predictions.json in COCO's results format
(detectors), labels/ and classes.txt (models that classify pixels), or panoptic/ and panoptic.json.
"""

EVALUATION_FOLDER = "evaluation"  # below the folder of the run

WRITTEN_FOLDERS = ("overlays", "labels", "panoptic")  # by `predict`, below --output

# Lightning's name of a kind of device.
ACCELERATORS = {None: "auto", "cpu": "cpu", "cuda": "gpu", "mps": "mps"}

SEGMENTER_OPTIONS = ("short_side", "flip", "scales")
WINDOW_OPTIONS = ("window", "window_stride")
DETECTOR_OPTIONS = ("val_json", "val_images", "min_score", "evaluator")
EVALUATORS = ("auto", "pycocotools", "faster-coco-eval")  # values of TEST.EVALUATOR


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `evaluate`."""
    _add_model_options(parser)
    add = parser.add_argument
    add("--output", metavar="DIR", help="output folder (default: evaluation in the run's folder)")
    add("--devices", type=int, default=1, metavar="N", help="GPUs or CPU processes (default: 1)")
    detector = add_data_options(parser)
    detector.add_argument("--evaluator", choices=EVALUATORS, help="of COCO metrics (default: auto)")


def predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `predict`."""
    _add_model_options(parser)
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="images, videos, folders, quoted patterns")
    add("--output", default="predictions", metavar="DIR", help="default: %(default)s")
    add("--no-pictures", action="store_true", help="do not draw overlays/, which takes time")
    text = "images of one size per batch (default: 1); results may differ in the last digits"
    add("--batch-size", type=int, default=1, metavar="N", help=text)
    add("--every", type=int, metavar="N", help="predict each Nth frame of videos (default: 1)")
    add = _add_detector_options(parser).add_argument
    add("--min-score", type=float, help="drop instances with a lower score (default: 0.5)")
    add("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config keys to override")


def add_data_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of an evaluation's data and config; return the group for detectors only."""
    text = "keys to override of a detector's config or a segmenter's data (root /data/ADE20K)"
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help=text)
    detector = _add_detector_options(parser)
    detector.add_argument("--val-images", metavar="DIR", help="folder of the images of --val-json")
    return detector


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trained", metavar="RUN", help="run folder, checkpoint, hf-hub:OWNER/NAME")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")
    add = parser.add_argument_group("speed", "each of these implies --optimize").add_argument
    add("--optimize", action="store_true", help="fold batch norms, use the faster memory format")
    dtypes = ("float32", "bfloat16", "float16")
    add("--dtype", choices=dtypes, help="precision of the weights")
    add("--compile", action="store_true", help="compile; the first image takes a minute")
    add = parser.add_argument_group("engine").add_argument
    engines = ("torch", "onnxruntime", "openvino")
    add("--engine", choices=engines, default="torch", help="default: %(default)s")
    text = "file of `export`, for an engine other than torch (default: export a temporary one)"
    add("--exported", metavar="FILE", help=text)
    add = parser.add_argument_group("large images").add_argument
    add("--window", type=int, metavar="PIXELS", help="slide a window of this side over the image")
    add("--window-stride", type=int, metavar="PIXELS", help="default: 2/3 of --window")
    add = parser.add_argument_group("segmenters only").add_argument
    add("--short-side", type=int, metavar="PIXELS", help="resize images to this shorter side first")
    add("--flip", action="store_true", default=None, help="average with the mirror image")
    add("--scales", type=float, nargs="+", metavar="FACTOR", help="average over these scales")


def _add_detector_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    detector = parser.add_argument_group("detectors only")
    add = detector.add_argument
    add("--config-file", metavar="CONFIG", help="default: config.yaml next to the checkpoint")
    add("--val-json", metavar="FILE", help="COCO json of your data")
    return detector


def check_options(args: argparse.Namespace, kind: "Kind") -> None:
    """Raise UserError for an option that a model of this kind would ignore."""
    for name in SEGMENTER_OPTIONS if kind == "detector" else DETECTOR_OPTIONS:
        if getattr(args, name, None) is not None:
            option = name.replace("_", "-")
            raise UserError(f"--{option} cannot be used with a {kind}; leave it out")


def own_validation(args: argparse.Namespace) -> "CocoSplit | None":
    """Return the custom validation data of `add_data_options`, None if none are given."""
    from regnet_backbones.detection.data import read_coco_split

    if (args.val_json is None) != (args.val_images is None):
        raise UserError("--val-json and --val-images must be given together")
    return None if args.val_json is None else read_coco_split(args.val_json, args.val_images)


def segmenter_settings(args: argparse.Namespace) -> dict[str, object]:
    """Return on which data and device a segmenter is evaluated, of `add_data_options`."""
    if args.device not in ACCELERATORS:
        raise UserError(f"--device of a segmenter must be cpu, cuda or mps, got '{args.device}'")
    return {"overrides": pairs_of(args.opts), "accelerator": ACCELERATORS[args.device]}


def pairs_of(opts: Sequence[str]) -> dict[str, str]:
    """Return the values of --opts by key."""
    if len(opts) % 2:
        raise UserError(f"--opts must be pairs of a key and a value, got: {' '.join(opts)}")
    return dict(zip(opts[::2], opts[1::2], strict=True))


def _trained(args: argparse.Namespace) -> "Trained":
    from regnet_backbones.optimize.options import show_reports
    from regnet_backbones.runs.trained import find_trained

    show_reports()
    config = args.config_file and find_config(args.config_file, "detectron2")
    trained = find_trained(args.trained, config_file=config)
    check_options(args, trained.kind)
    return trained


@subcommand(EVALUATE, evaluate_arguments)
def evaluate_command(args: argparse.Namespace) -> int:
    """Evaluate, print the results and write them to a file."""
    from regnet_backbones.runs.results import RESULTS_NAME
    from regnet_backbones.runs.trained import is_on_hub

    trained = _trained(args)
    folder = Path() if is_on_hub(args.trained) else trained.run_folder  # not into its cache
    output = Path(args.output or folder / EVALUATION_FOLDER)
    check_output_folder(output, name="--output")
    if trained.kind == "detector":
        from regnet_backbones.detection.evaluation import evaluate

        evaluator = ["TEST.EVALUATOR", args.evaluator] if args.evaluator else []
        table = evaluate(
            trained,
            output,
            opts=[*_optimization_keys(args), *evaluator, *args.opts],
            device=args.device,
            processes=args.devices,
            val=own_validation(args),
            **_engine(args),
            **_windows(args),
        ).table
    else:
        from lightning.pytorch.utilities import rank_zero_only

        from regnet_backbones.semseg.evaluation import evaluate as evaluate_segmenter
        from regnet_backbones.semseg.metrics import results_table

        results = evaluate_segmenter(
            trained.checkpoint,
            output=output,
            inference=_inference(args),
            devices=args.devices,
            optimization=_optimization(args),
            **_engine(args),
            **segmenter_settings(args),
        )
        if rank_zero_only.rank > 0:
            return 0
        table = results_table(results, f"{results['images']} images")
    print(f"{table}\nresults: {output / RESULTS_NAME}")
    return 0


@subcommand(PREDICT, predict_arguments)
def predict_command(args: argparse.Namespace) -> int:
    """Predict images; the exit status is 1 if some could not be read."""
    if not args.no_pictures and "torch" not in sys.modules:
        # Read when torch is imported: its threads sleep, rather than spin on the cores where
        # pictures are drawn.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from regnet_backbones.runs.image_files import SUFFIXES, find_images
    from regnet_backbones.runs.videos import SUFFIXES as VIDEO_SUFFIXES
    from regnet_backbones.runs.videos import ImageReader, is_video

    trained = _trained(args)
    output = Path(args.output)
    images = _without_outputs(find_images(args.images, SUFFIXES + VIDEO_SUFFIXES), output)
    if args.every is not None and not any(map(is_video, images)):
        raise UserError("--every needs a video; leave it out")
    check_output_folder(output, name="--output")
    read = ImageReader(images, every=1 if args.every is None else args.every)
    how = {"pictures": not args.no_pictures, "batch_size": args.batch_size}
    if trained.kind == "detector":
        from regnet_backbones.detection.prediction import DetectorPredictor, predict

        detector = DetectorPredictor(
            trained,
            min_score=0.5 if args.min_score is None else args.min_score,
            opts=[*_optimization_keys(args), *args.opts],
            device=args.device,
            val_json=args.val_json,
            **_windows(args),
            **_engine(args),
        )
        predict(detector, read, output, **how)
    else:
        from regnet_backbones.semseg import prediction as of_segmenters

        if args.opts:
            raise UserError("--opts cannot be used with a segmenter; leave it out")
        segmenter = of_segmenters.SegmenterPredictor(
            trained.checkpoint,
            inference=_inference(args),
            device=args.device,
            optimization=_optimization(args),
            **_engine(args),
        )
        of_segmenters.predict(segmenter, read, output, **how)
    failed = read.failed
    kind = "images and videos" if any(map(is_video, images)) else "images"
    print(f"{len(images) - len(failed)} of {len(images)} {kind} predicted: {output}")
    if failed:
        print(f"{len(failed)} could not be read, see the warnings", file=sys.stderr)
    return 1 if failed else 0


def _without_outputs(images: Sequence[Path], output: Path) -> Sequence[Path]:
    """Leave out images that an earlier run wrote to `output`, and that this one would overwrite."""
    written = {(output / folder).resolve() for folder in WRITTEN_FOLDERS}
    others = [image for image in images if written.isdisjoint(image.resolve().parents)]
    if not others:
        raise UserError(f"all images are in what is written below '{output}'; set another --output")
    if left_out := len(images) - len(others):
        text = f"{left_out} images left out, which an earlier run wrote to --output"
        print(f"{text} '{output}'", file=sys.stderr)
    return others


def _engine(args: argparse.Namespace) -> dict[str, object]:
    return {"engine": args.engine, "exported": args.exported}


def _windows(args: argparse.Namespace) -> dict[str, int | None]:
    return {name: getattr(args, name) for name in WINDOW_OPTIONS}


def _inference(args: argparse.Namespace) -> "Inference | None":
    from regnet_backbones.semseg.inference import Inference

    given = {name: getattr(args, name) for name in (*WINDOW_OPTIONS, *SEGMENTER_OPTIONS)}
    given["scales"] = args.scales and tuple(args.scales)
    given = {name: value for name, value in given.items() if value is not None}
    return Inference(**given) if given else None


def _optimization(args: argparse.Namespace) -> "Optimization | None":
    from regnet_backbones.optimize.options import Optimization

    wanted = args.optimize or args.dtype or args.compile
    return Optimization(dtype=args.dtype or "float32", compile=args.compile) if wanted else None


def _optimization_keys(args: argparse.Namespace) -> list[str]:
    """Return the same as keys and values of a detector's config."""
    enabled = args.optimize or args.dtype or args.compile
    given = {"ENABLED": enabled and "True", "COMPILE": args.compile and "True", "DTYPE": args.dtype}
    return [word for key, value in given.items() if value for word in (f"OPTIMIZE.{key}", value)]
