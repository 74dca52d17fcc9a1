"""Pictures of what a segmenter predicts: classes over images, next to the truth, named."""

import colorsys
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import draw_segmentation_masks

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


def paint(image: torch.Tensor, mask: torch.Tensor, colors: Sequence[Color]) -> torch.Tensor:
    """Lay the colours of a mask, int64 (H, W), over an image, uint8 (3, H, W).

    Pixels of a class without a colour, as 255 is, stay as they are.
    """
    classes = [label for label in mask.unique().tolist() if 0 <= label < len(colors)]
    if not classes:
        return image
    masks = torch.stack([mask == label for label in classes])
    return draw_segmentation_masks(image, masks, OPACITY, [colors[label] for label in classes])


def side_by_side(
    image: torch.Tensor,
    *masks: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    colors: Sequence[Color],
) -> Image.Image:
    """Return an image next to its masks, such as image | truth | prediction.

    The image, float (3, H, W) or grey (1, H, W), was normalised with `mean` and `std`; masks are
    int64 (H, W).
    """
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    pixels = ((image.cpu().float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    pixels = pixels.expand(3, -1, -1)
    panels = [pixels, *(paint(pixels, mask.cpu(), colors) for mask in masks)]
    picture = to_pil_image(torch.cat(panels, dim=2))
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
