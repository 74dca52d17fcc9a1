"""What a network costs: multiply-adds, parameters and activations, layer by layer.

Source: pycls `pycls/models/blocks.py`, where each layer has such a twin that counts. A search
counts hundreds of thousands of networks: counts are tuples of integers until the end, and of the
blocks of a stage behind its first, all alike, one is counted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral

from regnet_backbones.design.anynet import Design
from regnet_backbones.design.checks import positive_integer
from regnet_backbones.design.law import NUM_STAGES, Stage, se_width
from regnet_backbones.errors import UserError

IMAGE_CHANNELS = 3

Counts = tuple[int, int, int]  # flops, params, activations
StageNumbers = tuple[int, int, int, int]  # width, depth, group width, bottleneck width


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
    pixels = map_pixels(image_size)
    num_classes = checked_num_classes(num_classes)
    counts = {"stem": _stem(design.stem_width, pixels[0], design.preact)}
    width_in = design.stem_width
    for i, stage in enumerate(design.stages, start=1):
        counts[f"s{i}"] = _stage(
            stage_numbers(stage),
            width_in,
            pixels[i - 1],
            pixels[i],
            (se_width(design, width_in), se_width(design, stage.width)),
            design.shortcut != "none",
            design.preact,
        )
        width_in = stage.width
    counts["head"] = _head(width_in, pixels[-1], design.head_width, num_classes)
    parts = {name: Complexity(*numbers) for name, numbers in counts.items()}
    flops, params, activations = map(sum, zip(*counts.values(), strict=True))
    return Complexity(flops, params, activations, parts)


def total_counts(
    stages: Iterable[StageNumbers],
    pixels: tuple[int, ...],
    stem_width: int,
    se_ratio: float,
    num_classes: int | None,
) -> Counts:
    """Count a RegNetX, RegNetY or AnyNet without building its design; `pixels`: `map_pixels`."""
    flops, params, activations = _stem(stem_width, pixels[0], False)
    width_in, se_in = stem_width, round(stem_width * se_ratio)
    for i, stage in enumerate(stages):
        se = round(stage[0] * se_ratio)
        more = _stage(stage, width_in, pixels[i], pixels[i + 1], (se_in, se), True, False)
        flops += more[0]
        params += more[1]
        activations += more[2]
        width_in, se_in = stage[0], se
    more = _head(width_in, pixels[-1], 0, num_classes)
    return flops + more[0], params + more[1], activations + more[2]


def stage_numbers(stage: Stage) -> StageNumbers:
    """Return what a stage is counted by."""
    return stage.width, stage.depth, stage.group_width, stage.bottleneck_width


def map_pixels(image_size: int | tuple[int, int]) -> tuple[int, ...]:
    """Return the pixels in a map of the stem and of each stage; each stride 2 rounds up.

    Raises:
        ValueError: the size is no positive integer or pair of them.
    """
    height, width = _checked_size(image_size)
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


def _checked_size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width)."""
    size = (image_size, image_size) if isinstance(image_size, Integral) else image_size
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise UserError(f"image_size must be an integer or (height, width), got {image_size!r}")
    height, width = (positive_integer("image_size", side, "in pixels") for side in size)
    return height, width


# The costs below mirror the layers. A convolution without bias has as many multiply-adds per pixel
# of its output as it has weights; a batch or group norm has a weight and a bias per channel and no
# multiply-adds.


def _stem(width: int, pixels: int, preact: bool) -> Counts:
    """Count the 3x3 convolution and, unless the blocks begin with one, its norm."""
    weights = 9 * IMAGE_CHANNELS * width
    return weights * pixels, weights + (0 if preact else 2 * width), width * pixels


def _stage(
    stage: StageNumbers,
    width_in: int,
    pixels_in: int,
    pixels: int,
    se_widths: tuple[int, int],
    shortcut: bool,
    preact: bool,
) -> Counts:
    """Count a first block, which changes width and resolution, and the others.

    `se_widths` are those of the first block and of the others; `shortcut`: whether the first block
    has a projection.
    """
    depth = stage[1]
    first = _block(stage, width_in, pixels_in, pixels, se_widths[0], shortcut, preact)
    if depth == 1:
        return first
    rest = _block(stage, stage[0], pixels, pixels, se_widths[1], False, preact)
    depth -= 1
    return (
        first[0] + depth * rest[0],
        first[1] + depth * rest[1],
        first[2] + depth * rest[2],
    )


def _block(
    stage: StageNumbers,
    width_in: int,
    pixels_in: int,
    pixels: int,
    se_width: int,
    projection: bool,
    preact: bool,
) -> Counts:
    """Count a bottleneck: 1x1, grouped 3x3 with the stride, 1x1, and what goes with them."""
    width, _, group_width, bottleneck = stage
    reduce = width_in * bottleneck
    behind_stride = 9 * bottleneck * group_width + bottleneck * width
    outputs = bottleneck + width
    # Pre-activation normalises what a convolution takes, otherwise what it gives.
    normed = 2 * bottleneck + (width_in if preact else width)
    if projection:
        behind_stride += width_in * width
        outputs += width
        normed += 0 if preact else width
    flops = reduce * pixels_in + behind_stride * pixels
    params = reduce + behind_stride + 2 * normed
    activations = bottleneck * pixels_in + outputs * pixels
    if se_width:
        # Squeeze-and-excitation: two 1x1 convolutions with bias on a pooled map of one pixel.
        squeezed = se_width + bottleneck
        weights = 2 * se_width * bottleneck + squeezed
        return flops + weights, params + weights, activations + squeezed
    return flops, params, activations


def _head(width_in: int, pixels: int, head_width: int, num_classes: int | None) -> Counts:
    """Count the optional 1x1 convolution with its norm, and the classifier on pooled maps."""
    if num_classes is None:
        return 0, 0, 0
    weights = width_in * head_width
    linear = ((head_width or width_in) + 1) * num_classes
    return (
        weights * pixels + linear,
        weights + 2 * head_width + linear,
        head_width * pixels + num_classes,
    )
