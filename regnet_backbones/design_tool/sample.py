"""`design.py sample`: random designs of a space within bounds."""

import argparse
import sys

from regnet_backbones.design.records import row_of, write_records
from regnet_backbones.design.sampling import sample
from regnet_backbones.design_tool.drawing import (
    add_drawing,
    chosen_bounds,
    chosen_space,
    describe_bounds,
    print_candidates,
    print_rejections,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    add_drawing(parser, count=100)


def run(args: argparse.Namespace) -> int:
    """Draw, print and write, and return the exit status.

    Raises:
        ValueError: the arguments make no sense, or nothing meets the bounds.
        OSError: the results cannot be written.
    """
    from tqdm import tqdm

    space, bounds = chosen_space(args), chosen_bounds(args)
    with tqdm(total=args.count, unit="design", file=sys.stderr, disable=None) as bar:
        drawn = sample(
            space, args.count, bounds=bounds, seed=args.seed, progress=lambda _: bar.update()
        )
    print(f"{space.name}, {bounds}, seed {args.seed}")
    print_candidates(list(enumerate(drawn.candidates)), args.top, what="designs")
    print_rejections(drawn.rejections, drawn.drawn)
    if args.output:
        about = {
            "command": args.command,
            "space": space.name,
            "bounds": describe_bounds(bounds),
            "seed": args.seed,
            "drawn": drawn.drawn,
            "rejections": dict(drawn.rejections),
        }
        path = f"{args.output}.json"
        write_records(path, [row_of(each) for each in drawn.candidates], about=about)
        print(f"\nwritten to {path}")
    return 0
