"""Adaptive average pooling as two matrix products, for files whose image size is free.

ONNX has no adaptive pooling, and exporters write the kernel of the example's size into the file.
Here the weights of a bin are computed from the size in the graph: bin i of k covers the pixels from
floor(i * size / k) to ceil((i + 1) * size / k), as in torch.
"""

import torch
from torch import nn


class MatrixPool2d(nn.Module):
    """Adaptive average pooling to (height, width) bins, the same as `nn.AdaptiveAvgPool2d`."""

    def __init__(self, bins: tuple[int, int]):
        super().__init__()
        self.bins = bins

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the means of the bins of maps (N, C, H, W), float (N, C, *bins)."""
        rows, columns = (
            _bin_weights(maps.shape[axis], bins, maps)
            for axis, bins in zip((2, 3), self.bins, strict=True)
        )
        return rows @ maps @ columns.T


def replace_adaptive_pools(network: nn.Module) -> int:
    """Replace each adaptive average pooling to several bins, in place; return how many there were.

    Those to one pixel are means, which every format has.
    """
    replaced = 0
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            bins = _bins_of(child)
            if bins is not None and bins != (1, 1):
                setattr(parent, name, MatrixPool2d(bins))
                replaced += 1
    return replaced


def _bins_of(module: nn.Module) -> tuple[int, int] | None:
    """Return the output size of an adaptive pooling; None for others, and for one that is free."""
    if not isinstance(module, nn.AdaptiveAvgPool2d):
        return None
    size = module.output_size
    height, width = size if isinstance(size, tuple) else (size, size)
    return None if height is None or width is None else (height, width)


def _bin_weights(size: int, bins: int, like: torch.Tensor) -> torch.Tensor:
    """Return the weights (bins, size) that average the pixels of each bin."""
    index = torch.arange(bins, device=like.device)[:, None]
    start = index * size // bins
    end = ((index + 1) * size + bins - 1) // bins
    pixels = torch.arange(size, device=like.device)
    inside = (pixels >= start) & (pixels < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)
