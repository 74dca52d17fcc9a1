"""A larger or smaller RegNet from one that works: compound scaling.

Source: "Fast and Accurate Model Scaling" (arXiv 2103.06877) and the authors' implementation, pycls
`pycls/models/scaler.py`. Depth is multiplied by d, widths by w, group widths by g and the side of
the image by r, so that d * w**2 * r**2, the multiply-adds, is the factor; the strategy says how d,
w and r share it. "d1_w8_g8_r1" is the paper's fast compound scaling: mostly wider, because the time
that a network takes goes with its activations, which grow with the width but not with its square.

pycls scales the four stages on their own, which leaves a network that is no RegNet. Here the law
nearest to those stages takes their place (see `fitting.py`), so the result has w_0, w_a and w_m
again. As in pycls, the stem keeps its width, and so does a convolution before the classifier.
"""

import re
from dataclasses import dataclass, replace
from numbers import Real

from regnet_backbones.design.checks import positive_integer
from regnet_backbones.design.cost import complexity
from regnet_backbones.design.fitting import fit
from regnet_backbones.design.law import WIDTH_QUANTUM, RegNetDesign, width_runs
from regnet_backbones.errors import UserError

FAST = "d1_w8_g8_r1"

# Far beyond what anybody trains; rounding leaves nothing of a smaller factor.
_LEAST, _MOST = 0.01, 100

_IMAGE_QUANTUM = 4  # image sizes are multiples of this, as in pycls


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
        ValueError: the factor, strategy or image size is none, or there is no such network.
    """
    if not isinstance(factor, Real) or isinstance(factor, bool) or not _LEAST <= factor <= _MOST:
        raise UserError(f"factor must be a number from {_LEAST} to {_MOST}, got {factor!r}")
    image_size = positive_integer("image_size", image_size, "in pixels")
    depth, width, group_width, resolution = _share(strategy, float(factor))
    scaled_size = max(1, round(image_size * resolution / _IMAGE_QUANTUM)) * _IMAGE_QUANTUM
    if resolution == 1:
        scaled_size = image_size
    try:
        scaled = _scale_design(design, depth, width, group_width)
    except ValueError as error:
        raise UserError(
            f"{design} cannot be scaled by {factor:g} with strategy '{strategy}': {error}; take "
            "another factor, or a strategy with other weights of d, w and g"
        ) from None
    flops = complexity(scaled, scaled_size).flops / complexity(design, image_size).flops
    return Scaled(scaled, depth, width, group_width, resolution, scaled_size, flops)


def _share(strategy: str, factor: float) -> tuple[float, float, float, float]:
    """Return the factors of depth, width, group width and resolution."""
    weights = dict.fromkeys("dwgr", 0.0)
    if not isinstance(strategy, str):
        raise UserError(f"strategy must be text such as '{FAST}', got {strategy!r}")
    found = re.findall(r"([dwgr])(\d+(?:\.\d+)?|\.\d+)", strategy)
    letters = strategy if re.fullmatch("[dwgr]+", strategy) else "".join(key for key, _ in found)
    if letters == strategy:
        weights |= dict.fromkeys(letters, 1.0)
    else:
        weights |= {key: float(weight) for key, weight in found}
    well_formed = letters == strategy or "_".join(map("".join, found)) == strategy
    if not strategy or not well_formed or len(set(letters)) != len(letters):
        raise UserError(
            f"strategy must be some of the letters d, w, g and r, such as 'dw', or letters with "
            f"weights, such as '{FAST}', each letter once; got '{strategy}'"
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
    groups = design.group_width if group_width == 1 else _round_groups(design, group_width)
    if depth == width == 1:
        return replace(design, group_width=groups)
    runs = width_runs(design.block_widths.quantized)
    widths = [max(1, round(w * width / WIDTH_QUANTUM)) * WIDTH_QUANTUM for w, _ in runs]
    law = fit(widths, [max(1, round(blocks * depth)) for _, blocks in runs])
    return replace(
        design, w_0=law.w_0, w_a=law.w_a, w_m=law.w_m, depth=law.depth, group_width=groups
    )


def _round_groups(design: RegNetDesign, factor: float) -> int:
    """Scale the group width to 1, 2, 4 or a multiple of 8, as pycls does."""
    groups = max(1, round(design.group_width * factor))
    if groups <= 2:
        return groups
    return 4 if groups <= 5 else round(groups / 8) * 8
