"""RegNet designs: quantized linear widths, stages, and what a network costs.

Source: "Designing Network Design Spaces" (arXiv 2003.13678), section 3.3, whose symbols are used
here, and the authors' implementation, pycls `pycls/models/regnet.py` (the generator) and
`pycls/models/blocks.py` (width and group compatibility, complexity). A network of `depth` blocks:

    u_j = w_0 + w_a * j                  a straight line over the blocks j = 0 ... depth - 1
    s_j = log(u_j / w_0) / log(w_m)      as an exponent of w_m
    w_j = w_0 * w_m ** round(s_j)        to the nearest power, then to a multiple of 8

Runs of equal `w_j` are the stages; last, each stage's width is made to fit its group width. All of
it is float64, with ties to even, as in pycls.

Other projects' names for the same numbers:

    here                   pycls, detectron2   timm           torchvision
    w_0                    W0                  w0             w_0
    w_a                    WA                  wa             w_a
    w_m                    WM                  wm             w_m
    depth                  DEPTH               depth          depth
    group_width            GROUP_W             group_size     group_width
    bottleneck_multiplier  BOT_MUL             bottle_ratio   bottleneck_multiplier
    se_ratio               SE_R                se_ratio       se_ratio
    stem_width             STEM_W              stem_width     stem_width
    shortcut                                   downsample
    head_width                                 num_features
    norm_group_width                           norm_layer's group_size
    rounding="torchvision"                     group_min_ratio=0.9, always in torchvision

Where the multiplier is above 1, pycls fits widths to the least common multiple of multiplier and
group width, timm to the group width. For a whole multiplier, a design on which the two disagree is
an error here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import cached_property
from itertools import groupby
from numbers import Integral, Real
from typing import Literal, get_args

NUM_STAGES = 4
STRIDE = 2  # of the stem and of every stage
WIDTH_QUANTUM = 8  # per-block widths are multiples of this
IMAGE_CHANNELS = 3

# torchvision takes the next multiple up when rounding would lose more than a tenth of the width.
TORCHVISION_MIN_RATIO = 0.9

# What a number must be: a test, and the words for it.
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "w_0": (lambda v: v > 0 and v % WIDTH_QUANTUM == 0, "a positive multiple of 8"),
    "w_a": (lambda v: v >= 0, "at least 0"),
    "w_m": (lambda v: v > 1, "above 1"),
    "depth": (lambda v: v >= NUM_STAGES, "at least 4, one block a stage"),
    "group_width": (lambda v: v >= 1, "at least 1"),
    "bottleneck_multiplier": (lambda v: v > 0, "above 0"),
    "se_ratio": (lambda v: 0 <= v <= 1, "in [0, 1], 0 for no squeeze-and-excitation"),
    "stem_width": (lambda v: v >= 1, "at least 1"),
    "head_width": (lambda v: v >= 0, "at least 0, 0 for no convolution"),
    "norm_group_width": (lambda v: v >= 0, "at least 0, 0 for batch norm"),
}

Activation = Literal["relu", "silu"]
Rounding = Literal["paper", "torchvision"]
Shortcut = Literal["conv1x1", "avg", "none"]


@dataclass(frozen=True)
class Stage:
    """A run of blocks of one width; the first block has the stride.

    The 3x3 convolution of a block has `bottleneck_width` channels, `group_width` in each group.
    """

    width: int
    depth: int
    stride: int
    group_width: int
    bottleneck_width: int


@dataclass(frozen=True)
class BlockWidths:
    """Per-block widths before they are fitted to the group width.

    `continuous` holds the line u_j, `quantized` the w_j.
    """

    continuous: tuple[float, ...]
    quantized: tuple[int, ...]


@dataclass(frozen=True)
class RegNetDesign:
    """The numbers that define a RegNet of four stages.

    Args:
        w_0: width of the first block before quantization, a multiple of 8.
        w_a: slope, by which the width grows from block to block.
        w_m: ratio between the widths of neighbouring stages, above 1.
        depth: number of blocks.
        group_width: channels in a group of the 3x3 convolutions; a narrower stage is one group.
        bottleneck_multiplier: width of the 3x3 convolution over the width of the block.
        se_ratio: squeeze-and-excitation width over the width of the block's input; 0 for none.
        stem_width: channels of the stem.
        rounding: how a stage's width is fitted to its group width: "paper" takes the nearest
            multiple, torchvision's keeps at least 0.9 of the width.
        activation: "relu" or "silu".
        preact: normalise and activate before each convolution, as in RegNetV.
        shortcut: projection where a block changes shape: a strided 1x1 convolution; average pooling
            and a 1x1 convolution; or none, so that such a block has no shortcut (RegNetZ).
        linear_out: no activation behind the sum of a block, as in RegNetZ.
        head_width: channels of a 1x1 convolution before the classifier; 0 for none.
        norm_group_width: channels in a group of group norm; 0 for batch norm.

    Raises:
        ValueError: a number is out of range, the widths do not form exactly four stages, or they
            cannot be divided into groups.
    """

    w_0: int
    w_a: float
    w_m: float
    depth: int
    group_width: int
    _: KW_ONLY
    bottleneck_multiplier: float = 1.0
    se_ratio: float = 0.0
    stem_width: int = 32
    rounding: Rounding = "paper"
    activation: Activation = "relu"
    preact: bool = False
    shortcut: Shortcut = "conv1x1"
    linear_out: bool = False
    head_width: int = 0
    norm_group_width: int = 0

    def __post_init__(self):
        """Raise for numbers that give no network."""
        _check_types(self)
        _check_ranges(self)
        _check_stages(self)

    @cached_property
    def block_widths(self) -> BlockWidths:
        """Continuous and quantized width of each block."""
        line = tuple(self.w_0 + self.w_a * j for j in range(self.depth))
        exponents = (round(math.log(u / self.w_0) / math.log(self.w_m)) for u in line)
        powers = (self.w_0 * self.w_m**s for s in exponents)
        quantized = tuple(round(w / WIDTH_QUANTUM) * WIDTH_QUANTUM for w in powers)
        return BlockWidths(line, quantized)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The four stages, with compatible widths and group widths."""
        runs = [(width, len(list(run))) for width, run in groupby(self.block_widths.quantized)]
        return tuple(self._stage(width, depth) for width, depth in runs)

    def _stage(self, width: int, depth: int) -> Stage:
        """Fit a stage's width to its group width."""
        bottleneck = int(width * self.bottleneck_multiplier)
        group_width = min(self.group_width, bottleneck)
        if group_width:
            round_to = _nearest_multiple if self.rounding == "paper" else _torchvision_multiple
            bottleneck = round_to(bottleneck, group_width)
        fitted = int(bottleneck / self.bottleneck_multiplier)
        # A block computes its bottleneck from its width, `_check_groups` refuses what that breaks.
        bottleneck = round(fitted * self.bottleneck_multiplier)
        return Stage(fitted, depth, STRIDE, group_width, bottleneck)


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


def _nearest_multiple(width: int, divisor: int) -> int:
    """Round to the nearest multiple, ties to the even one."""
    return round(width / divisor) * divisor


def _torchvision_multiple(width: int, divisor: int) -> int:
    """Round to the nearest multiple, ties up, but not below 0.9 of the width."""
    multiple = int(width + divisor / 2) // divisor * divisor
    return multiple + divisor if multiple < TORCHVISION_MIN_RATIO * width else multiple


def _check_types(design: RegNetDesign) -> None:
    """Raise for values of a wrong type; make plain Python numbers of what comes from numpy."""
    choices = {"rounding": Rounding, "activation": Activation, "shortcut": Shortcut}
    for spec in fields(design):
        value = getattr(design, spec.name)
        if spec.name in choices:
            allowed = get_args(choices[spec.name])
            if value not in allowed:
                known = ", ".join(map(repr, allowed))
                raise ValueError(f"{spec.name} must be one of {known}, got {value!r}")
        elif spec.type is bool:
            if not isinstance(value, bool):
                raise ValueError(f"{spec.name} must be True or False, got {value!r}")
        elif spec.type is int:
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise ValueError(f"{spec.name} must be an integer, got {value!r}")
            object.__setattr__(design, spec.name, int(value))
        else:
            if not isinstance(value, Real) or isinstance(value, bool) or not _is_finite(value):
                raise ValueError(f"{spec.name} must be a finite number, got {value!r}")
            object.__setattr__(design, spec.name, float(value))


def _is_finite(value: Real) -> bool:
    """Tell whether a number is finite as a float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _check_ranges(design: RegNetDesign) -> None:
    """Raise for the first number that is out of its range."""
    for name, (allows, rule) in _RANGES.items():
        value = getattr(design, name)
        if not allows(value):
            raise ValueError(f"{name} must be {rule}, got {value}")
    if design.preact and design.linear_out:
        raise ValueError(
            "preact=True leaves no activation behind the sum of a block that linear_out=True could "
            "drop; set one of the two"
        )


def _check_stages(design: RegNetDesign) -> None:
    """Raise for a design that has not four stages, or whose layers cannot be built."""
    try:
        stages, widths = design.stages, sorted(set(design.block_widths.quantized))
    except OverflowError:
        raise ValueError(
            f"the widths of {design} are too large for a float; lower w_0, w_a or "
            "bottleneck_multiplier"
        ) from None
    if len(stages) != NUM_STAGES:
        too_few = len(stages) < NUM_STAGES
        advice = (
            "raise w_a or depth, or lower w_m" if too_few else "lower w_a or depth, or raise w_m"
        )
        raise ValueError(
            f"the design must give exactly 4 stages, got {len(stages)} (block widths "
            f"{_shorten(widths)}); {advice}"
        )
    for i, stage in enumerate(stages, start=1):
        _check_groups(design, stage, f"stage {i}")
    _check_se(design)
    _check_norm(design)


def _check_groups(design: RegNetDesign, stage: Stage, where: str) -> None:
    """Raise unless the bottleneck is a whole number of channels and of groups."""
    bottleneck = stage.width * design.bottleneck_multiplier
    # A multiplier such as 0.7 has no exact float, the last bits are forgiven.
    whole = math.isclose(bottleneck, stage.bottleneck_width, rel_tol=1e-9)
    if stage.group_width < 1 or not whole or stage.bottleneck_width % stage.group_width:
        raise ValueError(
            f"{where}: no width fits group_width {design.group_width} and bottleneck_multiplier "
            f"{design.bottleneck_multiplier:g}: the nearest, {stage.width}, has a bottleneck of "
            f"{bottleneck:g} channels, not a positive multiple of {max(1, stage.group_width)}; "
            "take a group_width divisible by the multiplier, or a multiplier such as 0.5, 1, 2 or 4"
        )


def _check_se(design: RegNetDesign) -> None:
    """Raise when squeeze-and-excitation would have no channel."""
    narrowest = min(design.stem_width, *(stage.width for stage in design.stages))
    if design.se_ratio and _se_width(design, narrowest) < 1:
        raise ValueError(
            f"se_ratio {design.se_ratio:g} of {narrowest} channels rounds to 0; take 0 for no "
            f"squeeze-and-excitation, or at least {1 / narrowest:.2g}"
        )


def _check_norm(design: RegNetDesign) -> None:
    """Raise when group norm cannot divide a layer's channels."""
    if not design.norm_group_width:
        return
    widths = {design.stem_width, design.head_width}
    widths |= {w for stage in design.stages for w in (stage.width, stage.bottleneck_width)}
    indivisible = sorted(w for w in widths if w % design.norm_group_width)
    if indivisible:
        raise ValueError(
            f"norm_group_width {design.norm_group_width} does not divide the layers of "
            f"{_shorten(indivisible)} channels; take a divisor of all widths, or 0 for batch norm"
        )


def _shorten(numbers: list[int], limit: int = 8) -> str:
    """List the first numbers."""
    return ", ".join(map(str, numbers[:limit])) + (", ..." if len(numbers) > limit else "")


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
        layers.append(_se(bottleneck, _se_width(design, width_in)))
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


def _se_width(design: RegNetDesign, width_in: int) -> int:
    """Return the channels of squeeze-and-excitation, a share of the block's input."""
    return round(width_in * design.se_ratio)


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
