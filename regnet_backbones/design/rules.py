"""What the paper found good networks to have in common, checked on a design.

Source: "Designing Network Design Spaces" (arXiv 2003.13678), sections 3.2 and 4, and the ranges and
limits in pycls `pycls/sweep/config.py`. A rule is a finding over many networks and not a law: some
of the published models break one. In `Rule.source` "pycls" is that file.
"""

from dataclasses import dataclass
from itertools import pairwise

from regnet_backbones.design.blocks import Numbers
from regnet_backbones.design.cost import complexity
from regnet_backbones.design.law import Design, RegNetDesign

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


def check_rules(design: Design) -> tuple[Rule, ...]:
    """Compare a design with the paper's findings.

    Multiply-adds, parameters and activations are those of a classifier of 1000 classes at 224, as
    in the paper. w_0, w_a and w_m are checked of a `RegNetDesign` only.

    Args:
        design: the network.

    Returns:
        The rules, those on the stages first.
    """
    widths = [stage.width for stage in design.stages]
    depths = [stage.depth for stage in design.stages]
    multipliers = [stage.bottleneck_width / stage.width for stage in design.stages]
    last = "" if _rises(depths[-2:]) else " (the last is shallower)"
    rules = [
        Rule(
            "stage widths",
            _rises(widths),
            ", ".join(map(str, widths)),
            "no stage narrower than the one before",
            "section 3.2, AnyNetX_D",
        ),
        Rule(
            "stage depths",
            _rises(depths[:-1]),
            ", ".join(map(str, depths)) + last,
            "no stage shallower than the one before; the last may be",
            "section 3.2, AnyNetX_E",
        ),
        Rule(
            "bottleneck multiplier",
            set(multipliers) == {1},
            ", ".join(dict.fromkeys(f"{each:g}" for each in multipliers)),
            "1, no bottleneck",
            "section 4, figure 11",
        ),
        _within("depth", sum(depths), _DEPTHS, "section 4, figure 11; pycls", "near 20 blocks, "),
    ]
    if isinstance(design, RegNetDesign):
        rules += [
            _within("w_m", design.w_m, _RATIOS, "section 4, figure 11", "near 2.5, "),
            _within("w_0", design.w_0, _WIDTHS, "section 3.3; pycls"),
            _within("w_a", design.w_a, _WIDTHS, "section 3.3; pycls"),
        ]
    cost = complexity(design)
    for name, count, limit, formula in (
        ("params", cost.params, params_trend(cost.flops), "3 + 5.5 f"),
        ("activations", cost.activations, activations_trend(cost.flops), "6.5 sqrt(f)"),
    ):
        most = f"at most {limit / 1e6:.4g} M: {formula}, f = {cost.flops / 1e9:.4g} G"
        found = f"{count / 1e6:.4g} M"
        rules.append(Rule(name, count <= limit, found, most, "section 4, figure 12; pycls"))
    return tuple(rules)


def params_trend(flops: Numbers) -> Numbers:
    """Return the most parameters that good networks of so many multiply-adds at 224 have."""
    return 3e6 + 5.5e6 * flops / 1e9


def activations_trend(flops: Numbers) -> Numbers:
    """Return the most activations that good networks of so many multiply-adds at 224 have."""
    return 6.5e6 * (flops / 1e9) ** 0.5


def _within(
    name: str, value: float, limits: tuple[float, float], source: str, near: str = ""
) -> Rule:
    """Compare a number with its limits."""
    low, high = limits
    found = f"{value} blocks" if name == "depth" else f"{value:g}"
    return Rule(name, low <= value <= high, found, f"{near}{low:g} to {high:g}", source)


def _rises(numbers: list[int]) -> bool:
    """Return whether no number is below the one before."""
    return all(a <= b for a, b in pairwise(numbers))
