"""What a network costs: multiply-adds, parameters and activations, layer by layer.

Source: pycls `pycls/models/blocks.py`, where each layer has such a twin that counts. The twins take
numbers, or arrays of as many networks. A convolution without bias has as many multiply-adds for
each pixel of its output as it has weights; a batch or group norm has a weight and a bias for each
channel and no multiply-adds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral

from regnet_backbones.design.blocks import (
    NUM_STAGES,
    NUMBERS,
    Arithmetic,
    Numbers,
    Stage,
    positive_integer,
)
from regnet_backbones.design.law import Design
from regnet_backbones.errors import UserError

IMAGE_CHANNELS = 3

ImageSize = int | tuple[int, int]


@dataclass(frozen=True)
class Complexity:
    """What a network, or a part of it, costs for one image.

    Attributes:
        flops: multiply-adds of the convolutions and linear layers; adding a bias counts as one.
        params: learnable parameters of all layers.
        activations: elements in the outputs of the convolutions and linear layers.
        parts: the same for "stem", "s1" to "s4" and "head", which sum to this; empty in a part.
    """

    flops: int = 0
    params: int = 0
    activations: int = 0
    parts: Mapping[str, "Complexity"] = field(default_factory=dict, compare=False)

    def __add__(self, other: "Complexity") -> "Complexity":
        """Add the three numbers; the sum has no parts."""
        return Complexity(
            self.flops + other.flops,
            self.params + other.params,
            self.activations + other.activations,
        )


def complexity(
    design: Design, image_size: ImageSize = 224, num_classes: int | None = 1000
) -> Complexity:
    """Count what a design costs for one RGB image.

    Args:
        design: the network.
        image_size: side of a square image, or (height, width); each stride rounds up.
        num_classes: outputs of the classifier; None for the backbone alone, without the head's
            convolution and classifier.

    Returns:
        The totals, and the share of each part in `parts`.

    Raises:
        ValueError: a size or the number of classes is not a positive integer.
    """
    parts = count_parts(
        design.stages,
        image_size,
        num_classes,
        stem_width=design.stem_width,
        se_ratio=design.se_ratio,
        preact=design.preact,
        projection=design.shortcut != "none",
        head_width=design.head_width,
    )
    return replace(sum(parts.values(), start=Complexity()), parts=parts)


def count_parts(
    stages: Sequence[Stage],
    image_size: ImageSize,
    num_classes: int | None,
    *,
    stem_width: int,
    se_ratio: float,
    preact: bool = False,
    projection: bool = True,
    head_width: int = 0,
    ops: Arithmetic = NUMBERS,
) -> dict[str, Complexity]:
    """Count stem, stages and head, of one network or, where stages hold arrays, of many."""
    pixels = map_pixels(image_size)
    check_num_classes(num_classes)
    stem = 9 * IMAGE_CHANNELS * stem_width
    stem_norm = 0 if preact else 2 * stem_width
    parts = {"stem": Complexity(stem * pixels[0], stem + stem_norm, stem_width * pixels[0])}
    width_in: Numbers = stem_width
    for i, stage in enumerate(stages):
        first = _block(stage, width_in, pixels[i], pixels[i + 1], projection, preact)
        others = _block(stage, stage.width, pixels[i + 1], pixels[i + 1], False, preact)
        if se_ratio:
            first += _squeeze(ops.rint(width_in * se_ratio), stage)
            others += _squeeze(ops.rint(stage.width * se_ratio), stage)
        more = stage.depth - 1
        parts[f"s{i + 1}"] = Complexity(
            first.flops + more * others.flops,
            first.params + more * others.params,
            first.activations + more * others.activations,
        )
        width_in = stage.width
    parts["head"] = Complexity()
    if num_classes is not None:
        weights = width_in * head_width
        linear = ((head_width or width_in) + 1) * num_classes
        parts["head"] = Complexity(
            weights * pixels[-1] + linear,
            weights + 2 * head_width + linear,
            head_width * pixels[-1] + num_classes,
        )
    return parts


def map_pixels(image_size: ImageSize) -> tuple[int, ...]:
    """Return the pixels in a map of the stem and of each stage; each stride 2 rounds up."""
    size = (image_size, image_size) if isinstance(image_size, Integral) else image_size
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise UserError(f"image_size must be an integer or (height, width), got {image_size!r}")
    height, width = (positive_integer("image_size", side, "in pixels") for side in size)
    pixels = []
    for _ in range(1 + NUM_STAGES):
        height, width = -(-height // 2), -(-width // 2)
        pixels.append(height * width)
    return tuple(pixels)


def check_num_classes(num_classes: int | None) -> None:
    """Raise for what is neither a positive integer nor None, for the backbone alone."""
    if num_classes is not None:
        positive_integer("num_classes", num_classes, "None for the backbone alone")


def _block(
    stage: Stage, width_in: Numbers, pixels_in: int, pixels: int, projection: bool, preact: bool
) -> Complexity:
    """Count a bottleneck: 1x1, grouped 3x3 with the stride, 1x1, and what goes with them."""
    width, bottleneck = stage.width, stage.bottleneck_width
    reduce = width_in * bottleneck
    after_stride = 9 * bottleneck * stage.group_width + bottleneck * width
    outputs = bottleneck + width
    # Pre-activation normalises what a convolution takes, otherwise what it gives.
    normed = 2 * bottleneck + (width_in if preact else width)
    if projection:
        after_stride = after_stride + width_in * width
        outputs = outputs + width
        normed = normed + (0 if preact else width)
    return Complexity(
        reduce * pixels_in + after_stride * pixels,
        reduce + after_stride + 2 * normed,
        bottleneck * pixels_in + outputs * pixels,
    )


def _squeeze(squeezed: Numbers, stage: Stage) -> Complexity:
    """Count squeeze-and-excitation: two 1x1 convolutions with bias on a pooled map of one pixel."""
    outputs = squeezed + stage.bottleneck_width
    weights = 2 * squeezed * stage.bottleneck_width + outputs
    return Complexity(weights, weights, outputs)
