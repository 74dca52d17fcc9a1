"""What the paper found good networks to have in common, checked on a design.

Source: "Designing Network Design Spaces" (arXiv 2003.13678), sections 3.2 and 4, and the ranges and
limits in pycls `pycls/sweep/config.py`. A rule is a finding over many networks and no law: some of
the published models break one. In `Rule.source` "pycls" is that file.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from regnet_backbones.design.cost import complexity
from regnet_backbones.design.law import RegNetDesign

if TYPE_CHECKING:
    from regnet_backbones.design.anynet import Design

# Limits, both included, of pycls's sampler; the paper's section 3.3 draws depth < 64 and w_m from
# 1.5, section 4 finds the best networks in here.
_DEPTHS = 12, 28
_WIDTHS = 8, 256
_RATIOS = 2.0, 3.0


@dataclass(frozen=True)
class Rule:
    """One finding of the paper, and whether a design agrees.

    Attributes:
        name: what it is about, such as "depth".
        holds: whether the design agrees.
        found: the design's numbers.
        wanted: what the paper found good.
        source: where the paper says so.
    """

    name: str
    holds: bool
    found: str
    wanted: str
    source: str


def check_rules(design: "Design") -> tuple[Rule, ...]:
    """Compare a design with the paper's findings.

    Multiply-adds, parameters and activations are those of a classifier of 1000 classes at 224, as
    in the paper. w_0, w_a and w_m are checked of a `RegNetDesign` only.

    Args:
        design: the network.

    Returns:
        The rules, those on the stages first.
    """
    rules = [_widths(design), _depths(design), _bottleneck(design), _depth(design)]
    if isinstance(design, RegNetDesign):
        rules += _law(design)
    return (*rules, *_limits(design))


def params_trend(flops: float) -> float:
    """Return the most parameters that good networks of so many multiply-adds at 224 have."""
    return 3e6 + 5.5e6 * flops / 1e9


def activations_trend(flops: float) -> float:
    """Return the most activations that good networks of so many multiply-adds at 224 have."""
    return 6.5e6 * math.sqrt(flops / 1e9)


def _widths(design: "Design") -> Rule:
    """Check that stages do not get narrower."""
    widths = [stage.width for stage in design.stages]
    return Rule(
        "stage widths",
        _rises(widths),
        _listed(widths),
        "no stage narrower than the one before",
        "section 3.2, AnyNetX_D",
    )


def _depths(design: "Design") -> Rule:
    """Check that stages do not get shallower, the last excepted."""
    depths = [stage.depth for stage in design.stages]
    return Rule(
        "stage depths",
        _rises(depths[:-1]),
        _listed(depths) + ("" if _rises(depths[-2:]) else " (the last is shallower)"),
        "no stage shallower than the one before; the last may be",
        "section 3.2, AnyNetX_E",
    )


def _bottleneck(design: "Design") -> Rule:
    """Check that blocks are as wide inside as outside."""
    ratios = [stage.bottleneck_width / stage.width for stage in design.stages]
    return Rule(
        "bottleneck multiplier",
        all(ratio == 1 for ratio in ratios),
        ", ".join(dict.fromkeys(f"{ratio:g}" for ratio in ratios)),
        "1, no bottleneck",
        "section 4, figure 11",
    )


def _depth(design: "Design") -> Rule:
    """Check the number of blocks."""
    depth = sum(stage.depth for stage in design.stages)
    low, high = _DEPTHS
    return Rule(
        "depth",
        low <= depth <= high,
        f"{depth} blocks",
        f"near 20 blocks, {low} to {high}",
        "section 4, figure 11; pycls",
    )


def _law(design: RegNetDesign) -> list[Rule]:
    """Check w_0, w_a and w_m."""
    low, high = _RATIOS
    least, most = _WIDTHS
    ranges = "section 3.3; pycls"
    return [
        Rule(
            "w_m",
            low <= design.w_m <= high,
            f"{design.w_m:g}",
            f"near 2.5, {low:g} to {high:g}",
            "section 4, figure 11",
        ),
        Rule("w_0", least <= design.w_0 <= most, f"{design.w_0}", f"{least} to {most}", ranges),
        Rule("w_a", least <= design.w_a <= most, f"{design.w_a:g}", f"{least} to {most}", ranges),
    ]


def _limits(design: "Design") -> list[Rule]:
    """Check parameters and activations against the multiply-adds."""
    cost = complexity(design)
    limits = {
        "params": (cost.params, params_trend(cost.flops), "3 + 5.5 f"),
        "activations": (cost.activations, activations_trend(cost.flops), "6.5 sqrt(f)"),
    }
    return [
        Rule(
            name,
            count <= limit,
            f"{count / 1e6:.4g} M",
            f"at most {limit / 1e6:.4g} M: {formula}, f = {cost.flops / 1e9:.4g} G",
            "section 4, figure 12; pycls",
        )
        for name, (count, limit, formula) in limits.items()
    ]


def _rises(numbers: list[int]) -> bool:
    """Tell whether no number is below the one before."""
    return all(a <= b for a, b in pairwise(numbers))


def _listed(numbers: list[int]) -> str:
    """Join numbers."""
    return ", ".join(map(str, numbers))
