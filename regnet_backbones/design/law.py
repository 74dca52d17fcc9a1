"""The law of a RegNet's widths: from a design's numbers to four stages, and what is refused.

Source: "Designing Network Design Spaces" (arXiv 2003.13678), section 3.3, whose symbols are used
here, and the authors' implementation, pycls `pycls/models/regnet.py` (the generator) and
`pycls/models/blocks.py` (width and group compatibility). A network of `depth` blocks:

    u_j = w_0 + w_a * j                  a straight line over the blocks j = 0 ... depth - 1
    s_j = log(u_j / w_0) / log(w_m)      as an exponent of w_m
    w_j = w_0 * w_m ** round(s_j)        to the nearest power, then to a multiple of 8

Runs of equal `w_j` are the stages; last, each stage's width is made to fit its group width. All of
it is float64, with ties to even, as in pycls.

Other projects' names for the same numbers:

    here                   pycls, detectron2   timm           torchvision
    w_0                    W0                  w0             w_0
    w_a                    WA                  wa             w_a
    w_m                    WM                  wm             w_m
    depth                  DEPTH               depth          depth
    group_width            GROUP_W             group_size     group_width
    bottleneck_multiplier  BOT_MUL             bottle_ratio   bottleneck_multiplier
    se_ratio               SE_R                se_ratio       se_ratio
    stem_width             STEM_W              stem_width     stem_width
    shortcut                                   downsample
    head_width                                 num_features
    norm_group_width                           norm_layer's group_size
    rounding="torchvision"                     group_min_ratio=0.9, always in torchvision

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
from typing import TYPE_CHECKING, Literal, get_args

from regnet_backbones.errors import UserError

if TYPE_CHECKING:
    from regnet_backbones.design.anynet import AnyNetDesign

NUM_STAGES = 4
STRIDE = 2  # of the stem and of every stage
WIDTH_QUANTUM = 8  # per-block widths are multiples of this

# torchvision takes the next multiple up when rounding would lose more than a tenth of the width.
TORCHVISION_MIN_RATIO = 0.9

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

Activation = Literal["relu", "silu"]
Rounding = Literal["paper", "torchvision"]
Shortcut = Literal["conv1x1", "avg", "none"]


class UnbuildableError(ValueError):
    """A design that follows the law, and that timm would build with other stages."""


@dataclass(frozen=True)
class Stage:
    """A run of blocks of one width.

    Attributes:
        width: channels that a block gives.
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
        linear_out: no activation behind the sum of a block, as in RegNetZ.
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
        _check_types(self)
        _check_ranges(self)
        _check_stages(self)

    @cached_property
    def block_widths(self) -> BlockWidths:
        """Continuous and quantized width of each block."""
        return block_widths(self.w_0, self.w_a, self.w_m, self.depth)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The four stages, with compatible widths and group widths."""
        runs = width_runs(self.block_widths.quantized)
        return tuple(self._stage(width, depth) for width, depth in runs)

    def _stage(self, width: int, depth: int) -> Stage:
        """Fit a stage's width to its group width; `_check_groups` refuses what cannot be fitted."""
        width, group_width, bottleneck = fit_to_groups(
            width, self.group_width, self.bottleneck_multiplier, self.rounding
        )
        return Stage(width, depth, STRIDE, group_width, bottleneck)


def block_widths(w_0: int, w_a: float, w_m: float, depth: int) -> BlockWidths:
    """Return the widths of the blocks, of whatever number of stages."""
    line = tuple(w_0 + w_a * j for j in range(depth))
    exponents = (round(math.log(u / w_0) / math.log(w_m)) for u in line)
    powers = (w_0 * w_m**s for s in exponents)
    return BlockWidths(line, tuple(round(w / WIDTH_QUANTUM) * WIDTH_QUANTUM for w in powers))


def width_runs(widths: Iterable[int]) -> list[tuple[int, int]]:
    """Return width and number of blocks of each run of equal widths."""
    return [(width, len(list(run))) for width, run in groupby(widths)]


def fit_to_groups(
    width: int, group_width: int, bottleneck_multiplier: float, rounding: Rounding = "paper"
) -> tuple[int, int, int]:
    """Fit a stage's width to its group width.

    Returns:
        The width, the group width and the bottleneck width, which belong together only where
        `fits_groups` says so.
    """
    bottleneck = int(width * bottleneck_multiplier)
    group_width = min(group_width, bottleneck)
    if group_width:
        round_to = _nearest_multiple if rounding == "paper" else _torchvision_multiple
        bottleneck = round_to(bottleneck, group_width)
    width = int(bottleneck / bottleneck_multiplier)
    # A block computes its bottleneck from its width.
    return width, group_width, round(width * bottleneck_multiplier)


def fits_groups(
    width: int, group_width: int, bottleneck_width: int, bottleneck_multiplier: float
) -> bool:
    """Tell whether a bottleneck is a whole number of channels and of groups."""
    # A multiplier such as 0.7 has no exact float, the last bits are forgiven.
    exact = math.isclose(width * bottleneck_multiplier, bottleneck_width, rel_tol=1e-9)
    return group_width >= 1 and exact and bottleneck_width % group_width == 0


def check_se(design: "RegNetDesign | AnyNetDesign") -> None:
    """Raise when squeeze-and-excitation would have no channel."""
    narrowest = min(design.stem_width, *(stage.width for stage in design.stages))
    if design.se_ratio and se_width(design, narrowest) < 1:
        raise UserError(
            f"se_ratio {design.se_ratio:g} of {narrowest} channels rounds to 0; take 0 for no "
            f"squeeze-and-excitation, or at least {1 / narrowest:.2g}"
        )


def se_width(design: "RegNetDesign | AnyNetDesign", width_in: int) -> int:
    """Return the channels of squeeze-and-excitation, a share of the block's input."""
    return round(width_in * design.se_ratio)


def _nearest_multiple(width: int, divisor: int) -> int:
    """Round to the nearest multiple, ties to the even one."""
    return round(width / divisor) * divisor


def _torchvision_multiple(width: int, divisor: int) -> int:
    """Round to the nearest multiple, ties up, but not below 0.9 of the width."""
    multiple = int(width + divisor / 2) // divisor * divisor
    return multiple + divisor if multiple < TORCHVISION_MIN_RATIO * width else multiple


def _check_types(design: RegNetDesign) -> None:
    """Raise for values of a wrong type; make plain Python numbers of what comes from numpy."""
    choices = {"rounding": Rounding, "activation": Activation, "shortcut": Shortcut}
    for spec in fields(design):
        value = getattr(design, spec.name)
        if spec.name in choices:
            allowed = get_args(choices[spec.name])
            if value not in allowed:
                known = ", ".join(map(repr, allowed))
                raise UserError(f"{spec.name} must be one of {known}, got {value!r}")
        elif spec.type is bool:
            if not isinstance(value, bool):
                raise UserError(f"{spec.name} must be True or False, got {value!r}")
        elif spec.type is int:
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise UserError(f"{spec.name} must be an integer, got {value!r}")
            object.__setattr__(design, spec.name, int(value))
        else:
            if not isinstance(value, Real) or isinstance(value, bool) or not _is_finite(value):
                raise UserError(f"{spec.name} must be a finite number, got {value!r}")
            object.__setattr__(design, spec.name, float(value))


def _is_finite(value: Real) -> bool:
    """Tell whether a number is finite as a float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _check_ranges(design: RegNetDesign) -> None:
    """Raise for the first number that is out of its range."""
    for name, (allows, rule) in _RANGES.items():
        value = getattr(design, name)
        if not allows(value):
            raise UserError(f"{name} must be {rule}, got {value}")
    if design.preact and design.linear_out:
        raise UserError(
            "preact=True leaves no activation behind the sum of a block that linear_out=True could "
            "drop; set one of the two"
        )


def _check_stages(design: RegNetDesign) -> None:
    """Raise for a design that has not four stages, or whose layers cannot be built."""
    try:
        stages, widths = design.stages, sorted(set(design.block_widths.quantized))
    except OverflowError:
        raise UserError(
            f"the widths of {design} are too large for a float; lower w_0, w_a or "
            "bottleneck_multiplier"
        ) from None
    if len(stages) != NUM_STAGES:
        too_few = len(stages) < NUM_STAGES
        advice = (
            "raise w_a or depth, or lower w_m" if too_few else "lower w_a or depth, or raise w_m"
        )
        raise UserError(
            f"the design must give exactly 4 stages, got {len(stages)} (block widths "
            f"{_shorten(widths)}); {advice}"
        )
    for i, stage in enumerate(stages, start=1):
        _check_groups(design, stage, f"stage {i}")
    check_se(design)
    _check_norm(design)


def _check_groups(design: RegNetDesign, stage: Stage, where: str) -> None:
    """Raise unless the bottleneck is a whole number of channels and of groups."""
    multiplier = design.bottleneck_multiplier
    if not fits_groups(stage.width, stage.group_width, stage.bottleneck_width, multiplier):
        bottleneck = stage.width * multiplier
        raise UserError(
            f"{where}: no width fits group_width {design.group_width} and bottleneck_multiplier "
            f"{design.bottleneck_multiplier:g}: the nearest, {stage.width}, has a bottleneck of "
            f"{bottleneck:g} channels, not a positive multiple of {max(1, stage.group_width)}; "
            "take a group_width divisible by the multiplier, or a multiplier such as 0.5, 1, 2 or 4"
        )


def _check_norm(design: RegNetDesign) -> None:
    """Raise when group norm cannot divide a layer's channels."""
    if not design.norm_group_width:
        return
    widths = {design.stem_width, design.head_width}
    widths |= {w for stage in design.stages for w in (stage.width, stage.bottleneck_width)}
    indivisible = sorted(w for w in widths if w % design.norm_group_width)
    if indivisible:
        raise UserError(
            f"norm_group_width {design.norm_group_width} does not divide the layers of "
            f"{_shorten(indivisible)} channels; take a divisor of all widths, or 0 for batch norm"
        )


def _shorten(numbers: list[int], limit: int = 8) -> str:
    """List the first numbers."""
    return ", ".join(map(str, numbers[:limit])) + (", ..." if len(numbers) > limit else "")
