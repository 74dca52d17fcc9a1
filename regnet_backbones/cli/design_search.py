"""The subcommands `sample`, `search` and `edf` of `design`: random designs, and how they compare.

torch is imported to measure, scipy for distributions.
"""

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from itertools import combinations
from pathlib import Path
from typing import get_args

from regnet_backbones import design, zoo
from regnet_backbones.cli import design_output as out
from regnet_backbones.cli.run import ArgumentError, parse_size
from regnet_backbones.design.formats import write_search
from regnet_backbones.design.searching import Order
from regnet_backbones.errors import UserError

# The numbers of a design on a command line, w_0 to stem_width, and their types; a design takes the
# first five at least, a space has ranges of the first six.
NUMBERS = {each.name: each.type for each in fields(design.RegNetDesign)[:8]}
REQUIRED, RANGES = list(NUMBERS)[:5], list(NUMBERS)[:6]
UNITS = {"K": 1e3, "M": 1e6, "G": 1e9}
TOLERANCE = 0.05  # how far from a single number a bound lets a design be


def _sample(args: argparse.Namespace) -> None:
    """Draw random designs within bounds, print and write them."""
    space, bounds = _space(args), _bounds(args)
    drawn = design.sample(space, args.count, bounds=bounds, seed=args.seed)
    print(f"{space.name}, {bounds}, seed {args.seed}")
    _print_found(drawn, drawn.kept, args.top)
    if args.output:
        rows = [design.row_of(each) for each in drawn.kept]
        about = {"command": args.command, "rejections": drawn.rejections}
        design.write_records(f"{args.output}.json", rows, about=about)
        print(f"\nwritten to {args.output}.json")


def _add_search(parser: argparse.ArgumentParser) -> None:
    _add_drawing(parser, count=20)
    add = parser.add_argument_group("limits, measured on this machine").add_argument
    add("--latency-ms", type=float, metavar="MS", help="longest forward pass")
    add("--memory-mib", type=float, metavar="MIB", help="highest peak memory")
    add("--max-measured", type=int, metavar="N", help="designs to measure (default: 4 x --count)")
    add = parser.add_argument_group("how it is measured").add_argument
    add("--measure-size", type=parse_size, metavar="SIZE", help="default: --image-size")
    add("--batch-size", type=int, default=1, metavar="N", help="images per batch (default: 1)")
    add("--fpn", action="store_true", help="add a feature pyramid of 256 channels")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    dtypes = ("float32", "bfloat16", "float16")
    add("--dtype", choices=dtypes, default="float32", help="default: float32")
    add("--runs", type=int, default=10, metavar="N", help="timed runs (default: 10)")
    add("--reference", metavar="NAME", help="network to measure in turns with each design")
    by_help = "order of results (default: flops with --latency-ms, otherwise latency_ms)"
    parser.add_argument("--by", choices=get_args(Order), help=by_help)


def _search(args: argparse.Namespace) -> design.RegNetDesign | int:
    """Measure random designs; return the best one, or the exit status 1 if nothing was found."""
    import torch
    from tqdm import tqdm

    from regnet_backbones.measure.meter import LatencyMeter

    space, bounds = _space(args), _bounds(args)
    if args.output:
        out.check_chart(f"{args.output}.png")
    by = args.by or ("latency_ms" if args.latency_ms is None else "flops")
    meter = LatencyMeter(
        image_size=args.measure_size or args.image_size,
        batch_size=args.batch_size,
        fpn=args.fpn,
        device=args.device,
        dtype=None if args.dtype == "float32" else getattr(torch, args.dtype),
        runs=args.runs,
        reference=args.reference,
    )
    references = {}
    if args.reference:
        network = zoo_design(args.reference)
        cost = design.complexity(network, bounds.image_size, bounds.num_classes)
        measured = asdict(meter.measure(args.reference))
        references[args.reference] = design.Candidate(network, cost, **measured)

    def report(found: design.Found) -> None:
        """Show the progress, and write each measurement: a search that is killed loses nothing."""
        bar.update(len(found.kept) - bar.n)
        bar.set_postfix(measured=len(found.measured), drawn=found.drawn)
        if args.output:
            about = {
                "command": args.command,
                "rejections": found.rejections,
                "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
                "torch": torch.__version__,
                "memory_format": meter.memory_format,
                "references": {name: design.row_of(each) for name, each in references.items()},
            }
            write_search(f"{args.output}.json", found, design.best(found, by=by), about=about)

    with tqdm(total=args.count, unit="design", file=sys.stderr, disable=None) as bar:
        found = design.search(
            space,
            args.count,
            bounds=bounds,
            measure=meter.measure,
            latency_ms=args.latency_ms,
            memory_mib=args.memory_mib,
            seed=args.seed,
            max_measured=args.max_measured,
            progress=report,
        )
        report(found)
    print(f"{space.name}, {bounds}, seed {args.seed}")
    ordered = design.best(found, by=by, count=len(found.kept))
    _print_found(found, ordered, args.top)
    for name, each in references.items():
        print(f"{name}: {each.latency_ms:.2f} ms, {each.memory_mib:.0f} MiB")
    if args.output and found.measured:
        # Among networks of about the same flops, other numbers say more.
        drawn = by if by in out.CAPACITIES else "flops" if bounds.flops is None else "params"
        figure = out.search_figure(found, references, drawn, args.latency_ms)
        out.write_chart(f"{args.output}.png", figure)
        print(f"\nwritten to {args.output}.json")
    if not ordered:
        fastest = min((each.latency_ms for each in found.measured), default=math.inf)
        print(f"none found; the fastest of those measured takes {fastest:.2f} ms")
        return 1
    index = found.measured.index(ordered[0])
    print(f"\nthe best by {by}: row {index}, {out.describe(ordered[0].design)}")
    return ordered[0].design


def _add_edf(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    results_help = 'results of sample or search, or your own list of rows ({"error": 24.1, ...})'
    add("results", nargs="+", metavar="JSON", help=results_help)
    add("--column", default="error", metavar="NAME", help="such as flops (default: error)")
    add("--output", metavar="FILE", help="chart to write, .png or .svg")


def _edf(args: argparse.Namespace) -> None:
    """Print and draw the empirical distribution functions of results."""
    if args.output:
        out.check_chart(args.output)
    labels = [Path(path).stem for path in args.results]
    if len(set(labels)) < len(labels):
        raise UserError(f"files must have different names, got {', '.join(labels)}")
    edfs = {
        label: design.edf(design.column(design.read_records(path), args.column))
        for label, path in zip(labels, args.results, strict=True)
    }
    rows: list[Sequence[object]] = []
    for label, curve in edfs.items():
        low, high = curve.interval(0.5)
        band = f"{low:.4g} to {high:.4g}"
        rows.append((label, len(curve.values), f"{curve.quantile(0.5):.4g}", band))
    print(out.table(("", "designs", "median", "its 95% band"), rows))
    if len(edfs) > 1:
        pairs = [(a, b, design.compare(edfs[a], edfs[b])) for a, b in combinations(edfs, 2)]
        rows = [
            (a, b, f"{both.share_smaller:.1%}", f"{both.distance:.3f}", f"{both.p_value:.2g}")
            for a, b, both in pairs
        ]
        print(f"\n{out.table(('a', 'b', 'a is smaller', 'largest distance', 'p (KS)'), rows)}")
    if args.output:
        out.write_chart(args.output, out.edf_figure(edfs, xlabel=args.column))
        print(f"\nwritten to {args.output}")


def add_cost(parser: argparse.ArgumentParser) -> None:
    """Add what costs are counted for."""
    add = parser.add_argument_group("what is counted").add_argument
    size_help = "side, or HEIGHTxWIDTH such as 800x1333 (default: 224)"
    add("--image-size", type=parse_size, default=(224, 224), metavar="SIZE", help=size_help)
    classes_help = "classes, or 0 for the backbone alone (default: 1000)"
    add("--num-classes", type=int, default=1000, metavar="N", help=classes_help)


def option(name: str) -> str:
    """Return the option of a number: --w0 of w_0, --group-width of group_width."""
    return "--" + name.replace("w_", "w").replace("_", "-")


def zoo_design(name: str) -> design.RegNetDesign:
    """Return the design of a named network."""
    variant = zoo.get(name)
    if variant.design is None:
        raise UserError(f"{variant.name} has no design: its widths follow no line; use another")
    return variant.design


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
        raise ArgumentError(f"a range must be LOW:HIGH, LOW: or :HIGH, got '{text}'")
    return lowest, highest


def _number(text: str) -> float:
    """Read a positive number with a unit: 0.8G, 400MF, 6.3M, 5000."""
    plain = text.upper().removesuffix("F")
    value = 0.0
    with suppress(ValueError):
        value = float(plain.rstrip("KMG")) * UNITS.get(plain[-1:], 1.0)
    if not 0 < value < math.inf:
        raise ArgumentError(f"a number must be above 0, such as 400M, 0.8G or 5000, got '{text}'")
    return value


def _add_drawing(parser: argparse.ArgumentParser, *, count: int = 100) -> None:
    add = parser.add_argument_group("the space", "numbers restrict it").add_argument
    add("--space", default="RegNetX", help=f"{', '.join(design.SPACES)} (default: RegNetX)")
    for name in RANGES:
        add(option(name), dest=name, type=span, metavar="RANGE", help="12:20, 12:, :20 or 16")
    add("--se-ratio", type=float, metavar="NUMBER", help="default: that of the space")
    add("--stem-width", type=int, metavar="N", help="default: that of the space")
    add_cost(parser)
    add = parser.add_argument_group(
        "bounds", f"400M (within {TOLERANCE:.0%}), 380M:420M, 6.3M: (at least), :8M (at most)"
    ).add_argument
    for name in out.CAPACITIES:
        add(f"--{name}", type=interval, metavar="BOUND")
    add("--like", metavar="NAME", help="flops of this network, at least its params")
    add = parser.add_argument
    add("--count", "-n", type=int, default=count, metavar="N", help="designs (%(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    add("--top", type=int, default=10, metavar="N", help="rows to print (default: 10)")
    add("--output", metavar="PATH", help="write PATH.json (search: also PATH.png)")


def _space(args: argparse.Namespace) -> design.Space:
    """Return the space, or the part of it."""
    constants = {"se_ratio": args.se_ratio, "stem_width": args.stem_width}
    given = {name: value for name, value in constants.items() if value is not None}
    space = design.get_space(args.space).narrowed(**{name: getattr(args, name) for name in RANGES})
    return replace(space, **given)


def _bounds(args: argparse.Namespace) -> design.Bounds:
    """Return the bounds on what is counted."""
    size, num_classes = args.image_size, args.num_classes or None
    intervals = {name: getattr(args, name) for name in out.CAPACITIES}
    if args.like:
        if args.flops or args.params:
            raise UserError("--like cannot be used with --flops or --params; leave it out")
        cost = design.complexity(zoo_design(args.like), size, num_classes)
        intervals |= {"flops": interval(str(cost.flops)), "params": (cost.params, math.inf)}
    return design.Bounds(**intervals, image_size=size, num_classes=num_classes)


def _print_found(found: design.Found, kept: Sequence[design.Candidate], top: int) -> None:
    """Print the first of those kept, and why draws were rejected."""
    rows = []
    for each in kept[:top]:
        index = (found.measured or found.kept).index(each)
        row = [index, out.describe(each.design), *out.cost_columns(each.cost)]
        if each.latency_ms is not None:
            row += [f"{each.latency_ms:.2f}", f"{each.memory_mib:.0f}"]
        rows.append(row)
    if rows:
        headers = ("row", "design", *out.COST_HEADERS, "ms", "MiB")[: len(rows[0])]
        print(f"\n{out.table(headers, rows)}")
    measured = f", {len(found.measured)} measured" if found.measured else ""
    print(f"{len(kept)} designs kept, {len(rows)} of them shown{measured}\n")
    ordered = sorted(found.rejections.items(), key=lambda item: -item[1])
    if ordered:
        shares = [(reason, count, f"{count / found.drawn:.2%}") for reason, count in ordered]
        print(out.table((f"of {found.drawn:,} rejected because", "draws", "share"), shares))


# As in `design.py`.
SUBCOMMANDS: Mapping[str, tuple[Callable, Callable, str]] = {
    "sample": (_add_drawing, _sample, "random designs of a space within bounds"),
    "search": (_add_search, _search, "random designs, measured on this machine"),
    "edf": (_add_edf, _edf, "empirical distribution functions of results, to compare spaces"),
}
