"""Stages of bottleneck blocks: widths fitted to groups, and networks of four free stages.

Sources: pycls `pycls/models/blocks.py` (widths and groups), torchvision `models/regnet.py` (its
rounding), and "Designing Network Design Spaces" (arXiv 2003.13678), section 3.2 (AnyNet).
`fit_to_groups` and `fits_groups` take numbers, or arrays with the arithmetic of arrays.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, astuple, dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from regnet_backbones.errors import UserError

if TYPE_CHECKING:
    from regnet_backbones.design.law import RegNetDesign

NUM_STAGES = 4
STRIDE = 2  # of the stem and of every stage

# torchvision takes the next multiple up when rounding would lose more than a tenth of the width.
TORCHVISION_MIN_RATIO = 0.9

Activation = Literal["relu", "silu"]
Rounding = Literal["paper", "torchvision"]
Shortcut = Literal["conv1x1", "avg", "none"]
Numbers: TypeAlias = Any  # a number, or a numpy array of those of many networks


@dataclass(frozen=True)
class Arithmetic:
    """The functions that differ between numbers and arrays; `rint` rounds ties to even."""

    log: Callable[..., Numbers]
    rint: Callable[..., Numbers]
    trunc: Callable[..., Numbers]
    minimum: Callable[..., Numbers]
    maximum: Callable[..., Numbers]


NUMBERS = Arithmetic(math.log, round, math.trunc, min, max)


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
class AnyNetDesign:
    """Four stages of free numbers, which no law connects; timm does not build them.

    Stem, block and head are those of a RegNetX or RegNetY.

    Args:
        stages: four stages of stride 2; a group width must divide its bottleneck width.
        se_ratio: squeeze-and-excitation width over the width of the block's input; 0 for none.
        stem_width: channels of the stem.

    Raises:
        ValueError: there are not four stages, or a number gives no network.
    """

    stages: tuple[Stage, ...]
    _: KW_ONLY
    se_ratio: float = 0.0
    stem_width: int = 32

    # What a RegNetDesign can choose and the networks of the paper's AnyNet spaces share.
    activation: ClassVar[Activation] = "relu"
    preact: ClassVar[bool] = False
    shortcut: ClassVar[Shortcut] = "conv1x1"
    linear_out: ClassVar[bool] = False
    head_width: ClassVar[int] = 0
    norm_group_width: ClassVar[int] = 0

    def __post_init__(self) -> None:
        """Raise for numbers that give no network; make plain Python numbers of numpy's."""
        if not isinstance(self.stages, Sequence) or len(self.stages) != NUM_STAGES:
            raise UserError(f"stages must be {NUM_STAGES} of type Stage, got {self.stages!r}")
        checked = tuple(_checked_stage(s, f"stage {i}") for i, s in enumerate(self.stages, 1))
        object.__setattr__(self, "stages", checked)
        object.__setattr__(self, "stem_width", positive_integer("stem_width", self.stem_width))
        object.__setattr__(self, "se_ratio", share("se_ratio", self.se_ratio))
        check_se(self)


def fit_to_groups(
    width: Numbers,
    group_width: Numbers,
    bottleneck_multiplier: Numbers,
    rounding: Rounding = "paper",
    ops: Arithmetic = NUMBERS,
) -> tuple[Numbers, Numbers, Numbers]:
    """Return width, group width and bottleneck width; a stage only where `fits_groups` holds."""
    bottleneck = ops.trunc(width * bottleneck_multiplier)
    group_width = ops.minimum(group_width, bottleneck)
    unit = ops.maximum(group_width, 1)
    if rounding == "paper":
        bottleneck = ops.rint(bottleneck / unit) * unit
    else:
        multiple = ops.trunc(bottleneck + unit / 2) // unit * unit
        bottleneck = multiple + unit * (multiple < TORCHVISION_MIN_RATIO * bottleneck)
    width = ops.trunc(bottleneck / bottleneck_multiplier)
    # A block computes its bottleneck from its width.
    return width, group_width, ops.rint(width * bottleneck_multiplier)


def fits_groups(
    width: Numbers, group_width: Numbers, bottleneck_width: Numbers, multiplier: Numbers
) -> Numbers:
    """Return whether a bottleneck is a whole number of channels and of groups."""
    # A multiplier such as 0.7 has no exact float: the last bits do not count.
    exact = abs(width * multiplier - bottleneck_width) <= 1e-9 * bottleneck_width
    whole_groups = bottleneck_width % (group_width + (group_width < 1)) == 0
    return (group_width >= 1) & exact & whole_groups


def check_se(design: "RegNetDesign | AnyNetDesign") -> None:
    """Raise where squeeze-and-excitation would have no channel."""
    narrowest = min(design.stem_width, *(stage.width for stage in design.stages))
    if design.se_ratio and round(narrowest * design.se_ratio) < 1:
        raise UserError(
            f"se_ratio {design.se_ratio:g} of {narrowest} channels rounds to 0; use 0 for no "
            f"squeeze-and-excitation, or at least {1 / narrowest:.2g}"
        )


def positive_integer(name: str, value: object, hint: str = "") -> int:
    """Return a whole number above 0 as Python's own; raise for anything else."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        what = f"a positive integer ({hint})" if hint else "a positive integer"
        raise UserError(f"{name} must be {what}, got {value!r}")
    return int(value)


def share(name: str, value: object) -> float:
    """Return a number in [0, 1] as Python's own; raise for anything else."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not 0 <= number <= 1:
        raise UserError(f"{name} must be a number in [0, 1], 0 for none, got {value!r}")
    return number


def _checked_stage(stage: Stage, where: str) -> Stage:
    """Return the stage in plain integers."""
    if not isinstance(stage, Stage):
        raise UserError(f"{where} must be a Stage, got {stage!r}")
    names = (f"{where}: {field.name}" for field in fields(Stage))
    stage = Stage(*map(positive_integer, names, astuple(stage)))
    if stage.stride != STRIDE:
        raise UserError(f"{where}: stride must be {STRIDE}, got {stage.stride}")
    if stage.bottleneck_width % stage.group_width:
        raise UserError(
            f"{where}: group_width {stage.group_width} does not divide the bottleneck of "
            f"{stage.bottleneck_width} channels"
        )
    return stage
