"""`design.py sample`: random designs of a space within bounds."""

import argparse
import sys
from collections.abc import Sequence

from regnet_backbones.cli.design.drawing import (
    add_drawing,
    chosen_bounds,
    chosen_space,
    describe_bounds,
    print_candidates,
    print_rejections,
)
from regnet_backbones.cli.design.packages import check_package
from regnet_backbones.design.fitting import fit
from regnet_backbones.design.records import row_of, write_records
from regnet_backbones.design.sampling import Candidate, sample
from regnet_backbones.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    add_drawing(parser, count=100)
    parser.add_argument(
        "--fit-error",
        action="store_true",
        help="add that of the nearest RegNet law to each row written (up to seconds a design)",
    )


def run(args: argparse.Namespace) -> int:
    """Draw, print and write, and return the exit status.

    Raises:
        ValueError: the arguments make no sense, or nothing meets the bounds.
        OSError: the results cannot be written.
    """
    check_package("tqdm", "progress bars")
    from tqdm import tqdm

    if args.fit_error and not args.output:
        raise UserError("--fit-error is a column of the file that is written; give --output")
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
        write_records(path, _rows(drawn.candidates, fit_errors=args.fit_error), about=about)
        print(f"\nwritten to {path}")
    return 0


def _rows(candidates: Sequence[Candidate], *, fit_errors: bool) -> list[dict[str, object]]:
    """Return the rows of a file, with the errors of `fit` if they are asked for."""
    from tqdm import tqdm

    rows = [row_of(each) for each in candidates]
    if fit_errors:
        pairs = zip(rows, candidates, strict=True)
        progress = tqdm(pairs, "fit", len(rows), unit="design", file=sys.stderr, disable=None)
        for row, each in progress:
            stages = each.design.stages
            law = fit([stage.width for stage in stages], [stage.depth for stage in stages])
            row["fit_error"] = law.error
    return rows
