"""Results as tables for people and as values of JSON for everything else."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from tabulate import tabulate

from benchmarks.cases import PRECISIONS, Precision
from benchmarks.entries import OURS
from benchmarks.results import Result, Row
from benchmarks.roofline import Rates, distances, roofline_of
from benchmarks.scaling import Point, scaling

MIB = 2**20

AllRates = Mapping[Precision, Rates]


def result_table(result: Result) -> str:
    """Return the table of a case, what could not be measured, and ours against each peer.

    A star marks the fastest row of a family in each precision.
    """
    training = result.case.training
    headers = ["", "ms", "spread", "images/s", "ratio", "peak MiB"]
    headers += ["saved MiB"] * training + ["error", "best"]
    rows = []
    for row in result.measured:
        cells = [
            row.name,
            _number(row.median, 1000, ".1f"),
            _number(row.spread, 1000, ".1f"),
            _number(result.images_per_second(row), 1, ".1f"),
            _number(result.ratio(row), 1, ".2f"),
            _number(row.peak_bytes, 1 / MIB, ".1f"),
        ]
        cells += [_number(row.saved_bytes, 1 / MIB, ".1f")] * training
        cells += [_number(row.error, 1, ".0e"), "*" if result.is_best(row) else ""]
        rows.append(cells)
    align = ("left", *["right"] * (len(headers) - 2), "center")
    lines = [result.case.title, tabulate(rows, headers, disable_numparse=True, colalign=align)]
    if not rows:
        lines[1:] = ["nothing was measured"]
    elif result.reference not in {row.name for row in result.measured}:
        lines.append(f"no ratios: the row '{result.reference}' was not measured")
    else:
        lines.append(f"ratio: how many times as fast as '{result.reference}'")
    lines += [f"{row.name}: {row.note}" for row in result.measured if row.note]
    lines += _unmeasured(result)
    lines += _against_peers(result)
    return "\n".join(lines)


def roofline_table(result: Result, rates: AllRates) -> str | None:
    """Return how far our rows are from what the device can do; None if that is unknown."""
    rows = []
    for row in result.measured:
        rate = rates.get(row.precision)
        roofline = rate and roofline_of(result.case, row.precision, rate)
        if row.family == OURS and roofline:
            compute, memory = distances(row, roofline)
            rows.append(
                [
                    row.name,
                    _number(roofline.compute, 1000, ".2f"),
                    _number(compute, 1, ".1f"),
                    _number(roofline.memory, 1000, ".2f"),
                    _number(memory, 1, ".1f"),
                ]
            )
    headers = ["roofline", "compute ms", "times", "memory ms", "times"]
    align = ("left", *["right"] * 4)
    return tabulate(rows, headers, disable_numparse=True, colalign=align) if rows else None


def scaling_table(points: Sequence[Point]) -> str:
    """Return the time of our rows next to their cost, and the powers they grow with."""
    if not points:
        return "scaling: no row of ours was measured on a RegNet whose design is known"
    rows = [
        [
            point.row + (" (training)" if point.training else ""),
            point.variant,
            "x".join(map(str, point.size)),
            point.batch,
            f"{point.flops / 1e9:.2f}",
            f"{point.activations / 1e6:.1f}",
            f"{point.seconds * 1000:.1f}",
            f"{point.seconds * 1000 / (point.flops / 1e9):.2f}",
            f"{point.seconds * 1000 / (point.activations / 1e6):.2f}",
        ]
        for point in points
    ]
    headers = ["scaling", "variant", "size", "batch", "G multiply-adds", "M activations", "ms"]
    headers += ["ms / G", "ms / M"]
    align = ("left", "left", *["right"] * 7)
    lines = [tabulate(rows, headers, disable_numparse=True, colalign=align)]
    lines += [
        f"{power.row}{' (training)' if power.training else ''}: time grows with the "
        f"{power.flops:.2f}th power of multiply-adds, the {power.activations:.2f}th of activations"
        for power in scaling(points)
    ]
    return "\n".join(lines)


def as_json(
    results: Sequence[Result],
    *,
    about: Mapping[str, object],
    rates: AllRates | None = None,
    points: Sequence[Point] | None = None,
) -> dict[str, object]:
    """Return everything that was measured, in values that JSON has.

    Args:
        results: of all cases.
        about: what else to say: machine, versions, settings.
        rates: of the device, if they were measured.
        points: of the scaling, if it was asked for.
    """
    content = {**about, "cases": [_case(result, rates) for result in results]}
    if rates is not None:
        content["rates"] = {precision: asdict(rate) for precision, rate in rates.items()}
    if points is not None:
        content["growth"] = {
            "points": [asdict(point) for point in points],
            "powers": [asdict(power) for power in scaling(points)],
        }
    return content


def _case(result: Result, rates: AllRates | None) -> dict[str, object]:
    """Return a case with its rows."""
    rows = []
    for row in result.rows:
        values = {
            **asdict(row),
            "median_seconds": row.median,
            "interquartile_seconds": row.spread,
            "images_per_second": result.images_per_second(row),
            "ratio": result.ratio(row),
            "best_of_family": result.is_best(row),
        }
        rate = (rates or {}).get(row.precision)
        roofline = rate and roofline_of(result.case, row.precision, rate)
        if roofline and row.family == OURS and row.seconds:
            compute, memory = distances(row, roofline)
            values |= {"floors": asdict(roofline), "times_compute": compute, "times_memory": memory}
        rows.append(values)
    return {**asdict(result.case), "reference": result.reference, "rows": rows}


def _unmeasured(result: Result) -> Iterator[str]:
    """Say which rows have no times, and why; alike reasons once."""
    reasons: dict[tuple[str, str], list[Row]] = {}
    for row in result.rows:
        if not row.seconds:
            reasons.setdefault((row.status, row.note), []).append(row)
    for (status, note), rows in reasons.items():
        names = "; ".join(row.name for row in rows)
        yield f"{status}: {names}{': ' + note if note else ''}"


def _against_peers(result: Result) -> Iterator[str]:
    """Compare ours at its best with each peer at its best, in each precision."""
    families = dict.fromkeys(row.family for row in result.measured if row.family != OURS)
    for precision in PRECISIONS:
        ours = result.best(OURS, precision)
        for family in families:
            other = result.best(family, precision)
            if ours and other:
                yield (
                    f"{precision}: '{ours.name}' is {other.median / ours.median:.2f} times as fast "
                    f"as '{other.name}'"
                )


def _number(value: float | None, factor: float, form: str) -> str:
    """Format a number, or its absence."""
    return "" if value is None else format(value * factor, form)
