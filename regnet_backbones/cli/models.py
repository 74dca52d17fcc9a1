"""`tools/evaluate.py` and `tools/predict.py`: find what was trained, and hand it to its framework.

Detectron2 and Lightning are imported when a model needs them: one of the two is enough.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from regnet_backbones.cli.failure_lines import Cause
from regnet_backbones.cli.failures import reported
from regnet_backbones.cli.options import (
    check_options,
    data_overrides,
    evaluate_parser,
    optimization_of,
    optimization_overrides,
    own_validation,
    predict_parser,
)
from regnet_backbones.errors import UserError
from regnet_backbones.files import check_output_folder
from regnet_backbones.optimize.options import show_reports
from regnet_backbones.runs.image_paths import find_images
from regnet_backbones.runs.results import RESULTS_NAME
from regnet_backbones.runs.trained import Trained, find_trained

if TYPE_CHECKING:
    from regnet_backbones.semseg.inference import Inference

# Below the folder of the run.
EVALUATION_FOLDER = "evaluation"

# By kind of device as torch names it.
ACCELERATORS = {None: "auto", "cpu": "cpu", "cuda": "gpu", "mps": "mps"}

# What to do, in the options of both commands.
HINTS = {
    Cause.OUT_OF_MEMORY: "take smaller images (INPUT.MIN_SIZE_TEST in --opts of a detector, "
    "--window or --short-side of a segmenter), another --device, or --dtype bfloat16",
    Cause.NOT_WRITABLE: "choose another --output",
}


def evaluate_command(argv: Sequence[str] | None, *, description: str) -> int:
    """Evaluate as a command line says, and print the results.

    Args:
        argv: the command line, None for that of this process.
        description: of the tool.

    Returns:
        The exit status: 0, or 2 for a mistake of the user, which is printed.
    """
    return _run(_evaluate, evaluate_parser(description).parse_args(argv))


def predict_command(argv: Sequence[str] | None, *, description: str) -> int:
    """Predict as a command line says.

    Args:
        argv: the command line, None for that of this process.
        description: of the tool.

    Returns:
        The exit status: 0, 1 if images could not be read, or 2 for a mistake of the user, which is
        printed.
    """
    return _run(_predict, predict_parser(description).parse_args(argv))


def _run(command: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Do a command, and print what the user did wrong."""
    show_reports()
    return reported(lambda: command(args), hints=HINTS)


def _evaluate(args: argparse.Namespace) -> int:
    """Evaluate a model of either kind."""
    trained = find_trained(args.trained, config_file=args.config_file)
    check_options(args, trained.kind)
    output = Path(args.output or trained.run_folder / EVALUATION_FOLDER)
    check_output_folder(output, name="--output")
    evaluate = _evaluate_detector if trained.kind == "detector" else _evaluate_segmenter
    table = evaluate(args, trained, output)
    if table is not None:
        print(table)
        print(f"results: {output / RESULTS_NAME}")
    return 0


def _evaluate_detector(args: argparse.Namespace, trained: Trained, output: Path) -> str:
    """Evaluate with detectron2, and return the table."""
    from regnet_backbones.detection.evaluation import evaluate

    return evaluate(
        trained,
        output,
        opts=[*optimization_overrides(args), *(args.overrides or ())],
        device=args.device,
        processes=args.devices,
        val=own_validation(args),
    ).table


def _evaluate_segmenter(args: argparse.Namespace, trained: Trained, output: Path) -> str | None:
    """Evaluate with Lightning, and return the table; of several processes in the first one."""
    from lightning.pytorch.utilities import rank_zero_only

    from regnet_backbones.semseg.evaluation import evaluate, results_table

    if args.device not in ACCELERATORS:
        allowed = ", ".join(filter(None, ACCELERATORS))
        raise UserError(f"a segmenter is evaluated on one of {allowed}, got '{args.device}'")
    results = evaluate(
        trained.checkpoint,
        output=output,
        inference=_inference(args),
        overrides=data_overrides(args),
        accelerator=ACCELERATORS[args.device],
        devices=args.devices,
        optimization=optimization_of(args),
    )
    return results_table(results) if rank_zero_only.rank == 0 else None


def _predict(args: argparse.Namespace) -> int:
    """Predict with a model of either kind."""
    trained = find_trained(args.trained, config_file=args.config_file)
    check_options(args, trained.kind)
    images, output = find_images(args.images), Path(args.output)
    check_output_folder(output, name="--output")
    if trained.kind == "detector":
        from regnet_backbones.detection.prediction import predict as predict_with_detector

        failed = predict_with_detector(
            trained,
            images,
            output,
            min_score=0.5 if args.min_score is None else args.min_score,
            opts=[*optimization_overrides(args), *(args.opts or ())],
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
            optimization=optimization_of(args),
        ).failed
    print(f"{len(images) - len(failed)} of {len(images)} images predicted: {output}")
    if failed:
        print(f"{len(failed)} could not be read, see the warnings", file=sys.stderr)
    return 1 if failed else 0


def _inference(args: argparse.Namespace) -> "Inference | None":
    """Return how a segmenter shall take images, None where no option says it."""
    from regnet_backbones.semseg.inference import Inference

    given = {
        "short_side": args.short_side,
        "window": args.window,
        "window_stride": args.window_stride,
        "flip": args.flip,
        "scales": None if args.scales is None else tuple(args.scales),
    }
    given = {name: value for name, value in given.items() if value is not None}
    return Inference(**given) if given else None
