"""Image files as Pillow reads them: what it raises, what headers say, and which are refused."""

import struct
from pathlib import Path

from PIL import ExifTags, Image, ImageOps, TiffImagePlugin
from PIL.TiffImagePlugin import TiffImageFile

from regnet_backbones.errors import UserError

# What Pillow raises on broken files.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, struct.error),
    Image.DecompressionBombError,
)

# Decoding releases the GIL, and on network file systems the threads wait most of the time.
CHECK_THREADS = 8

# Pillow stretches grey values of 2 and 4 bits over 0 to 255.
STRETCHED = {2: 85, 4: 17}

ON_ITS_SIDE = (5, 6, 7, 8)  # EXIF's orientations
DEPTH_BYTE = 24  # of a PNG, the bits per channel


def open_upright(path: str | Path) -> Image.Image:
    """Read an image, turned as its EXIF or XMP data say; raise UserError if that cannot be done."""
    try:
        with Image.open(path) as image:
            problem = depth_problem(image)
            upright = image if problem else ImageOps.exif_transpose(image)
            upright.load()
    except UNREADABLE as error:
        raise UserError(f"image '{path}' cannot be read ({error}); replace or remove it") from error
    if problem:
        raise UserError(f"image '{path}' {problem}")
    return upright


def depth_problem(image: Image.Image) -> str | None:
    """Say why an open image has too many bits for training and prediction, None if it has not."""
    if not image.mode.startswith(("I", "F")):
        return None
    return (
        f"has more than 8 bits per channel (mode {image.mode}), which would be clipped to 255; "
        "save it with 8 bits per channel, its values scaled"
    )


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of an open image after `ImageOps.exif_transpose`; decode nothing."""
    if _orientation(image) not in ON_ITS_SIDE:
        return image.size
    if isinstance(image, TiffImageFile):
        # Its `size` is turned already, in older versions of Pillow not before it is decoded.
        return image.tag_v2[TiffImagePlugin.IMAGELENGTH], image.tag_v2[TiffImagePlugin.IMAGEWIDTH]
    return image.size[::-1]


def is_turned(image: Image.Image) -> bool:
    """Return whether the EXIF or XMP data of an open image turn or mirror it."""
    return _orientation(image) in range(2, 9)


def bit_depth(path: str | Path) -> int:
    """Return the bits per channel of a PNG file."""
    with open(path, "rb") as file:
        return file.read(DEPTH_BYTE + 1)[DEPTH_BYTE]


def _orientation(image: Image.Image) -> int:
    # A PNG's own `getexif` would decode every file that has no EXIF data, to look for them.
    return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
