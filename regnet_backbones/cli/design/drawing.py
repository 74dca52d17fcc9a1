"""What `sample` and `search` have in common: space, bounds, and tables of what was drawn."""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from regnet_backbones import zoo
from regnet_backbones.cli.design.arguments import (
    TOLERANCE,
    add_cost,
    cost_arguments,
    interval,
    span,
)
from regnet_backbones.cli.design.tables import candidate_table, rejection_table
from regnet_backbones.design.cost import complexity
from regnet_backbones.design.law import RegNetDesign
from regnet_backbones.design.sampling import Bounds, Candidate
from regnet_backbones.design.space_kinds import Space
from regnet_backbones.design.spaces import SPACES, get_space
from regnet_backbones.errors import UserError

# Numbers of a space that can be narrowed on the command line.
RANGES = {
    "depth": "--depth",
    "w_0": "--w0",
    "w_a": "--wa",
    "w_m": "--wm",
    "width": "--width",
    "group_width": "--group-width",
    "bottleneck_multiplier": "--bottleneck-multiplier",
}
COUNTED = ("flops", "params", "activations")


def add_drawing(parser: argparse.ArgumentParser, *, count: int) -> None:
    """Add the options of a space, of bounds, and of what is shown."""
    space = parser.add_argument_group("the space", "a part of it where numbers are given")
    space.add_argument("--space", default="RegNetX", help=f"{', '.join(SPACES)} (default: RegNetX)")
    for name, option in RANGES.items():
        help = "12:20, 12:, :20 or 16" if name == "depth" else None
        space.add_argument(option, dest=name, type=span, metavar="RANGE", help=help)
    space.add_argument("--se-ratio", type=float, metavar="NUMBER")
    space.add_argument("--stem-width", type=int, metavar="N")
    add_cost(parser)
    bounds = parser.add_argument_group(
        "bounds", f"400M (within {TOLERANCE:.0%}), 380M:420M, 6.3M: (at least), :8M (at most)"
    )
    for name in COUNTED:
        bounds.add_argument(f"--{name}", type=interval, metavar="BOUND")
    bounds.add_argument(
        "--like", metavar="NAME", help="the flops of this network, and at least its params"
    )
    parser.add_argument("--count", "-n", type=int, default=count, metavar="N", help="designs")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="rows of the table shown")
    parser.add_argument("--output", metavar="PATH", help="write PATH.json (search: PATH.png, too)")


def chosen_space(args: argparse.Namespace) -> Space:
    """Return the space, or the part of it."""
    narrowed = {name: getattr(args, name) for name in RANGES}
    return get_space(args.space).narrowed(
        **narrowed, se_ratio=args.se_ratio, stem_width=args.stem_width
    )


def chosen_bounds(args: argparse.Namespace) -> Bounds:
    """Return the bounds on what is counted."""
    image_size, num_classes = cost_arguments(args)
    intervals = {name: getattr(args, name) for name in COUNTED}
    if args.like:
        design = counted_design("--like", args.like)
        cost = complexity(design, image_size, num_classes)
        like = {
            "flops": (cost.flops * (1 - TOLERANCE), cost.flops * (1 + TOLERANCE)),
            "params": (cost.params, math.inf),
        }
        taken = [f"--{name}" for name in like if intervals[name] is not None]
        if taken:
            raise UserError(f"--like says the bounds of {', '.join(taken)} already; leave one out")
        intervals |= like
    return Bounds(**intervals, image_size=image_size, num_classes=num_classes)


def counted_design(option: str, name: str) -> RegNetDesign:
    """Return the design of a named network that an option compares with by its cost."""
    design = zoo.get(name).design
    if design is None:
        raise UserError(f"{option}: the cost of {name} is not known, it has no design")
    return design


def describe_bounds(bounds: Bounds) -> Mapping[str, object]:
    """Return bounds as a JSON file has them, an open end as null."""
    content = asdict(bounds)
    for name in COUNTED:
        if content[name] is not None:
            content[name] = [None if math.isinf(end) else end for end in content[name]]
    return content


def print_candidates(candidates: Sequence[tuple[int, Candidate]], top: int, *, what: str) -> None:
    """Print the first rows of a table, and how many there are."""
    if candidates:
        print(f"\n{candidate_table(candidates[:top])}")
    shown = f", the first {top} of them shown" if len(candidates) > top else ""
    print(f"{len(candidates)} {what}{shown}")


def print_rejections(rejections: Mapping[str, int], drawn: int) -> None:
    """Print why draws were rejected."""
    print(f"\n{drawn:,} drawn, {sum(rejections.values()):,} rejected")
    if rejections:
        print(rejection_table(rejections, drawn))
