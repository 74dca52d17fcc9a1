"""Pictures of what a segmenter predicts: classes over images, next to the truth, named.

Without torch, which processes that draw would import for seconds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from regnet_backbones.runs.colors import Color, class_colors
from regnet_backbones.runs.results import JPEG_OPTIONS

if TYPE_CHECKING:
    import torch

Colors = Sequence[Color | None]  # of all classes, None of what is not painted

OPACITY = 0.6  # how much of a painted pixel is the colour of its class

PANEL_SIDE = 640  # pixels; larger panels are scaled down to fit a square of it
MIN_WIDTH = 512  # pixels that overlays are at least wide


def colors_of(names: Sequence[str]) -> Colors:
    """Return the colour of each class, None for the background, which is not painted."""
    return list(map(class_colors(names).get, names))


def paint(image: np.ndarray, mask: np.ndarray, colors: Colors) -> np.ndarray:
    """Lay the colours of a mask, integers (H, W), over an image, uint8 (H, W, 3).

    Pixels of a class without a colour, as 255 is, stay as they are.
    """
    classes = np.where((mask >= 0) & (mask < len(colors)), mask, len(colors))
    table = np.array([color or (0, 0, 0) for color in (*colors, None)], np.float32)
    painted = np.float32(OPACITY) * table[classes] + np.float32(1 - OPACITY) * image
    known = np.array([color is not None for color in (*colors, None)])[classes]
    return np.where(known[..., None], painted.astype(np.uint8), image)


def write_overlay(
    file: Path, image: np.ndarray, mask: np.ndarray, names: Sequence[str], colors: Colors
) -> None:
    """Write the picture of `draw_overlay` to a JPEG file in a folder that may be missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draw_overlay(image, mask, names, colors).save(file, **JPEG_OPTIONS)


def draw_overlay(
    image: np.ndarray, mask: np.ndarray, names: Sequence[str], colors: Colors
) -> Image.Image:
    """Draw the classes of a mask (H, W) over an image, uint8 (H, W, 3 or 1), and a legend."""
    present = [(names[label], colors[label]) for label in np.unique(mask)]
    picture = Image.fromarray(paint(np.broadcast_to(image, (*mask.shape, 3)), mask, colors))
    if (factor := -(-MIN_WIDTH // picture.width)) > 1:
        size = (factor * picture.width, factor * picture.height)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    return with_legend(picture, present)


def side_by_side(
    image: "torch.Tensor",
    *masks: "torch.Tensor",
    mean: Sequence[float],
    std: Sequence[float],
    colors: Colors,
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


def with_legend(picture: Image.Image, classes: Sequence[tuple[str, Color | None]]) -> Image.Image:
    """Return the RGB picture with the names of painted classes in a column at its right."""
    entries = [(name, color) for name, color in classes if color is not None]
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
