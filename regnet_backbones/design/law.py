"""The law of a RegNet's widths: from a design's numbers to four stages, and what is refused.

Source: "Designing Network Design Spaces" (arXiv 2003.13678), section 3.3, whose symbols are used
here, and the authors' implementation, pycls `pycls/models/regnet.py` (the generator) and
`pycls/models/blocks.py` (width and group compatibility). A network of `depth` blocks:

    u_j = w_0 + w_a * j                  a straight line over the blocks j = 0 ... depth - 1
    s_j = log(u_j / w_0) / log(w_m)      as an exponent of w_m
    w_j = w_0 * w_m ** round(s_j)        to the nearest power, then to a multiple of 8

Runs of equal `w_j` are the stages; last, each stage's width is made to fit its group width. All of
it is float64, with ties to even, as in pycls. `exponents` and `power_widths` take numbers, or
arrays with the arithmetic of arrays. The names of timm and detectron2 are in `formats.py`.

Where the multiplier is above 1, pycls fits widths to the least common multiple of multiplier and
group width, timm to the group width. For a whole multiplier, a design on which the two disagree is
an error here.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass, fields
from functools import cached_property
from itertools import groupby
from numbers import Integral, Real
from typing import get_args

from regnet_backbones.design.blocks import (
    NUM_STAGES,
    NUMBERS,
    STRIDE,
    Activation,
    AnyNetDesign,
    Arithmetic,
    Numbers,
    Rounding,
    Shortcut,
    Stage,
    check_se,
    fit_to_groups,
    fits_groups,
)
from regnet_backbones.errors import UserError

WIDTH_QUANTUM = 8  # per-block widths are multiples of this

_CHOICES = {
    "rounding": get_args(Rounding),
    "activation": get_args(Activation),
    "shortcut": get_args(Shortcut),
}

# What a number must be: a test, and the words for it.
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "w_0": (lambda v: v > 0 and v % WIDTH_QUANTUM == 0, "a positive multiple of 8"),
    "w_a": (lambda v: v >= 0, "at least 0"),
    "w_m": (lambda v: v > 1, "above 1"),
    "depth": (lambda v: v >= NUM_STAGES, "at least 4, one block a stage"),
    "group_width": (lambda v: v >= 1, "at least 1"),
    "bottleneck_multiplier": (lambda v: v > 0, "above 0"),
    "se_ratio": (lambda v: 0 <= v <= 1, "in [0, 1], 0 for no squeeze-and-excitation"),
    "stem_width": (lambda v: v >= 1, "at least 1"),
    "head_width": (lambda v: v >= 0, "at least 0, 0 for no convolution"),
    "norm_group_width": (lambda v: v >= 0, "at least 0, 0 for batch norm"),
}


class UnbuildableError(UserError):
    """A design that follows the law, and that timm, in float32, would build with other stages."""


@dataclass(frozen=True)
class BlockWidths:
    """Per-block widths before they are fitted to the group width.

    Attributes:
        continuous: the line u_j.
        quantized: the w_j, multiples of 8.
    """

    continuous: tuple[float, ...]
    quantized: tuple[int, ...]


@dataclass(frozen=True)
class RegNetDesign:
    """The numbers that define a RegNet of four stages.

    Args:
        w_0: width of the first block before quantization, a multiple of 8.
        w_a: slope, by which the width grows from block to block.
        w_m: ratio between the widths of neighbouring stages, above 1.
        depth: number of blocks.
        group_width: channels in a group of the 3x3 convolutions; a narrower stage is one group.
        bottleneck_multiplier: width of the 3x3 convolution over the width of the block.
        se_ratio: squeeze-and-excitation width over the width of the block's input; 0 for none.
        stem_width: channels of the stem.
        rounding: how a stage's width is fitted to its group width: "paper" takes the nearest
            multiple, torchvision's keeps at least 0.9 of the width.
        activation: "relu" or "silu".
        preact: normalise and activate before each convolution, as in RegNetV.
        shortcut: projection where a block changes shape: a strided 1x1 convolution; average pooling
            and a 1x1 convolution; or none, so that such a block has no shortcut (RegNetZ).
        linear_out: no activation after the sum of a block, as in RegNetZ.
        head_width: channels of a 1x1 convolution before the classifier; 0 for none.
        norm_group_width: channels in a group of group norm; 0 for batch norm.

    Raises:
        ValueError: a number is out of range, the widths do not form exactly four stages, or they
            cannot be divided into groups.
    """

    w_0: int
    w_a: float
    w_m: float
    depth: int
    group_width: int
    _: KW_ONLY
    bottleneck_multiplier: float = 1.0
    se_ratio: float = 0.0
    stem_width: int = 32
    rounding: Rounding = "paper"
    activation: Activation = "relu"
    preact: bool = False
    shortcut: Shortcut = "conv1x1"
    linear_out: bool = False
    head_width: int = 0
    norm_group_width: int = 0

    def __post_init__(self) -> None:
        """Raise for numbers that give no network."""
        _check_numbers(self)
        _check_stages(self)

    @cached_property
    def block_widths(self) -> BlockWidths:
        """Continuous and quantized width of each block."""
        line = tuple(self.w_0 + self.w_a * j for j in range(self.depth))
        powers = (exponents(u, self.w_0, self.w_m) for u in line)
        return BlockWidths(line, tuple(int(power_widths(self.w_0, self.w_m, s)) for s in powers))

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The four stages, with compatible widths and group widths."""
        groups = self.group_width, self.bottleneck_multiplier, self.rounding
        found = []
        for width, depth in width_runs(self.block_widths.quantized):
            width, group_width, bottleneck = map(int, fit_to_groups(width, *groups))
            found.append(Stage(width, depth, STRIDE, group_width, bottleneck))
        return tuple(found)


Design = RegNetDesign | AnyNetDesign


def exponents(line: Numbers, w_0: Numbers, w_m: Numbers, ops: Arithmetic = NUMBERS) -> Numbers:
    """Return the power of w_m that is nearest to each width of the line."""
    return ops.rint(ops.log(line / w_0) / ops.log(w_m))


def power_widths(w_0: Numbers, w_m: Numbers, power: Numbers, ops: Arithmetic = NUMBERS) -> Numbers:
    """Return the multiple of 8 that is nearest to a power of w_m, times w_0."""
    return ops.rint(w_0 * w_m**power / WIDTH_QUANTUM) * WIDTH_QUANTUM


def width_runs(widths: Iterable[int]) -> list[tuple[int, int]]:
    """Return width and number of blocks of each run of equal widths."""
    return [(width, len(list(run))) for width, run in groupby(widths)]


def _check_numbers(design: RegNetDesign) -> None:
    """Raise for a wrong type or range; make plain Python numbers of what comes from numpy."""
    for spec in fields(design):
        name, value = spec.name, getattr(design, spec.name)
        if name in _CHOICES:
            if value not in _CHOICES[name]:
                known = ", ".join(map(repr, _CHOICES[name]))
                raise UserError(f"{name} must be one of {known}, got {value!r}")
        elif isinstance(value, bool) != (spec.type is bool):
            kind = "True or False" if spec.type is bool else "a number"
            raise UserError(f"{name} must be {kind}, got {value!r}")
        elif spec.type is int:
            if not isinstance(value, Integral):
                raise UserError(f"{name} must be an integer, got {value!r}")
            object.__setattr__(design, name, int(value))
        elif spec.type is float:
            object.__setattr__(design, name, _finite(name, value))
    for name, (allows, rule) in _RANGES.items():
        if not allows(getattr(design, name)):
            raise UserError(f"{name} must be {rule}, got {getattr(design, name)}")
    if design.preact and design.linear_out:
        raise UserError(
            "preact=True leaves no activation after the sum of a block that linear_out=True could "
            "drop; set one of the two"
        )


def _finite(name: str, value: object) -> float:
    """Return a finite number as a float."""
    try:
        number = float(value) if isinstance(value, Real) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UserError(f"{name} must be a finite number, got {value!r}")
    return number


def _check_stages(design: RegNetDesign) -> None:
    """Raise for a design without four stages, or whose layers cannot be built."""
    try:
        stages, widths = design.stages, sorted(set(design.block_widths.quantized))
    except OverflowError as error:
        raise UserError(f"the widths of {design} are too large for a float") from error
    if len(stages) != NUM_STAGES:
        change, other = ("raise", "lower") if len(stages) < NUM_STAGES else ("lower", "raise")
        advice = f"{change} w_a or depth, or {other} w_m"
        raise UserError(
            f"the design must give exactly 4 stages, got {len(stages)} (block widths "
            f"{shorten(widths)}); {advice}"
        )
    multiplier = design.bottleneck_multiplier
    for i, stage in enumerate(stages, start=1):
        if not fits_groups(stage.width, stage.group_width, stage.bottleneck_width, multiplier):
            raise UserError(
                f"stage {i}: no width fits group_width {design.group_width} and "
                f"bottleneck_multiplier {multiplier:g}: the nearest, {stage.width}, has a "
                f"bottleneck of {stage.width * multiplier:g} channels, not a positive multiple of "
                f"{max(1, stage.group_width)}; use a group_width divisible by the multiplier"
            )
    check_se(design)
    norm_groups = design.norm_group_width
    layers = {design.stem_width, design.head_width}
    layers |= {w for stage in stages for w in (stage.width, stage.bottleneck_width)}
    indivisible = sorted(w for w in layers if norm_groups and w % norm_groups)
    if indivisible:
        raise UserError(
            f"norm_group_width {norm_groups} does not divide the layers of "
            f"{shorten(indivisible)} channels; use a divisor of all widths, or 0 for batch norm"
        )


def shorten(numbers: Iterable[float], limit: int = 8) -> str:
    """List the first numbers."""
    listed = [f"{number:g}" for number in numbers]
    return ", ".join(listed[:limit]) + (", ..." if len(listed) > limit else "")
