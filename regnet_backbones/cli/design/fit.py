"""`design.py fit`: the quantized line nearest to the widths of any network."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from regnet_backbones import zoo
from regnet_backbones.cli.design.charts import check_chart, fit_figure, write_chart
from regnet_backbones.cli.design.output import add_output, check_output, show_output
from regnet_backbones.cli.design.tables import describe, table
from regnet_backbones.design.fitting import fit
from regnet_backbones.design.law import NUM_STAGES, RegNetDesign
from regnet_backbones.errors import UserError

# Widths and depths of the stages of well-known networks; EfficientNet has seven.
# Sources: torchvision `models/resnet.py` and `models/efficientnet.py`.
KNOWN: dict[str, tuple[Sequence[int], Sequence[int]]] = {
    "resnet50": ((256, 512, 1024, 2048), (3, 4, 6, 3)),
    "resnet101": ((256, 512, 1024, 2048), (3, 4, 23, 3)),
    "resnext50": ((256, 512, 1024, 2048), (3, 4, 6, 3)),
    "resnext101": ((256, 512, 1024, 2048), (3, 4, 23, 3)),
    "efficientnet_b0": ((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
}

ANY = "any"

# Numbers that a fit leaves open.
OF_THE_DESIGN = ("group_width", "bottleneck_multiplier", "se_ratio")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help=f"{', '.join(KNOWN)}, or a RegNet")
    add("--widths", nargs="+", type=int, metavar="N", help="of stages, or of all blocks")
    add("--depths", nargs="+", type=int, metavar="N", help="of stages")
    add(
        "--stages",
        default=str(NUM_STAGES),
        metavar="N",
        help="of the fitted law; 'any' for what fits best (default: 4, which can be built)",
    )
    add("--group-width", type=int, metavar="N", help="of the design (default: the RegNet's, or 8)")
    for option in ("--bottleneck-multiplier", "--se-ratio"):
        add(option, type=float, metavar="NUMBER", help="of the design (default: the RegNet's)")
    add("--picture", metavar="FILE", help="observed widths, line and fitted widths")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Fit, print and draw, and return the exit status.

    Raises:
        ValueError: the arguments make no sense, or nothing fits.
        OSError: a file cannot be written.
    """
    check_output(args)
    if args.picture:
        check_chart(args.picture)
    title, widths, depths, given = _observed(args)
    numbers = {name: getattr(args, name) for name in OF_THE_DESIGN}
    numbers = {name: value for name, value in numbers.items() if value is not None}
    result = fit(widths, depths, num_stages=_stages(args.stages))
    print(
        f"{title}: w_0 {result.w_0}, w_a {result.w_a:g}, w_m {result.w_m:g}, depth {result.depth}; "
        f"mean log-ratio error {result.error:.4f}"
    )
    rows = [
        (_blocks(blocks), observed, predicted, f"{predicted / observed - 1:+.1%}")
        for (observed, predicted), blocks in _runs(result.observed, result.quantized)
    ]
    print(f"\n{table(('blocks', 'observed', 'fitted', 'difference'), rows)}")
    if args.picture:
        write_chart(args.picture, fit_figure(result, title=title))
    if result.design is None:
        print("\nno RegNet has these stages: 4 are needed to build one (--stages 4)")
        if args.format or args.build:
            raise UserError("--format and --build need a law of 4 stages; take --stages 4")
        return 0
    law = {name: getattr(result, name) for name in ("w_0", "w_a", "w_m", "depth")}
    design = replace(given or result.design, **law, **numbers)
    print(f"\n{describe(design)}")
    show_output(args, design)
    return 0


def _observed(
    args: argparse.Namespace,
) -> tuple[str, Sequence[int], Sequence[int] | None, RegNetDesign | None]:
    """Return a title, the widths and depths that were asked for, and whose design they are.

    The widths of a RegNet are those that its law gives, before they are fitted to its groups.
    """
    if (args.name is None) == (args.widths is None):
        raise UserError(
            f"give a name ({', '.join(KNOWN)}, or a RegNet), or --widths with --depths, and not "
            "both"
        )
    if args.name is None:
        return "these widths", args.widths, args.depths, None
    if args.depths:
        raise UserError("--depths belong to --widths, not to a name")
    if args.name in KNOWN:
        return args.name, *KNOWN[args.name], None
    variant = zoo.get(args.name)
    if variant.design is None:
        raise UserError(f"the stages of {variant.name} are not known here; give --widths")
    title = f"{variant.name} before it is fitted to groups"
    return title, variant.design.block_widths.quantized, None, variant.design


def _stages(text: str) -> int | None:
    """Read the number of stages."""
    if text == ANY:
        return None
    try:
        return int(text)
    except ValueError:
        raise UserError(f"--stages must be a number or '{ANY}', got '{text}'") from None


def _runs(
    observed: Sequence[float], predicted: Sequence[int]
) -> list[tuple[tuple[int, int], list[int]]]:
    """Return runs of blocks that have the same widths on both sides."""
    pairs = [(int(width), fitted) for width, fitted in zip(observed, predicted, strict=True)]
    runs = groupby(range(len(pairs)), key=pairs.__getitem__)
    return [(widths, list(blocks)) for widths, blocks in runs]


def _blocks(indices: Sequence[int]) -> str:
    """Name blocks, counted from 1."""
    first, last = indices[0] + 1, indices[-1] + 1
    return f"{first}" if first == last else f"{first} to {last}"
