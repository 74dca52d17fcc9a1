"""Open the images of a dataset and the masks that are images, and decode every pixel."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image
from tqdm import tqdm

from regnet_backbones.detection.data_checks import image_kinds as kinds
from regnet_backbones.detection.data_checks.defects import Defect, Kind
from regnet_backbones.image_files import (
    CHECK_THREADS,
    STRETCHED,
    UNREADABLE,
    bit_depth,
    depth_problem,
    is_turned,
    upright_size,
)

# Modes whose conversion to RGB leaves something out.
TRANSPARENT_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


@dataclass(frozen=True)
class Labels:
    """Which labels a semantic mask may have: 0 to `count - 1`, and `ignored`.

    Training reads them as grey values (`as_grey`), the evaluation as they are in the file.
    """

    count: int
    ignored: int
    as_grey: bool = True


@dataclass(frozen=True)
class ImageFile:
    """An image, and what its dataset says of it.

    Args:
        path: the file.
        size: width and height that the annotations say; None where they say nothing.
        mask: file of the semantic mask that belongs to it.
        labels: what the mask may hold; None where its labels are not used.
    """

    path: str
    size: tuple[int, int] | None = None
    mask: str | None = None
    labels: Labels | None = None


def check_images(
    files: Sequence[ImageFile], *, source: str, progress: bool = False
) -> list[Defect]:
    """Check images and their masks, in several threads: Pillow decodes without Python's lock.

    Args:
        files: the images.
        source: name of the dataset, for the defects.
        progress: show a progress bar.

    Returns:
        What is wrong or worth knowing, in the order of the images.
    """
    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        found = pool.map(partial(_check_image, source=source), files)
        bar = tqdm(found, total=len(files), desc=source, unit="image", disable=not progress)
        return [defect for defects in bar for defect in defects]


def _check_image(file: ImageFile, *, source: str) -> list[Defect]:
    """Check an image, then its mask."""
    try:
        with Image.open(file.path) as image:
            problems, size = list(_image_problems(image, file.size)), upright_size(image)
    except UNREADABLE as error:
        return [Defect(kinds.UNREADABLE_FILE, source, file.path, detail=str(error))]
    defects = [Defect(kind, source, file.path, detail=detail) for kind, detail in problems]
    if file.mask is None:
        return defects
    try:
        with Image.open(file.mask) as mask:
            problems = list(_mask_problems(mask, size, file))
    except UNREADABLE as error:
        problems = [(kinds.UNREADABLE_FILE, str(error))]
    return defects + [Defect(kind, source, file.mask, detail=text) for kind, text in problems]


def _image_problems(
    image: Image.Image, expected: tuple[int, int] | None
) -> Iterator[tuple[Kind, str]]:
    """Find what is wrong with an open image: kinds, and what was found."""
    turned = is_turned(image)  # not known any more of an image that is decoded
    image.load()
    size = upright_size(image)
    if expected is not None and turned and size == expected:
        yield kinds.TURNED, ""
    if expected is not None and size != expected:
        (width, height), (said_width, said_height) = size, expected
        yield kinds.WRONG_SIZE, f"{width}x{height}, the annotations say {said_width}x{said_height}"
    if problem := depth_problem(image):
        yield kinds.DEEP_IMAGE, problem
    elif image.mode in TRANSPARENT_MODES:
        yield kinds.TRANSPARENT, f"mode {image.mode}"
    elif image.mode != "RGB":
        yield kinds.CONVERTED, f"mode {image.mode}"


def _mask_problems(
    mask: Image.Image, size: tuple[int, int], file: ImageFile
) -> Iterator[tuple[Kind, str]]:
    """Find what is wrong with an open mask of an image of (width, height)."""
    mask.load()
    mask_size = upright_size(mask)
    if mask_size != size:
        yield kinds.MASK_SIZE, f"{mask_size[0]}x{mask_size[1]}, the image {size[0]}x{size[1]}"
    if file.labels is None:
        return
    values = np.asarray(mask)
    if not _are_labels(values, mask, file):
        yield kinds.MASK_COLOURS, f"mode {mask.mode}"
        return
    found = np.unique(np.asarray(mask.convert("L")) if file.labels.as_grey else values)
    strays = found[(found >= file.labels.count) & (found != file.labels.ignored)]
    if len(strays):
        allowed = f"allowed are 0 to {file.labels.count - 1} and {file.labels.ignored}"
        yield kinds.MASK_LABELS, f"{', '.join(str(label) for label in strays[:3])}; {allowed}"


def _are_labels(values: np.ndarray, mask: Image.Image, file: ImageFile) -> bool:
    """Tell whether what is read of a mask are the labels that it was saved with."""
    if mask.format == "PNG" and mask.mode == "L" and bit_depth(file.mask) in STRETCHED:
        return False
    if not file.labels.as_grey:
        return values.ndim == 2
    grey = np.asarray(mask.convert("L"))
    if values.ndim == 3:  # grey saved as colours is read as it was, transparency left out
        values, grey = values[..., : 1 if mask.mode == "LA" else 3], grey[..., None]
    return bool((values.astype(np.int64) == grey).all())
