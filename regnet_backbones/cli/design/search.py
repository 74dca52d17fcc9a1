"""`design.py search`: random designs of a space, measured on this machine.

torch is imported when the measuring begins, and not before.
"""

import argparse
import logging
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, get_args

from regnet_backbones import zoo
from regnet_backbones.cli.design.arguments import image_size
from regnet_backbones.cli.design.charts import check_chart
from regnet_backbones.cli.design.drawing import (
    add_drawing,
    chosen_bounds,
    chosen_space,
    counted_design,
    describe_bounds,
)
from regnet_backbones.cli.design.output import add_output, check_output, show_output
from regnet_backbones.cli.design.packages import check_package
from regnet_backbones.cli.design.search_report import (
    CAPACITIES,
    Bands,
    draw_found,
    print_found,
    print_verdict,
    write_rows,
)
from regnet_backbones.cli.design.tables import describe
from regnet_backbones.design.cost import complexity
from regnet_backbones.design.records import row_of
from regnet_backbones.design.sampling import Bounds, Candidate
from regnet_backbones.design.searching import Found, Limits, Order, best, search
from regnet_backbones.design.space_kinds import AnyNetSpace, Space
from regnet_backbones.errors import UserError

if TYPE_CHECKING:
    from regnet_backbones.measure.meter import LatencyMeter

DTYPES = ("float32", "bfloat16", "float16")

# What the numbers of a search belong to.
PACKAGES = ("regnet_backbones", "torch", "torchvision", "timm")

# How many of the best are measured again beside the reference, and in how many rounds.
CONFIRMED, ROUNDS = 3, 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    add_drawing(parser, count=20)
    limits = parser.add_argument_group("limits on what is measured")
    limits.add_argument("--latency-ms", type=float, metavar="MS", help="of a forward pass, at most")
    limits.add_argument("--memory-mib", type=float, metavar="MIB", help="its peak, at most")
    limits.add_argument(
        "--max-measured", type=int, metavar="N", help="end after so many (default: 4 x --count)"
    )
    meter = parser.add_argument_group("how it is measured")
    add = meter.add_argument
    add("--measure-size", type=image_size, metavar="SIZE", help="default: --image-size")
    add("--batch-size", type=int, default=1, metavar="N", help="images (default: 1)")
    add("--fpn", action="store_true", help="with a feature pyramid of 256 channels on it")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    add("--dtype", choices=DTYPES, default="float32", help="default: float32")
    add("--compile", action="store_true", help="torch.compile: most of a minute a design")
    add("--no-passes", action="store_true", help="networks as they come, not optimized")
    add("--runs", type=int, default=10, metavar="N", help="that count (default: 10)")
    add("--threads", type=int, metavar="N", help="of the CPU (default: torch's)")
    choice = parser.add_argument_group("what is best")
    choice.add_argument(
        "--by",
        choices=get_args(Order),
        help="most flops, params or activations, or least latency or memory (default: flops with a "
        "limit of latency, otherwise latency_ms)",
    )
    choice.add_argument(
        "--reference",
        nargs="+",
        default=[],
        metavar="NAME",
        help="networks to compare with. The first takes turns with each design, so that a slow "
        f"minute of the machine does not count, and with the best {CONFIRMED} again at the end",
    )
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Search, print, draw and write, and return the exit status: 1 if nothing was found.

    Raises:
        ValueError: the arguments make no sense, or nothing meets the bounds.
        OSError: the results cannot be written.
    """
    check_output(args)
    check_package("tqdm", "progress bars")
    space, bounds = chosen_space(args), chosen_bounds(args)
    limits = Limits(latency_ms=args.latency_ms, memory_mib=args.memory_mib)
    if isinstance(space, AnyNetSpace):
        raise UserError(
            f"{space.name} is a space of AnyNets, which timm does not build, so they cannot be "
            "measured here; search RegNetX, RegNetY or their constrained forms"
        )
    if args.output:
        check_chart(f"{args.output}.png")
    if args.threads is not None and args.threads < 1:
        raise UserError(f"--threads must be at least 1, got {args.threads}")

    from regnet_backbones.measure.timing import cpu_threads

    with cpu_threads(args.threads):
        return _run(args, space, bounds, limits)


def _run(args: argparse.Namespace, space: Space, bounds: Bounds, limits: Limits) -> int:
    """Search, and return the exit status."""
    meter = _meter(args)
    references = {zoo.get(name).name: _reference(meter, name, bounds) for name in args.reference}
    about = _about(args, space, bounds, limits, meter)
    about["references"] = {name: row_of(each) for name, each in references.items()}

    by = args.by or ("latency_ms" if limits.latency_ms is None else "flops")

    def write(found: Found, chosen: Candidate | None = None) -> None:
        if args.output:
            about["measured"] = _conditions(args, meter)
            chosen = chosen or next(iter(best(found, by=by)), None)
            write_rows(args.output, found, chosen=chosen, about=about)

    found = _search(args, space, bounds, limits, meter, write)
    print(f"{space.name}, {bounds}, seed {args.seed}")
    print_found(found, by, top=args.top, references=references)
    write(found)
    if args.output:
        # Among networks of about the same flops, other numbers tell more.
        fallback = "flops" if bounds.flops is None else "params"
        capacity = by if by in CAPACITIES else fallback
        draw_found(args.output, found, references, capacity=capacity, limits=limits)
        print(f"\nwritten to {args.output}.json")
    if not found.kept:
        return 1
    bands = _confirmed(args, found, by, meter)
    reference_ms = next((each.latency_ms for each in references.values()), math.nan)
    if bands:
        print_verdict(
            found,
            bands,
            reference=args.reference[0],
            reference_ms=reference_ms,
            rounds=ROUNDS,
            limits=limits,
        )
        about["beside_the_reference"] = [
            {"row": found.measured.index(candidate), **asdict(band)} for candidate, band in bands
        ]
    chosen = _chosen(found, by, bands, reference_ms=reference_ms, limits=limits)
    write(found, chosen)
    print(f"\nthe best by {by}: row {found.measured.index(chosen)}, {describe(chosen.design)}")
    show_output(args, chosen.design)
    return 0


def _meter(args: argparse.Namespace) -> "LatencyMeter":
    """Return what measures."""
    import torch

    from regnet_backbones.measure.meter import LatencyMeter
    from regnet_backbones.optimize.options import check_compiler

    if args.compile:
        check_compiler(args.device)
    return LatencyMeter(
        image_size=args.measure_size or args.image_size,
        batch_size=args.batch_size,
        fpn=args.fpn,
        device=args.device,
        passes=not args.no_passes,
        dtype=None if args.dtype == "float32" else getattr(torch, args.dtype),
        compile=args.compile,
        runs=args.runs,
        reference=args.reference[0] if args.reference and not args.compile else None,
    )


def _reference(meter: "LatencyMeter", name: str, bounds: Bounds) -> Candidate:
    """Return a network of the zoo, measured."""
    design = counted_design("--reference", name)
    measured = meter.measure(name)
    cost = complexity(design, bounds.image_size, bounds.num_classes)
    return Candidate(design, cost, measured.latency_ms, measured.memory_mib)


def _search(
    args: argparse.Namespace,
    space: Space,
    bounds: Bounds,
    limits: Limits,
    meter: "LatencyMeter",
    write: Callable[[Found], None],
) -> Found:
    """Search, with a progress bar, and write each measurement: a killed search loses nothing."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    logging.basicConfig(format="%(message)s")
    with (
        tqdm(total=args.count, unit="design", file=sys.stderr, disable=None) as bar,
        logging_redirect_tqdm(),
    ):
        written = 0

        def tell(found: Found) -> None:
            nonlocal written
            bar.set_postfix(measured=len(found.measured), drawn=found.drawn, refresh=False)
            bar.update(len(found.kept) - bar.n)
            if len(found.measured) > written:
                write(found)
                written = len(found.measured)

        found = search(
            space,
            args.count,
            bounds=bounds,
            limits=limits,
            measure=meter.measure,
            seed=args.seed,
            max_measured=args.max_measured,
            progress=tell,
        )
    if found.interrupted:
        print("interrupted; what was found so far:", file=sys.stderr)
    return found


def _confirmed(args: argparse.Namespace, found: Found, by: str, meter: "LatencyMeter") -> Bands:
    """Measure the best few again beside the reference; empty where there is none."""
    from regnet_backbones.measure.meter import confirm

    if not args.reference or found.interrupted:
        return []
    candidates = best(found, by=by, count=CONFIRMED)
    designs = [candidate.design for candidate in candidates]
    bands = confirm(meter, designs, args.reference[0], runs=ROUNDS)
    return list(zip(candidates, bands, strict=True))


def _chosen(
    found: Found, by: str, bands: Bands, *, reference_ms: float, limits: Limits
) -> Candidate:
    """Return the best network, by the last measurement of the best few where there is one."""
    if not bands:
        return best(found, by=by)[0]
    limit = limits.latency_ms or math.inf
    within = [pair for pair in bands if pair[1].median * reference_ms <= limit]
    if by != "latency_ms" and within:
        return within[0][0]
    return min(bands, key=lambda pair: pair[1].median)[0]


def _about(
    args: argparse.Namespace,
    space: Space,
    bounds: Bounds,
    limits: Limits,
    meter: "LatencyMeter",
) -> dict[str, object]:
    """Return what must be known about the rows before there are any."""
    from regnet_backbones.measure.machine import machine, versions

    return {
        "command": args.command,
        "space": space.name,
        "bounds": describe_bounds(bounds),
        "limits": asdict(limits),
        "seed": args.seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(meter.device),
        "versions": versions(PACKAGES),
    }


def _conditions(args: argparse.Namespace, meter: "LatencyMeter") -> dict[str, object]:
    """Return how networks are measured; the memory format is known after the first one."""
    import torch

    return {
        "image_size": list(meter.image_size),
        "batch_size": meter.batch_size,
        "fpn": meter.fpn,
        "passes": meter.passes,
        "dtype": args.dtype,
        "compile": meter.compile,
        "memory_format": meter.chosen_format,
        "runs": meter.runs,
        "threads": torch.get_num_threads(),
    }
