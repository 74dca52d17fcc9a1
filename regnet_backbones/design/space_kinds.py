"""Spaces of RegNets and of AnyNets: ranges of numbers, networks drawn from them, parts of spaces.

`spaces.py` has those of the paper.
"""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Self

from regnet_backbones.design.anynet import AnyNetDesign
from regnet_backbones.design.checks import positive_integer, share_or_none
from regnet_backbones.design.cost import StageNumbers
from regnet_backbones.design.law import (
    NUM_STAGES,
    WIDTH_QUANTUM,
    RegNetDesign,
    block_widths,
    fit_to_groups,
    fits_groups,
    width_runs,
)
from regnet_backbones.design.ranges import Interval, N, Range
from regnet_backbones.errors import UserError

NOT_FOUR_STAGES = "not four stages"
GROUPS_DO_NOT_FIT = "groups do not fit"
NO_SE_CHANNEL = "no channel for squeeze-and-excitation"


class RegNetNumbers(NamedTuple):
    """What is drawn from a RegNet space."""

    w_0: int
    w_a: float
    w_m: float
    depth: int
    group_width: int
    bottleneck_multiplier: float


class AnyNetNumbers(NamedTuple):
    """What is drawn from an AnyNet space, four of each."""

    widths: list[int]
    depths: list[int]
    group_widths: list[int]
    bottleneck_multipliers: list[float]


@dataclass(frozen=True, kw_only=True)
class _Space:
    """What RegNet and AnyNet spaces share.

    Attributes:
        name: of the space.
        depth: blocks of the network; in an AnyNet space, of a stage.
        group_width: channels in a group of the 3x3 convolutions; a narrower stage is one group.
        bottleneck_multiplier: width of the 3x3 convolutions over the width of the blocks.
        se_ratio: squeeze-and-excitation width over the width of a block's input, of all networks.
        stem_width: channels of the stem, of all networks.
        within_trends: only networks within the paper's params and activations trends.
    """

    name: str
    depth: Range[int]
    group_width: Range[int]
    bottleneck_multiplier: Range[float]
    se_ratio: float = 0.0
    stem_width: int = 32
    within_trends: bool = False

    def __post_init__(self) -> None:
        """Raise for numbers that no network can have."""
        stem = positive_integer("stem_width", self.stem_width)
        ratio = share_or_none("se_ratio", self.se_ratio)
        if ratio and round(stem * ratio) < 1:
            raise UserError(
                f"se_ratio {ratio:g} of a stem of {stem} channels rounds to 0; take 0 for no "
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
        depth: Interval | None = None,
        width: Interval | None = None,
        w_0: Interval | None = None,
        w_a: Interval | None = None,
        w_m: Interval | None = None,
        group_width: Interval | None = None,
        bottleneck_multiplier: Interval | None = None,
        se_ratio: float | None = None,
        stem_width: int | None = None,
    ) -> Self:
        """Return a part of the space, named for what was narrowed.

        Args:
            depth: lowest and highest of a range, ends included; None leaves a range as it is. To go
                beyond a range, `dataclasses.replace` it.
            width: the same, in an AnyNet space only.
            w_0: the same, in a RegNet space only.
            w_a: the same, in a RegNet space only.
            w_m: the same, in a RegNet space only.
            group_width: the same.
            bottleneck_multiplier: the same.
            se_ratio: the one of all networks; 0 for no squeeze-and-excitation.
            stem_width: the one of all networks.

        Raises:
            ValueError: the space does not draw that number, or not from that interval.
        """
        intervals = {
            "depth": depth,
            "width": width,
            "w_0": w_0,
            "w_a": w_a,
            "w_m": w_m,
            "group_width": group_width,
            "bottleneck_multiplier": bottleneck_multiplier,
        }
        changes: dict[str, Range | float] = {}
        for name, interval in intervals.items():
            if interval is None:
                continue
            if name not in self.ranges:
                raise UserError(f"{self.name} has no {name}; it draws {', '.join(self.ranges)}")
            try:
                changes[name] = self.ranges[name].narrowed(interval)
            except ValueError as error:
                raise UserError(f"{name} of {self.name} {error}") from None
        constants = {"se_ratio": se_ratio, "stem_width": stem_width}
        changes |= {name: value for name, value in constants.items() if value is not None}
        if not changes:
            return self
        named = ", ".join(f"{name} {value}" for name, value in changes.items())
        name = f"{self.name} ({named})"
        return replace(self, name=name, **changes)  # type: ignore[arg-type]  # of its fields

    def _fitted(
        self, rows: Iterable[tuple[int, int, int, float]]
    ) -> tuple[StageNumbers, ...] | str:
        """Fit stages to their groups.

        `rows`: width, depth, group width and bottleneck multiplier of each.
        """
        stages = []
        for width, depth, group_width, bottleneck_multiplier in rows:
            fitted = fit_to_groups(width, group_width, bottleneck_multiplier)
            if not fits_groups(*fitted, bottleneck_multiplier):
                return GROUPS_DO_NOT_FIT
            stages.append((fitted[0], depth, fitted[1], fitted[2]))
        if self.se_ratio and round(min(stages)[0] * self.se_ratio) < 1:
            return NO_SE_CHANNEL
        return tuple(stages)


@dataclass(frozen=True, kw_only=True)
class RegNetSpace(_Space):
    """Networks whose widths follow the law of RegNet.

    Attributes:
        w_0: width of the first block before quantization.
        w_a: slope of the line.
        w_m: ratio between the widths of neighbouring stages.

    Raises:
        ValueError: the law has no meaning for a range.
    """

    w_0: Range[int]
    w_a: Range[float]
    w_m: Range[float]

    def __post_init__(self) -> None:
        """Raise for ranges that the law has no meaning for."""
        super().__post_init__()
        if any(w % WIDTH_QUANTUM for w in self.w_0.values) or self.w_0.lowest < 1:
            raise UserError(f"w_0 must be positive multiples of {WIDTH_QUANTUM}, got {self.w_0}")
        if self.w_m.lowest <= 1:
            raise UserError(f"w_m must be above 1, got {self.w_m}")

    def draw(self, rng: random.Random) -> RegNetNumbers:
        """Return drawn numbers of a network, which need not give one.

        Args:
            rng: makes the draws.
        """
        return RegNetNumbers(
            self.w_0.draw(rng),
            self.w_a.draw(rng),
            self.w_m.draw(rng),
            self.depth.draw(rng),
            self.group_width.draw(rng),
            self.bottleneck_multiplier.draw(rng),
        )

    def stages(self, numbers: RegNetNumbers) -> tuple[StageNumbers, ...] | str:
        """Return the stages of the network, or why there is none.

        Args:
            numbers: as `draw` returns them.
        """
        w_0, w_a, w_m, depth, group_width, bottleneck_multiplier = numbers
        # As in pycls' sampler (`check_regnet_constraints` of `pycls/sweep/samplers.py`), the stages
        # are the powers 0 to 3 of w_m: none is skipped, and no two round to one width.
        last = round(math.log((w_0 + w_a * (depth - 1)) / w_0) / math.log(w_m))
        if last != NUM_STAGES - 1:
            return NOT_FOUR_STAGES
        runs = width_runs(block_widths(w_0, w_a, w_m, depth).quantized)
        if len(runs) != NUM_STAGES:
            return NOT_FOUR_STAGES
        return self._fitted([(*run, group_width, bottleneck_multiplier) for run in runs])

    def design(self, numbers: RegNetNumbers) -> RegNetDesign:
        """Return the network.

        Args:
            numbers: as `draw` returns them.

        Raises:
            ValueError: the numbers give none.
        """
        return RegNetDesign(
            *numbers[:5],
            bottleneck_multiplier=numbers.bottleneck_multiplier,
            se_ratio=self.se_ratio,
            stem_width=self.stem_width,
        )


@dataclass(frozen=True, kw_only=True)
class AnyNetSpace(_Space):
    """Networks of four stages of free numbers.

    Attributes:
        width: channels of a stage.
        one_bottleneck: one bottleneck multiplier for all stages.
        one_group_width: one group width for all stages.
        widths_ascend: no stage is narrower than the one before it.
        depths_ascend: no stage is shallower than the one before it.
    """

    width: Range[int]
    one_bottleneck: bool = False
    one_group_width: bool = False
    widths_ascend: bool = False
    depths_ascend: bool = False

    def draw(self, rng: random.Random) -> AnyNetNumbers:
        """Return drawn numbers of a network, which need not give one.

        Args:
            rng: makes the draws.
        """
        return AnyNetNumbers(
            _draw_four(self.width, rng, ascending=self.widths_ascend),
            _draw_four(self.depth, rng, ascending=self.depths_ascend),
            _draw_four(self.group_width, rng, shared=self.one_group_width),
            _draw_four(self.bottleneck_multiplier, rng, shared=self.one_bottleneck),
        )

    def stages(self, numbers: AnyNetNumbers) -> tuple[StageNumbers, ...] | str:
        """Return the stages of the network, or why there is none.

        Args:
            numbers: as `draw` returns them.
        """
        return self._fitted(zip(*numbers, strict=True))

    def design(self, numbers: AnyNetNumbers) -> AnyNetDesign:
        """Return the network.

        Args:
            numbers: as `draw` returns them.

        Raises:
            ValueError: the numbers give none.
        """
        return AnyNetDesign.of(*numbers, se_ratio=self.se_ratio, stem_width=self.stem_width)


Space = RegNetSpace | AnyNetSpace


def _draw_four(
    numbers: Range[N], rng: random.Random, *, ascending: bool = False, shared: bool = False
) -> list[N]:
    """Draw a number for each stage."""
    if ascending:
        return numbers.draw_ascending(rng, NUM_STAGES)
    if shared:
        return [numbers.draw(rng)] * NUM_STAGES
    return [numbers.draw(rng) for _ in range(NUM_STAGES)]
