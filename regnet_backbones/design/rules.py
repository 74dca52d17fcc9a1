"""What the paper found good RegNets to have in common, checked on a design.

Source: "Designing Network Design Spaces" (arXiv 2003.13678), sections 3.3 and 4, and the ranges and
limits in pycls `pycls/sweep/config.py`. A rule is a finding over many networks and not a law: some
of the published models break one. In `Rule.source` "pycls" is that file.
"""

from dataclasses import dataclass

from regnet_backbones.design.cost import Complexity, complexity
from regnet_backbones.design.law import RegNetDesign

_RANGE = "section 3.3; pycls"
_BEST = "section 4, figure 11"
_TREND = "section 4, figure 12; pycls"


@dataclass(frozen=True)
class Rule:
    """One finding of the paper, and whether a design agrees.

    Attributes:
        name: what it is about, such as "depth".
        holds: whether the design agrees.
        found: the design's number.
        wanted: what the paper found good.
        source: section of the paper.
    """

    name: str
    holds: bool
    found: str
    wanted: str
    source: str


def check_rules(design: RegNetDesign) -> tuple[Rule, ...]:
    """Return how a design agrees with the paper's findings.

    Multiply-adds, parameters and activations are those of a classifier of 1000 classes at 224, as
    in the paper. The limits of depth and w_m are those of pycls's sampler: the paper's section 3.3
    draws depth < 64 and w_m from 1.5, section 4 finds the best networks within these.

    Args:
        design: the network.
    """
    multiplier = design.bottleneck_multiplier
    no_bottleneck = "1, no bottleneck"
    cost = complexity(design)
    params, activations = trends(cost)
    flops = f"f = {cost.flops / 1e9:.4g} G"
    return (
        Rule("bottleneck multiplier", multiplier == 1, f"{multiplier:g}", no_bottleneck, _BEST),
        _within("depth", design.depth, 12, 28, f"{_BEST}; pycls", "near 20 blocks, "),
        _within("w_m", design.w_m, 2, 3, _BEST, "near 2.5, "),
        _within("w_0", design.w_0, 8, 256, _RANGE),
        _within("w_a", design.w_a, 8, 256, _RANGE),
        _at_most("params", cost.params, params, f"3 + 5.5 f, {flops}"),
        _at_most("activations", cost.activations, activations, f"6.5 sqrt(f), {flops}"),
    )


def trends(cost: Complexity) -> tuple[float, float]:
    """Return the most params and activations that good networks of these flops at 224 have."""
    giga = cost.flops / 1e9
    return 3e6 + 5.5e6 * giga, 6.5e6 * giga**0.5


def _within(name: str, value: float, low: float, high: float, source: str, near: str = "") -> Rule:
    return Rule(name, low <= value <= high, f"{value:g}", f"{near}{low:g} to {high:g}", source)


def _at_most(name: str, count: int, limit: float, formula: str) -> Rule:
    wanted = f"at most {limit / 1e6:.4g} M: {formula}"
    return Rule(name, count <= limit, f"{count / 1e6:.4g} M", wanted, _TREND)
