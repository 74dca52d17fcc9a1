"""`design.py show`: what a design is and costs, and which of the paper's findings it follows."""

import argparse

from regnet_backbones.cli.design.arguments import (
    add_cost,
    add_design,
    chosen_design,
    cost_arguments,
)
from regnet_backbones.cli.design.charts import check_chart, width_figure, write_chart
from regnet_backbones.cli.design.output import add_output, check_output, show_output
from regnet_backbones.cli.design.tables import describe, rule_table, stage_table
from regnet_backbones.design.formats import python_code
from regnet_backbones.design.law import RegNetDesign
from regnet_backbones.design.rules import check_rules
from regnet_backbones.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    add_design(parser)
    add_cost(parser)
    parser.add_argument("--picture", metavar="FILE", help="line, quantized widths, stages")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Print and draw what was asked for, and return the exit status.

    Raises:
        ValueError: the arguments make no sense.
        OSError: a file cannot be read or written.
    """
    check_output(args)
    name, design = chosen_design(args)
    image_size, num_classes = cost_arguments(args)
    if args.picture:
        check_chart(args.picture)
        if not isinstance(design, RegNetDesign):
            raise UserError("--picture draws the law of a RegNet, and an AnyNet has none")
    print(f"{name}: {python_code(design)}" if name else describe(design))
    print(f"\n{stage_table(design, image_size, num_classes)}")
    height, width = image_size
    classes = f"{num_classes} classes" if num_classes else "the backbone alone"
    print(f"at {height}x{width}, {classes}")
    print(f"\n{rule_table(check_rules(design))}")
    if args.picture:
        write_chart(args.picture, width_figure(design, title=name or describe(design)))
    show_output(args, design)
    return 0
