"""What a network costs: multiply-adds, parameters and activations, layer by layer.

Source: pycls `pycls/models/blocks.py`, where each layer has such a twin that counts. The twins take
numbers, or arrays of as many networks. A convolution without bias has as many multiply-adds for
each pixel of its output as it has weights; a batch or group norm has a weight and a bias for each
channel and no multiply-adds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import NamedTuple

from regnet_backbones.design.blocks import NUM_STAGES, Numbers, positive_integer, se_width
from regnet_backbones.design.law import Design
from regnet_backbones.errors import UserError

IMAGE_CHANNELS = 3


class Counts(NamedTuple):
    """Costs of a part, as numbers or as arrays."""

    flops: Numbers
    params: Numbers
    activations: Numbers


class StageNumbers(NamedTuple):
    """What a stage is counted by; `se`: squeeze-and-excitation of its first block and the others.

    `se` is None without squeeze-and-excitation.
    """

    width_in: Numbers
    width: Numbers
    depth: Numbers
    group_width: Numbers
    bottleneck: Numbers
    se: tuple[Numbers, Numbers] | None


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
    design: Design,
    image_size: int | tuple[int, int] = 224,
    num_classes: int | None = 1000,
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
    stages, width_in = [], design.stem_width
    for stage in design.stages:
        se = (se_width(design, width_in), se_width(design, stage.width))
        numbers = width_in, stage.width, stage.depth, stage.group_width, stage.bottleneck_width
        stages.append(StageNumbers(*numbers, se if design.se_ratio else None))
        width_in = stage.width
    counts = count_parts(
        stages,
        map_pixels(image_size),
        checked_num_classes(num_classes),
        preact=design.preact,
        projection=design.shortcut != "none",
        head_width=design.head_width,
    )
    parts = {name: Complexity(*numbers) for name, numbers in counts.items()}
    total = sum(parts.values(), start=Complexity())
    return Complexity(total.flops, total.params, total.activations, parts)


def count_parts(
    stages: Sequence[StageNumbers],
    pixels: Sequence[int],
    num_classes: int | None,
    *,
    preact: bool = False,
    projection: bool = True,
    head_width: int = 0,
) -> dict[str, Counts]:
    """Count stem, stages and head, of one network or of arrays of them.

    `pixels`: as `map_pixels` returns them; `projection`: whether shortcuts have one.
    """
    parts = {"stem": _stem(stages[0].width_in, pixels[0], preact)}
    for i, stage in enumerate(stages):
        parts[f"s{i + 1}"] = _stage(stage, pixels[i], pixels[i + 1], projection, preact)
    parts["head"] = _head(stages[-1].width, pixels[-1], head_width, num_classes)
    return parts


def map_pixels(image_size: int | tuple[int, int]) -> tuple[int, ...]:
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


def checked_num_classes(num_classes: int | None) -> int | None:
    """Return a positive integer, or None for the backbone alone."""
    if num_classes is None:
        return None
    return positive_integer("num_classes", num_classes, "None for the backbone alone")


def _stem(width: Numbers, pixels: int, preact: bool) -> Counts:
    """Count the 3x3 convolution and, unless the blocks begin with one, its norm."""
    weights = 9 * IMAGE_CHANNELS * width
    return Counts(weights * pixels, weights + (0 if preact else 2 * width), width * pixels)


def _stage(
    stage: StageNumbers, pixels_in: int, pixels: int, projection: bool, preact: bool
) -> Counts:
    """Count a first block, which changes width and resolution, and the others, all alike."""
    first = _block(stage, pixels_in, pixels, projection, preact)
    se = None if stage.se is None else (stage.se[1], stage.se[1])
    other = _block(stage._replace(width_in=stage.width, se=se), pixels, pixels, False, preact)
    others = stage.depth - 1
    return Counts(*(one + others * more for one, more in zip(first, other, strict=True)))


def _block(
    stage: StageNumbers, pixels_in: int, pixels: int, projection: bool, preact: bool
) -> Counts:
    """Count a bottleneck: 1x1, grouped 3x3 with the stride, 1x1, and what goes with them."""
    width_in, width, _, group_width, bottleneck, se = stage
    reduce = width_in * bottleneck
    after_stride = 9 * bottleneck * group_width + bottleneck * width
    outputs = bottleneck + width
    # Pre-activation normalises what a convolution takes, otherwise what it gives.
    normed = 2 * bottleneck + (width_in if preact else width)
    if projection:
        after_stride = after_stride + width_in * width
        outputs = outputs + width
        normed = normed + (0 if preact else width)
    flops = reduce * pixels_in + after_stride * pixels
    params = reduce + after_stride + 2 * normed
    activations = bottleneck * pixels_in + outputs * pixels
    if se is None:
        return Counts(flops, params, activations)
    # Squeeze-and-excitation: two 1x1 convolutions with bias on a pooled map of one pixel.
    squeezed = se[0] + bottleneck
    weights = 2 * se[0] * bottleneck + squeezed
    return Counts(flops + weights, params + weights, activations + squeezed)


def _head(width_in: Numbers, pixels: int, head_width: int, num_classes: int | None) -> Counts:
    """Count the optional 1x1 convolution with its norm, and the classifier on pooled maps."""
    if num_classes is None:
        return Counts(0, 0, 0)
    weights = width_in * head_width
    linear = ((head_width or width_in) + 1) * num_classes
    return Counts(
        weights * pixels + linear,
        weights + 2 * head_width + linear,
        head_width * pixels + num_classes,
    )
