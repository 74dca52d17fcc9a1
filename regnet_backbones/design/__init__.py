"""RegNet designs: their law, what they cost, the spaces they come from, and how to find one.

Law, costs, rules and formats take the standard library. Fits, spaces and searches take numpy,
statistics scipy; they are imported when one of their names is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from regnet_backbones.design.cost import Complexity, complexity
from regnet_backbones.design.formats import (
    FORMATS,
    design_of,
    read_records,
    row_of,
    to_format,
    write_records,
)
from regnet_backbones.design.law import BlockWidths, RegNetDesign, Stage, UnbuildableError
from regnet_backbones.design.rules import Rule, check_rules

if TYPE_CHECKING:
    from regnet_backbones.design.fitting import Fit, Scaled, fit, scale
    from regnet_backbones.design.searching import (
        Bounds,
        Candidate,
        Found,
        best,
        pareto_front,
        sample,
        search,
    )
    from regnet_backbones.design.spaces import SPACES, Space, get_space
    from regnet_backbones.design.statistics import Comparison, Edf, column, compare, edf

__all__ = [
    "FORMATS",
    "SPACES",
    "BlockWidths",
    "Bounds",
    "Candidate",
    "Comparison",
    "Complexity",
    "Edf",
    "Fit",
    "Found",
    "RegNetDesign",
    "Rule",
    "Scaled",
    "Space",
    "Stage",
    "UnbuildableError",
    "best",
    "check_rules",
    "column",
    "compare",
    "complexity",
    "design_of",
    "edf",
    "fit",
    "get_space",
    "pareto_front",
    "read_records",
    "row_of",
    "sample",
    "scale",
    "search",
    "to_format",
    "write_records",
]


def __getattr__(name: str) -> object:
    """Import a public name's module."""
    for module in ("fitting", "spaces", "searching", "statistics") if name in __all__ else ():
        found = import_module(f"{__name__}.{module}")
        if hasattr(found, name):
            return getattr(found, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
