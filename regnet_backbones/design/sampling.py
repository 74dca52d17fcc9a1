"""Samples of a design space: the networks drawn from it that meet bounds, and why others do not.

Networks are drawn blindly and most are rejected, 99 in 100 under narrow bounds. Hence a draw is
judged by plain numbers, and becomes a design only when it passes. The first reason counts, of: its
stages, their groups, flops, params, activations, the trends of a constrained space, and whether the
same network was drawn before.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from regnet_backbones.design.anynet import Design
from regnet_backbones.design.checks import positive_integer
from regnet_backbones.design.cost import (
    Complexity,
    Counts,
    StageNumbers,
    checked_num_classes,
    complexity,
    map_pixels,
    stage_numbers,
    total_counts,
)
from regnet_backbones.design.ranges import Interval, checked_interval
from regnet_backbones.design.rules import activations_trend, params_trend
from regnet_backbones.design.space_kinds import Space
from regnet_backbones.errors import UserError

DRAWN_BEFORE = "drawn before"
ABOVE_PARAMS_TREND = "above the paper's params trend"
ABOVE_ACTIVATIONS_TREND = "above the paper's activations trend"

# How many draws may follow each other without a candidate.
MAX_DRAWS = 1_000_000

_COUNTED = ("flops", "params", "activations")  # in the order of `Counts`


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
        ValueError: an interval, the size or the number of classes is none.
    """

    flops: Interval | None = None
    params: Interval | None = None
    activations: Interval | None = None
    image_size: int | tuple[int, int] = 224
    num_classes: int | None = 1000

    def __post_init__(self) -> None:
        """Raise for bounds that mean nothing."""
        for name in _COUNTED:
            interval = getattr(self, name)
            if interval is not None:
                try:
                    checked_interval(interval)
                except ValueError as error:
                    raise UserError(f"{name} {error}") from None
        map_pixels(self.image_size)
        checked_num_classes(self.num_classes)

    def __str__(self) -> str:
        """Write the bounds: "flops 3.8e+08 to 4.2e+08 at 224"."""
        intervals = {name: getattr(self, name) for name in _COUNTED}
        written = [f"{n} {i[0]:.4g} to {i[1]:.4g}" for n, i in intervals.items() if i is not None]
        return f"{', '.join(written) or 'no bounds'} at {self.image_size}"


UNBOUNDED = Bounds()


@dataclass(frozen=True)
class Candidate:
    """A network of a sample and what it costs at the image size of the bounds.

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


@dataclass(frozen=True)
class Sample:
    """Networks drawn from a space, and how many draws were rejected.

    Attributes:
        space: name of the space.
        seed: seed of the draws.
        drawn: number of draws: `len(candidates) + sum(rejections.values())`.
        candidates: the networks, in the order they were drawn, no two alike.
        rejections: reason -> number of draws rejected for it.
    """

    space: str
    seed: int
    drawn: int
    candidates: tuple[Candidate, ...]
    rejections: Mapping[str, int]


def sample(
    space: Space,
    count: int,
    *,
    bounds: Bounds = UNBOUNDED,
    seed: int = 0,
    max_draws: int = MAX_DRAWS,
    progress: Callable[[int], None] | None = None,
) -> Sample:
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
    drawn = len(candidates) + rejections.total()
    return Sample(space.name, seed, drawn, tuple(candidates), dict(rejections.most_common()))


def draw(
    space: Space,
    *,
    bounds: Bounds = UNBOUNDED,
    seed: int = 0,
    rejections: Counter[str],
    max_draws: int = MAX_DRAWS,
) -> Iterator[Candidate]:
    """Draw networks within bounds, without end and no two alike.

    Args:
        space: what to draw from.
        bounds: what a network may cost.
        seed: the same seed gives the same networks.
        rejections: gets one count for each rejected draw, under its reason.
        max_draws: how many draws may follow each other without a network within the bounds.

    Yields:
        Networks and what they cost, in the order they are drawn.

    Raises:
        ValueError: `max_draws` draws gave nothing.
    """
    rng = random.Random(int(seed))
    judge = _judge(space, bounds)
    found: set[tuple[StageNumbers, ...]] = set()
    in_vain = 0
    while True:
        numbers = space.draw(rng)
        stages = space.stages(numbers)  # type: ignore[arg-type]  # what this space has drawn
        reason = stages if isinstance(stages, str) else judge(stages)
        if reason is None and stages in found:
            reason = DRAWN_BEFORE
        if reason is None:
            assert not isinstance(stages, str), stages
            in_vain = 0
            found.add(stages)
            design = space.design(numbers)  # type: ignore[arg-type]  # the same
            assert tuple(map(stage_numbers, design.stages)) == stages, design
            yield Candidate(design, complexity(design, bounds.image_size, bounds.num_classes))
            continue
        rejections[reason] += 1
        in_vain += 1
        if in_vain >= max_draws:
            counted = ", ".join(f"{reason} {n:,}" for reason, n in rejections.most_common())
            raise UserError(
                f"the last {in_vain:,} draws from {space.name} gave nothing new within {bounds}; "
                f"rejected so far: {counted}; widen the bounds, or draw from another space"
            )


def _judge(space: Space, bounds: Bounds) -> Callable[[tuple[StageNumbers, ...]], str | None]:
    """Return a function that says why stages are rejected for what they cost, or None."""
    pixels, num_classes = map_pixels(bounds.image_size), bounds.num_classes
    at_224 = map_pixels(224)
    intervals = [(name, getattr(bounds, name)) for name in _COUNTED]
    limits = [
        (i, interval, f"{name} too low", f"{name} too high")
        for i, (name, interval) in enumerate(intervals)
        if interval is not None
    ]

    def judge(stages: tuple[StageNumbers, ...]) -> str | None:
        if limits:
            counts = total_counts(stages, pixels, space.stem_width, space.se_ratio, num_classes)
            for i, (lowest, highest), too_low, too_high in limits:
                if counts[i] < lowest:
                    return too_low
                if counts[i] > highest:
                    return too_high
        if space.within_trends:
            counts = total_counts(stages, at_224, space.stem_width, space.se_ratio, 1000)
            return _above_trend(counts)
        return None

    return judge


def _above_trend(counts: Counts) -> str | None:
    """Say which of the paper's trends (section 4) a network exceeds, by its counts at 224."""
    flops, params, activations = counts
    if params > params_trend(flops):
        return ABOVE_PARAMS_TREND
    if activations > activations_trend(flops):
        return ABOVE_ACTIVATIONS_TREND
    return None
