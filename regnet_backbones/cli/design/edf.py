"""`design.py edf`: empirical distribution functions of results, to compare design spaces."""

import argparse
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from regnet_backbones.cli.design.charts import check_chart, edf_figure, write_chart
from regnet_backbones.cli.design.tables import table
from regnet_backbones.design.distribution import Edf, column, compare, edf, summarize
from regnet_backbones.design.records import read_records
from regnet_backbones.errors import UserError

QUANTILES = (0.1, 0.25, 0.75, 0.9)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    add = parser.add_argument
    add(
        "results",
        nargs="+",
        metavar="JSON",
        help='results of sample or search, or a list of rows of your own ({"error": 24.1, ...})',
    )
    add("--column", default="error", metavar="NAME", help="flops, activations, ... default: error")
    add("--labels", nargs="+", metavar="TEXT", help="one a file (default: their names)")
    add("--confidence", type=float, default=0.95, metavar="SHARE", help="of the bootstrap bands")
    add("--output", metavar="FILE", help="chart, .png or .svg")


def run(args: argparse.Namespace) -> int:
    """Print and draw, and return the exit status.

    Raises:
        ValueError: the arguments make no sense, or rows have no such number.
        OSError: a file cannot be read or written.
    """
    if args.output:
        check_chart(args.output)
    labels = args.labels or [Path(path).stem for path in args.results]
    if len(labels) != len(args.results) or len(set(labels)) < len(labels):
        raise UserError(
            f"--labels must be one for each of the {len(args.results)} files, no two alike; got "
            f"{', '.join(labels)}"
        )
    edfs = {
        label: edf(column(read_records(path), args.column), confidence=args.confidence)
        for label, path in zip(labels, args.results, strict=True)
    }
    print(_summaries(edfs, args.confidence))
    if len(edfs) > 1:
        print(f"\n{_comparisons(edfs)}")
    if args.output:
        write_chart(args.output, edf_figure(edfs, xlabel=args.column))
        print(f"\nwritten to {args.output}")
    return 0


def _summaries(edfs: Mapping[str, Edf], confidence: float) -> str:
    """Return the table of each distribution."""
    rows = []
    for label, curve in edfs.items():
        summary = summarize(curve)
        between = f"{summary.median_low:.4g} to {summary.median_high:.4g}"
        numbers = (summary.lowest, summary.mean, *(curve.quantile(q) for q in QUANTILES))
        rows.append(
            (label, summary.count, f"{summary.median:.4g}", between, *(f"{n:.4g}" for n in numbers))
        )
    headers = ("", "designs", "median", f"its {100 * confidence:g}% band", "lowest", "mean")
    return table((*headers, *(f"{q:.0%}" for q in QUANTILES)), rows)


def _comparisons(edfs: Mapping[str, Edf]) -> str:
    """Return the table of each pair."""
    rows = []
    for a, b in combinations(edfs, 2):
        result = compare(edfs[a], edfs[b])
        rows.append(
            (a, b, f"{result.share_smaller:.1%}", f"{result.distance:.3f}", f"{result.p_value:.2g}")
        )
    return table(("a", "b", "a is smaller", "largest distance", "p (KS)"), rows)
