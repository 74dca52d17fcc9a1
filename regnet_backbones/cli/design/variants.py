"""`design.py list`: every named network, what it costs, and its default weights."""

import argparse
from collections.abc import Sequence

from regnet_backbones import zoo
from regnet_backbones.cli.design.arguments import image_size
from regnet_backbones.cli.design.tables import table
from regnet_backbones.design.cost import complexity
from regnet_backbones.errors import UserError

# The short side that detectors see, and the longest side that goes with it.
DETECTION_SIZE = (800, 1333)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    add = parser.add_argument
    add("family", nargs="*", metavar="START", help="of names: regnety, regnetx_0, ... default: all")
    add(
        "--image-size",
        type=image_size,
        default=DETECTION_SIZE,
        metavar="SIZE",
        help="of the second count of multiply-adds, of the backbone alone (default: 800x1333)",
    )
    add("--markdown", action="store_true", help="as a table for a document")


def run(args: argparse.Namespace) -> int:
    """Print the table, and return the exit status.

    Raises:
        ValueError: no name begins so.
    """
    starts = tuple(args.family) or ("",)
    names = [name for name in zoo.names() if name.startswith(starts)]
    if not names:
        raise UserError(f"no name starts with {' or '.join(starts)}; {zoo.names()[0]} is one")
    print(variant_table(names, args.image_size, markdown=args.markdown))
    return 0


def variant_table(names: Sequence[str], size: tuple[int, int], *, markdown: bool = False) -> str:
    """Return the table of variants: classifiers at 224, backbones at another size.

    Args:
        names: of `zoo.names()`.
        size: height and width of the second count of multiply-adds.
        markdown: in the form of documents, rather than of a terminal.
    """
    height, width = size
    headers = (
        *("name", "in the paper", "params (M)", "multiply-adds at 224 (G)"),
        *(f"backbone at {height}x{width} (G)", "activations at 224 (M)"),
        *("top-1 (%)", "default weights", "licence"),
    )
    rows = [_row(zoo.get(name), size) for name in names]
    if not markdown:
        return table(headers, rows)
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(variant: zoo.Variant, size: tuple[int, int]) -> tuple[str, ...]:
    """Return what is known of a variant; what is not, is empty."""
    costs = ("", "", "", "")
    if variant.design is not None:
        cost = complexity(variant.design)
        backbone = complexity(variant.design, size, None)
        costs = (
            f"{cost.params / 1e6:.1f}",
            f"{cost.flops / 1e9:.2f}",
            f"{backbone.flops / 1e9:.1f}",
            f"{cost.activations / 1e6:.1f}",
        )
    weights = variant.weights.get(variant.default_tag)
    top1 = "" if weights is None or weights.top1 is None else f"{weights.top1:.1f}"
    licence = "" if weights is None else weights.licence
    return (
        variant.name,
        variant.paper_name or "",
        *costs,
        top1,
        variant.default_tag or "",
        licence,
    )
