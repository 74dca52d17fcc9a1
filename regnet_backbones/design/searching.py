"""Random networks of a space: those within bounds, and those that are measured within limits.

Random search is all there is to it, as in "Designing Network Design Spaces" (arXiv 2003.13678).
Under narrow bounds 99 in 100 draws are rejected; the first reason counts, of: its stages, their
groups, flops, params, activations, the trends of a constrained space, and whether the same network
was drawn before. What measures is passed in, such as `measure.LatencyMeter(...).measure`.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args

import numpy as np

from regnet_backbones.design.blocks import NUM_STAGES, STRIDE, Numbers, Stage, positive_integer
from regnet_backbones.design.cost import (
    Complexity,
    ImageSize,
    check_num_classes,
    complexity,
    count_parts,
    map_pixels,
)
from regnet_backbones.design.law import Design, UnbuildableError
from regnet_backbones.design.rules import activations_trend, params_trend
from regnet_backbones.design.spaces import (
    ARRAYS,
    NOT_FOUR_STAGES,
    Draws,
    Interval,
    Space,
    checked_interval,
)
from regnet_backbones.errors import UserError

TOO_SLOW_BY_SPEED = "latency too high, by the best speed so far"
OUT_OF_MEMORY = "out of memory"

COUNTED = ("flops", "params", "activations")
Order = Literal["flops", "params", "activations", "latency_ms", "memory_mib"]

BATCH = 4096  # networks drawn at once; another number gives other samples
MAX_DRAWS = 1_000_000  # that may follow each other without a candidate

# A candidate is measured after all if the best speed so far, made this much better, would do.
MARGIN = 0.8
LEAST_MEASURED = 5  # the best of fewer networks says too little about speed
MOST_UNMEASURED = 1000  # so many in a row are too large: no smaller ones are to be expected

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bounds:
    """What a network may cost; ends are included, 0 and `math.inf` are open ends.

    Attributes:
        flops: lowest and highest multiply-adds; None for any.
        params: lowest and highest number of parameters; None for any.
        activations: lowest and highest number of activations; None for any.
        image_size: side of the square image, or (height, width), at which these are counted.
        num_classes: outputs of the classifier counted with the network; None for the backbone
            alone.

    Raises:
        ValueError: an interval, the size or the number of classes is invalid.
    """

    flops: Interval | None = None
    params: Interval | None = None
    activations: Interval | None = None
    image_size: ImageSize = 224
    num_classes: int | None = 1000

    def __post_init__(self) -> None:
        """Raise for bounds that mean nothing."""
        for name, interval in self.intervals.items():
            checked_interval(name, interval)
        map_pixels(self.image_size)
        check_num_classes(self.num_classes)

    @property
    def intervals(self) -> dict[str, Interval]:
        """What is bounded, by name."""
        found = {name: getattr(self, name) for name in COUNTED}
        return {name: interval for name, interval in found.items() if interval is not None}

    def __str__(self) -> str:
        """Write the bounds: "flops 3.8e+08 to 4.2e+08 at 224"."""
        written = [
            f"{name} {low:.4g} to {high:.4g}" for name, (low, high) in self.intervals.items()
        ]
        return f"{', '.join(written) or 'no bounds'} at {self.image_size}"


UNBOUNDED = Bounds()


@dataclass(frozen=True)
class Candidate:
    """A network that was drawn, and what it costs at the image size of the bounds.

    Attributes:
        design: the network.
        cost: multiply-adds, parameters and activations.
        latency_ms: measured time of a forward pass; None where it was not measured.
        memory_mib: measured peak memory; None where it was not measured.
    """

    design: Design
    cost: Complexity
    latency_ms: float | None = None
    memory_mib: float | None = None


class Measurement(Protocol):
    """What is measured of a network: the median time of a forward pass, and its peak memory."""

    @property
    def latency_ms(self) -> float:
        """Milliseconds."""

    @property
    def memory_mib(self) -> float:
        """MiB."""


@dataclass(frozen=True)
class Found:
    """What a sample or a search has found.

    Attributes:
        kept: networks within bounds and limits, in the order they were drawn, no two alike.
        rejections: reason -> number of draws rejected for it.
        measured: all that have numbers, over the limits too, in that order.
        interrupted: whether the user has ended the search.
    """

    kept: tuple[Candidate, ...]
    rejections: Mapping[str, int]
    measured: tuple[Candidate, ...] = ()
    interrupted: bool = False

    @property
    def drawn(self) -> int:
        """Number of draws that were kept or rejected."""
        return len(self.kept) + sum(self.rejections.values())


def sample(
    space: Space,
    count: int,
    *,
    bounds: Bounds = UNBOUNDED,
    seed: int = 0,
    max_draws: int = MAX_DRAWS,
    progress: Callable[[int], None] | None = None,
) -> Found:
    """Draw networks from a space until so many meet the bounds.

    Args:
        space: one of `spaces.SPACES`, or a part of it.
        count: how many networks.
        bounds: what they may cost.
        seed: the same seed gives the same sample.
        max_draws: how many draws may follow each other without a network within the bounds.
        progress: is called with the number of networks found, after each.

    Returns:
        The networks, with their costs, and why others were rejected.

    Raises:
        ValueError: `max_draws` draws gave nothing, or `count` is not a positive integer.
    """
    count = positive_integer("count", count)
    rejections: Counter[str] = Counter()
    found = draw(space, bounds=bounds, seed=seed, rejections=rejections, max_draws=max_draws)
    candidates: list[Candidate] = []
    while len(candidates) < count:
        candidates.append(next(found))
        if progress is not None:
            progress(len(candidates))
    return Found(tuple(candidates), dict(rejections))


def draw(
    space: Space,
    *,
    bounds: Bounds = UNBOUNDED,
    seed: int = 0,
    rejections: Counter[str],
    max_draws: int = MAX_DRAWS,
) -> Iterator[Candidate]:
    """Draw networks within bounds, without end and no two alike, and count why others are not."""
    rng = np.random.default_rng(int(seed))
    found: set[tuple[Stage, ...]] = set()
    in_vain = 0
    while True:
        draws = space.draw(rng, BATCH)
        for i, reason in enumerate(_reasons(space, draws, bounds).tolist()):
            if not reason:
                try:
                    design = space.design(draws, i)
                    reason = "drawn before" if design.stages in found else ""
                except UserError:
                    # The logarithms of math and of numpy may differ in the last bit, where a block
                    # is exactly between two stages.
                    reason = NOT_FOUR_STAGES
            if not reason:
                in_vain = 0
                found.add(design.stages)
                yield Candidate(design, complexity(design, bounds.image_size, bounds.num_classes))
                continue
            rejections[reason] += 1
            in_vain += 1
            if in_vain >= max_draws:
                counted = ", ".join(f"{reason} {n:,}" for reason, n in rejections.most_common())
                raise UserError(
                    f"the last {in_vain:,} draws from {space.name} gave nothing new within "
                    f"{bounds}; rejected so far: {counted}; widen the bounds, or draw from another "
                    "space"
                )


def search(
    space: Space,
    count: int,
    *,
    bounds: Bounds = UNBOUNDED,
    measure: Callable[[Design], Measurement],
    latency_ms: float | None = None,
    memory_mib: float | None = None,
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
        measure: measures a design; a MemoryError or UnbuildableError rejects it.
        latency_ms: the highest of a network that is kept, None for any.
        memory_mib: the highest of a network that is kept, None for any.
        seed: of the draws. Which networks are kept depends on the measurements, too.
        max_measured: end after so many measurements, None for 4 times `count`.
        progress: is called with what was found so far, after each network that meets the bounds.

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
    for name, limit in (("latency_ms", latency_ms), ("memory_mib", memory_mib)):
        if limit is not None and not limit > 0:
            raise UserError(f"{name} must be above 0, or None for no limit, got {limit}")
    kept: list[Candidate] = []
    measured: list[Candidate] = []
    rejections: Counter[str] = Counter()

    def found(interrupted: bool = False) -> Found:
        return Found(tuple(kept), dict(rejections), tuple(measured), interrupted)

    unmeasured_in_a_row = 0
    stream = draw(space, bounds=bounds, seed=seed, rejections=rejections)
    try:
        while len(kept) < count and len(measured) + rejections[OUT_OF_MEMORY] < max_measured:
            try:
                candidate = next(stream)
            except UserError as error:
                if not measured:
                    raise
                logger.warning("the search ends early: %s", error)
                break
            if _is_too_slow_by_speed(candidate, measured, latency_ms):
                reason = TOO_SLOW_BY_SPEED
                unmeasured_in_a_row += 1
            else:
                reason = _measure(candidate, measure, measured, latency_ms, memory_mib)
                unmeasured_in_a_row = 0
            if reason:
                rejections[reason] += 1
            else:
                kept.append(measured[-1])
            if progress is not None:
                progress(found())
            if unmeasured_in_a_row == MOST_UNMEASURED:
                logger.warning(
                    "the search ends early: of %d networks in a row none would be within %g ms at "
                    "the speed of those measured; raise the limit, or lower the bound of flops",
                    MOST_UNMEASURED,
                    latency_ms,
                )
                break
    except KeyboardInterrupt:
        return found(interrupted=True)
    return found()


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
    if by not in get_args(Order):
        raise UserError(f"by must be one of {', '.join(get_args(Order))}, got {by!r}")
    if by in COUNTED:
        ordered = sorted(found.kept, key=lambda each: getattr(each.cost, by), reverse=True)
    else:
        ordered = sorted(found.kept, key=lambda each: getattr(each, by))
    return tuple(ordered[:count])


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Return which points no other is better than: as small everywhere and smaller somewhere.

    Args:
        points: n points of the same number of coordinates, of all of which less is better.

    Returns:
        Indices in rising order; equal points stay.

    Raises:
        ValueError: points have different numbers of coordinates.
    """
    places = np.array(points, float)
    return [
        i
        for i, place in enumerate(places)
        if not ((places <= place).all(axis=1) & (places < place).any(axis=1)).any()
    ]


def _reasons(space: Space, draws: Draws, bounds: Bounds) -> np.ndarray:
    """Return the reason for which each draw is rejected, "" for those within bounds."""
    conditions = [draws.rejected != ""]
    reasons: list[np.ndarray | str] = [draws.rejected]
    if bounds.intervals:
        costs = _costs(space, draws, bounds.image_size, bounds.num_classes)
        for name, (lowest, highest) in bounds.intervals.items():
            cost = getattr(costs, name)
            conditions += [cost < lowest, cost > highest]
            reasons += [f"{name} too low", f"{name} too high"]
    if space.within_trends:
        costs = _costs(space, draws, 224, 1000)
        conditions += [costs.params > params_trend(costs.flops)]
        conditions += [costs.activations > activations_trend(costs.flops)]
        reasons += ["above the paper's params trend", "above the paper's activations trend"]
    return np.select(conditions, reasons, "")


def _costs(
    space: Space, draws: Draws, image_size: ImageSize, num_classes: int | None
) -> Complexity:
    """Return the costs of all draws, as arrays."""
    columns: tuple[Numbers, ...] = draws.widths, draws.depths, draws.group_widths, draws.bottlenecks
    stages = []
    for i in range(NUM_STAGES):
        width, depth, group_width, bottleneck = (column[:, i] for column in columns)
        stages.append(Stage(width, depth, STRIDE, group_width, bottleneck))
    parts = count_parts(
        stages,
        image_size,
        num_classes,
        stem_width=space.stem_width,
        se_ratio=space.se_ratio,
        ops=ARRAYS,
    )
    return sum(parts.values(), start=Complexity())


def _measure(
    candidate: Candidate,
    measure: Callable[[Design], Measurement],
    measured: list[Candidate],
    highest_ms: float | None,
    highest_mib: float | None,
) -> str:
    """Measure a candidate, and return why it is rejected, "" if it is not."""
    try:
        numbers = measure(candidate.design)
    except MemoryError:
        return OUT_OF_MEMORY
    except UnbuildableError:
        return "timm builds other stages"
    latency_ms, memory_mib = numbers.latency_ms, numbers.memory_mib
    measured.append(replace(candidate, latency_ms=latency_ms, memory_mib=memory_mib))
    if latency_ms > (highest_ms or math.inf):
        return "latency too high"
    return "memory too high" if memory_mib > (highest_mib or math.inf) else ""


def _is_too_slow_by_speed(
    candidate: Candidate, measured: Sequence[Candidate], limit_ms: float | None
) -> bool:
    """Return whether a candidate would be too slow even at a better speed than the best so far."""
    if limit_ms is None or len(measured) < LEAST_MEASURED:
        return False
    latencies = [(other.latency_ms or math.inf, other.cost.flops) for other in measured]
    latency_ms, flops = min(latencies, key=lambda pair: pair[0] / pair[1])
    return MARGIN * min(1, candidate.cost.flops / flops) * latency_ms > limit_ms
