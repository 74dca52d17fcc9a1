"""Search: random networks of a space are measured, and those within the limits are kept.

No more than random search, as in "Designing Network Design Spaces" (arXiv 2003.13678), where even
the best models of a space are found so. What measures is handed in, for instance
`regnet_backbones.measure.LatencyMeter(...).measure`.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Protocol, get_args

from regnet_backbones.design.anynet import Design
from regnet_backbones.design.law import UnbuildableError
from regnet_backbones.design.sampling import UNBOUNDED, Bounds, Candidate, draw
from regnet_backbones.design.space_kinds import Space
from regnet_backbones.errors import UserError

# A candidate is measured after all if the best speed so far, made this much better, would do.
MARGIN = 0.8

# The best of fewer networks says too little about speed.
LEAST_MEASURED = 5

# So many in a row that are not measured for their size: no smaller ones are to be expected.
MOST_UNMEASURED = 1000

TOO_SLOW = "latency too high"
TOO_SLOW_BY_SPEED = "latency too high, by the best speed so far"
TOO_LARGE = "memory too high"
OUT_OF_MEMORY = "out of memory"
UNBUILDABLE = "timm builds other stages"

Order = Literal["flops", "params", "activations", "latency_ms", "memory_mib"]

logger = logging.getLogger(__name__)


class Measurement(Protocol):
    """What is measured of a network: the median time of a forward pass, and its peak memory."""

    @property
    def latency_ms(self) -> float:
        """Milliseconds."""

    @property
    def memory_mib(self) -> float:
        """MiB."""


# Raises MemoryError for a network that needs more memory than there is, UnbuildableError for one of
# which timm, in float32, makes another.
Measure = Callable[[Design], Measurement]


@dataclass(frozen=True)
class Limits:
    """The highest that may be measured of a network that is kept; None for any.

    Attributes:
        latency_ms: of a forward pass.
        memory_mib: peak of a forward pass.

    Raises:
        ValueError: a limit is not above 0.
    """

    latency_ms: float | None = None
    memory_mib: float | None = None

    def __post_init__(self) -> None:
        """Raise for limits that no network meets."""
        for spec in fields(self):
            limit = getattr(self, spec.name)
            if limit is not None and not limit > 0:
                raise UserError(f"{spec.name} must be above 0, or None for no limit, got {limit}")

    def reason_to_reject(self, candidate: Candidate) -> str | None:
        """Return which limit a measured candidate is over, None for one within.

        Args:
            candidate: with what was measured of it.
        """
        if self.latency_ms is not None and _latency_ms(candidate) > self.latency_ms:
            return TOO_SLOW
        if self.memory_mib is not None and _memory_mib(candidate) > self.memory_mib:
            return TOO_LARGE
        return None


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes:
        kept: networks within bounds and limits, in the order they were drawn.
        measured: all that have numbers, over the limits too, in that order.
        rejections: reason -> number of draws rejected for it.
        interrupted: whether the user has ended the search.
    """

    kept: tuple[Candidate, ...]
    measured: tuple[Candidate, ...]
    rejections: Mapping[str, int]
    interrupted: bool = False

    @property
    def drawn(self) -> int:
        """Number of draws that were kept or rejected."""
        return len(self.kept) + sum(self.rejections.values())


def search(
    space: Space,
    count: int,
    *,
    bounds: Bounds = UNBOUNDED,
    limits: Limits = Limits(),
    measure: Measure,
    seed: int = 0,
    max_measured: int | None = None,
    progress: Callable[[Found], object] | None = None,
) -> Found:
    """Draw networks within bounds, measure them, and keep those within limits.

    With a limit of latency, time is saved on networks that are far too large. After five
    measurements a network is not measured if it would be too slow even at the best speed so far
    (least time a multiply-add), in 0.8 of that time, and with no more multiply-adds than the
    network of that speed: where starting kernels is what takes time, more of them need not take
    longer. This is an estimate. A network of a speed not seen before may be missed.

    Args:
        space: of networks that can be built: RegNets.
        count: how many to keep.
        bounds: on what is counted.
        limits: on what is measured.
        measure: measures a design; a MemoryError or UnbuildableError rejects it.
        seed: of the draws. Which networks are kept depends on the measurements, too.
        max_measured: end after so many measurements, None for 4 times `count`.
        progress: is told what was found so far, after each network that meets the bounds.

    Returns:
        What was found, which may be fewer than `count`; after Ctrl-C, what was found before it.

    Raises:
        ValueError: nothing meets the bounds, or a number is out of range.
    """
    max_measured = 4 * count if max_measured is None else max_measured
    if count < 1 or max_measured < 1:
        raise UserError(
            f"a search takes count >= 1 and max_measured >= 1, got {count} and {max_measured}"
        )
    trial = _Trial(limits, measure)
    draws = draw(space, bounds=bounds, seed=seed, rejections=trial.rejections)
    interrupted = False
    try:
        for candidate in _to_the_last(draws):
            trial.consider(candidate)
            if progress is not None:
                progress(trial.found())
            if len(trial.kept) == count or trial.tried == max_measured or trial.is_hopeless():
                break
    except KeyboardInterrupt:
        interrupted = True
    return trial.found(interrupted=interrupted)


def best(found: Found, *, by: Order = "flops", count: int = 1) -> tuple[Candidate, ...]:
    """Return the best of the kept networks, the best first.

    Args:
        found: by a search.
        by: "flops", "params" or "activations", of which the most are the best: capacity within the
            limits; "latency_ms" or "memory_mib", of which the least.
        count: how many; fewer if fewer were kept.

    Raises:
        ValueError: there is no such order.
    """
    known = get_args(Order)
    if by not in known:
        raise UserError(f"by must be one of {', '.join(known)}, got {by!r}")
    measured = by in ("latency_ms", "memory_mib")
    ordered = sorted(
        found.kept,
        key=lambda candidate: getattr(candidate if measured else candidate.cost, by),
        reverse=not measured,
    )
    return tuple(ordered[:count])


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Return which points no other is better than: as small everywhere and smaller somewhere.

    Of two coordinates this takes n log n steps, of more up to the square of n. Equal points stay.

    Args:
        points: n points of the same number of coordinates, of all of which less is better.

    Returns:
        Indices in rising order.

    Raises:
        ValueError: points have different numbers of coordinates.
    """
    places = [tuple(point) for point in points]
    lengths = {len(place) for place in places}
    if len(lengths) > 1:
        raise UserError(f"points must have as many coordinates each, got {sorted(lengths)}")
    front: list[int] = []
    for i in sorted(range(len(places)), key=lambda i: places[i]):
        # What is better comes before; of two coordinates, the last in front has the least second.
        rivals = front[-1:] if lengths == {2} else front
        if not any(_is_better(places[j], places[i]) for j in rivals):
            front.append(i)
    return sorted(front)


class _Trial:
    """Candidates as they are tried: which are kept, which are measured, why others are not."""

    def __init__(self, limits: Limits, measure: Measure):
        self.kept: list[Candidate] = []
        self.measured: list[Candidate] = []
        self.rejections: Counter[str] = Counter()
        self._limits = limits
        self._measure = measure
        self._unmeasured_in_a_row = 0

    @property
    def tried(self) -> int:
        """How many measurements there were, also of what had not enough memory."""
        return len(self.measured) + self.rejections[OUT_OF_MEMORY]

    def found(self, *, interrupted: bool = False) -> Found:
        """Return what was found so far."""
        return Found(tuple(self.kept), tuple(self.measured), dict(self.rejections), interrupted)

    def consider(self, candidate: Candidate) -> None:
        """Measure a candidate, unless it is far too large, and keep it or count why not."""
        if self._is_too_slow_by_speed(candidate):
            self._unmeasured_in_a_row += 1
            self.rejections[TOO_SLOW_BY_SPEED] += 1
            return
        self._unmeasured_in_a_row = 0
        try:
            numbers = self._measure(candidate.design)
        except MemoryError:
            self.rejections[OUT_OF_MEMORY] += 1
            return
        except UnbuildableError:
            self.rejections[UNBUILDABLE] += 1
            return
        candidate = replace(candidate, latency_ms=numbers.latency_ms, memory_mib=numbers.memory_mib)
        self.measured.append(candidate)
        reason = self._limits.reason_to_reject(candidate)
        if reason is None:
            self.kept.append(candidate)
        else:
            self.rejections[reason] += 1

    def is_hopeless(self) -> bool:
        """Whether only networks that are far too large are drawn, which is then logged."""
        hopeless = self._unmeasured_in_a_row == MOST_UNMEASURED
        if hopeless:
            logger.warning(
                "the search ends early: of %d networks in a row none would be within %g ms at the "
                "speed of those measured; raise the limit, or lower the bound of flops",
                MOST_UNMEASURED,
                self._limits.latency_ms,
            )
        return hopeless

    def _is_too_slow_by_speed(self, candidate: Candidate) -> bool:
        """Whether a candidate would be too slow even at a better speed than the best so far."""
        limit = self._limits.latency_ms
        if limit is None or len(self.measured) < LEAST_MEASURED:
            return False
        fastest = min(self.measured, key=lambda other: _latency_ms(other) / other.cost.flops)
        share = min(1, candidate.cost.flops / fastest.cost.flops)
        return MARGIN * share * _latency_ms(fastest) > limit


def _latency_ms(candidate: Candidate) -> float:
    """Return the time of a candidate that was measured."""
    assert candidate.latency_ms is not None, candidate
    return candidate.latency_ms


def _memory_mib(candidate: Candidate) -> float:
    """Return the memory of a candidate that was measured."""
    assert candidate.memory_mib is not None, candidate
    return candidate.memory_mib


def _to_the_last(draws: Iterator[Candidate]) -> Iterator[Candidate]:
    """Yield what is drawn; where nothing more is found, end, unless nothing was found at all."""
    yield next(draws)
    while True:
        try:
            candidate = next(draws)
        except ValueError as error:
            logger.warning("the search ends early: %s", error)
            return
        yield candidate


def _is_better(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether a point is as small as another everywhere, and smaller somewhere."""
    return one != other and all(x <= y for x, y in zip(one, other, strict=True))
