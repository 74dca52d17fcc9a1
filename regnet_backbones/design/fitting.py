"""The RegNet law nearest to any network, and larger or smaller networks by the same law.

Sources: "Designing Network Design Spaces" (arXiv 2003.13678), section 3.3; "Fast and Accurate Model
Scaling" (arXiv 2103.06877) and the authors' pycls `pycls/models/scaler.py`.

Fitting: the error of a law is e_fit, the mean over the blocks of |log(predicted / observed)|,
natural logarithm: 0.1 is about a tenth of the width. w_m is searched on a grid, and on a finer one
near the best. For each w_m all slopes that differ are compared: with E_k = w_m ** (k + 1/2) - 1 and
r = w_a / w_0, the exponent of block j is the number of E_k below r * j. So the stages change where
r = E_k / j only, and between two such r one slope stands for all.

Scaling: depth is multiplied by d, widths by w, group widths by g and the side of the image by r, so
that d * w**2 * r**2, the multiply-adds, is the factor. pycls scales the four stages on their own,
which leaves a network that is not a RegNet. Here the law nearest to those stages takes their place.
As in pycls, the stem keeps its width, and so does a convolution before the classifier.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from regnet_backbones.design.cost import complexity
from regnet_backbones.design.law import (
    NUM_STAGES,
    WIDTH_QUANTUM,
    RegNetDesign,
    positive_integer,
    runs,
)
from regnet_backbones.errors import UserError

FAST = "d1_w8_g8_r1"  # the paper's fast compound scaling: mostly wider

# The time of the search grows with the square of the depth.
_MOST_BLOCKS = 256

# The paper's laws have w_m from 1.5 to 3; near 1 any widths have a law.
_RATIOS = [k / 100 for k in range(125, 400)] + [k / 10 for k in range(40, 161)]

# timm computes in float32: laws are left out whose blocks or widths lie so close to the next one.
_MIN_MARGIN = 1e-5

# How far from the best continuous w_0 multiples of 8 are tried.
_QUANTA = np.arange(-4, 5)

_IMAGE_QUANTUM = 4  # image sizes are multiples of this, as in pycls


@dataclass(frozen=True)
class Fit:
    """The law nearest to a network's widths.

    Attributes:
        w_0: width of the first block, a multiple of 8.
        w_a: slope of the widths.
        w_m: ratio between neighbouring stages.
        depth: number of blocks.
        error: mean of `|log(quantized / observed)|` over the blocks, natural logarithm.
        observed: the given width of each block.
        continuous: the line w_0 + w_a * j, for each block.
        quantized: the widths that the law predicts, for each block.
        design: the network, with widths fitted to the group width; None without four stages.
    """

    w_0: int
    w_a: float
    w_m: float
    depth: int
    error: float
    observed: tuple[float, ...]
    continuous: tuple[float, ...]
    quantized: tuple[int, ...]
    design: RegNetDesign | None


@dataclass(frozen=True)
class Scaled:
    """A scaled design, and by what each of its numbers was to be multiplied.

    Attributes:
        design: the scaled network.
        depth: factor of the number of blocks.
        width: factor of the widths of the stages.
        group_width: factor of the group width.
        resolution: factor of the side of the image.
        image_size: side of the image for the design, in pixels.
        flops_factor: multiply-adds at `image_size` over those of the original at its own size.
    """

    design: RegNetDesign
    depth: float
    width: float
    group_width: float
    resolution: float
    image_size: int
    flops_factor: float


@dataclass(frozen=True)
class _Law:
    """A law, its error, and how far its slope is from other stages, as a logarithm."""

    error: float
    margin: float
    w_0: int
    w_a: float
    w_m: float
    quantized: tuple[int, ...]


def fit(
    widths: Sequence[int],
    depths: Sequence[int] | None = None,
    *,
    num_stages: int | None = NUM_STAGES,
    group_width: int = 8,
) -> Fit:
    """Return the law whose widths are nearest to those of a network, and its error.

    Compared are laws with w_m from 1.25 to 16 that leave out no power of w_m between two stages,
    as in pycls: all w_a, the w_0 that could be best, and w_m on a grid, to a two-thousandth of
    itself near the best. Of equal laws that farthest from other stages is taken, with few digits.

    Args:
        widths: output channels of each stage, or of each block where `depths` is None.
        depths: number of blocks of each stage.
        num_stages: how many stages the law must have; None for any number.
        group_width: of the design that is returned; `dataclasses.replace` changes its other
            numbers. The error is that of the widths before they are fitted to it.

    Raises:
        ValueError: widths or depths are invalid, or there is no law of so many stages.
    """
    observed = _per_block(widths, depths)
    depth = len(observed)
    if depth > _MOST_BLOCKS:
        raise UserError(f"the number of blocks must be at most {_MOST_BLOCKS}, got {depth}")
    if num_stages is not None:
        positive_integer("num_stages", num_stages)
    law = _nearest_law(np.array(observed), num_stages)
    if law is None:
        ends = f"from {min(observed)} to {max(observed)}"
        text = f"no law of {depth} blocks and {num_stages} stages fits widths {ends}"
        raise UserError(f"{text}; use fewer stages, or num_stages=None for any number")
    w_a = _few_digits(law)
    has_design = len(set(law.quantized)) == NUM_STAGES
    return Fit(
        w_0=law.w_0,
        w_a=w_a,
        w_m=law.w_m,
        depth=depth,
        error=law.error,
        observed=tuple(map(float, observed)),
        continuous=tuple(law.w_0 + w_a * j for j in range(depth)),
        quantized=law.quantized,
        design=RegNetDesign(law.w_0, w_a, law.w_m, depth, group_width) if has_design else None,
    )


def scale(
    design: RegNetDesign, factor: float, *, strategy: str = FAST, image_size: int = 224
) -> Scaled:
    """Return a design scaled to about `factor` times its multiply-adds.

    Args:
        design: the network to scale.
        factor: multiply-adds wanted over those of the design; below 1 for a smaller network.
        strategy: which of d (depth), w (width), g (group width) and r (resolution) share the
            factor, such as "dw", or with weights, such as "d1_w2". Group widths grow by the weight
            of g as widths do by that of w, but take no share of the factor.
        image_size: side of the images of the original, in pixels.

    Raises:
        ValueError: an argument is invalid, or there is no such network.
    """
    if not 0 < factor < math.inf:
        raise UserError(f"factor must be above 0, such as 2 or 0.5, got {factor!r}")
    image_size = positive_integer("image_size", image_size, "in pixels")
    depth, width, group_width, resolution = _shares(strategy, factor)
    scaled_size = image_size
    if resolution != 1:
        scaled_size = max(1, round(image_size * resolution / _IMAGE_QUANTUM)) * _IMAGE_QUANTUM
    try:
        scaled = _scale_design(design, depth, width, group_width)
    except UserError as error:
        what = f"{design} cannot be scaled by {factor:g} with strategy '{strategy}'"
        raise UserError(f"{what}: {error}; use another factor or strategy") from None
    flops = complexity(scaled, scaled_size).flops / complexity(design, image_size).flops
    return Scaled(scaled, depth, width, group_width, resolution, scaled_size, flops)


def _per_block(widths: Sequence[int], depths: Sequence[int] | None) -> list[int]:
    """Return the width of each block."""
    if not len(widths):
        raise UserError("widths must have at least one number, got none")
    widths = [positive_integer("each of widths", width) for width in widths]
    if depths is None:
        return widths
    if len(depths) != len(widths):
        raise UserError(f"depths must be {len(widths)} numbers as widths, got {len(depths)}")
    depths = [positive_integer("each of depths", depth) for depth in depths]
    return [width for width, depth in zip(widths, depths, strict=True) for _ in range(depth)]


def _nearest_law(observed: np.ndarray, num_stages: int | None) -> _Law | None:
    """Return the law of the least error; of equal ones that of the largest margin."""
    laws = _laws(observed, num_stages, _RATIOS)
    best = min(laws, key=lambda law: (round(law.error, 9), -law.margin), default=None)
    if best is None or best.error < 1e-9:
        return best
    near = (round(best.w_m * (1 + k / 2000), 3) for k in range(-30, 31))
    finer = _laws(observed, num_stages, [w_m for w_m in near if w_m >= _RATIOS[0]])
    # The first of equal ones, whose w_m has fewer digits.
    return min([best, *finer], key=lambda law: round(law.error, 9))


def _laws(observed: np.ndarray, num_stages: int | None, ratios: Iterable[float]) -> Iterator[_Law]:
    """Yield the best law of each w_m that has one."""
    depth, blocks = len(observed), np.arange(len(observed))
    widest = math.log(observed.max() / min(WIDTH_QUANTUM, observed.min()))
    for w_m in ratios:
        powers = np.arange(min(num_stages or depth, depth, int(widest / math.log(w_m)) + 3))
        growths = w_m ** (powers + 0.5) - 1  # E_k
        edges = np.unique(growths / blocks[1:, None])
        slopes = np.concatenate([[0.0], np.sqrt(edges[:-1] * edges[1:])])
        margins = np.concatenate([[math.inf], np.diff(np.log(edges)) / 2])
        exponents = np.searchsorted(growths, slopes[:, None] * blocks)
        last = exponents[:, -1]
        kept = (np.diff(exponents) <= 1).all(axis=1) & (margins > _MIN_MARGIN)
        kept &= last < len(powers) if num_stages is None else last == num_stages - 1
        slopes, margins, exponents = slopes[kept], margins[kept], exponents[kept]

        # By slope, the multiples of 8 near the w_0 that would be best without rounding. By slope,
        # w_0 and power, the widths: each must be above the one before, and not on an edge itself.
        nearest = np.rint(np.median(observed / w_m**exponents, axis=1) / WIDTH_QUANTUM)
        w_0s = np.maximum(nearest[:, None] + _QUANTA, 1) * WIDTH_QUANTUM
        exact = w_0s[:, :, None] * w_m**powers / WIDTH_QUANTUM
        widths = np.rint(exact) * WIDTH_QUANTUM
        on_edge = np.abs(exact % 1 - 0.5) < _MIN_MARGIN * exact
        wrong = (np.diff(widths, prepend=0) <= 0) | on_edge
        valid = ~(wrong & (powers <= last[kept][:, None, None])).any(axis=2)
        if not valid.any():
            continue
        logs = np.take_along_axis(np.log(widths), exponents[:, None, :], axis=2)
        errors = np.where(valid, np.abs(logs - np.log(observed)).mean(axis=2), math.inf)
        order = np.lexsort((np.repeat(-margins, len(_QUANTA)), errors.round(9).ravel()))
        i, j = np.unravel_index(order[0], errors.shape)
        quantized = tuple(map(int, widths[i, j][exponents[i]]))
        w_0, slope = int(w_0s[i, j]), float(slopes[i])
        yield _Law(float(errors[i, j]), float(margins[i]), w_0, w_0 * slope, w_m, quantized)


def _few_digits(law: _Law) -> float:
    """Return a slope of few digits in the middle half of those that give the same stages."""
    rounded = (round(law.w_a, digits) for digits in range(1, 15))
    near = (w_a for w_a in rounded if w_a and abs(math.log(w_a / law.w_a)) <= law.margin / 2)
    return next(near, law.w_a) if law.w_a else 0.0


def _shares(strategy: str, factor: float) -> tuple[float, float, float, float]:
    """Return the factors of depth, width, group width and resolution."""
    parts = list(strategy) if re.fullmatch("[dwgr]+", strategy) else strategy.split("_")
    matches = [re.fullmatch(r"([dwgr])(\d*\.?\d+)?", part) for part in parts]
    letters = [match[1] for match in matches if match]
    if len(set(letters)) != len(parts):
        rule = f"different letters of d, w, g and r, with or without weights, as 'dw' or '{FAST}'"
        raise UserError(f"strategy must be {rule}; got {strategy!r}")
    weights = dict.fromkeys("dwgr", 0.0)
    weights |= {match[1]: float(match[2] or 1) for match in matches if match}
    # Group widths cost little, so they take no share; alone, they take the factor as it is.
    total = weights["d"] + weights["w"] + weights["r"] or weights["g"] / 2
    if not total:
        raise UserError(f"strategy needs a weight above 0, got '{strategy}'")
    depth = factor ** (weights["d"] / total)
    return depth, *(factor ** (weights[key] / total / 2) for key in "wgr")


def _scale_design(
    design: RegNetDesign, depth: float, width: float, group_width: float
) -> RegNetDesign:
    """Return the law nearest to the scaled stages, with all that is not scaled as it was."""
    groups = design.group_width
    if group_width != 1:  # to 1, 2, 4 or a multiple of 8, as pycls does
        groups = max(1, round(groups * group_width))
        groups = groups if groups <= 2 else 4 if groups <= 5 else round(groups / 8) * 8
    if depth == width == 1:
        return replace(design, group_width=groups)
    stages = runs(design.block_widths.quantized)
    widths = [max(1, round(w * width / WIDTH_QUANTUM)) * WIDTH_QUANTUM for w, _ in stages]
    law = fit(widths, [max(1, round(blocks * depth)) for _, blocks in stages])
    return replace(
        design, w_0=law.w_0, w_a=law.w_a, w_m=law.w_m, depth=law.depth, group_width=groups
    )
