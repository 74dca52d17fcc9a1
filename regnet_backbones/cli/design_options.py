"""What the subcommands of `design` share: numbers with units, costs, tables."""

import argparse
import math
from collections.abc import Sequence

from regnet_backbones.cli.command_lines import parse_size
from regnet_backbones.design import AnyNetDesign, Complexity, Design
from regnet_backbones.design.formats import python_code
from regnet_backbones.errors import UserError

UNITS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "MF": 1e6, "G": 1e9, "GF": 1e9}
TOLERANCE = 0.05  # how far from a single number a bound lets a design be


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
    """Read a size, "640" or "800x1333", for an option."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def interval(text: str) -> tuple[float, float]:
    """Read a bound: "400M" (within 5%), "380M:420M", "6.3M:" (at least), ":8M" (at most)."""
    low, high = span(text)
    return (low * (1 - TOLERANCE), high * (1 + TOLERANCE)) if ":" not in text else (low, high)


def span(text: str) -> tuple[float, float]:
    """Read a part of a range: "16" (just this), "12:20", "12:" or ":20"."""
    low, colon, high = text.partition(":")
    lowest = _number(low) if low else 0.0
    highest = (_number(high) if high else math.inf) if colon else lowest
    if lowest > highest or not (low or high):
        raise argparse.ArgumentTypeError(
            f"a bound is low:high, low: or :high with low at most high, got '{text}'"
        )
    return lowest, highest


def _number(text: str) -> float:
    """Read a positive number with a unit: 0.8G, 400MF, 6.3M, 5000."""
    digits = text.rstrip("kKMGF")
    try:
        value = float(digits) * UNITS[text[len(digits) :]]
    except (ValueError, KeyError):
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(
            f"a number is written 400M, 0.8G, 6300k or 5000, got '{text}'"
        )
    return value


def short(value: float) -> str:
    """Return a number with three digits and a unit: 3.20G, 19.4M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def cost_columns(cost: Complexity) -> tuple[str, str, str]:
    """Return the three costs."""
    return short(cost.flops), short(cost.params), short(cost.activations)


def describe(design: Design) -> str:
    """Return the numbers of a design, and its stages, in one line."""
    stages = ", ".join(f"{stage.width}x{stage.depth}" for stage in design.stages)
    if isinstance(design, AnyNetDesign):
        groups = "/".join(str(stage.group_width) for stage in design.stages)
        return f"AnyNet {stages}, group widths {groups}"
    return f"{python_code(design)}: {stages}"


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, align: str = "right") -> str:
    """Return a table; all columns but the first are aligned as told."""
    from tabulate import tabulate

    columns = ("left", *[align] * (len(headers) - 1))
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=columns)
