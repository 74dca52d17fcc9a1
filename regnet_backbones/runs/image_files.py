"""Image files: which a command line means, how Pillow reads them, and which are refused."""

import os
import re
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from glob import glob
from itertools import groupby, islice
from pathlib import Path
from typing import TypeVar

from PIL import ExifTags, Image, ImageOps, TiffImagePlugin
from PIL.TiffImagePlugin import TiffImageFile

from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.files import sha256

# Of the images in a folder, and of the matches of a pattern.
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

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
FRAME_NUMBER = re.compile(r"_\d{6,}$")  # what outputs of a video's frames end in
DEPTH_BYTE = 24  # of a PNG, the bits per channel

Item = TypeVar("Item")


def open_upright(path: str | Path) -> Image.Image:
    """Read an image, turned by its EXIF or XMP data; raise UserError if that cannot be done."""
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
    """Describe why an open image has too many bits for training and prediction, None if not."""
    if not image.mode.startswith(("I", "F")):
        return None
    return f"has more than 8 bits per channel (mode {image.mode}); scale its values to 8 bits"


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


def find_images(inputs: Sequence[str | Path], suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Return the images that files, folders and glob patterns name, each image once.

    A file may have any suffix. What a folder or a pattern holds is sorted by name.
    """
    found: dict[Path, Path] = {}
    for text in inputs:
        for image in _images_of(str(text), suffixes):
            found.setdefault(image.resolve(), image)
    return list(found.values())


def sample(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most `count` items, such as images, evenly spread over all."""
    taken = min(count, len(items))
    return [items[index * len(items) // taken] for index in range(taken)]


def check_apart(calibration: Sequence[Path], evaluated: Sequence[Path]) -> None:
    """Raise UserError if an image to calibrate with is evaluated, too, by content or by name."""
    sizes = {path.stat().st_size for path in calibration}
    hashes = {sha256(path): path for path in evaluated if path.stat().st_size in sizes}
    for path in calibration:
        if (same := hashes.get(sha256(path))) is not None:
            text = f"--calibration image '{path}' is '{same}' of the evaluation"
            raise UserError(f"{text}; use other images, such as training images")


def output_names(images: Sequence[Path], videos: Collection[Path] = ()) -> dict[Path, Path]:
    """Name the outputs of different images so that no two share one.

    A name is the path below the folder that all have in common, without suffix unless two would be
    the same (`a.jpg` and `a.png`, or `a_000000.jpg` and the first frame of `videos`' `a.mp4`).
    Append to it: `with_suffix` would cut names with a dot.
    """
    if not images:
        return {}
    absolute = {image: Path(os.path.abspath(image)) for image in images}
    common = os.path.commonpath([path.parent for path in absolute.values()])
    full = {image: path.relative_to(common) for image, path in absolute.items()}
    short = {image: name.with_suffix("") for image, name in full.items()}
    frames_of = {str(short[video]) for video in videos}
    stills = {FRAME_NUMBER.sub("", str(short[image])) for image in images if image not in videos}
    is_unique = len(set(short.values())) == len(short) and frames_of.isdisjoint(stills)
    return short if is_unique else full


def check_batch_size(batch_size: int) -> None:
    """Raise UserError for a number of images that is below 1."""
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")


def batches(
    items: Iterable[Item], batch_size: int, size_of: Callable[[Item], object]
) -> Iterator[list[Item]]:
    """Yield consecutive items of one size together, up to `batch_size` of them, in their order."""
    for _, group in groupby(items, size_of):
        while batch := list(islice(group, batch_size)):
            yield batch


def _images_of(text: str, suffixes: Sequence[str]) -> list[Path]:
    path = Path(text)
    if path.is_file():
        return [path]
    paths = map(Path, glob(text, recursive=True))
    if path.is_dir():  # nothing hidden, as of patterns
        paths = (p for p in path.iterdir() if not p.name.startswith("."))
    images = sorted(p for p in paths if p.suffix.lower() in suffixes and p.is_file())
    if not images:
        place = "in the folder " if path.is_dir() else ""
        allowed = "files, folders, or patterns in quotes such as 'photos/*.jpg'"
        raise MissingFileError(f"no image ({', '.join(suffixes)}) {place}'{text}'; pass {allowed}")
    return images
