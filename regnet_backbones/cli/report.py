"""The command line of `tools/report.py`."""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from regnet_backbones.cli.command_lines import command_parser
from regnet_backbones.cli.options import (
    add_data_options,
    check_options,
    data_overrides,
    own_validation,
)
from regnet_backbones.cli.run import run_command
from regnet_backbones.errors import MissingPackageError, UserError

if TYPE_CHECKING:
    from regnet_backbones.report.content import Report
    from regnet_backbones.report.runs import Run

PAGE_NAME = "report.html"
PACKAGES = ("jinja2", "matplotlib", "pycocotools", "tensorboard")

DESCRIPTION = """\
Write one self-contained HTML page about a training of a detector or a segmenter.

    %(prog)s output/demo
    %(prog)s output/demo_semseg --images 50 --output semseg.html
    %(prog)s output/mine --val-json val.json --val-images images/val
    %(prog)s output/semseg --opts root /data/ADE20K --device cuda

The page has the curves of the training, the results of the evaluation by class, the best and the
worst predictions among the validation images, speed, configuration, and the command to repeat it.
The first --images validation images are predicted; if these are all, the results are of them,
otherwise those of the training or of `evaluate`. A run that has not finished is reported as far as
it came. The page needs no network and no other file.
"""


def report_command(argv: Sequence[str], prog: str) -> int:
    """Write the page of a run."""
    args = report_parser(prog).parse_args(argv)
    return run_command(lambda: _report(args))


def report_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(prog, DESCRIPTION)
    add = parser.add_argument
    add("run", metavar="RUN", help="output folder of a training, or a checkpoint in it")
    add("--output", metavar="FILE", help=f"the page (default: {PAGE_NAME} in the run's folder)")
    add(
        "--images",
        type=int,
        default=200,
        metavar="N",
        help="validation images to predict, at most (default: %(default)s)",
    )
    add("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    add_data_options(parser)
    return parser


def _report(args: argparse.Namespace) -> int:
    """Read a run, write its page, and return the exit status."""
    from regnet_backbones.report.runs import find_run

    _check_packages()
    run = find_run(args.run, config_file=args.config_file)
    check_options(args, run.kind)
    if args.images < 1:
        raise UserError(f"--images must be at least 1, got {args.images}")
    output = Path(args.output or run.folder / PAGE_NAME)
    if output.is_dir():
        raise UserError(f"--output '{output}' is a folder; give a file, such as {PAGE_NAME}")
    report = _read_detector(args, run) if run.kind == "detector" else _read_segmenter(args, run)
    _write(output, report)
    for line in report.missing:
        print(f"missing: {line}", file=sys.stderr)
    print(f"report: {output}")
    return 0


def _read_detector(args: argparse.Namespace, run: "Run") -> "Report":
    """Read a run of detectron2's."""
    from regnet_backbones.report.detection import read_detector

    return read_detector(
        run,
        images=args.images,
        opts=args.overrides or (),
        device=args.device,
        val=own_validation(args),
    )


def _read_segmenter(args: argparse.Namespace, run: "Run") -> "Report":
    """Read a run of Lightning's."""
    from regnet_backbones.report.segmentation import read_segmenter

    return read_segmenter(
        run,
        images=args.images,
        overrides=data_overrides(args),
        device=args.device,
    )


def _write(output: Path, report: "Report") -> None:
    """Write the page; what draws it is imported once it is known to be there."""
    from regnet_backbones.report.page import write_page

    write_page(output, report)


def _check_packages() -> None:
    """Raise ModuleNotFoundError where a page could not be written."""
    lacking = [name for name in PACKAGES if find_spec(name) is None]
    if lacking:
        raise MissingPackageError(
            f"a report takes {', '.join(lacking)}, which is not installed; "
            "`pip install 'regnet_backbones[report]'` installs it",
            name=lacking[0],
        )
