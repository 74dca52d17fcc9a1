"""What was measured: rows of cases, and what follows from their times."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Literal

from benchmarks.cases import Case, Precision

Status = Literal["measured", "left out", "out of memory", "failed"]


@dataclass(frozen=True)
class Row:
    """A row of a case.

    Attributes:
        name: of the entry.
        family: whose model it is.
        precision: "fp32", "bf16" or "int8".
        status: whether it was measured.
        seconds: of each call.
        peak_bytes: memory of a call above what was there before; None where it cannot be seen.
        saved_bytes: what the forward pass keeps for the backward pass; None in inference.
        error: largest difference of a map to ours in float32, relative to the largest value of
            ours; None where weights are others.
        note: why it was not measured; of a measured one, what its model says of itself.
    """

    name: str
    family: str
    precision: Precision
    status: Status
    seconds: tuple[float, ...] = ()
    peak_bytes: int | None = None
    saved_bytes: int | None = None
    error: float | None = None
    note: str = ""

    @property
    def median(self) -> float | None:
        """Median seconds of a call."""
        return median(self.seconds) if self.seconds else None

    @property
    def spread(self) -> float | None:
        """Interquartile range of the seconds, 0 of a single one."""
        if len(self.seconds) < 2:
            return 0.0 if self.seconds else None
        first, _, third = quantiles(self.seconds, n=4, method="inclusive")
        return third - first


@dataclass(frozen=True)
class Result:
    """The rows of a case.

    Attributes:
        case: what was measured.
        reference: name of the row that others are compared with.
        rows: in the order of the entries.
    """

    case: Case
    reference: str
    rows: tuple[Row, ...]

    @property
    def measured(self) -> tuple[Row, ...]:
        """The rows that have times."""
        return tuple(row for row in self.rows if row.seconds)

    def ratio(self, row: Row) -> float | None:
        """Return how many times as fast as the reference a row is; None where one has no time."""
        references = [other for other in self.measured if other.name == self.reference]
        return references[0].median / row.median if references and row.seconds else None

    def images_per_second(self, row: Row) -> float | None:
        """Return images per second at the median time."""
        return self.case.batch / row.median if row.seconds else None

    def best(self, family: str, precision: Precision) -> Row | None:
        """Return the fastest row of a family in a precision."""
        rows = [r for r in self.measured if (r.family, r.precision) == (family, precision)]
        return min(rows, key=lambda row: row.median, default=None)

    def is_best(self, row: Row) -> bool:
        """Whether a row is the fastest of its family and precision."""
        return row == self.best(row.family, row.precision)


def failed_rows(results: Sequence[Result]) -> list[Row]:
    """Return the rows that raised an error."""
    return [row for result in results for row in result.rows if row.status == "failed"]
