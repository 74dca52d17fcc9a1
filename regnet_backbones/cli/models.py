"""`evaluate` and `predict`: find what was trained, and hand it to its framework.

Detectron2 and Lightning are imported when a model needs them: one of the two is enough.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from regnet_backbones.cli import options
from regnet_backbones.cli.command_lines import find_config
from regnet_backbones.cli.run import run_command
from regnet_backbones.files import check_output_folder

if TYPE_CHECKING:
    from regnet_backbones.runs.trained import Trained
    from regnet_backbones.semseg.inference import Inference

# Below the folder of the run.
EVALUATION_FOLDER = "evaluation"


def evaluate_command(argv: Sequence[str], prog: str) -> int:
    """Evaluate, print the results and write them to a file."""
    args = options.evaluate_parser(prog).parse_args(argv)
    return run_command(lambda: _evaluate(args))


def predict_command(argv: Sequence[str], prog: str) -> int:
    """Predict images; the exit status is 1 if some could not be read."""
    args = options.predict_parser(prog).parse_args(argv)
    return run_command(lambda: _predict(args))


def _trained(args: argparse.Namespace) -> "Trained":
    """Return the model of a command line, whose options fit it."""
    from regnet_backbones.optimize.options import show_reports
    from regnet_backbones.runs.trained import find_trained

    show_reports()
    config = args.config_file and find_config(args.config_file, "detectron2")
    trained = find_trained(args.trained, config_file=config)
    options.check_options(args, trained.kind)
    return trained


def _evaluate(args: argparse.Namespace) -> int:
    from regnet_backbones.runs.results import RESULTS_NAME

    trained = _trained(args)
    output = Path(args.output or trained.run_folder / EVALUATION_FOLDER)
    check_output_folder(output, name="--output")
    evaluate = _evaluate_detector if trained.kind == "detector" else _evaluate_segmenter
    table = evaluate(args, trained, output)
    if table is not None:
        print(table)
        print(f"results: {output / RESULTS_NAME}")
    return 0


def _evaluate_detector(args: argparse.Namespace, trained: "Trained", output: Path) -> str:
    """Evaluate with Detectron2, and return the table."""
    from regnet_backbones.detection.evaluation import evaluate

    return evaluate(
        trained,
        output,
        opts=[*options.optimization_overrides(args), *(args.overrides or ())],
        device=args.device,
        processes=args.devices,
        val=options.own_validation(args),
    ).table


def _evaluate_segmenter(args: argparse.Namespace, trained: "Trained", output: Path) -> str | None:
    """Evaluate with Lightning, and return the table; None in all processes but the first."""
    from lightning.pytorch.utilities import rank_zero_only

    from regnet_backbones.semseg.evaluation import evaluate
    from regnet_backbones.semseg.metrics import results_table

    accelerator = options.accelerator_of(args)
    results = evaluate(
        trained.checkpoint,
        output=output,
        inference=_inference(args),
        overrides=options.data_overrides(args),
        accelerator=accelerator,
        devices=args.devices,
        optimization=options.optimization_of(args),
    )
    if rank_zero_only.rank > 0:
        return None
    return results_table(results, f"{results['images']} images")


def _predict(args: argparse.Namespace) -> int:
    from regnet_backbones.runs.image_paths import find_images

    trained = _trained(args)
    images, output = find_images(args.images), Path(args.output)
    check_output_folder(output, name="--output")
    if trained.kind == "detector":
        from regnet_backbones.detection.prediction import predict as predict_with_detector

        failed = predict_with_detector(
            trained,
            images,
            output,
            min_score=0.5 if args.min_score is None else args.min_score,
            opts=[*options.optimization_overrides(args), *(args.opts or ())],
            device=args.device,
            val_json=args.val_json,
        )
    else:
        from regnet_backbones.semseg.prediction import predict as predict_with_segmenter

        failed = predict_with_segmenter(
            trained.checkpoint,
            images,
            output,
            inference=_inference(args),
            device=args.device,
            optimization=options.optimization_of(args),
        ).failed
    print(f"{len(images) - len(failed)} of {len(images)} images predicted: {output}")
    if failed:
        print(f"{len(failed)} could not be read, see the warnings", file=sys.stderr)
    return 1 if failed else 0


def _inference(args: argparse.Namespace) -> "Inference | None":
    """Return how a segmenter takes images, None if no option sets it."""
    from regnet_backbones.semseg.inference import Inference

    names = ("short_side", "window", "window_stride", "flip", "scales")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    if "scales" in given:
        given["scales"] = tuple(given["scales"])
    return Inference(**given) if given else None
