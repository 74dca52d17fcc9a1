"""Windows that slide over an image which is larger than what a model was trained on."""

from regnet_backbones.errors import UserError


def stride_of(window: int, stride: int | None = None) -> int:
    """Return the pixels from one window to the next, by default two thirds of a window."""
    if window < 1 or (stride is not None and not 1 <= stride <= window):
        rule = "window must be at least 1 pixel, and window_stride 1 to window"
        raise UserError(f"{rule}, got {{'window': {window}, 'window_stride': {stride}}}")
    return max(1, round(window * 2 / 3)) if stride is None else stride


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """Return where windows start; the last one is moved inward to end with the image."""
    last = max(0, side - window)
    return [*range(0, last, stride), last]
