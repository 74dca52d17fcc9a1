"""What command lines have in common: parsers, names of configs, sizes of images."""

import argparse
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from regnet_backbones import config_path
from regnet_backbones.errors import UnknownNameError, UserError


class ArgumentError(UserError, argparse.ArgumentTypeError):
    """An invalid value; argparse prints the message only of its own type."""


def command_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Return a parser that prints the description as it is, `%(prog)s` in it replaced."""
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_split_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that split one dataset into two."""
    add = parser.add_argument
    add("--val-fraction", type=float, metavar="F", help="fraction of the images to validate on")
    add("--split-seed", type=int, default=0, metavar="N", help="seed of the split (default: 0)")
    text = "keep images together whose names have the same first group of this expression"
    add("--group", metavar="REGEX", help=text)


def find_config(given: str, trainer: Literal["detectron2", "semseg"]) -> str:
    """Return the path of a config that is a file, or that comes with the package.

    Of the package, `given` is a name or a path below `configs/`. Anything else is left as it is.
    """
    packaged = config_path() / given.removeprefix("configs/")
    if given and packaged.is_file() and not Path(given).exists():
        return str(packaged)
    if Path(given).exists() or not re.fullmatch(r"[\w-]+", given):
        return given
    known = {path.stem: path for path in sorted(config_path(trainer).rglob("*.yaml"))}
    if given not in known:
        near = get_close_matches(given, known, n=2)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise UnknownNameError(
            f"no config '{given}'; {hint}the package has {len(known)} in {config_path(trainer)}"
        )
    return str(known[given])


def parse_size(text: str) -> tuple[int, int]:
    """Read a size of images, "512" or "800x1344" (height x width)."""
    found = re.fullmatch(r"0*([1-9]\d*)(?:x0*([1-9]\d*))?", text)
    if found is None:
        raise ArgumentError(f"a size must be a side (512) or HEIGHTxWIDTH (800x1344), got '{text}'")
    return int(found[1]), int(found[2] or found[1])
