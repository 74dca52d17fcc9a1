"""`design.py scale`: a design scaled up."""

import argparse

from regnet_backbones.cli.design.arguments import add_design, chosen_design
from regnet_backbones.cli.design.output import add_output, check_output, show_output
from regnet_backbones.cli.design.tables import cost_columns, describe, table
from regnet_backbones.design.anynet import AnyNetDesign
from regnet_backbones.design.cost import complexity
from regnet_backbones.design.scaling import FAST, scale
from regnet_backbones.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    add_design(parser)
    add = parser.add_argument
    add("--factor", type=float, required=True, metavar="NUMBER", help="of the multiply-adds")
    add(
        "--strategy",
        default=FAST,
        metavar="TEXT",
        help="how depth, width, group width and resolution share it: dw, d1_w2_r1, ... "
        f"(default: {FAST}, the paper's fast compound scaling)",
    )
    add("--image-size", type=int, default=224, metavar="PIXELS", help="side (default: 224)")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Scale and print, and return the exit status.

    Raises:
        ValueError: the arguments make no sense, or there is no such network.
        OSError: a file cannot be read or written.
    """
    check_output(args)
    name, design = chosen_design(args)
    if isinstance(design, AnyNetDesign):
        raise UserError("an AnyNet has no law to scale; take the nearest RegNet by `fit`")
    scaled = scale(design, args.factor, strategy=args.strategy, image_size=args.image_size)
    rows = []
    for title, network, size in (
        (name or "given", design, args.image_size),
        ("scaled", scaled.design, scaled.image_size),
    ):
        rows.append((title, describe(network), size, *cost_columns(complexity(network, size))))
    print(table(("", "design", "image", "multiply-adds", "params", "activations"), rows))
    print(
        f"\ndepth x {scaled.depth:.3g}, width x {scaled.width:.3g}, group width x "
        f"{scaled.group_width:.3g}, resolution x {scaled.resolution:.3g}: multiply-adds x "
        f"{scaled.flops_factor:.3g} (asked for: {args.factor:g})"
    )
    show_output(args, scaled.design)
    return 0
