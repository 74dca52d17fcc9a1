"""The subcommands `sample` and `search` of `design`: random designs of a space.

numpy is imported when the drawing begins, torch when the measuring does.
"""

import argparse
import logging
import math
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING

from regnet_backbones import zoo
from regnet_backbones.cli.design_charts import check_chart, pareto_figure, write_chart
from regnet_backbones.cli.design_options import (
    TOLERANCE,
    add_cost,
    cost_arguments,
    cost_columns,
    describe,
    image_size,
    interval,
    span,
    table,
)
from regnet_backbones.design import Design, RegNetDesign, complexity, fit, row_of, write_records
from regnet_backbones.design.records import CHOSEN_KEY
from regnet_backbones.errors import UserError

if TYPE_CHECKING:
    from regnet_backbones.design import Bounds, Candidate, Found, Space
    from regnet_backbones.measure.meter import LatencyMeter, RatioBand

# Numbers of a space that can be narrowed.
RANGES = {
    "depth": "--depth",
    "w_0": "--w0",
    "w_a": "--wa",
    "w_m": "--wm",
    "width": "--width",
    "group_width": "--group-width",
    "bottleneck_multiplier": "--bottleneck-multiplier",
}
SPACE_NAMES = "AnyNetX_A to AnyNetX_E, RegNetX, RegNetY, RegNetX_constrained, RegNetY_constrained"
PACKAGES = ("regnet_backbones", "torch", "torchvision", "timm")  # what numbers belong to

# How many of the best are measured again in turns with the reference, and in how many rounds.
CONFIRMED, ROUNDS = 3, 30
CHARTED = 2.5  # how many times the limit of latency a chart reaches

# Unit and name in charts.
CAPACITIES = {
    "flops": (1e9, "multiply-adds (G)"),
    "params": (1e6, "parameters (M)"),
    "activations": (1e6, "activations (M)"),
}


def add_sample(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sample`."""
    _add_drawing(parser, count=100)
    parser.add_argument(
        "--fit-error",
        action="store_true",
        help="add that of the nearest RegNet law to each row written (up to seconds a design)",
    )


def run_sample(args: argparse.Namespace) -> None:
    """Draw random designs within bounds, print and write them."""
    from tqdm import tqdm

    from regnet_backbones.design import sample

    if args.fit_error and not args.output:
        raise UserError("--fit-error is a column of the file that is written; give --output")
    space, bounds = _space(args), _bounds(args)
    with tqdm(total=args.count, unit="design", file=sys.stderr, disable=None) as bar:
        drawn = sample(
            space, args.count, bounds=bounds, seed=args.seed, progress=lambda _: bar.update()
        )
    print(f"{space.name}, {bounds}, seed {args.seed}")
    _print_found(drawn, list(enumerate(drawn.kept)), args.top)
    if not args.output:
        return
    rows = [row_of(each) for each in drawn.kept]
    if args.fit_error:
        for row, each in zip(tqdm(rows, "fit", disable=None), drawn.kept, strict=True):
            stages = each.design.stages
            row["fit_error"] = fit([s.width for s in stages], [s.depth for s in stages]).error
    write_records(f"{args.output}.json", rows, about=_about(args, space, bounds, drawn))
    print(f"\nwritten to {args.output}.json")


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `search`."""
    _add_drawing(parser, count=20)
    add = parser.add_argument_group("limits on what is measured").add_argument
    add("--latency-ms", type=float, metavar="MS", help="of a forward pass, at most")
    add("--memory-mib", type=float, metavar="MIB", help="its peak, at most")
    add("--max-measured", type=int, metavar="N", help="end after so many (default: 4 x --count)")
    add = parser.add_argument_group("how it is measured").add_argument
    add("--measure-size", type=image_size, metavar="SIZE", help="default: --image-size")
    add("--batch-size", type=int, default=1, metavar="N", help="images (default: 1)")
    add("--fpn", action="store_true", help="with a feature pyramid of 256 channels on it")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    dtypes = ("float32", "bfloat16", "float16")
    add("--dtype", choices=dtypes, default="float32", help="default: float32")
    add("--compile", action="store_true", help="torch.compile: most of a minute a design")
    add("--runs", type=int, default=10, metavar="N", help="that count (default: 10)")
    add("--threads", type=int, metavar="N", help="of the CPU (default: torch's)")
    add = parser.add_argument_group("what is best").add_argument
    add(
        "--by",
        choices=(*CAPACITIES, "latency_ms", "memory_mib"),
        help="most flops, params or activations, or least latency or memory (default: flops with a "
        "limit of latency, otherwise latency_ms)",
    )
    add(
        "--reference",
        nargs="+",
        default=[],
        metavar="NAME",
        help="networks to compare with. The first takes turns with each design, so that a slow "
        f"minute of the machine does not count, and with the best {CONFIRMED} again at the end",
    )


def run_search(args: argparse.Namespace) -> Design | int:
    """Measure random designs; return the best one, or the exit status 1 if nothing was found."""
    from regnet_backbones.design.spaces import AnyNetSpace

    space, bounds = _space(args), _bounds(args)
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
        return _search(args, space, bounds)


def _search(args: argparse.Namespace, space: "Space", bounds: "Bounds") -> Design | int:
    """Search, print, draw and write."""
    from regnet_backbones.design import best

    meter = _meter(args)
    references = {zoo.get(name).name: _reference(meter, name, bounds) for name in args.reference}
    by = args.by or ("latency_ms" if args.latency_ms is None else "flops")
    conditions = {
        "limits": {"latency_ms": args.latency_ms, "memory_mib": args.memory_mib},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "references": {name: row_of(each) for name, each in references.items()},
    }

    def write(found: "Found", chosen: "Candidate | None" = None) -> None:
        if not args.output:
            return
        chosen = chosen or next(iter(best(found, by=by)), None)
        about = _about(args, space, bounds, found) | conditions | _measured_on(args, meter)
        about[CHOSEN_KEY] = None if chosen is None else found.measured.index(chosen)
        rows = [row_of(each) | {"kept": each in found.kept} for each in found.measured]
        write_records(f"{args.output}.json", rows, about=about)

    found = _find(args, space, bounds, meter, write)
    write(found)
    print(f"{space.name}, {bounds}, seed {args.seed}")
    ordered = best(found, by=by, count=max(1, len(found.kept)))
    _print_found(found, [(found.measured.index(each), each) for each in ordered], args.top)
    for name, each in references.items():
        print(f"{name}: {each.latency_ms:.2f} ms, {each.memory_mib:.0f} MiB")
    if args.output:
        # Among networks of about the same flops, other numbers say more.
        fallback = "flops" if bounds.flops is None else "params"
        _draw_found(args, found, references, by if by in CAPACITIES else fallback)
        print(f"\nwritten to {args.output}.json")
    if not ordered:
        fastest = min((each.latency_ms for each in found.measured), default=None)
        hint = "" if fastest is None else f"; the fastest of those measured takes {fastest:.2f} ms"
        print(f"none found{hint}")
        return 1
    chosen = ordered[0]
    if references and not found.interrupted:
        from regnet_backbones.measure.meter import confirm

        again = ordered[:CONFIRMED]
        designs = [each.design for each in again]
        times = confirm(meter, designs, args.reference[0], runs=ROUNDS)
        bands = list(zip(again, times, strict=True))
        conditions["beside_the_reference"] = [
            {"row": found.measured.index(each), **asdict(band)} for each, band in bands
        ]
        reference_ms = next(iter(references.values())).latency_ms
        chosen = _choose(args, found, bands, by, reference_ms)
    write(found, chosen)
    print(f"\nthe best by {by}: row {found.measured.index(chosen)}, {describe(chosen.design)}")
    return chosen.design


def _add_drawing(parser: argparse.ArgumentParser, *, count: int) -> None:
    """Add the options of a space, of bounds, and of what is shown."""
    add = parser.add_argument_group(
        "the space", "a part of it where numbers are given"
    ).add_argument
    add("--space", default="RegNetX", help=f"{SPACE_NAMES} (default: RegNetX)")
    for name, option in RANGES.items():
        add(option, dest=name, type=span, metavar="RANGE", help="12:20, 12:, :20 or 16")
    add("--se-ratio", type=float, metavar="NUMBER")
    add("--stem-width", type=int, metavar="N")
    add_cost(parser)
    add = parser.add_argument_group(
        "bounds", f"400M (within {TOLERANCE:.0%}), 380M:420M, 6.3M: (at least), :8M (at most)"
    ).add_argument
    for name in CAPACITIES:
        add(f"--{name}", type=interval, metavar="BOUND")
    add("--like", metavar="NAME", help="the flops of this network, and at least its params")
    add = parser.add_argument
    add("--count", "-n", type=int, default=count, metavar="N", help="designs")
    add("--seed", type=int, default=0, metavar="N")
    add("--top", type=int, default=10, metavar="N", help="rows of the table shown")
    add("--output", metavar="PATH", help="write PATH.json (search: PATH.png, too)")


def _space(args: argparse.Namespace) -> "Space":
    """Return the space, or the part of it."""
    from regnet_backbones.design import get_space

    ranges = {name: getattr(args, name) for name in RANGES}
    constants = {"se_ratio": args.se_ratio, "stem_width": args.stem_width}
    return get_space(args.space).narrowed(**ranges, **constants)


def _bounds(args: argparse.Namespace) -> "Bounds":
    """Return the bounds on what is counted."""
    from regnet_backbones.design import Bounds

    size, num_classes = cost_arguments(args)
    intervals = {name: getattr(args, name) for name in CAPACITIES}
    if args.like:
        cost = complexity(_counted_design("--like", args.like), size, num_classes)
        if args.flops or args.params:
            raise UserError("--like sets the bounds of --flops and --params already; leave it out")
        intervals["flops"] = (cost.flops * (1 - TOLERANCE), cost.flops * (1 + TOLERANCE))
        intervals["params"] = (cost.params, math.inf)
    return Bounds(**intervals, image_size=size, num_classes=num_classes)


def _counted_design(option: str, name: str) -> RegNetDesign:
    """Return the design of a named network that an option compares with by its cost."""
    design = zoo.get(name).design
    if design is None:
        raise UserError(f"{option}: the cost of {name} is not known, it has no design")
    return design


def _about(
    args: argparse.Namespace, space: "Space", bounds: "Bounds", found: "Found"
) -> dict[str, object]:
    """Return what must be known about rows; an open end of a bound is null."""
    described = asdict(bounds)
    for name, ends in bounds.intervals.items():
        described[name] = [None if math.isinf(end) else end for end in ends]
    return {
        "command": args.command,
        "space": space.name,
        "bounds": described,
        "seed": args.seed,
        "drawn": found.drawn,
        "rejections": dict(found.rejections),
        "interrupted": found.interrupted,
    }


def _print_found(found: "Found", kept: "Sequence[tuple[int, Candidate]]", top: int) -> None:
    """Print the first of the rows that were kept, and why draws were rejected."""
    headers = ["row", "design", "multiply-adds", "params", "activations"]
    rows = []
    for index, each in kept[:top]:
        row = [index, describe(each.design), *cost_columns(each.cost)]
        if each.latency_ms is not None:
            row += [f"{each.latency_ms:.2f}", f"{each.memory_mib:.0f}"]
        rows.append(row)
    if rows:
        print(f"\n{table([*headers, 'ms', 'MiB'][: len(rows[0])], rows)}")
    measured = f", {len(found.measured)} measured" if found.measured else ""
    print(f"{len(kept)} designs kept, {len(rows)} of them shown{measured}\n")
    ordered = sorted(found.rejections.items(), key=lambda item: -item[1])
    if ordered:
        shares = [(reason, count, f"{count / found.drawn:.2%}") for reason, count in ordered]
        print(table((f"of {found.drawn:,} rejected because", "draws", "share"), shares))


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
        dtype=None if args.dtype == "float32" else getattr(torch, args.dtype),
        compile=args.compile,
        runs=args.runs,
        reference=args.reference[0] if args.reference and not args.compile else None,
    )


def _reference(meter: "LatencyMeter", name: str, bounds: "Bounds") -> "Candidate":
    """Return a network of the zoo, measured."""
    from regnet_backbones.design import Candidate

    design = _counted_design("--reference", name)
    measured = meter.measure(name)
    cost = complexity(design, bounds.image_size, bounds.num_classes)
    return Candidate(design, cost, measured.latency_ms, measured.memory_mib)


def _measured_on(args: argparse.Namespace, meter: "LatencyMeter") -> dict[str, object]:
    """Describe machine and conditions; the memory format is known after the first network."""
    import torch

    device = torch.cuda.get_device_name() if meter.device == "cuda" else meter.device
    names = "image_size", "batch_size", "fpn", "passes", "compile", "runs"
    return {
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "device": device,
            "versions": {name: import_module(name).__version__ for name in PACKAGES},
        },
        "measured": {name: getattr(meter, name) for name in names}
        | {"dtype": args.dtype, "memory_format": meter.chosen_format}
        | {"threads": torch.get_num_threads()},
    }


def _find(
    args: argparse.Namespace,
    space: "Space",
    bounds: "Bounds",
    meter: "LatencyMeter",
    write: "Callable[[Found], None]",
) -> "Found":
    """Search, with a progress bar, and write each measurement: a killed search loses nothing."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from regnet_backbones.design import search

    logging.basicConfig(format="%(message)s")
    with (
        tqdm(total=args.count, unit="design", file=sys.stderr, disable=None) as bar,
        logging_redirect_tqdm(),
    ):
        written = 0

        def report(found: "Found") -> None:
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
            measure=meter.measure,
            latency_ms=args.latency_ms,
            memory_mib=args.memory_mib,
            seed=args.seed,
            max_measured=args.max_measured,
            progress=report,
        )
    if found.interrupted:
        print("interrupted; what was found so far:", file=sys.stderr)
    return found


def _choose(
    args: argparse.Namespace,
    found: "Found",
    bands: "Sequence[tuple[Candidate, RatioBand]]",
    by: str,
    reference_ms: float,
) -> "Candidate":
    """Print how long the best few took in turns with the reference, and return the best of them."""
    reference, limit = args.reference[0], args.latency_ms or math.inf
    rows = [
        (
            found.measured.index(candidate),
            describe(candidate.design),
            f"{band.median:.3f}",
            f"{band.low:.3f} to {band.high:.3f}",
            "yes" if band.faster else "no",
            f"{band.median * reference_ms:.2f}",
        )
        for candidate, band in bands
    ]
    headers = ("row", "design", f"time / {reference}", "95% band", "measurably faster", "ms")
    print(f"\nin {ROUNDS} rounds in turns with {reference}\n{table(headers, rows)}")
    within = [each for each, band in bands if band.median * reference_ms <= limit]
    if not within:
        print(f"measured again, none is within {limit:g} ms; search with a lower --latency-ms")
    if by != "latency_ms" and within:
        return within[0]
    return min(bands, key=lambda pair: pair[1].median)[0]


def _draw_found(
    args: argparse.Namespace, found: "Found", references: "Mapping[str, Candidate]", capacity: str
) -> None:
    """Write the chart of time and capacity, without what takes several times the limit."""
    from regnet_backbones.design import pareto_front

    unit, name = CAPACITIES[capacity]

    def point(candidate: "Candidate") -> tuple[float, float]:
        return candidate.latency_ms, getattr(candidate.cost, capacity) / unit

    near = (args.latency_ms or math.inf) * CHARTED
    points = [point(each) for each in found.measured if each.latency_ms <= near]
    if points:
        figure = pareto_figure(
            points,
            pareto_front([(latency, -most) for latency, most in points]),
            xlabel="ms",
            ylabel=name,
            marked={name: point(each) for name, each in references.items()},
            limit=args.latency_ms,
        )
        write_chart(f"{args.output}.png", figure)
