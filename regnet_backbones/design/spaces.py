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
In AnyNetX_D and _E ordered numbers are drawn directly (`Range.draw_ascending`): of independent
draws 1 in 500 would be in order, and the distribution is the same.
"""

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from types import MappingProxyType

from regnet_backbones.design.law import NUM_STAGES
from regnet_backbones.design.ranges import log_uniform, powers_of_two, uniform
from regnet_backbones.design.space_kinds import AnyNetSpace, RegNetSpace, Space
from regnet_backbones.errors import UserError

SE_RATIO = 0.25  # of the paper's RegNetY

_POWERS_TO_32 = powers_of_two(1, 32)
_BOTTLENECKS = powers_of_two(0.25, 1)  # the paper's bottleneck ratios 1, 2 and 4, inverted

_ANYNET_A = AnyNetSpace(
    name="AnyNetX_A",
    width=log_uniform(8, 1024, step=8),
    depth=log_uniform(1, 16, step=1),
    group_width=_POWERS_TO_32,
    bottleneck_multiplier=_BOTTLENECKS,
)
_ANYNET_B = replace(_ANYNET_A, name="AnyNetX_B", one_bottleneck=True)
_ANYNET_C = replace(_ANYNET_B, name="AnyNetX_C", one_group_width=True)
_ANYNET_D = replace(_ANYNET_C, name="AnyNetX_D", widths_ascend=True)
_ANYNET_E = replace(_ANYNET_D, name="AnyNetX_E", depths_ascend=True)
_REGNETX = RegNetSpace(
    name="RegNetX",
    depth=uniform(NUM_STAGES, 63),
    w_0=log_uniform(8, 248, step=8),
    w_a=log_uniform(8, 255.9, step=0.1),
    w_m=log_uniform(1.5, 3, step=0.001),
    group_width=_POWERS_TO_32,
    bottleneck_multiplier=_BOTTLENECKS,
)
_CONSTRAINED = RegNetSpace(
    name="RegNetX_constrained",
    depth=uniform(12, 28),
    w_0=log_uniform(8, 256, step=8),
    w_a=log_uniform(8, 256, step=0.1),
    w_m=log_uniform(2, 3, step=0.001),
    group_width=log_uniform(8, 128, step=8),
    bottleneck_multiplier=powers_of_two(1, 1),
    within_trends=True,
)
_ROWS: tuple[Space, ...] = (
    _ANYNET_A,
    _ANYNET_B,
    _ANYNET_C,
    _ANYNET_D,
    _ANYNET_E,
    _REGNETX,
    replace(_REGNETX, name="RegNetY", se_ratio=SE_RATIO),
    _CONSTRAINED,
    replace(_CONSTRAINED, name="RegNetY_constrained", se_ratio=SE_RATIO),
)

SPACES: Mapping[str, Space] = MappingProxyType({space.name: space for space in _ROWS})


def get_space(name: str) -> Space:
    """Return a design space.

    Args:
        name: one of `SPACES`, in whatever case: "RegNetX", "anynetx_e".

    Raises:
        ValueError: there is no such space.
    """
    by_key = {space.name.lower(): space for space in _ROWS}
    space = by_key.get(name.lower())
    if space is not None:
        return space
    near = get_close_matches(name.lower(), by_key, n=1)
    hint = f"did you mean '{by_key[near[0]].name}'? " if near else ""
    raise UserError(f"unknown design space '{name}'; {hint}known are {', '.join(SPACES)}")
