"""RegNet designs: quantized linear widths, stages, and what a network costs.

- `law.py`: `RegNetDesign`, the numbers of a network, and the stages that follow from them.
- `cost.py`: `complexity`, the multiply-adds, parameters and activations of a design.
"""

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
)

__all__ = [
    "IMAGE_CHANNELS",
    "NUM_STAGES",
    "STRIDE",
    "TORCHVISION_MIN_RATIO",
    "WIDTH_QUANTUM",
    "Activation",
    "BlockWidths",
    "Complexity",
    "RegNetDesign",
    "Rounding",
    "Shortcut",
    "Stage",
    "complexity",
]
