"""The design spaces of the paper: what a network's numbers can be, and how they are drawn.

Source: "Designing Network Design Spaces" (arXiv 2003.13678):

    RegNetX     section 3.3   widths from a quantized line
    RegNetY     section 5     and squeeze-and-excitation
    RegNetX_constrained, RegNetY_constrained   section 4: no bottleneck, w_m from 2, and no more
        parameters and activations for the multiply-adds than the trend of good networks

The constrained spaces are drawn from the ranges of pycls `pycls/sweep/config.py`, which suit
networks up to 16 GF. Where the paper gives only the upper end of w_0 and w_a, the lower is pycls's.

A range is the list of its values, each with a weight, drawn evenly or evenly in the logarithm as in
pycls `pycls/sweep/random.py`, whose quantised draws give the ends of a range the probability that
they would have inside it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import numpy as np

from regnet_backbones.design.law import NUM_STAGES, RegNetDesign
from regnet_backbones.errors import UnknownNameError, UserError

SE_RATIO = 0.25  # of the paper's RegNetY

Interval = tuple[float, float]  # lowest and highest, both included


@dataclass(frozen=True)
class Range:
    """Values in ascending order, and how likely each is, of which only the ratios count."""

    values: tuple[float, ...] = field(repr=False)
    weights: tuple[float, ...] = field(repr=False)

    def __str__(self) -> str:
        """Write the ends: "8 to 256", or the one value."""
        ends = dict.fromkeys(format(value, "g") for value in (self.values[0], self.values[-1]))
        return " to ".join(ends)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return an array of independent draws."""
        shares = np.divide(self.weights, sum(self.weights))
        return np.array(self.values)[rng.choice(len(self.values), count, p=shares)]

    def narrowed(self, name: str, interval: Interval) -> "Range":
        """Return the values within an interval, as likely among themselves as before."""
        low, high = interval
        pairs = zip(self.values, self.weights, strict=True)
        kept = [(value, weight) for value, weight in pairs if low <= value <= high]
        outside = 0 < low < self.values[0] or self.values[-1] < high < math.inf
        if outside or not kept:
            examples = f"{self.values[0]:g}, {self.values[1 - len(self.values)]:g}"
            rule = f"(lowest, highest) within {self} and include a value such as {examples}"
            raise UserError(f"{name} must be {rule}, got {interval!r}")
        return Range(*zip(*kept, strict=True))


@dataclass(frozen=True, kw_only=True)
class Space:
    """RegNets of which each number is drawn from a range.

    Attributes:
        name: of the space.
        depth: blocks of the network.
        group_width: channels in a group of the 3x3 convolutions; a narrower stage is one group.
        bottleneck_multiplier: width of the 3x3 convolutions over the width of the blocks.
        w_0: width of the first block before quantization.
        w_a: slope of the widths.
        w_m: ratio between the widths of neighbouring stages.
        se_ratio: squeeze-and-excitation width over the width of a block's input, of all networks.
        stem_width: channels of the stem, of all networks.
        within_trends: only networks within the paper's params and activations trends.

    Raises:
        ValueError: se_ratio or stem_width is out of range.
    """

    name: str
    depth: Range
    group_width: Range
    bottleneck_multiplier: Range
    w_0: Range
    w_a: Range
    w_m: Range
    se_ratio: float = 0.0
    stem_width: int = 32
    within_trends: bool = False

    def __post_init__(self) -> None:
        """Raise for constants that no network of the space could have."""
        # In RegNetX-200MF, of narrow stages.
        RegNetDesign(24, 36.44, 2.49, 13, 8, se_ratio=self.se_ratio, stem_width=self.stem_width)

    @property
    def ranges(self) -> dict[str, Range]:
        """What is drawn, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Range)}

    def narrowed(self, **intervals: Interval | None) -> "Space":
        """Return a part of the space, named for what was narrowed.

        Args:
            intervals: lowest and highest of a range by its name, ends included; None for no change.

        Raises:
            ValueError: the space does not draw numbers from that interval.
            KeyError: it has no such range.
        """
        changes: dict[str, Any] = {
            name: self.ranges[name].narrowed(name, interval)
            for name, interval in intervals.items()
            if interval is not None
        }
        if not changes:
            return self
        named = ", ".join(f"{name} {value}" for name, value in changes.items())
        return replace(self, name=f"{self.name} ({named})", **changes)


def draw_designs(
    space: Space, rng: np.random.Generator, count: int
) -> Iterator[RegNetDesign | None]:
    """Draw each number by itself; yield None where the numbers give no network.

    As in pycls' sampler (`check_regnet_constraints` of `pycls/sweep/samplers.py`), the stages are
    the powers 0 to 3 of w_m: none is skipped, and no two round to one width.
    """
    numbers = {name: each.draw(rng, count) for name, each in space.ranges.items()}
    w_0, w_a, w_m, depth = (numbers[name] for name in ("w_0", "w_a", "w_m", "depth"))
    last = np.rint(np.log((w_0 + w_a * (depth - 1)) / w_0) / np.log(w_m))
    for i in range(count):
        design = None
        if last[i] == NUM_STAGES - 1:
            row: dict[str, Any] = {name: values[i] for name, values in numbers.items()}
            with suppress(UserError):
                design = RegNetDesign(**row, se_ratio=space.se_ratio, stem_width=space.stem_width)
        yield design


def uniform(values: Sequence[float]) -> Range:
    """Return values of which each is as likely as the others."""
    return Range(tuple(values), (1.0,) * len(values))


def log_uniform(values: Sequence[float]) -> Range:
    """Return values weighted by the logarithm of their ratio to the one below.

    Below the lowest is a step, or half of it where the step would leave less.
    """
    below = max(2 * values[0] - values[1], values[0] / 2)
    weights = (math.log(v / b) for v, b in zip(values, (below, *values[:-1]), strict=True))
    return Range(tuple(values), tuple(weights))


_X = Space(
    name="RegNetX",
    depth=uniform(range(NUM_STAGES, 64)),
    w_0=log_uniform(range(8, 249, 8)),
    w_a=log_uniform([k / 10 for k in range(80, 2560)]),
    w_m=log_uniform([k / 1000 for k in range(1500, 3001)]),
    group_width=uniform([1, 2, 4, 8, 16, 32]),
    bottleneck_multiplier=uniform([0.25, 0.5, 1.0]),  # the paper's bottleneck ratios, inverted
)
_Y = replace(_X, name="RegNetY", se_ratio=SE_RATIO)
_X_CONSTRAINED = Space(
    name="RegNetX_constrained",
    depth=uniform(range(12, 29)),
    w_0=log_uniform(range(8, 257, 8)),
    w_a=log_uniform([k / 10 for k in range(80, 2561)]),
    w_m=log_uniform([k / 1000 for k in range(2000, 3001)]),
    group_width=log_uniform(range(8, 129, 8)),
    bottleneck_multiplier=uniform([1.0]),
    within_trends=True,
)
_Y_CONSTRAINED = replace(_X_CONSTRAINED, name="RegNetY_constrained", se_ratio=SE_RATIO)

SPACES: Mapping[str, Space] = MappingProxyType(
    {space.name: space for space in (_X, _Y, _X_CONSTRAINED, _Y_CONSTRAINED)}
)


def get_space(name: str) -> Space:
    """Return a design space.

    Args:
        name: one of `SPACES`, in upper or lower case: "RegNetX", "regnety_constrained".

    Raises:
        ValueError: no such space.
    """
    by_key = {key.lower(): space for key, space in SPACES.items()}
    if name.lower() in by_key:
        return by_key[name.lower()]
    near = get_close_matches(name.lower(), by_key, n=1)
    hint = f"did you mean '{by_key[near[0]].name}'? " if near else ""
    raise UnknownNameError(f"unknown design space '{name}'; {hint}known are {', '.join(SPACES)}")
