"""The RegNet law nearest to any network, and larger or smaller networks by the same law.

Sources: "Designing Network Design Spaces" (arXiv 2003.13678), section 3.3; "Fast and Accurate Model
Scaling" (arXiv 2103.06877) and the authors' pycls `pycls/models/scaler.py`.

Fitting: the error of a law is e_fit, the mean over the blocks of |log(predicted / observed)|,
natural logarithm: 0.1 is about a tenth of the width. w_m is searched on a grid, and on a finer one
near the best. For each w_m all that differs is compared: with E_k = w_m ** (k + 1/2) - 1 and
r = w_a / w_0, stage k + 1 begins at the first block j with r * j > E_k. So the stages change where
r = E_k / j only, and between two such r one law stands for all.

Scaling: depth is multiplied by d, widths by w, group widths by g and the side of the image by r, so
that d * w**2 * r**2, the multiply-adds, is the factor. pycls scales the four stages on their own,
which leaves a network that is not a RegNet. Here the law nearest to those stages takes their place.
As in pycls, the stem keeps its width, and so does a convolution before the classifier.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from numbers import Real
from typing import TypeVar

from regnet_backbones.design.blocks import NUM_STAGES, positive_integer
from regnet_backbones.design.cost import complexity
from regnet_backbones.design.law import WIDTH_QUANTUM, RegNetDesign, power_widths, width_runs
from regnet_backbones.errors import UserError

FAST = "d1_w8_g8_r1"  # the paper's fast compound scaling: mostly wider

N = TypeVar("N", int, float)

# The time of the search grows with the depth and the widths.
_MOST_BLOCKS = 512
_MOST_CHANNELS = 2**17

# Tried first. The paper's laws have w_m from 1.5 to 3; near 1 any widths have a law.
_RATIOS = [k / 100 for k in range(125, 400)] + [k / 10 for k in range(40, 161)]

# timm computes in float32: laws are left out whose blocks or widths lie so close to the next one.
_MIN_MARGIN = 1e-5

# Errors, as sums over the blocks, that are nearer than this are equal.
_TIE = 1e-9

# How far from the best continuous w_0 multiples of 8 are tried.
_QUANTA = 4

# Of a factor. Far beyond what anybody trains; rounding leaves nothing of a smaller factor.
_LEAST, _MOST = 0.01, 100

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
        design: the network of these numbers, with widths fitted to the group width; None unless
            the law has four stages.
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
        image_size: side of the image that goes with the design, in pixels.
        flops_factor: multiply-adds of the scaled network at `image_size` over those of the original
            at its own size; near the factor that was asked for, as far as rounding allows.
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
    """Stages that begin at `starts`, for a w_m and all slopes between two r = w_a / w_0."""

    w_m: float
    low: float
    high: float
    starts: tuple[int, ...]
    w_0: int = 0

    @property
    def margin(self) -> float:
        """How far the slope in the middle is from other stages, as a logarithm."""
        return math.log(self.high / self.low) / 2 if self.starts else math.inf

    def w_a(self) -> float:
        """Return a slope of few digits in the middle half."""
        if not self.starts:
            return 0.0
        middle = self.w_0 * math.sqrt(self.low * self.high)
        rounded = (round(middle, digits) for digits in range(1, 15))
        near = (w_a for w_a in rounded if w_a and abs(math.log(w_a / middle)) <= self.margin / 2)
        return next(near, middle)


def fit(
    widths: Sequence[int],
    depths: Sequence[int] | None = None,
    *,
    num_stages: int | None = NUM_STAGES,
    group_width: int = 8,
) -> Fit:
    """Find the law whose widths are nearest to those of a network.

    Compared are laws with w_m from 1.25 to 16 that leave out no power of w_m between two stages,
    as in pycls: all w_a, the w_0 that could be best, and w_m on a grid, to a two-thousandth of
    itself near the best. Of equal laws that farthest from other stages is taken, with few digits.

    Args:
        widths: output channels of each stage, or of each block where `depths` is None.
        depths: number of blocks of each stage.
        num_stages: how many stages the law must have; None for any number.
        group_width: of the design that is returned; `dataclasses.replace` changes its other
            numbers. The error is that of the widths before they are fitted to it.

    Returns:
        The law, its error, and the design where the law gives one.

    Raises:
        ValueError: the widths or depths are not positive integers or do not belong together, or
            there is no law of so many stages.
    """
    observed = _per_block(widths, depths)
    depth = len(observed)
    if depth > _MOST_BLOCKS or max(observed) > _MOST_CHANNELS:
        raise UserError(
            f"a network may have {_MOST_BLOCKS} blocks and {_MOST_CHANNELS} channels at most, got "
            f"{depth} blocks of up to {max(observed)} channels"
        )
    if num_stages is not None:
        positive_integer("num_stages", num_stages)
    law = _best_law(observed, num_stages)
    if law is None:
        raise UserError(
            f"no law of {depth} blocks has exactly {num_stages} stages near widths from "
            f"{min(observed)} to {max(observed)}; use fewer stages, or num_stages=None for any"
        )
    w_0, w_a, w_m = law.w_0, law.w_a(), law.w_m
    runs = list(pairwise((0, *law.starts, depth)))
    quantized = tuple(
        int(power_widths(w_0, w_m, k))
        for k, (start, end) in enumerate(runs)
        for _ in range(start, end)
    )
    errors = (abs(math.log(w / o)) for w, o in zip(quantized, observed, strict=True))
    return Fit(
        w_0=w_0,
        w_a=w_a,
        w_m=w_m,
        depth=depth,
        error=math.fsum(errors) / depth,
        observed=tuple(map(float, observed)),
        continuous=tuple(w_0 + w_a * j for j in range(depth)),
        quantized=quantized,
        design=RegNetDesign(w_0, w_a, w_m, depth, group_width) if len(runs) == NUM_STAGES else None,
    )


def scale(
    design: RegNetDesign, factor: float, *, strategy: str = FAST, image_size: int = 224
) -> Scaled:
    """Scale a design to about `factor` times its multiply-adds.

    Args:
        design: the network to scale.
        factor: multiply-adds wanted over those of the design; from 0.01 to 100, below 1
            for a smaller network.
        strategy: which of d (depth), w (width), g (group width) and r (resolution) share the
            factor, such as "dw", or with weights, such as "d1_w2". Group widths grow by the weight
            of g as widths do by that of w, but take no share of the factor.
        image_size: side of the images of the original, in pixels.

    Returns:
        The scaled network, and by how much each of its dimensions grew.

    Raises:
        ValueError: the factor, strategy or image size is invalid, or there is no such network.
    """
    if not isinstance(factor, Real) or not _LEAST <= factor <= _MOST:
        raise UserError(f"factor must be a number from {_LEAST} to {_MOST}, got {factor!r}")
    image_size = positive_integer("image_size", image_size, "in pixels")
    depth, width, group_width, resolution = _shares(strategy, float(factor))
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
        raise UserError("widths must have at least one width, got none")
    widths = [positive_integer("each of widths", width) for width in widths]
    if depths is None:
        return widths
    if len(depths) != len(widths):
        raise UserError(f"got {len(depths)} depths for {len(widths)} widths; give one for each")
    depths = [positive_integer("each of depths", depth) for depth in depths]
    return [width for width, depth in zip(widths, depths, strict=True) for _ in range(depth)]


def _best_law(observed: Sequence[int], num_stages: int | None) -> _Law | None:
    """Return the law of the least error."""
    errors = _Errors(observed)
    least = math.inf
    best: _Law | None = None
    ratios = _RATIOS
    for _ in range(2):
        for law in _laws(len(observed), num_stages, ratios):
            if errors.at_least(law.starts) > least + _TIE:
                continue
            for w_0 in errors.first_widths(law):
                error = errors.of_law(law, w_0)
                # Of equal laws, that farthest from other stages, of those with few digits.
                equal = error < least + _TIE and ratios is _RATIOS
                if error < least - _TIE or (equal and best and law.margin > best.margin):
                    least, best = min(error, least), replace(law, w_0=w_0)
        if best is None or least < _TIE:
            break
        # Once more, near the best.
        near = (round(best.w_m * (1 + k / 2000), 3) for k in range(-30, 31))
        ratios = [w_m for w_m in near if w_m >= _RATIOS[0]]
    return best


def _laws(depth: int, num_stages: int | None, ratios: Sequence[float]) -> Iterator[_Law]:
    """Yield each w_m with each of the stages that it can give."""
    last = depth - 1
    if num_stages in (None, 1) or not last:
        yield _Law(2.0, 0.0, 0.0, ())  # a single stage: any w_m will do
    for w_m in ratios:
        most = min(num_stages or depth, int(math.log(_MOST_CHANNELS, w_m)) + 1)
        if num_stages is not None and most < num_stages:
            continue
        growths = [w_m ** (k + 0.5) - 1 for k in range(most)]  # E_k
        # The last block has the exponent num_stages - 1, or any above 0.
        low = growths[(num_stages or 2) - 2] / max(last, 1)
        high = growths[-1] / max(last, 1)
        quotients = {growth / j for growth in growths for j in range(1, depth)}
        edges = sorted(edge for edge in quotients if low <= edge <= high)
        for low, high in pairwise(edges):
            r = math.sqrt(low * high)
            starts = [math.floor(growth / r) + 1 for growth in growths if growth < r * last]
            if all(a < b for a, b in pairwise(starts)) and high / low > 1 + 2 * _MIN_MARGIN:
                yield _Law(w_m, low, high, tuple(starts))


class _Errors:
    """Sums over blocks of |log(width / observed)|."""

    def __init__(self, observed: Sequence[int]):
        self._observed = observed
        self._logs = [math.log(width) for width in observed]
        self._sums: dict[int, list[float]] = {}
        self._singles: dict[tuple[int, int], float] = {}

    def of_run(self, width: int, start: int, end: int) -> float:
        """Return the error of one width for the blocks of a run."""
        if width not in self._sums:
            log = math.log(width)
            self._sums[width] = [0.0, *accumulate(abs(log - other) for other in self._logs)]
        return self._sums[width][end] - self._sums[width][start]

    def at_least(self, starts: tuple[int, ...]) -> float:
        """Return the error of these stages where each has the best of all widths."""
        total = 0.0
        for run in pairwise((0, *starts, len(self._observed))):
            if run not in self._singles:
                self._singles[run] = self.of_run(_median(self._observed[slice(*run)]), *run)
            total += self._singles[run]
        return total

    def first_widths(self, law: _Law) -> range:
        """Return the multiples of 8 near the w_0 that would be best without rounding."""
        runs = pairwise((0, *law.starts, len(self._observed)))
        ratios = [self._observed[j] / law.w_m**k for k, run in enumerate(runs) for j in range(*run)]
        nearest = round(_median(ratios) / WIDTH_QUANTUM)
        least = max(1, nearest - _QUANTA) * WIDTH_QUANTUM
        return range(least, (max(1, nearest) + _QUANTA + 1) * WIDTH_QUANTUM, WIDTH_QUANTUM)

    def of_law(self, law: _Law, w_0: int) -> float:
        """Return the error of a law; infinite where rounding would decide its widths."""
        total, before = 0.0, 0
        for k, (start, end) in enumerate(pairwise((0, *law.starts, len(self._observed)))):
            width = int(power_widths(w_0, law.w_m, k))
            exact = w_0 * law.w_m**k / WIDTH_QUANTUM
            if width <= before or abs(exact % 1 - 0.5) < _MIN_MARGIN * exact:
                return math.inf
            total += self.of_run(width, start, end)
            before = width
        return total


def _median(values: Sequence[N]) -> N:
    """Return the middle value, the lower of two."""
    return sorted(values)[(len(values) - 1) // 2]


def _shares(strategy: str, factor: float) -> tuple[float, float, float, float]:
    """Return the factors of depth, width, group width and resolution."""
    text = str(strategy)
    if re.fullmatch("[dwgr]+", text):
        found = [(letter, "1") for letter in text]
    else:
        found = re.findall(r"([dwgr])(\d+(?:\.\d+)?|\.\d+)", text)
        if "_".join(map("".join, found)) != text:
            found = []
    weights = dict.fromkeys("dwgr", 0.0) | {key: float(weight) for key, weight in found}
    if not found or len({key for key, _ in found}) != len(found):
        raise UserError(
            f"strategy must be some of the letters d, w, g and r, such as 'dw', or letters with "
            f"weights, such as '{FAST}', each letter once; got {strategy!r}"
        )
    if not any(weights.values()):
        raise UserError(f"strategy '{strategy}' scales nothing; give a letter a weight above 0")
    # Group widths cost little, so they take no share; alone, they take the factor as it is.
    total = weights["d"] + weights["w"] + weights["r"] or weights["g"] / 2
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
    runs = width_runs(design.block_widths.quantized)
    widths = [max(1, round(w * width / WIDTH_QUANTUM)) * WIDTH_QUANTUM for w, _ in runs]
    law = fit(widths, [max(1, round(blocks * depth)) for _, blocks in runs])
    return replace(
        design, w_0=law.w_0, w_a=law.w_a, w_m=law.w_m, depth=law.depth, group_width=groups
    )
