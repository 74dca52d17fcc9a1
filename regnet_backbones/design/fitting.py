"""The RegNet law nearest to any network: w_0, w_a and w_m from the widths of its blocks.

Source: "Designing Network Design Spaces" (arXiv 2003.13678), section 3.3. The error of a law is
e_fit, the mean over the blocks of |log(predicted width / observed width)|, with the natural
logarithm: 0.1 is about a tenth of the width.

The paper searches a grid; here all laws are compared, see `fit_search.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from regnet_backbones.design.checks import positive_integer
from regnet_backbones.design.fit_search import Cell, Search
from regnet_backbones.design.law import NUM_STAGES, RegNetDesign
from regnet_backbones.errors import UserError

# The time of the search grows with the depth and the widths.
_MOST_BLOCKS = 512
_MOST_CHANNELS = 2**17


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


def fit(
    widths: Sequence[int],
    depths: Sequence[int] | None = None,
    *,
    num_stages: int | None = NUM_STAGES,
    group_width: int = 8,
) -> Fit:
    """Find the law whose widths are nearest to those of a network.

    Compared are the laws with w_m of at least 1.25 that leave out no power of w_m between two
    stages, as in pycls. Where many numbers give the best widths, those far from any that give
    others are taken, with few digits. For 40 blocks that takes below a second where widths rise,
    with num_stages=None up to 10.

    Args:
        widths: output channels of each stage, or of each block where `depths` is None.
        depths: number of blocks of each stage.
        num_stages: how many stages the law must have; None for any number.
        group_width: of the design that is returned; `dataclasses.replace` changes its other
            numbers. The error is that of the widths before they are fitted to it.

    Returns:
        The law, its error, and the design where the law gives one.

    Raises:
        ValueError: the widths or depths are no positive integers or do not belong together, or
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
        if num_stages > depth:
            raise UserError(
                f"a law of {num_stages} stages needs at least {num_stages} blocks, got {depth}; "
                "give more blocks, fewer stages, or num_stages=None for any number"
            )
    search = Search(observed)
    search.run(range(1, depth + 1) if num_stages is None else [num_stages])
    if not search.cells:
        raise UserError(
            f"no law of {depth} blocks has exactly {num_stages} stages near widths from "
            f"{min(observed)} to {max(observed)}; take fewer stages, or num_stages=None for any"
        )
    cell = max(search.cells, key=Cell.best_margin)
    w_0, w_a, w_m = cell.numbers()
    design = None
    if len(cell.widths) == NUM_STAGES:
        design = RegNetDesign(w_0, w_a, w_m, depth, group_width)
    quantized = cell.block_widths()
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
        design=design,
    )


def _per_block(widths: Sequence[int], depths: Sequence[int] | None) -> list[int]:
    """Return the width of each block."""
    if not len(widths):
        raise UserError("widths must have at least one width, got none")
    for width in widths:
        positive_integer("each of widths", width)
    if depths is None:
        return [int(width) for width in widths]
    if len(depths) != len(widths):
        raise UserError(
            f"there must be as many depths as widths, got {len(depths)} depths for {len(widths)} "
            "widths; give depths=None when there is one width for each block"
        )
    for depth in depths:
        positive_integer("each of depths", depth)
    return [int(width) for width, depth in zip(widths, depths, strict=True) for _ in range(depth)]
