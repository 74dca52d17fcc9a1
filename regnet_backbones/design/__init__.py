"""RegNet designs: their law, what they cost, the spaces they come from, and how to find one.

- `law.py`: `RegNetDesign`, the numbers of a network, and the stages that follow from them;
  `blocks.py`: stages and their groups, and `AnyNetDesign`, four stages of free numbers.
- `cost.py`: `complexity`, the multiply-adds, parameters and activations of a design.
- `rules.py`: `check_rules`, what the paper found of good networks.
- `fitting.py`: `fit`, the law nearest to the widths of any network, and `scale`, a larger or
  smaller network by the same law.
- `formats.py`: a design for Detectron2, SMP and timm; `records.py`: designs as JSON, and back.
- `spaces.py`: the design spaces of the paper; `searching.py`: `sample`, networks of a space within
  bounds, and `search`, those that are measured within limits, too. They take numpy.
- `statistics.py`: `edf` and `compare`, empirical distribution functions of any number. It takes
  scipy.

What measures on a device is `regnet_backbones.measure`. What takes numpy or scipy is imported when
one of its names is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from regnet_backbones.design.blocks import (
    NUM_STAGES,
    STRIDE,
    TORCHVISION_MIN_RATIO,
    Activation,
    AnyNetDesign,
    Rounding,
    Shortcut,
    Stage,
)
from regnet_backbones.design.cost import IMAGE_CHANNELS, Complexity, complexity
from regnet_backbones.design.fitting import Fit, Scaled, fit, scale
from regnet_backbones.design.formats import FORMATS, to_format
from regnet_backbones.design.law import (
    WIDTH_QUANTUM,
    BlockWidths,
    Design,
    RegNetDesign,
    UnbuildableError,
)
from regnet_backbones.design.records import design_of, read_records, row_of, write_records
from regnet_backbones.design.rules import Rule, check_rules

if TYPE_CHECKING:
    from regnet_backbones.design.searching import (
        Bounds,
        Candidate,
        Found,
        Limits,
        Sample,
        best,
        pareto_front,
        sample,
        search,
    )
    from regnet_backbones.design.spaces import SPACES, Space, get_space
    from regnet_backbones.design.statistics import (
        Comparison,
        Edf,
        Summary,
        column,
        compare,
        edf,
        summarize,
    )

__all__ = [
    "FORMATS",
    "IMAGE_CHANNELS",
    "NUM_STAGES",
    "SPACES",
    "STRIDE",
    "TORCHVISION_MIN_RATIO",
    "WIDTH_QUANTUM",
    "Activation",
    "AnyNetDesign",
    "BlockWidths",
    "Bounds",
    "Candidate",
    "Comparison",
    "Complexity",
    "Design",
    "Edf",
    "Fit",
    "Found",
    "Limits",
    "RegNetDesign",
    "Rounding",
    "Rule",
    "Sample",
    "Scaled",
    "Shortcut",
    "Space",
    "Stage",
    "Summary",
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
    "summarize",
    "to_format",
    "write_records",
]

_LAZY = {
    "searching": (
        "Bounds",
        "Candidate",
        "Found",
        "Limits",
        "Sample",
        "best",
        "pareto_front",
        "sample",
        "search",
    ),
    "spaces": ("SPACES", "Space", "get_space"),
    "statistics": ("Comparison", "Edf", "Summary", "column", "compare", "edf", "summarize"),
}


def __getattr__(name: str) -> object:
    """Import a public name's module."""
    for module, names in _LAZY.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
