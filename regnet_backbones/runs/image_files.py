"""Image files as Pillow reads them: what it raises, what headers say, and which are refused."""

import os
import struct
from pathlib import Path
from typing import IO

from PIL import ExifTags, Image, ImageOps, TiffImagePlugin
from PIL.TiffImagePlugin import TiffImageFile

from regnet_backbones.errors import UserError

# What Pillow raises on files that are broken in one way or another.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, struct.error),
    Image.DecompressionBombError,
)

# Decoding releases the GIL, and on network file systems the threads wait most of the time.
CHECK_THREADS = 8

# Pillow stretches grey values of 2 and 4 bits over 0 to 255.
STRETCHED = {2: 85, 4: 17}

# Exif's orientations that lay an image on its side.
ON_ITS_SIDE = (5, 6, 7, 8)

# The byte of a PNG that says its bits per channel.
DEPTH_BYTE = 24

# What a PNG has where Pillow finds an orientation; behind the pixels, in the last TAIL bytes.
ORIENTING = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
TAIL = 2**17


def open_upright(path: str | Path) -> Image.Image:
    """Read an image to its end, turned as its EXIF or XMP data say.

    Raises:
        UserError: it cannot be read, or has more than 8 bits per channel.
    """
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
    """Return width and height of an open image after `PIL.ImageOps.exif_transpose`.

    No pixels are decoded, but those of a PNG that has EXIF or XMP data behind them.
    """
    if _exif(image).get(ExifTags.Base.Orientation) not in ON_ITS_SIDE:
        return image.size
    if isinstance(image, TiffImageFile):
        # Its `size` is turned already, in older versions of Pillow not before it is decoded.
        return image.tag_v2[TiffImagePlugin.IMAGELENGTH], image.tag_v2[TiffImagePlugin.IMAGEWIDTH]
    return image.size[::-1]


def is_turned(image: Image.Image) -> bool:
    """Return whether the EXIF or XMP data of an open image turn or mirror it."""
    return _exif(image).get(ExifTags.Base.Orientation, 1) in range(2, 9)


def bit_depth(path: str | Path) -> int:
    """Return the bits per channel of a PNG file."""
    with open(path, "rb") as file:
        return file.read(DEPTH_BYTE + 1)[DEPTH_BYTE]


def _exif(image: Image.Image) -> Image.Exif:
    """Return the EXIF data of an open image, with the orientation of its XMP data."""
    if image.format != "PNG":
        return image.getexif()
    file = getattr(image, "fp", None)  # None once it is decoded
    end = b"" if file is None else _end_of(file)
    if any(mark in end for mark in ORIENTING):
        image.load()
    # A PNG's own `getexif` would decode every file that has no EXIF data, to look for them.
    return Image.Image.getexif(image)


def _end_of(file: IO[bytes]) -> bytes:
    """Return the last bytes of a PNG, from its last chunk of pixels on if that begins in them."""
    place = file.tell()
    try:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        return file.read().rpartition(b"IDAT")[2]
    finally:
        file.seek(place)
