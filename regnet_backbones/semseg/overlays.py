"""Pictures of what a segmenter predicts: classes over images, next to the truth, named.

Without torch, which processes that draw would import for seconds.
"""

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from regnet_backbones.runs.results import JPEG_OPTIONS

if TYPE_CHECKING:
    import torch

Color = tuple[int, int, int]

OPACITY = 0.6  # how much of a painted pixel is the colour of its class

PANEL_SIDE = 640  # pixels; larger panels are scaled down to fit a square of it

# Turning the hue by the golden ratio keeps neighbours apart for any number of colours.
GOLDEN_RATIO = (5**0.5 - 1) / 2
SATURATION_AND_VALUE = ((0.9, 1.0), (0.95, 0.6), (0.45, 0.9))


def palette(count: int) -> list[Color]:
    """Return distinct RGB colours (0 to 255), the same ones for the same number."""
    colors = []
    for index in range(count):
        saturation, value = SATURATION_AND_VALUE[index % len(SATURATION_AND_VALUE)]
        color = colorsys.hsv_to_rgb(index * GOLDEN_RATIO % 1, saturation, value)
        colors.append(tuple(round(255 * channel) for channel in color))
    return colors


def paint(image: np.ndarray, mask: np.ndarray, colors: Sequence[Color]) -> np.ndarray:
    """Lay the colours of a mask, integers (H, W), over an image, uint8 (H, W, 3).

    Pixels of a class without a colour, as 255 is, stay as they are.
    """
    known = (mask >= 0) & (mask < len(colors))
    painted = np.float32(OPACITY) * np.array(colors, np.float32)[np.where(known, mask, 0)]
    painted += np.float32(1 - OPACITY) * image
    return np.where(known[..., None], painted.astype(np.uint8), image)


def write_overlay(
    file: Path, image: np.ndarray, mask: np.ndarray, names: Sequence[str], colors: Sequence[Color]
) -> None:
    """Write an image with the colours of its classes and a legend.

    Args:
        file: a JPEG file in a folder that may be missing.
        image: uint8 (H, W, 3), or (H, W, 1) of a grey image.
        mask: the class of each pixel, integers (H, W).
        names, colors: of all classes.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    present = [(names[label], colors[label]) for label in np.unique(mask)]
    pixels = np.broadcast_to(image, (*mask.shape, 3))
    picture = with_legend(Image.fromarray(paint(pixels, mask, colors)), present)
    picture.save(file, **JPEG_OPTIONS)


def side_by_side(
    image: "torch.Tensor",
    *masks: "torch.Tensor",
    mean: Sequence[float],
    std: Sequence[float],
    colors: Sequence[Color],
) -> Image.Image:
    """Return an image next to its masks, such as image | truth | prediction.

    The image, float (3, H, W) or grey (1, H, W), was normalised with `mean` and `std`; masks are
    int64 (H, W).
    """
    mean, std = (np.array(values, np.float32) for values in (mean, std))
    normalised = image.cpu().float().permute(1, 2, 0).numpy()
    pixels = ((normalised * std + mean) * 255).round().clip(0, 255).astype(np.uint8)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    panels = [pixels, *(paint(pixels, mask.cpu().numpy(), colors) for mask in masks)]
    picture = Image.fromarray(np.concatenate(panels, axis=1))
    picture.thumbnail((len(panels) * PANEL_SIDE, PANEL_SIDE))
    return picture


def with_legend(picture: Image.Image, entries: Sequence[tuple[str, Color]]) -> Image.Image:
    """Return the RGB picture with named colours in a column at its right, from top to bottom."""
    side = max(12, picture.height // 40)  # of the text, in pixels
    font = ImageFont.load_default(side)
    width = round(max((font.getlength(name) for name, _ in entries), default=0)) + 3 * side
    height = max(picture.height, 2 * side * len(entries))
    canvas = Image.new("RGB", (picture.width + width, height), "white")
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    for row, (name, color) in enumerate(entries):
        x, y = picture.width + side // 2, 2 * side * row + side // 2
        draw.rectangle((x, y, x + side, y + side), fill=color)
        draw.text((x + 1.5 * side, y + side // 2), name, "black", font, anchor="lm")
    return canvas
