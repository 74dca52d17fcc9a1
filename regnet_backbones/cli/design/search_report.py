"""What a search has found, as tables, JSON and a chart."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from regnet_backbones.cli.design.charts import pareto_figure, write_chart
from regnet_backbones.cli.design.drawing import print_candidates, print_rejections
from regnet_backbones.cli.design.tables import describe, table
from regnet_backbones.design.records import CHOSEN_KEY, row_of, write_records
from regnet_backbones.design.sampling import Candidate
from regnet_backbones.design.searching import Found, Limits, best, pareto_front

if TYPE_CHECKING:
    from regnet_backbones.measure.meter import RatioBand

# Networks, and their times over the reference's.
Bands = Sequence[tuple[Candidate, "RatioBand"]]

# How many times the limit of latency a chart reaches.
CHARTED = 2.5

# Unit and name in charts.
CAPACITIES = {
    "flops": (1e9, "multiply-adds (G)"),
    "params": (1e6, "parameters (M)"),
    "activations": (1e6, "activations (M)"),
}


def print_found(found: Found, by: str, *, top: int, references: Mapping[str, Candidate]) -> None:
    """Print what was drawn, measured and kept."""
    rows = {id(candidate): i for i, candidate in enumerate(found.measured)}
    ordered = best(found, by=by, count=len(found.kept))
    print_candidates([(rows[id(each)], each) for each in ordered], top, what="designs kept")
    for name, each in references.items():
        print(f"{name}: {each.latency_ms:.2f} ms, {each.memory_mib:.0f} MiB")
    print_rejections(found.rejections, found.drawn)
    print(f"{len(found.measured)} measured")
    if not found.kept:
        fastest = min((each.latency_ms for each in found.measured), default=None)
        hint = "" if fastest is None else f"; the fastest of those measured takes {fastest:.2f} ms"
        print(f"none found among {found.drawn:,} drawn{hint}")


def print_verdict(
    found: Found,
    bands: Bands,
    *,
    reference: str,
    reference_ms: float,
    rounds: int,
    limits: Limits,
) -> None:
    """Print how long the best take beside the reference, and which are measurably faster."""
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
    print(f"\nin {rounds} rounds beside {reference}\n{table(headers, rows)}")
    if not any(band.faster for _, band in bands):
        print(f"none is measurably faster than {reference}, among {len(found.measured)} measured")
    limit = limits.latency_ms
    if limit is not None and all(band.median * reference_ms > limit for _, band in bands):
        print(
            f"measured again, all of these are above {limit:g} ms; search with a lower --latency-ms"
        )


def write_rows(
    output: str, found: Found, *, chosen: Candidate | None, about: Mapping[str, object]
) -> None:
    """Write the results so far as JSON.

    Args:
        output: path without suffix.
        found: the results.
        chosen: the best of them, None where nothing was kept.
        about: what must be known about them.
    """
    counts = {
        "drawn": found.drawn,
        "rejections": dict(found.rejections),
        "interrupted": found.interrupted,
        CHOSEN_KEY: None if chosen is None else found.measured.index(chosen),
    }
    kept = {id(candidate) for candidate in found.kept}
    rows = [row_of(each) | {"kept": id(each) in kept} for each in found.measured]
    write_records(f"{output}.json", rows, about={**about, **counts})


def draw_found(
    output: str,
    found: Found,
    references: Mapping[str, Candidate],
    *,
    capacity: str,
    limits: Limits,
) -> None:
    """Write the chart of time and capacity, if there is something to draw.

    What takes several times the limit of latency is left out.

    Args:
        output: path without suffix.
        found: the results.
        references: measured networks to compare with, by name.
        capacity: "flops", "params" or "activations", of which more is better.
        limits: of the search.
    """
    near = limits.latency_ms * CHARTED if limits.latency_ms else math.inf
    points = [_point(each, capacity) for each in found.measured if each.latency_ms <= near]
    if points:
        figure = pareto_figure(
            points,
            pareto_front([(latency, -most) for latency, most in points]),
            xlabel="ms",
            ylabel=CAPACITIES[capacity][1],
            marked={name: _point(each, capacity) for name, each in references.items()},
            limit=limits.latency_ms,
        )
        write_chart(f"{output}.png", figure)


def _point(candidate: Candidate, capacity: str) -> tuple[float, float]:
    """Return where a network lies in the chart."""
    return candidate.latency_ms, getattr(candidate.cost, capacity) / CAPACITIES[capacity][0]
