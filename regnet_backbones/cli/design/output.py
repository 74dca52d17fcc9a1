"""A design as other projects write it, printed, written and built, as options ask for it."""

import argparse
import os
import sys
from pathlib import Path

from regnet_backbones.cli.design.building import build, check_buildable
from regnet_backbones.design.anynet import Design
from regnet_backbones.design.formats import FORMATS, to_format
from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.files import write_whole


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("what the design becomes")
    group.add_argument("--format", choices=FORMATS, help="print it for another project")
    group.add_argument(
        "--base", metavar="YAML", help="config of Detectron2 that the rest is taken from (_BASE_)"
    )
    group.add_argument("--write", metavar="FILE", help="write that, instead of printing it")
    group.add_argument(
        "--build", action="store_true", help="build it, in --format's project or in all there are"
    )


def check_output(args: argparse.Namespace) -> None:
    """Raise ValueError for options that cannot be used together, OSError without the base."""
    if args.write and not args.format:
        raise UserError(f"--write needs --format, one of {', '.join(FORMATS)}")
    if args.base and args.format != "detectron2":
        raise UserError("--base needs --format detectron2")
    if args.base and not Path(args.base).is_file():
        raise MissingFileError(f"--base: there is no config '{args.base}'")


def show_output(args: argparse.Namespace, design: Design) -> None:
    """Print, write and build a design as the options say.

    Raises:
        ValueError: it cannot be said or built so.
        OSError: the file cannot be written.
    """
    if args.format:
        text = to_format(args.format, design, base=_base(args))
        if args.write:
            write_whole(Path(args.write), lambda file: file.write(f"{text}\n".encode()))
            print(f"written to {args.write}", file=sys.stderr)
        else:
            print(f"\n{text}")
    if args.build:
        print()
        if args.format:
            print(build(design, args.format))
        else:
            _build_wherever_possible(design)


def _build_wherever_possible(design: Design) -> None:
    """Build a design in each project, and say why not where one has no words for it."""
    check_buildable(design)
    for name in FORMATS:
        try:
            print(build(design, name))
        except ValueError as error:
            print(f"{name}: not built, {error}")


def _base(args: argparse.Namespace) -> str | None:
    """Return the base as `_BASE_` names it: relative to the folder of the new config."""
    if not args.base:
        return None
    folder = Path(args.write).parent if args.write else Path()
    return Path(os.path.relpath(args.base, folder)).as_posix()
