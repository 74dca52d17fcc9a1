"""How an image becomes the classes of its pixels: whole or in windows, at one scale or several.

As in mmsegmentation, logits are averaged where windows overlap, probabilities over scales and
mirrored images.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from regnet_backbones.errors import UserError
from regnet_backbones.runs.windows import stride_of, window_starts

LogitsOf = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Inference:
    """Apply a network to images of any size.

    All methods take `logits_of`, a network from normalised images to logits (N, C, H, W) of their
    size, and `image`, normalised images (N, 3, H, W).

    Args:
        short_side: pixels of the shorter side that images are resized to, None for their own size.
        window: pixels of both sides of a window that slides over the resized image, None for the
            whole image at once.
        window_stride: pixels from one window to the next, None for two thirds of the window.
        flip: whether to average with the prediction of the mirrored image.
        scales: factors of the size, whose predictions are averaged.

    Raises:
        ValueError: an argument is out of range.
    """

    short_side: int | None = None
    window: int | None = None
    window_stride: int | None = None
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("short_side", "window", "window_stride")}
        too_small = any(size is not None and size < 1 for size in sizes.values())
        if too_small or (self.window_stride or 0) > (self.window or 0):
            rule = "short_side, window and window_stride must be at least 1, window_stride at most"
            raise UserError(f"{rule} window, got {sizes}")
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise UserError(f"scales must be one or more factors above 0, got {self.scales}")

    @torch.no_grad()
    def __call__(self, logits_of: LogitsOf, image: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of the classes, float32 (N, C, H, W)."""
        sides = (False, True) if self.flip else (False,)
        passes = list(itertools.product(self.scales, sides))
        total = sum(self._logits(logits_of, image, *each).softmax(1) for each in passes)
        return total / len(passes)

    @torch.no_grad()
    def logits(self, logits_of: LogitsOf, image: torch.Tensor) -> torch.Tensor:
        """Return logits, float32 (N, C, H, W); of several passes the logarithms of their mean."""
        if self.flip or len(self.scales) > 1:
            return self(logits_of, image).log()
        return self._logits(logits_of, image, *self.scales, mirrored=False)

    @torch.no_grad()
    def classes(self, logits_of: LogitsOf, image: torch.Tensor) -> torch.Tensor:
        """Return the most probable class of every pixel, int64 (N, H, W)."""
        return self.logits(logits_of, image).argmax(1)

    def _logits(
        self, logits_of: LogitsOf, image: torch.Tensor, scale: float, mirrored: bool
    ) -> torch.Tensor:
        """Return float32 logits of one scale, in the size of the given image."""
        sides = image.shape[-2:]
        factor = scale if self.short_side is None else scale * self.short_side / min(sides)
        size = [max(1, round(side * factor)) for side in sides]
        # Processors resize only float32 with antialiasing.
        resized = _resize(image.float(), size, antialias=True).to(image.dtype)
        resized = resized.flip(-1) if mirrored else resized
        logits = logits_of(resized) if self.window is None else self._slide(logits_of, resized)
        logits = logits.flip(-1) if mirrored else logits
        return _resize(logits.float(), sides)

    def _slide(self, logits_of: LogitsOf, image: torch.Tensor) -> torch.Tensor:
        """Return the mean logits of all windows that see a pixel, float32."""
        height, width = image.shape[-2:]
        stride = stride_of(self.window, self.window_stride)
        starts = (window_starts(side, self.window, stride) for side in (height, width))
        total, count = None, torch.zeros(height, width, device=image.device)
        for top, left in itertools.product(*starts):
            there = (..., slice(top, top + self.window), slice(left, left + self.window))
            logits = logits_of(image[there]).float()
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], height, width)
            total[there] += logits
            count[there] += 1
        return total.div_(count)


def _resize(maps: torch.Tensor, size: Sequence[int], *, antialias: bool = False) -> torch.Tensor:
    """Resize bilinearly (N, C, H, W); maps of that size are returned as they are."""
    if list(maps.shape[-2:]) == list(size):
        return maps
    return F.interpolate(
        maps, list(size), mode="bilinear", align_corners=False, antialias=antialias
    )
