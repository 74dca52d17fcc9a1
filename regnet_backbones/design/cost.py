"""What a network costs: multiply-adds, parameters and activations, layer by layer.

Source: pycls `pycls/models/blocks.py`, where each layer has such a twin that counts. A convolution
without bias has as many multiply-adds for each pixel of its output as it has weights; a batch or
group norm has a weight and a bias for each channel and no multiply-adds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral

from regnet_backbones.design.law import RegNetDesign, Stage, positive_integer
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

    def __mul__(self, times: int) -> "Complexity":
        """Multiply the three numbers, of one block, by the number of blocks."""
        return Complexity(self.flops * times, self.params * times, self.activations * times)


def short(value: float, space: str = "") -> str:
    """Return a number with three digits and a unit, with a `space` between them: 3.2G, 19.4M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{space}{unit}"
    return f"{value:.3g}"


def complexity(
    design: RegNetDesign, image_size: ImageSize = 224, num_classes: int | None = 1000
) -> Complexity:
    """Return what a design costs for one RGB image, and the share of each part.

    Args:
        design: the network.
        image_size: side of a square image, or (height, width); each stride rounds up.
        num_classes: outputs of the classifier; None for the backbone alone, without the head.

    Raises:
        ValueError: a size or the number of classes is not a positive integer.
    """
    stem_pixels, *pixels = _map_pixels(image_size, 1 + len(design.stages))
    width_in = design.stem_width
    weights = 9 * IMAGE_CHANNELS * width_in
    norm = 0 if design.preact else 2 * width_in
    stem = Complexity(weights * stem_pixels, weights + norm, width_in * stem_pixels)
    parts = {"stem": stem}
    pixels_in = stem_pixels
    for i, (stage, pixels_out) in enumerate(zip(design.stages, pixels, strict=True), start=1):
        first = _block(design, stage, width_in, pixels_in, pixels_out, True)
        other = _block(design, stage, stage.width, pixels_out, pixels_out, False)
        parts[f"s{i}"] = first + other * (stage.depth - 1)
        width_in, pixels_in = stage.width, pixels_out
    parts["head"] = Complexity()
    if num_classes is not None:
        positive_integer("num_classes", num_classes, "None for the backbone alone")
        head = design.head_width
        weights = width_in * head
        linear = ((head or width_in) + 1) * num_classes
        parts["head"] = Complexity(
            weights * pixels_in + linear,
            weights + 2 * head + linear,
            head * pixels_in + num_classes,
        )
    return replace(sum(parts.values(), start=Complexity()), parts=parts)


def _map_pixels(image_size: ImageSize, count: int) -> list[int]:
    """Return the pixels in the maps of so many layers of stride 2, each of which rounds up."""
    size = (image_size, image_size) if isinstance(image_size, Integral) else image_size
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise UserError(f"image_size must be an integer or (height, width), got {image_size!r}")
    height, width = (positive_integer("image_size", side, "in pixels") for side in size)
    pixels = []
    for _ in range(count):
        height, width = -(-height // 2), -(-width // 2)
        pixels.append(height * width)
    return pixels


def _block(
    design: RegNetDesign, stage: Stage, width_in: int, pixels_in: int, pixels: int, is_first: bool
) -> Complexity:
    """Count a bottleneck: 1x1, grouped 3x3 with the stride, 1x1, and what belongs to them."""
    width, bottleneck = stage.width, stage.bottleneck_width
    reduce = width_in * bottleneck
    after_stride = 9 * bottleneck * stage.group_width + bottleneck * width
    outputs = bottleneck + width
    # Pre-activation normalises what a convolution takes, otherwise what it gives.
    normed = 2 * bottleneck + (width_in if design.preact else width)
    if is_first and design.shortcut != "none":  # the projection
        after_stride += width_in * width
        outputs += width
        normed += 0 if design.preact else width
    # Squeeze-and-excitation: two 1x1 convolutions with bias on a pooled map of one pixel.
    squeezed = round(width_in * design.se_ratio)
    excited = squeezed + bottleneck if squeezed else 0
    squeeze = 2 * squeezed * bottleneck + excited
    return Complexity(
        reduce * pixels_in + after_stride * pixels + squeeze,
        reduce + after_stride + 2 * normed + squeeze,
        bottleneck * pixels_in + outputs * pixels + excited,
    )
