"""What a network costs: multiply-adds, parameters and activations, layer by layer.

Source: pycls `pycls/models/blocks.py`, where each layer has such a twin that counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral

from regnet_backbones.design.law import STRIDE, RegNetDesign, Stage, se_width

IMAGE_CHANNELS = 3


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
    design: RegNetDesign,
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
    size = _halve(_checked_size(image_size))
    parts = {"stem": _stem(design, size)}
    width_in = design.stem_width
    for i, stage in enumerate(design.stages, start=1):
        parts[f"s{i}"] = _stage_cost(design, stage, width_in, size)
        width_in, size = stage.width, _halve(size)
    if num_classes is None:
        parts["head"] = Complexity()
    else:
        _check_positive("num_classes", num_classes, "None for the backbone alone")
        parts["head"] = _head(design, width_in, size, int(num_classes))
    total = _sum(*parts.values())
    return Complexity(total.flops, total.params, total.activations, parts)


def _checked_size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width)."""
    size = (image_size, image_size) if isinstance(image_size, Integral) else image_size
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"image_size must be an integer or (height, width), got {image_size!r}")
    for side in size:
        _check_positive("image_size", side, "in pixels")
    return int(size[0]), int(size[1])


def _check_positive(name: str, value: int, hint: str) -> None:
    """Raise unless a value is an integer above 0."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer ({hint}), got {value!r}")


# The costs below mirror the layers, `size` is (height, width) of the map a layer takes or gives.


def _stem(design: RegNetDesign, size: tuple[int, int]) -> Complexity:
    """Count the 3x3 convolution and, unless the blocks begin with one, its norm."""
    conv = _conv(IMAGE_CHANNELS, design.stem_width, 3, size)
    return conv if design.preact else conv + _norm(design.stem_width)


def _stage_cost(
    design: RegNetDesign, stage: Stage, width_in: int, size: tuple[int, int]
) -> Complexity:
    """Count the blocks of a stage that takes maps of `width_in` channels and `size`."""
    first = _block(design, stage, width_in, size, stage.stride)
    rest = _block(design, stage, stage.width, _halve(size), 1)
    return _sum(first, *[rest] * (stage.depth - 1))


def _block(
    design: RegNetDesign, stage: Stage, width_in: int, size: tuple[int, int], stride: int
) -> Complexity:
    """Count a bottleneck: 1x1, grouped 3x3 with the stride, 1x1, and what goes with them."""
    size_out = _halve(size) if stride == STRIDE else size
    width, bottleneck = stage.width, stage.bottleneck_width
    # Pre-activation normalises what a convolution takes, otherwise what it gives.
    normed = (
        (width_in, bottleneck, bottleneck) if design.preact else (bottleneck, bottleneck, width)
    )
    layers = [
        _conv(width_in, bottleneck, 1, size),
        _conv(bottleneck, bottleneck, 3, size_out, groups=bottleneck // stage.group_width),
        _conv(bottleneck, width, 1, size_out),
        *map(_norm, normed),
    ]
    if design.se_ratio:
        layers.append(_se(bottleneck, se_width(design, width_in)))
    if design.shortcut != "none" and (stride != 1 or width_in != width):
        layers.append(_conv(width_in, width, 1, size_out))
        if not design.preact:
            layers.append(_norm(width))
    return _sum(*layers)


def _head(
    design: RegNetDesign, width_in: int, size: tuple[int, int], num_classes: int
) -> Complexity:
    """Count the optional 1x1 convolution with its norm, and the classifier on pooled maps."""
    if not design.head_width:
        return _linear(width_in, num_classes)
    conv = _conv(width_in, design.head_width, 1, size)
    return conv + _norm(design.head_width) + _linear(design.head_width, num_classes)


def _se(width: int, se_width: int) -> Complexity:
    """Count squeeze-and-excitation: two 1x1 convolutions with bias on a pooled map."""
    squeeze = _conv(width, se_width, 1, (1, 1), bias=True)
    return squeeze + _conv(se_width, width, 1, (1, 1), bias=True)


def _conv(
    width_in: int,
    width_out: int,
    kernel: int,
    size_out: tuple[int, int],
    *,
    groups: int = 1,
    bias: bool = False,
) -> Complexity:
    """Count a convolution that gives a map of `size_out`."""
    params = kernel * kernel * width_in * width_out // groups + bias * width_out
    pixels = size_out[0] * size_out[1]
    return Complexity(params * pixels, params, width_out * pixels)


def _norm(width: int) -> Complexity:
    """Count a batch or group norm: weight and bias, no multiply-adds."""
    return Complexity(params=2 * width)


def _linear(width_in: int, width_out: int) -> Complexity:
    """Count a linear layer with bias."""
    params = (width_in + 1) * width_out
    return Complexity(params, params, width_out)


def _halve(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of a map after stride 2, rounded up."""
    return -(-size[0] // 2), -(-size[1] // 2)


def _sum(*costs: Complexity) -> Complexity:
    """Add costs."""
    return sum(costs, start=Complexity())
