"""Which images a command line means, and what is written for each is called."""

import os
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from regnet_backbones.errors import MissingFileError

# Of the images in a folder, and of the matches of a pattern.
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def find_images(inputs: Sequence[str | Path]) -> list[Path]:
    """Return the images that files, folders and glob patterns name, each image once.

    A file may have any suffix. What a folder or a pattern holds is sorted by name.
    """
    found: dict[Path, Path] = {}
    for text in inputs:
        for image in _images_of(str(text)):
            found.setdefault(image.resolve(), image)
    return list(found.values())


def output_names(images: Sequence[Path]) -> dict[Path, Path]:
    """Name the outputs of different images so that no two share one.

    A name is the path below the folder that all have in common, without suffix unless two would be
    the same (`a.jpg` and `a.png`). Append to it: `with_suffix` would cut names with a dot.
    """
    if not images:
        return {}
    absolute = {image: Path(os.path.abspath(image)) for image in images}
    common = os.path.commonpath([path.parent for path in absolute.values()])
    full = {image: path.relative_to(common) for image, path in absolute.items()}
    short = {image: name.with_suffix("") for image, name in full.items()}
    return short if len(set(short.values())) == len(short) else full


def _images_of(text: str) -> list[Path]:
    path = Path(text)
    if path.is_file():
        return [path]
    paths = path.iterdir() if path.is_dir() else map(Path, glob(text, recursive=True))
    images = sorted(p for p in paths if p.suffix.lower() in SUFFIXES and p.is_file())
    if not images:
        place = "in the folder " if path.is_dir() else ""
        raise MissingFileError(
            f"no image {place}'{text}'; give files, folders, or patterns in quotes such as "
            f"'photos/*.jpg'; images end in {', '.join(SUFFIXES)}"
        )
    return images
