"""Random networks of a space: those within bounds, and those that are measured within limits.

Random search is all there is to it, as in "Designing Network Design Spaces" (arXiv 2003.13678).
Under narrow bounds 99 in 100 draws are rejected; the first reason counts, of: its stages, flops,
params, activations, the trends of a constrained space, and whether the same network was drawn
before. What measures is passed in, such as `measure.LatencyMeter(...).measure`.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, get_args

import numpy as np

from regnet_backbones.design.cost import Complexity, ImageSize, complexity
from regnet_backbones.design.law import RegNetDesign, Stage, UnbuildableError, positive_integer
from regnet_backbones.design.rules import trends
from regnet_backbones.design.spaces import Interval, Space, draw_designs
from regnet_backbones.errors import UserError

NO_NETWORK = "no network of four stages"
TOO_SLOW_BY_SPEED = "latency too high, by the best speed so far"
OUT_OF_MEMORY = "out of memory"

COUNTED = ("flops", "params", "activations")
Order = Literal["flops", "params", "activations", "latency_ms", "memory_mib"]

BATCH = 4096  # networks drawn at once; another number gives other samples
MAX_DRAWS = 1_000_000  # that may follow each other without a candidate

# A candidate is measured after all if the best speed so far, made this much better, would do.
MARGIN = 0.8
LEAST_MEASURED = 5  # fewer networks are too few to estimate speed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bounds:
    """What a network may cost; ends are included, 0 and `math.inf` are open ends.

    Attributes:
        flops: lowest and highest multiply-adds; None for any.
        params: lowest and highest number of parameters; None for any.
        activations: lowest and highest number of activations; None for any.
        image_size: side of the square image, or (height, width), at which these are counted.
        num_classes: outputs of the counted classifier; None for the backbone alone.

    Raises:
        ValueError: an interval is invalid.
    """

    flops: Interval | None = None
    params: Interval | None = None
    activations: Interval | None = None
    image_size: ImageSize = 224
    num_classes: int | None = 1000

    def __post_init__(self) -> None:
        """Raise for bounds that mean nothing."""
        for name, (low, high) in self.intervals.items():
            if not 0 <= low <= high:
                raise UserError(f"{name} must be 0 <= lowest <= highest, got {(low, high)!r}")

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

    design: RegNetDesign
    cost: Complexity
    latency_ms: float | None = None
    memory_mib: float | None = None


@dataclass(frozen=True)
class Measurement:
    """What was measured of a network.

    Attributes:
        latency_ms: median of a forward pass.
        memory_mib: peak of a forward pass, above weights and images.
    """

    latency_ms: float
    memory_mib: float


@dataclass(frozen=True)
class Found:
    """What a sample or a search has found.

    Attributes:
        kept: networks within bounds and limits, in the order they were drawn, no two alike.
        rejections: reason -> number of draws rejected for it.
        measured: all that have numbers, over the limits too, in that order.
    """

    kept: tuple[Candidate, ...]
    rejections: Mapping[str, int]
    measured: tuple[Candidate, ...] = ()

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
) -> Found:
    """Return `count` networks of a space within bounds, and why others were rejected.

    Args:
        space: one of `spaces.SPACES`, or a part of it.
        count: how many networks.
        bounds: what they may cost.
        seed: the same seed gives the same sample.
        max_draws: how many draws may follow each other without a network within the bounds.

    Raises:
        ValueError: `max_draws` draws gave nothing, or `count` is not a positive integer.
    """
    count = positive_integer("count", count)
    rejections: Counter[str] = Counter()
    stream = draw(space, bounds=bounds, seed=seed, rejections=rejections, max_draws=max_draws)
    return Found(tuple(islice(stream, count)), dict(rejections))


def draw(
    space: Space,
    *,
    bounds: Bounds = UNBOUNDED,
    seed: int = 0,
    rejections: Counter[str],
    max_draws: int = MAX_DRAWS,
    reject: Callable[[Candidate], str] = lambda candidate: "",
) -> Iterator[Candidate]:
    """Draw networks within bounds, without end and no two alike, and count why others are not.

    `reject` returns a further reason to reject a network, "" for none.
    """
    rng = np.random.default_rng(seed)
    found: set[tuple[Stage, ...]] = set()
    in_vain = 0
    while True:
        for design in draw_designs(space, rng, BATCH):
            reason = NO_NETWORK
            if design is not None:
                cost = complexity(design, bounds.image_size, bounds.num_classes)
                candidate = Candidate(design, cost)
                reason = _beyond(space, bounds, design, cost) or reject(candidate)
                if not reason and design.stages in found:
                    reason = "drawn before"
                if not reason:
                    in_vain = 0
                    found.add(design.stages)
                    yield candidate
                    continue
            rejections[reason] += 1
            in_vain += 1
            if in_vain >= max_draws:
                counted = ", ".join(f"{reason} {n:,}" for reason, n in rejections.most_common())
                text = f"no network within {bounds} in the last {in_vain:,} draws of {space.name}"
                raise UserError(f"{text} ({counted}); widen the bounds or use another space")


def search(
    space: Space,
    count: int,
    *,
    bounds: Bounds = UNBOUNDED,
    measure: Callable[[RegNetDesign], Measurement],
    latency_ms: float | None = None,
    memory_mib: float | None = None,
    seed: int = 0,
    max_measured: int | None = None,
    progress: Callable[[Found], object] | None = None,
) -> Found:
    """Return networks within bounds that were measured, and at most `count` within limits.

    With a limit of latency, after five measurements, a network is not measured if it would be too
    slow even at the best speed so far (least time a multiply-add), made a quarter better. This is
    an estimate: a network of a speed not seen before may be missed.

    Args:
        space: one of `spaces.SPACES`, or a part of it.
        count: how many to keep.
        bounds: what networks may cost.
        measure: measures a design; a MemoryError or UnbuildableError rejects it.
        latency_ms: limit of the latency, None for any.
        memory_mib: limit of the memory, None for any.
        seed: of the draws. Which networks are kept depends on the measurements, too.
        max_measured: end after so many measurements, None for 4 times `count`.
        progress: called with what was found so far, after each measurement.

    Raises:
        ValueError: nothing meets the bounds, or a number is out of range.
    """
    count = positive_integer("count", count)
    max_measured = positive_integer("max_measured", max_measured or 4 * count)
    kept: list[Candidate] = []
    measured: list[Candidate] = []
    rejections: Counter[str] = Counter()

    def reject(candidate: Candidate) -> str:
        most_flops = _most_flops(measured, latency_ms)
        return TOO_SLOW_BY_SPEED if candidate.cost.flops > most_flops else ""

    stream = draw(space, bounds=bounds, seed=seed, rejections=rejections, reject=reject)
    while len(kept) < count and len(measured) + rejections[OUT_OF_MEMORY] < max_measured:
        try:
            candidate = next(stream)
        except UserError as error:
            if not measured:
                raise
            logger.warning("the search ends early: %s", error)
            break
        reason = ""
        try:
            numbers = measure(candidate.design)
        except MemoryError:
            reason = OUT_OF_MEMORY
        except UnbuildableError:
            reason = "timm builds other stages"
        else:
            latency, memory = numbers.latency_ms, numbers.memory_mib
            measured.append(replace(candidate, latency_ms=latency, memory_mib=memory))
            if latency_ms is not None and latency > latency_ms:
                reason = "latency too high"
            elif memory_mib is not None and memory > memory_mib:
                reason = "memory too high"
        if reason:
            rejections[reason] += 1
        else:
            kept.append(measured[-1])
        if progress is not None:
            progress(Found(tuple(kept), dict(rejections), tuple(measured)))
    return Found(tuple(kept), dict(rejections), tuple(measured))


def best(found: Found, *, by: Order = "flops", count: int = 1) -> tuple[Candidate, ...]:
    """Return the best of the kept networks, the best first.

    Args:
        found: by a search.
        by: "flops", "params" or "activations", of which the most are the best: capacity within the
            limits; "latency_ms" or "memory_mib", of which the least.
        count: how many; fewer if fewer were kept.

    Raises:
        ValueError: no such order.
    """
    if by not in get_args(Order):
        raise UserError(f"by must be one of {', '.join(get_args(Order))}, got {by!r}")
    if by in COUNTED:
        ordered = sorted(found.kept, key=lambda each: getattr(each.cost, by), reverse=True)
    else:
        ordered = sorted(found.kept, key=lambda each: getattr(each, by))
    return tuple(ordered[:count])


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of points that no other dominates: nowhere larger, somewhere smaller.

    Args:
        points: n points of the same number of coordinates, of all of which less is better.
    """
    places = np.array(points, float)
    return [
        i
        for i, place in enumerate(places)
        if not ((places <= place).all(axis=1) & (places < place).any(axis=1)).any()
    ]


def _beyond(space: Space, bounds: Bounds, design: RegNetDesign, cost: Complexity) -> str:
    """Return the first bound that a network is beyond, "" if it is within all of them."""
    for name, (low, high) in bounds.intervals.items():
        if not low <= getattr(cost, name) <= high:
            return f"{name} too {'low' if getattr(cost, name) < low else 'high'}"
    if space.within_trends:
        published = complexity(design)  # the trends are those of classifiers at 224
        params, activations = trends(published)
        if published.params > params:
            return "above the paper's params trend"
        if published.activations > activations:
            return "above the paper's activations trend"
    return ""


def _most_flops(measured: Sequence[Candidate], limit_ms: float | None) -> float:
    """Return how many flops fit within a limit at the best speed so far, made somewhat better."""
    if limit_ms is None or len(measured) < LEAST_MEASURED:
        return math.inf
    pairs = ((each.latency_ms or math.inf, each.cost.flops) for each in measured)
    latency_ms, flops = min(pairs, key=lambda pair: pair[0] / pair[1])
    share = limit_ms / (MARGIN * latency_ms)
    return math.inf if share >= 1 else share * flops
