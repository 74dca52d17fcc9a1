"""The design spaces of the paper: what a network's numbers can be, and how they are drawn.

Source: "Designing Network Design Spaces" (arXiv 2003.13678). Its spaces, from free numbers to the
law of RegNet:

    AnyNetX_A   section 3.2   four stages of free width, depth, group width and bottleneck
    AnyNetX_B                 one bottleneck multiplier for all stages
    AnyNetX_C                 and one group width
    AnyNetX_D                 and no stage narrower than the one before it
    AnyNetX_E                 and no stage shallower than the one before it
    RegNetX     section 3.3   widths from a quantized line
    RegNetY     section 5     and squeeze-and-excitation
    RegNetX_constrained, RegNetY_constrained   section 4: no bottleneck, w_m from 2, and no more
        parameters and activations for the multiply-adds than the trend of good networks

The constrained spaces are drawn from the ranges of pycls `pycls/sweep/config.py`, which suit
networks up to 16 GF. Where the paper gives only the upper end of w_0 and w_a, the lower is pycls's.

A range is the list of its values, each with a weight, drawn evenly or evenly in the logarithm as in
pycls `pycls/sweep/random.py`, whose quantised draws give the ends of a range the probability that
they would have inside it. Thousands of networks are drawn at once: all but a few are rejected.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cached_property
from numbers import Real
from types import MappingProxyType
from typing import NamedTuple, Self

import numpy as np

from regnet_backbones.design.blocks import (
    NUM_STAGES,
    STRIDE,
    AnyNetDesign,
    Arithmetic,
    Stage,
    fit_to_groups,
    fits_groups,
    positive_integer,
    share,
)
from regnet_backbones.design.law import (
    Design,
    RegNetDesign,
    exponents,
    power_widths,
    shorten,
)
from regnet_backbones.errors import UnknownNameError, UserError

SE_RATIO = 0.25  # of the paper's RegNetY

NOT_FOUR_STAGES = "not four stages"
GROUPS_DO_NOT_FIT = "groups do not fit"
NO_SE_CHANNEL = "no channel for squeeze-and-excitation"

ARRAYS = Arithmetic(np.log, np.rint, np.trunc, np.minimum, np.maximum)

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

    def draw(self, rng: np.random.Generator, shape: int | tuple[int, int]) -> np.ndarray:
        """Return an array of independent draws."""
        drawn = rng.choice(len(self.values), shape, p=np.divide(self.weights, sum(self.weights)))
        return np.array(self.values)[drawn]

    def draw_ascending(self, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        """Return rows of draws of which none is below the one before it.

        The distribution is that of independent draws of which only ascending rows are kept. Of
        independent draws of four stages 1 in 500 would be.
        """
        rows, length = shape
        last = len(self.values) - 1
        drawn = np.zeros((rows, length), int)
        for place in range(length):
            # Draw among the rows of the remaining length that begin with the one before, or more.
            sums = self._ascending_sums[length - place - 1]
            below = sums[drawn[:, place - 1]] if place else np.zeros(rows)
            target = below + rng.random(rows) * (sums[-1] - below)
            drawn[:, place] = np.minimum(np.searchsorted(sums, target, side="right") - 1, last)
        return np.array(self.values)[drawn]

    @cached_property
    def _ascending_sums(self) -> tuple[np.ndarray, ...]:
        """For rows of 1 to 4 values, the weight of all that begin below each value, then of all."""
        weights = np.array(self.weights)
        sums = [np.concatenate([[0.0], np.cumsum(weights)])]
        for _ in range(NUM_STAGES - 1):
            rows = weights * (sums[-1][-1] - sums[-1][:-1])
            sums.append(np.concatenate([[0.0], np.cumsum(rows)]))
        return tuple(sums)

    def narrowed(self, name: str, interval: Interval) -> "Range":
        """Return the values within an interval, as likely among themselves as before."""
        low, high = checked_interval(name, interval)
        if 0 < low < self.values[0] or self.values[-1] < high < math.inf:
            raise UserError(f"{name} must be within {self}, got {interval!r}")
        pairs = zip(self.values, self.weights, strict=True)
        kept = [(value, weight) for value, weight in pairs if low <= value <= high]
        if not kept:
            nearest = sorted(sorted(self.values, key=lambda value: abs(value - low))[:2])
            raise UserError(
                f"{name} has no value in {interval!r}; the nearest are {shorten(nearest)}"
            )
        return Range(*zip(*kept, strict=True))


class Draws(NamedTuple):
    """Networks drawn from a space, most of which are not one.

    `numbers`: what was drawn, by name; the next four are of the stages, (networks, 4); `rejected`:
    the reason why the numbers give no network, "" where they do.
    """

    numbers: dict[str, np.ndarray]
    widths: np.ndarray
    depths: np.ndarray
    group_widths: np.ndarray
    bottlenecks: np.ndarray
    rejected: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Space:
    """What RegNet and AnyNet spaces share.

    Attributes:
        name: of the space.
        depth: blocks of the network; in an AnyNet space, of a stage.
        group_width: channels in a group of the 3x3 convolutions; a narrower stage is one group.
        bottleneck_multiplier: width of the 3x3 convolutions over the width of the blocks.
        se_ratio: squeeze-and-excitation width over the width of a block's input, of all networks.
        stem_width: channels of the stem, of all networks.
        within_trends: only networks within the paper's params and activations trends.

    Raises:
        ValueError: a number is out of range.
    """

    name: str
    depth: Range
    group_width: Range
    bottleneck_multiplier: Range
    se_ratio: float = 0.0
    stem_width: int = 32
    within_trends: bool = False

    def __post_init__(self) -> None:
        """Raise for numbers that no network can have."""
        stem = positive_integer("stem_width", self.stem_width)
        ratio = share("se_ratio", self.se_ratio)
        if ratio and round(stem * ratio) < 1:
            raise UserError(
                f"se_ratio {ratio:g} of a stem of {stem} channels rounds to 0; use 0 for no "
                f"squeeze-and-excitation, or at least {1 / stem:.2g}"
            )

    @property
    def ranges(self) -> dict[str, Range]:
        """What is drawn, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Range)}

    def narrowed(
        self,
        *,
        se_ratio: float | None = None,
        stem_width: int | None = None,
        **intervals: Interval | None,
    ) -> Self:
        """Return a part of the space, named for what was narrowed.

        Args:
            se_ratio: the one of all networks; 0 for no squeeze-and-excitation.
            stem_width: the one of all networks.
            intervals: lowest and highest of a range by its name, ends included; None leaves it as
                it is. To go beyond a range, `dataclasses.replace` it.

        Raises:
            ValueError: the space does not draw that number, or not from that interval.
        """
        changes: dict[str, object] = {}
        for name, interval in intervals.items():
            if interval is None:
                continue
            if name not in self.ranges:
                raise UserError(f"{self.name} has no {name}; it draws {', '.join(self.ranges)}")
            changes[name] = self.ranges[name].narrowed(name, interval)
        constants = {"se_ratio": se_ratio, "stem_width": stem_width}
        changes |= {name: value for name, value in constants.items() if value is not None}
        if not changes:
            return self
        named = ", ".join(f"{name} {value}" for name, value in changes.items())
        name = f"{self.name} ({named})"
        return replace(self, name=name, **changes)  # type: ignore[arg-type]  # of its fields

    @abstractmethod
    def draw(self, rng: np.random.Generator, count: int) -> Draws:
        """Draw the numbers of networks, and work out their stages.

        Args:
            rng: where the random numbers come from.
            count: how many networks to draw.

        Returns:
            Arrays with a row for each network, rejected ones included.
        """

    @abstractmethod
    def design(self, draws: Draws, index: int) -> Design:
        """Return the network of one draw that was not rejected.

        Args:
            draws: from `draw`.
            index: of the row.
        """

    def _draws(
        self,
        numbers: dict[str, np.ndarray],
        widths: np.ndarray,
        depths: np.ndarray,
        group_widths: np.ndarray,
        multipliers: np.ndarray,
        four_stages: np.ndarray | np.bool | bool = True,
    ) -> Draws:
        """Fit stages, (networks, 4) or (networks, 1), to their groups, and say which are none."""
        fitted = fit_to_groups(widths, group_widths, multipliers, ops=ARRAYS)
        fits = np.all(fits_groups(*fitted, multipliers), axis=1)
        widths, group_widths, bottlenecks = (np.asarray(each, np.int64) for each in fitted)
        thin = (np.rint(widths.min(axis=1) * self.se_ratio) < 1) & (self.se_ratio > 0)
        other = ~np.broadcast_to(four_stages, fits.shape)
        reasons = [NOT_FOUR_STAGES, GROUPS_DO_NOT_FIT, NO_SE_CHANNEL]
        rejected = np.select([other, ~fits, thin], reasons, "")
        return Draws(numbers, widths, depths, group_widths, bottlenecks, rejected)


@dataclass(frozen=True, kw_only=True)
class RegNetSpace(Space):
    """Networks whose widths follow the law of RegNet."""

    w_0: Range
    w_a: Range
    w_m: Range

    def draw(self, rng: np.random.Generator, count: int) -> Draws:
        """Draw each number by itself."""
        return self.stages({name: each.draw(rng, count) for name, each in self.ranges.items()})

    def stages(self, numbers: dict[str, np.ndarray]) -> Draws:
        """Work out the stages of networks.

        As in pycls' sampler (`check_regnet_constraints` of `pycls/sweep/samplers.py`), these are
        the powers 0 to 3 of w_m: none is skipped, and no two round to one width.
        """
        columns = {name: values[:, None] for name, values in numbers.items()}
        w_0, w_a, w_m, depth = (columns[name] for name in ("w_0", "w_a", "w_m", "depth"))
        stages = np.arange(NUM_STAGES)
        last = exponents(w_0 + w_a * (depth - 1), w_0, w_m, ARRAYS)
        four = np.ravel(last) == NUM_STAGES - 1  # one in seven
        blocks = np.arange(depth.max())
        powers = exponents(w_0[four] + w_a[four] * blocks, w_0[four], w_m[four], ARRAYS)
        powers = np.where(blocks < depth[four], powers, -1)
        depths = np.zeros((len(four), NUM_STAGES), np.int64)
        depths[four] = (powers[:, :, None] == stages).sum(axis=1)
        widths = np.asarray(power_widths(w_0, w_m, stages, ARRAYS))
        four = np.all(depths > 0, axis=1) & np.all(np.diff(widths) > 0, axis=1)
        groups = columns["group_width"], columns["bottleneck_multiplier"]
        return self._draws(numbers, widths, depths, *groups, four)

    def design(self, draws: Draws, index: int) -> RegNetDesign:
        """Return the network of one draw that was not rejected."""
        numbers = {name: values[index] for name, values in draws.numbers.items()}
        return RegNetDesign(**numbers, se_ratio=self.se_ratio, stem_width=self.stem_width)


@dataclass(frozen=True, kw_only=True)
class AnyNetSpace(Space):
    """Networks of four stages of free numbers, which one of them may share, or which may ascend."""

    width: Range
    one_bottleneck: bool = False
    one_group_width: bool = False
    widths_ascend: bool = False
    depths_ascend: bool = False

    def draw(self, rng: np.random.Generator, count: int) -> Draws:
        """Draw each number for each stage, or for all of them."""
        each, one = (count, NUM_STAGES), (count, 1)
        draw_width = self.width.draw_ascending if self.widths_ascend else self.width.draw
        draw_depth = self.depth.draw_ascending if self.depths_ascend else self.depth.draw
        multipliers = self.bottleneck_multiplier.draw(rng, one if self.one_bottleneck else each)
        numbers = {
            "width": draw_width(rng, each),
            "depth": draw_depth(rng, each),
            "group_width": self.group_width.draw(rng, one if self.one_group_width else each),
            "bottleneck_multiplier": multipliers,
        }
        return self._draws(numbers, *numbers.values())

    def design(self, draws: Draws, index: int) -> AnyNetDesign:
        """Return the network of one draw that was not rejected."""
        columns = draws.widths, draws.depths, draws.group_widths, draws.bottlenecks
        rows = zip(*(column[index] for column in columns), strict=True)
        stages = tuple(Stage(w, d, STRIDE, group, bottleneck) for w, d, group, bottleneck in rows)
        return AnyNetDesign(stages, se_ratio=self.se_ratio, stem_width=self.stem_width)


def uniform(lowest: int, highest: int) -> Range:
    """All integers from lowest to highest, each as likely as the others."""
    values = tuple(range(lowest, highest + 1))
    return Range(values, (1.0,) * len(values))


def log_uniform(lowest: float, highest: float, *, step: float) -> Range:
    """Multiples of a step, a whole number or one over it, with a density of one over the value."""
    if step >= 1:
        return _log_weighted(range(int(lowest), int(highest) + 1, int(step)), step)
    parts = round(1 / step)
    ends = round(lowest * parts), round(highest * parts)
    return _log_weighted([k / parts for k in range(ends[0], ends[1] + 1)], step)


def powers_of_two(lowest: float, highest: float) -> Range:
    """Powers of two from lowest to highest, which are two of them; each is as likely."""
    count = round(math.log2(highest / lowest)) + 1
    return _log_weighted([lowest * 2**k for k in range(count)], highest)


def checked_interval(name: str, interval: Interval) -> Interval:
    """Return lowest and highest; raise for what is not an interval."""
    pair = isinstance(interval, tuple | list) and len(interval) == 2
    numbers = pair and all(isinstance(end, Real) for end in interval)
    if not numbers or not 0 <= interval[0] <= interval[1]:
        raise UserError(
            f"{name} must be (lowest, highest) with 0 <= lowest <= highest, got {interval!r}"
        )
    return interval


def _log_weighted(values: Sequence[float], step: float) -> Range:
    """Weigh values by the logarithm of their ratio to the one below.

    That of the lowest is a step below it, or half of it where the step would leave less.
    """
    before = (max(values[0] - step, values[0] / 2), *values[:-1])
    weights = tuple(math.log(v / b) for v, b in zip(values, before, strict=True))
    return Range(tuple(values), weights)


_POWERS_TO_32 = powers_of_two(1, 32)
_BOTTLENECKS = powers_of_two(0.25, 1)  # the paper's bottleneck ratios 1, 2 and 4, inverted

_A = AnyNetSpace(
    name="AnyNetX_A",
    width=log_uniform(8, 1024, step=8),
    depth=log_uniform(1, 16, step=1),
    group_width=_POWERS_TO_32,
    bottleneck_multiplier=_BOTTLENECKS,
)
_B = replace(_A, name="AnyNetX_B", one_bottleneck=True)
_C = replace(_B, name="AnyNetX_C", one_group_width=True)
_D = replace(_C, name="AnyNetX_D", widths_ascend=True)
_E = replace(_D, name="AnyNetX_E", depths_ascend=True)
_X = RegNetSpace(
    name="RegNetX",
    depth=uniform(NUM_STAGES, 63),
    w_0=log_uniform(8, 248, step=8),
    w_a=log_uniform(8, 255.9, step=0.1),
    w_m=log_uniform(1.5, 3, step=0.001),
    group_width=_POWERS_TO_32,
    bottleneck_multiplier=_BOTTLENECKS,
)
_Y = replace(_X, name="RegNetY", se_ratio=SE_RATIO)
_X_CONSTRAINED = RegNetSpace(
    name="RegNetX_constrained",
    depth=uniform(12, 28),
    w_0=log_uniform(8, 256, step=8),
    w_a=log_uniform(8, 256, step=0.1),
    w_m=log_uniform(2, 3, step=0.001),
    group_width=log_uniform(8, 128, step=8),
    bottleneck_multiplier=powers_of_two(1, 1),
    within_trends=True,
)
_Y_CONSTRAINED = replace(_X_CONSTRAINED, name="RegNetY_constrained", se_ratio=SE_RATIO)

SPACES: Mapping[str, Space] = MappingProxyType(
    {space.name: space for space in (_A, _B, _C, _D, _E, _X, _Y, _X_CONSTRAINED, _Y_CONSTRAINED)}
)


def get_space(name: str) -> Space:
    """Return a design space.

    Args:
        name: one of `SPACES`, in upper or lower case: "RegNetX", "anynetx_e".

    Raises:
        ValueError: there is no such space.
    """
    by_key = {key.lower(): space for key, space in SPACES.items()}
    if name.lower() in by_key:
        return by_key[name.lower()]
    near = get_close_matches(name.lower(), by_key, n=1)
    hint = f"did you mean '{by_key[near[0]].name}'? " if near else ""
    raise UnknownNameError(f"unknown design space '{name}'; {hint}known are {', '.join(SPACES)}")
