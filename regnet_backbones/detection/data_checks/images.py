"""Open the images of a dataset and the masks that are images, and decode every pixel."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image
from tqdm import tqdm

from regnet_backbones.detection.data_checks import kinds
from regnet_backbones.detection.data_checks.defects import Defect, Kind
from regnet_backbones.runs.image_files import (
    CHECK_THREADS,
    STRETCHED,
    UNREADABLE,
    bit_depth,
    depth_problem,
    is_turned,
    upright_size,
)


@dataclass(frozen=True)
class ImageFile:
    """An image, and what its dataset says of it.

    Args:
        path: the file.
        size: width and height that the annotations say; None if they say nothing.
        mask: file of the semantic mask that belongs to it.
        labels: number of classes and the ignored label of the mask; None if they are not used.
        as_grey: whether the mask is read as grey values, as training does, or as it is in the file,
            as evaluation does.
    """

    path: str
    size: tuple[int, int] | None = None
    mask: str | None = None
    labels: tuple[int, int] | None = None
    as_grey: bool = True


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
    defects, size = [], None
    for path in (file.path, file.mask) if file.mask else (file.path,):
        try:
            with Image.open(path) as image:
                if size is None:
                    problems = list(_image_problems(image, file.size))
                    size = upright_size(image)
                else:
                    problems = list(_mask_problems(image, size, file))
        except UNREADABLE as error:
            problems = [(kinds.UNREADABLE_FILE, str(error))]
        defects += [Defect(kind, source, path, detail=detail) for kind, detail in problems]
        if size is None:
            break
    return defects


def _image_problems(
    image: Image.Image, expected: tuple[int, int] | None
) -> Iterator[tuple[Kind, str]]:
    """Find what is wrong with an open image: kinds, and what was found."""
    turned = is_turned(image)  # not known any more of an image that is decoded
    image.load()
    size = upright_size(image)
    if expected is not None and size != expected:
        yield kinds.WRONG_SIZE, "{}x{}, the annotations say {}x{}".format(*size, *expected)
    elif expected is not None and turned:
        yield kinds.TURNED, ""
    if problem := depth_problem(image):
        yield kinds.DEEP_IMAGE, problem
    elif image.mode != "RGB":
        yield kinds.CONVERTED, f"mode {image.mode}"


def _mask_problems(
    mask: Image.Image, size: tuple[int, int], file: ImageFile
) -> Iterator[tuple[Kind, str]]:
    """Find what is wrong with an open mask of an image of (width, height)."""
    mask.load()
    mask_size = upright_size(mask)
    if mask_size != size:
        yield kinds.MASK_SIZE, "{}x{}, the image {}x{}".format(*mask_size, *size)
    if file.labels is None:
        return
    count, ignored = file.labels
    values, grey = np.asarray(mask), np.asarray(mask.convert("L"))
    stretched = mask.format == "PNG" and mask.mode == "L" and bit_depth(file.mask) in STRETCHED
    if not file.as_grey:
        as_saved = values.ndim == 2
    elif values.ndim == 2:
        as_saved = bool((values.astype(np.int64) == grey).all())
    else:  # grey saved as colours is read as it was, transparency left out
        colours = values[..., : 1 if mask.mode == "LA" else 3]
        as_saved = bool((colours == grey[..., None]).all())
    if stretched or not as_saved:
        yield kinds.MASK_COLOURS, f"mode {mask.mode}"
        return
    found = np.unique(grey if file.as_grey else values)
    strays = found[(found >= count) & (found != ignored)]
    if len(strays):
        first = ", ".join(map(str, strays[:3]))
        yield kinds.MASK_LABELS, f"{first}; allowed are 0 to {count - 1} and {ignored}"
