"""What the subcommands have in common on the command line: a design, bounds, numbers with units."""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import fields, replace

from regnet_backbones import zoo
from regnet_backbones.cli.command_lines import parse_size
from regnet_backbones.design import RegNetDesign
from regnet_backbones.design.anynet import Design
from regnet_backbones.design.ranges import Interval
from regnet_backbones.design.records import design_of, read_results
from regnet_backbones.errors import UserError

UNITS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "MF": 1e6, "G": 1e9, "GF": 1e9}

# How far from a single number a bound lets a design be.
TOLERANCE = 0.05

# The numbers of a design on a command line.
NUMBERS: dict[str, tuple[str, Callable[[str], float]]] = {
    "w_0": ("--w0", int),
    "w_a": ("--wa", float),
    "w_m": ("--wm", float),
    "depth": ("--depth", int),
    "group_width": ("--group-width", int),
    "bottleneck_multiplier": ("--bottleneck-multiplier", float),
    "se_ratio": ("--se-ratio", float),
    "stem_width": ("--stem-width", int),
}
REQUIRED = ("w_0", "w_a", "w_m", "depth", "group_width")


def add_design(parser: argparse.ArgumentParser) -> None:
    """Add the ways to name a design."""
    group = parser.add_argument_group(
        "the network", "a name, all numbers, or a row of results; numbers change a name or a row"
    )
    group.add_argument("name", nargs="?", metavar="NAME", help="regnety_032, RegNetX-400MF, ...")
    group.add_argument("--from", dest="results", metavar="JSON", help="results of sample or search")
    group.add_argument(
        "--index", type=int, metavar="N", help="row of it (default: what the search chose, else 0)"
    )
    for name, (option, kind) in NUMBERS.items():
        group.add_argument(option, dest=name, type=kind, metavar="NUMBER")


def chosen_design(args: argparse.Namespace) -> tuple[str | None, Design]:
    """Return the zoo's name of the network, None where numbers were given, and its design.

    Raises:
        ValueError: nothing, too much or nonsense was given.
        OSError: the results cannot be read.
    """
    numbers = {name: getattr(args, name) for name in NUMBERS if getattr(args, name) is not None}
    if args.name and args.results:
        raise UserError(f"give a name or --from, not both; got '{args.name}' and {args.results}")
    if args.name:
        variant = zoo.get(args.name)
        if variant.design is None:
            raise UserError(
                f"the widths of {variant.name} follow no quantized line, there is no design to "
                "work with"
            )
        named = None if numbers else variant.name
        return named, _changed(variant.design, numbers)
    if args.results:
        return None, _changed(_row(args.results, args.index), numbers)
    missing = [NUMBERS[name][0] for name in REQUIRED if name not in numbers]
    if missing:
        raise UserError(
            "give a name such as regnety_032, --from with results, or the numbers "
            f"{', '.join(NUMBERS[name][0] for name in REQUIRED)}; missing: {', '.join(missing)}"
        )
    return None, RegNetDesign(**numbers)


def add_cost(parser: argparse.ArgumentParser) -> None:
    """Add what costs are counted for."""
    group = parser.add_argument_group("what is counted")
    group.add_argument(
        "--image-size",
        type=image_size,
        default=(224, 224),
        metavar="SIZE",
        help="640, or 800x1333 (height x width); default: 224",
    )
    group.add_argument(
        "--num-classes",
        type=int,
        default=1000,
        metavar="N",
        help="of the classifier, 0 for the backbone alone (default: 1000, as published)",
    )


def cost_arguments(args: argparse.Namespace) -> tuple[tuple[int, int], int | None]:
    """Return the size of images and the number of classes, None for the backbone alone."""
    if args.num_classes < 0:
        raise UserError(f"--num-classes must be 0 or more, got {args.num_classes}")
    return args.image_size, args.num_classes or None


def image_size(text: str) -> tuple[int, int]:
    """Read a size, "640" or "800x1333", for an option.

    Raises:
        argparse.ArgumentTypeError: it is no such thing.
    """
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def interval(text: str) -> Interval:
    """Read a bound: "400M" (within 5%), "380M:420M", "6.3M:" (at least), ":8M" (at most).

    Raises:
        argparse.ArgumentTypeError: it is no such thing.
    """
    low, high = _ends(text)
    return (low * (1 - TOLERANCE), high * (1 + TOLERANCE)) if ":" not in text else (low, high)


def span(text: str) -> Interval:
    """Read a part of a range: "16" (just this), "12:20", "12:" or ":20".

    Raises:
        argparse.ArgumentTypeError: it is no such thing.
    """
    return _ends(text)


def number(text: str) -> float:
    """Read a positive number with a unit: 0.8G, 400MF, 6.3M, 5000.

    Raises:
        ValueError: it is no such thing.
    """
    digits = text.rstrip("kKMGF")
    unit = text[len(digits) :]
    try:
        value = float(digits) * UNITS[unit]
    except (ValueError, KeyError):
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"a number is written 400M, 0.8G, 6300k or 5000, got '{text}'")
    return value


def _ends(text: str) -> Interval:
    """Read one number as both ends, or what stands on either side of a colon."""
    low, colon, high = text.partition(":")
    try:
        lowest = number(low) if low else 0.0
        highest = (number(high) if high else math.inf) if colon else lowest
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if lowest > highest or not (low or high):
        raise argparse.ArgumentTypeError(
            f"a bound is low:high, low: or :high with low at most high, got '{text}'"
        )
    return lowest, highest


def _changed(design: Design, numbers: dict[str, float]) -> Design:
    """Return a design with other numbers."""
    known = {each.name for each in fields(design)}
    foreign = [NUMBERS[name][0] for name in numbers if name not in known]
    if foreign:
        raise UserError(f"an AnyNet is given by its stages and has no {', '.join(foreign)}")
    return replace(design, **numbers)


def _row(path: str, index: int | None) -> Design:
    """Return the design of a row of results, and warn of one that a search rejected.

    Args:
        path: of the results.
        index: the row; None for the one that was chosen, or the first where nothing chose.
    """
    rows, chosen = read_results(path)
    if index is None and chosen is None and any(map(_is_rejected, rows)):
        raise UserError(f"the search of {path} has chosen no row; give one with --index")
    index = index if index is not None else chosen or 0
    if not 0 <= index < len(rows):
        raise UserError(f"--index must be 0 to {len(rows) - 1} for {path}, got {index}")
    row = rows[index]
    if not isinstance(row, dict):
        raise UserError(f"row {index} of {path} is no design but {row!r}")
    if _is_rejected(row):
        best = "" if chosen is None else f", which chose row {chosen}"
        print(f"warning: row {index} of {path} was rejected by the search{best}", file=sys.stderr)
    return design_of(row)


def _is_rejected(row: object) -> bool:
    """Tell whether a search measured a design and did not keep it."""
    return isinstance(row, dict) and row.get("kept") is False
