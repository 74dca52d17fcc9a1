"""AnyNets: four stages whose widths, depths and groups are free numbers, no law connects them.

Source: "Designing Network Design Spaces" (arXiv 2003.13678), section 3.2: the networks from whose
populations the law of RegNet was found. Stem, block and head are those of a RegNetX or RegNetY.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, astuple, dataclass, fields
from numbers import Real
from typing import ClassVar

from regnet_backbones.design.checks import positive_integer, share_or_none
from regnet_backbones.design.law import (
    NUM_STAGES,
    STRIDE,
    Activation,
    RegNetDesign,
    Shortcut,
    Stage,
    check_se,
    fit_to_groups,
    fits_groups,
)
from regnet_backbones.errors import UserError


@dataclass(frozen=True)
class AnyNetDesign:
    """Four stages, each given outright.

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
        object.__setattr__(self, "se_ratio", share_or_none("se_ratio", self.se_ratio))
        check_se(self)

    @classmethod
    def of(
        cls,
        widths: Sequence[int],
        depths: Sequence[int],
        group_widths: Sequence[int],
        bottleneck_multipliers: Sequence[float],
        *,
        se_ratio: float = 0.0,
        stem_width: int = 32,
    ) -> "AnyNetDesign":
        """Make a design from four numbers of each kind, fitting widths to groups as RegNet does.

        A group width above the bottleneck makes the stage one group; otherwise the bottleneck goes
        to the nearest multiple of the group width, and the width with it.

        Args:
            widths: channels of each stage, which the fitting may change.
            depths: blocks of each stage.
            group_widths: channels in a group of the 3x3 convolutions of each stage.
            bottleneck_multipliers: width of the 3x3 convolution over the width of the block.
            se_ratio: as in the class.
            stem_width: as in the class.

        Returns:
            The design, whose widths fit its groups.

        Raises:
            ValueError: a list has not four numbers, or no width near a given one fits.
        """
        given = {
            "widths": widths,
            "depths": depths,
            "group_widths": group_widths,
            "bottleneck_multipliers": bottleneck_multipliers,
        }
        for name, numbers in given.items():
            if len(numbers) != NUM_STAGES:
                raise UserError(f"{name} must be {NUM_STAGES} numbers, got {list(numbers)}")
        rows = zip(*given.values(), strict=True)
        stages = tuple(_fitted_stage(f"stage {i}", *row) for i, row in enumerate(rows, 1))
        return cls(stages, se_ratio=se_ratio, stem_width=stem_width)


Design = RegNetDesign | AnyNetDesign


def _fitted_stage(
    where: str, width: int, depth: int, group_width: int, bottleneck_multiplier: float
) -> Stage:
    """Make a stage of numbers that may not fit each other yet."""
    width = positive_integer(f"{where}: width", width)
    group_width = positive_integer(f"{where}: group_width", group_width)
    if not isinstance(bottleneck_multiplier, Real) or not 0 < bottleneck_multiplier < float("inf"):
        raise UserError(
            f"{where}: bottleneck_multiplier must be above 0, got {bottleneck_multiplier!r}"
        )
    fitted = fit_to_groups(width, group_width, float(bottleneck_multiplier))
    if not fits_groups(*fitted, bottleneck_multiplier):
        raise UserError(
            f"{where}: no width near {width} fits group_width {group_width} and "
            f"bottleneck_multiplier {bottleneck_multiplier:g}; take a group_width divisible by the "
            "multiplier, or a multiplier such as 0.25, 0.5 or 1"
        )
    fitted_width, group_width, bottleneck = fitted
    return Stage(fitted_width, depth, STRIDE, group_width, bottleneck)


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
            f"{stage.bottleneck_width} channels; AnyNetDesign.of fits widths to groups"
        )
    return stage
