"""Image files as Pillow reads them: what it raises, and what their headers tell."""

import struct
from pathlib import Path

from PIL import ExifTags, Image

# What Pillow raises on files that are broken in one way or another.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    struct.error,
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


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of an open image, once it is turned as its EXIF data say."""
    # Asked of a PNG without EXIF data, `getexif` would decode the whole file to look for them.
    has_none = image.format == "PNG" and "exif" not in image.info
    exif = {} if has_none else image.getexif()
    turned = exif.get(ExifTags.Base.Orientation) in ON_ITS_SIDE
    return image.size[::-1] if turned else image.size


def bit_depth(path: str | Path) -> int:
    """Return the bits per channel of a PNG file."""
    with open(path, "rb") as file:
        return file.read(DEPTH_BYTE + 1)[DEPTH_BYTE]
