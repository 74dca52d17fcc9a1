"""`report`: evaluate a run, if that was not done yet, and write its page."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from regnet_backbones.cli import models
from regnet_backbones.cli.run import find_config, subcommand
from regnet_backbones.errors import UserError

if TYPE_CHECKING:
    from regnet_backbones.report.reading import Report
    from regnet_backbones.runs.trained import Trained

PAGE_NAME = "report.html"
OWN_FOLDER = "report"  # of its evaluations, so that those of `evaluate` stay

DESCRIPTION = """\
Write one self-contained HTML page about a training of a detector or a segmenter, or about several.

    %(prog)s output/demo
    %(prog)s output/detector output/segmenter --output both.html
    %(prog)s output/mine --val-json val.json --val-images images/val
    %(prog)s output/semseg --opts root /data/ADE20K --device cuda

A run is evaluated first if it was not yet, on at most --images validation images. If there are more
images, the results are those that the training logged.
"""


def report_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command line."""
    add = parser.add_argument
    text = "output folder of a training, or a checkpoint in it; several are shown side by side"
    add("runs", metavar="RUN", nargs="+", help=text)
    add("--output", metavar="FILE", help=f"the page (default: {PAGE_NAME} in the first folder)")
    add("--images", type=int, default=200, metavar="N", help="at most, to evaluate (%(default)s)")
    add("--no-evaluate", action="store_true", help="show only what was evaluated before")
    add("--device", help="cpu, cuda, ... (default: a GPU if there is one)")
    models.add_data_options(parser)


@subcommand(DESCRIPTION, report_arguments)
def report_command(args: argparse.Namespace) -> int:
    """Evaluate runs if necessary, and write their page."""
    from regnet_backbones.report.page import write_page
    from regnet_backbones.runs.trained import find_trained, is_on_hub

    for run in filter(is_on_hub, args.runs):
        raise UserError(f"a report needs the folder of a run, got '{run}'")
    config = args.config_file and find_config(args.config_file, "detectron2")
    found = [find_trained(run, config_file=config) for run in args.runs]
    for trained in found:
        models.check_options(args, trained.kind)
    if args.images < 1:
        raise UserError(f"--images must be at least 1, got {args.images}")
    output = Path(args.output or found[0].run_folder / PAGE_NAME)
    if output.is_dir():
        raise UserError(f"--output must be a file, such as {PAGE_NAME}; got the folder '{output}'")
    reports = [_report_of(trained, args) for trained in found]
    write_page(output, *reports)
    for line in (line for report in reports for line in report.missing):
        print(f"missing: {line}", file=sys.stderr)
    print(f"report: {output}")
    return 0


def _report_of(trained: "Trained", args: argparse.Namespace) -> "Report":
    """Evaluate a run if necessary, and return what its page shows."""
    from regnet_backbones.report.reading import config_of, find_evaluation, read_report

    folders = [trained.run_folder / name for name in (models.EVALUATION_FOLDER, OWN_FOLDER)]
    evaluate: Callable[[], object]
    if trained.kind == "detector":
        from regnet_backbones.detection import description, evaluation

        options = {"opts": args.opts, "val": models.own_validation(args)}
        described = description.describe(trained.config_file, **options)
        options |= {"device": args.device, "images": args.images}
        evaluate = partial(evaluation.evaluate, trained, folders[-1], **options)
    else:
        from regnet_backbones.semseg import description as segmenters
        from regnet_backbones.semseg.evaluation import evaluate as evaluate_segmenter

        options = {**models.segmenter_settings(args), "images": args.images, "output": folders[-1]}
        described = segmenters.describe(config_of(trained), trained.checkpoint)
        evaluate = partial(evaluate_segmenter, trained.checkpoint, **options)
    found, missing = find_evaluation(trained, folders, described, args.opts), []
    enough = found and (found.images.complete or len(found.images.images) >= args.images)
    if not (args.no_evaluate or enough):
        try:
            evaluate()
        except (UserError, OSError, ModuleNotFoundError) as error:
            if args.opts or args.val_json:  # a mistake in these is not to be overlooked
                raise
            missing.append(f"Nothing is predicted: {error}")
        found = find_evaluation(trained, folders, described, args.opts)
    return read_report(trained, described, found, opts=args.opts, missing=missing)
