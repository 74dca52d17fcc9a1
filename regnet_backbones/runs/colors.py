"""Colours of classes: a class has one in truth and prediction, and on every picture of a run."""

import colorsys
from collections.abc import Sequence

Color = tuple[int, int, int]  # RGB, 0 to 255

BACKGROUND = "background"

# Okabe and Ito's, then each as far as possible in OKLab from black, white, grey and those before,
# for people with normal vision, protanopia, deuteranopia and tritanopia (Machado et al., 2009).
FIRST: tuple[Color, ...] = (
    *((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0)),
    *((86, 180, 233), (240, 228, 66), (105, 0, 15), (45, 0, 150), (165, 15, 105)),
    *((0, 240, 180), (75, 90, 0), (135, 0, 240), (195, 210, 255), (75, 30, 90)),
    *((150, 135, 255), (165, 195, 120), (60, 60, 195), (180, 75, 255), (150, 90, 75)),
)

# Turning the hue by the golden ratio keeps neighbours apart for any number of colours.
GOLDEN_RATIO = (5**0.5 - 1) / 2
SATURATION_AND_VALUE = ((0.9, 1.0), (0.95, 0.6), (0.45, 0.9))


def palette(count: int) -> list[Color]:
    """Return distinct colours; those of a smaller number come first in those of a larger one."""
    colors = list(FIRST[:count])
    for index in range(len(FIRST), count):
        saturation, value = SATURATION_AND_VALUE[index % len(SATURATION_AND_VALUE)]
        rgb = colorsys.hsv_to_rgb(index * GOLDEN_RATIO % 1, saturation, value)
        red, green, blue = (round(255 * channel) for channel in rgb)
        colors.append((red, green, blue))
    return colors


def class_colors(of_pixels: Sequence[str], things: Sequence[str] = ()) -> dict[str, Color]:
    """Return colours by name: of things, then of the classes of pixels but their background.

    The background is the class of that name, or the first of two classes. It is not painted.
    """
    called = {name for name in of_pixels if name.lower() == BACKGROUND}
    background = called or set(of_pixels[:1] if len(of_pixels) == 2 else ())
    names = dict.fromkeys([*things, *(name for name in of_pixels if name not in background)])
    return dict(zip(names, palette(len(names)), strict=True))
