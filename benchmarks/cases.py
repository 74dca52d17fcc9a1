"""What is measured together: rows on the same images, for the same purpose."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from regnet_backbones import zoo
from regnet_backbones.design import Complexity, complexity

Part = Literal["features", "detector", "segmenter", "deeplabv3plus"]
Precision = Literal["fp32", "bf16", "int8"]

PRECISIONS: tuple[str, ...] = get_args(Precision)
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of torch

# What a mode of the command line measures: a part, and whether it is trained.
MODES: dict[str, tuple[tuple[Part, bool], ...]] = {
    "forward": (("features", False),),
    "training": (("features", True),),
    "detector": (("detector", False), ("detector", True)),
    "segmenter": (("segmenter", False), ("segmenter", True)),
    "deeplabv3plus": (("deeplabv3plus", False),),  # trained on two images at least
}


@dataclass(frozen=True)
class Case:
    """Rows of one case are measured in turns, and their ratios mean something.

    Attributes:
        part: "features" (C2 to C5 alone), "detector" (Mask R-CNN), "segmenter" (U-Net) or
            "deeplabv3plus".
        training: forward and backward, rather than forward alone.
        variant: a name of `regnet_backbones.zoo.names()`.
        size: height and width of the images.
        batch: images of a call.
        device: "cpu" or "cuda".
    """

    part: Part
    training: bool
    variant: str
    size: tuple[int, int]
    batch: int
    device: str = "cpu"

    @property
    def title(self) -> str:
        """Name the case for people."""
        height, width = self.size
        purpose = "training" if self.training else "inference"
        return (
            f"{self.part}, {purpose}, {self.variant}, {height}x{width}, batch {self.batch}, "
            f"{self.device}"
        )

    @property
    def cost(self) -> Complexity | None:
        """What the extractor computes of an image; None of a model, or without a known design."""
        design = zoo.get(self.variant).design
        if design is None or self.part != "features":
            return None
        return complexity(design, self.size, num_classes=None)

    def images(self) -> torch.Tensor:
        """Return the images (N, 3, H, W), float32, the same for every row."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch, 3, *self.size, generator=generator)
        return images.to(self.device)
