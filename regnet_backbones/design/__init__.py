"""RegNet designs: their law, what they cost, the spaces they come from, and how to find one.

- `law.py`: `RegNetDesign`, the numbers of a network, and the stages that follow from them.
- `anynet.py`: `AnyNetDesign`, four stages of free numbers.
- `cost.py`: `complexity`, the multiply-adds, parameters and activations of a design.
- `rules.py`: `check_rules`, what the paper found of good networks.
- `fitting.py`: `fit`, the law nearest to the widths of any network.
- `scaling.py`: `scale`, a larger network in the proportions of a small one.
- `spaces.py`: the design spaces of the paper; `sampling.py`: `sample`, networks of a space within
  bounds; `searching.py`: `search`, those that are measured within limits, too.
- `distribution.py`: `edf` and `compare`, empirical distribution functions of any number.
- `formats.py`: a design for Detectron2, SMP and timm; `records.py`: designs as JSON, and back.

All of it is standard library; what measures on a device is `regnet_backbones.measure`. What is not
needed to build a network is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from regnet_backbones.design.anynet import AnyNetDesign, Design
from regnet_backbones.design.cost import IMAGE_CHANNELS, Complexity, complexity
from regnet_backbones.design.law import (
    NUM_STAGES,
    STRIDE,
    TORCHVISION_MIN_RATIO,
    WIDTH_QUANTUM,
    Activation,
    BlockWidths,
    RegNetDesign,
    Rounding,
    Shortcut,
    Stage,
    UnbuildableError,
)

if TYPE_CHECKING:
    from regnet_backbones.design.distribution import (
        Comparison,
        Edf,
        Summary,
        column,
        compare,
        edf,
        summarize,
    )
    from regnet_backbones.design.fitting import Fit, fit
    from regnet_backbones.design.formats import FORMATS, to_format
    from regnet_backbones.design.records import design_of, read_records, row_of, write_records
    from regnet_backbones.design.rules import Rule, check_rules
    from regnet_backbones.design.sampling import Bounds, Candidate, Sample, sample
    from regnet_backbones.design.scaling import Scaled, scale
    from regnet_backbones.design.searching import Found, Limits, best, pareto_front, search
    from regnet_backbones.design.space_kinds import Space
    from regnet_backbones.design.spaces import SPACES, get_space

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

# Modules that are imported when one of their names is asked for.
_LAZY = {
    "distribution": ("Comparison", "Edf", "Summary", "column", "compare", "edf", "summarize"),
    "fitting": ("Fit", "fit"),
    "formats": ("FORMATS", "to_format"),
    "records": ("design_of", "read_records", "row_of", "write_records"),
    "rules": ("Rule", "check_rules"),
    "sampling": ("Bounds", "Candidate", "Sample", "sample"),
    "scaling": ("Scaled", "scale"),
    "searching": ("Found", "Limits", "best", "pareto_front", "search"),
    "space_kinds": ("Space",),
    "spaces": ("SPACES", "get_space"),
}


def __getattr__(name: str) -> object:
    """Import a public name's module."""
    for module, names in _LAZY.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
