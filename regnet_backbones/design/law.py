"""The law of a RegNet's widths: from a design's numbers to four stages, and what is refused.

Source: "Designing Network Design Spaces" (arXiv 2003.13678), section 3.3, whose symbols are used
here, and the authors' implementation, pycls `pycls/models/regnet.py` (the generator) and
`pycls/models/blocks.py` (width and group compatibility). A network of `depth` blocks:

    u_j = w_0 + w_a * j                  a straight line over the blocks j = 0 ... depth - 1
    s_j = log(u_j / w_0) / log(w_m)      as an exponent of w_m
    w_j = w_0 * w_m ** round(s_j)        to the nearest power, then to a multiple of 8

Runs of equal `w_j` are the stages; last, each stage's width is made to fit its group width. All of
it is float64, with ties to even, as in pycls. The names of timm and detectron2 are in `formats.py`.

Where the multiplier is above 1, pycls fits widths to the least common multiple of multiplier and
group width, timm to the group width. For a whole multiplier, a design on which the two disagree is
an error here.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from itertools import groupby
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, get_args

from regnet_backbones.errors import UserError

NUM_STAGES = 4
STRIDE = 2  # of the stem and of every stage
WIDTH_QUANTUM = 8  # per-block widths are multiples of this

# torchvision takes the next multiple up when rounding would lose more than a tenth of the width.
TORCHVISION_MIN_RATIO = 0.9

T = TypeVar("T")
Activation = Literal["relu", "silu"]
Rounding = Literal["paper", "torchvision"]
Shortcut = Literal["conv1x1", "avg", "none"]

_KINDS: dict[type, type] = {int: Integral, float: Real, bool: bool, str: str}

# Of each number of a design: its type, what else it must be, and the words for both.
_ALLOWED: dict[str, tuple[type, Callable[[Any], bool], str]] = {
    "w_0": (int, lambda v: v > 0 and v % WIDTH_QUANTUM == 0, "a positive multiple of 8"),
    "w_a": (float, lambda v: 0 <= v < math.inf, "a number, at least 0"),
    "w_m": (float, lambda v: 1 < v < math.inf, "a number above 1"),
    "depth": (int, lambda v: v >= NUM_STAGES, "an integer, at least 4, one block a stage"),
    "group_width": (int, lambda v: v >= 1, "a positive integer"),
    "bottleneck_multiplier": (float, lambda v: 0 < v < math.inf, "a number above 0"),
    "se_ratio": (float, lambda v: 0 <= v <= 1, "in [0, 1], 0 for no squeeze-and-excitation"),
    "stem_width": (int, lambda v: v >= 1, "a positive integer"),
    "rounding": (str, get_args(Rounding).__contains__, " or ".join(get_args(Rounding))),
    "activation": (str, get_args(Activation).__contains__, " or ".join(get_args(Activation))),
    "preact": (bool, lambda v: True, "True or False"),
    "shortcut": (str, get_args(Shortcut).__contains__, " or ".join(get_args(Shortcut))),
    "linear_out": (bool, lambda v: True, "True or False"),
    "head_width": (int, lambda v: v >= 0, "a positive integer, or 0 for no convolution"),
    "norm_group_width": (int, lambda v: v >= 0, "a positive integer, or 0 for batch norm"),
}


class UnbuildableError(UserError):
    """A design that follows the law, and that timm, in float32, would build with other stages."""


@dataclass(frozen=True)
class Stage:
    """A run of blocks of one width.

    Attributes:
        width: output channels of a block.
        depth: number of blocks.
        stride: of the first block.
        group_width: channels in a group of the 3x3 convolution.
        bottleneck_width: channels of the 3x3 convolution.
    """

    width: int
    depth: int
    stride: int
    group_width: int
    bottleneck_width: int


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
        powers = (round(math.log(u / self.w_0) / math.log(self.w_m)) for u in line)
        widths = (round(self.w_0 * self.w_m**s / WIDTH_QUANTUM) * WIDTH_QUANTUM for s in powers)
        return BlockWidths(line, tuple(widths))

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The four stages, with compatible widths and group widths."""
        return tuple(_stage(self, w, d) for w, d in runs(self.block_widths.quantized))


def runs(values: Iterable[T]) -> list[tuple[T, int]]:
    """Return the value and the length of each run of equal values."""
    return [(value, len(list(run))) for value, run in groupby(values)]


def positive_integer(name: str, value: object, hint: str = "") -> int:
    """Return a whole number above 0 as Python's own; raise for anything else."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        hint = f" ({hint})" if hint else ""
        raise UserError(f"{name} must be a positive integer{hint}, got {value!r}")
    return int(value)


def _stage(design: RegNetDesign, width: int, depth: int) -> Stage:
    """Fit the width of a stage to its groups, which need not succeed: see `_check_stages`."""
    multiplier = design.bottleneck_multiplier
    bottleneck = int(width * multiplier)
    group_width = min(design.group_width, bottleneck)
    unit = max(group_width, 1)
    if design.rounding == "paper":
        bottleneck = round(bottleneck / unit) * unit
    else:
        least = TORCHVISION_MIN_RATIO * bottleneck
        bottleneck = int(bottleneck + unit / 2) // unit * unit
        if bottleneck < least:
            bottleneck += unit
    width = int(bottleneck / multiplier)
    # A block computes its bottleneck from its width.
    return Stage(width, depth, STRIDE, group_width, round(width * multiplier))


def _check_numbers(design: RegNetDesign) -> None:
    """Raise for a wrong type or range; make plain Python numbers of what comes from numpy."""
    for name, (kind, allows, rule) in _ALLOWED.items():
        value = getattr(design, name)
        is_kind = isinstance(value, _KINDS[kind]) and isinstance(value, bool) == (kind is bool)
        if not is_kind or not allows(value):
            raise UserError(f"{name} must be {rule}, got {value!r}")
        object.__setattr__(design, name, kind(value))
    if design.preact and design.linear_out:
        raise UserError("preact=True cannot be combined with linear_out=True; set one of the two")


def _check_stages(design: RegNetDesign) -> None:
    """Raise for a design without four stages, or whose layers cannot be built."""
    stages = design.stages
    if len(stages) != NUM_STAGES:
        change, other = ("raise", "lower") if len(stages) < NUM_STAGES else ("lower", "raise")
        widths = sorted(set(design.block_widths.quantized))
        listed = ", ".join(map(str, widths[:8])) + (", ..." if len(widths) > 8 else "")
        way_out = f"{change} w_a or depth, or {other} w_m"
        raise UserError(f"a design must have 4 stages, got {len(stages)} ({listed}); {way_out}")
    multiplier = design.bottleneck_multiplier
    for i, stage in enumerate(stages, start=1):
        groups, bottleneck = stage.group_width, stage.bottleneck_width
        # A multiplier such as 0.7 has no exact float: the last bits do not count.
        exact = abs(stage.width * multiplier - bottleneck) <= 1e-9 * bottleneck
        if groups < 1 or not exact or bottleneck % groups:
            raise UserError(
                f"stage {i}: no width fits group_width {design.group_width} and "
                f"bottleneck_multiplier {multiplier:g} (the nearest is {stage.width}); use a "
                "group_width divisible by the multiplier"
            )
    narrowest = min(design.stem_width, *(stage.width for stage in stages))
    if design.se_ratio and round(narrowest * design.se_ratio) < 1:
        rule = f"se_ratio must be 0 (off) or at least {1 / narrowest:.2g} for {narrowest} channels"
        raise UserError(f"{rule}, got {design.se_ratio:g}")
    norm_groups = design.norm_group_width
    layers = {design.stem_width, design.head_width}
    layers |= {w for stage in stages for w in (stage.width, stage.bottleneck_width)}
    indivisible = sorted(w for w in layers if norm_groups and w % norm_groups)
    if indivisible:
        listed = ", ".join(map(str, indivisible))
        text = f"norm_group_width must divide all widths ({listed}), or be 0 for batch norm"
        raise UserError(f"{text}, got {norm_groups}")
