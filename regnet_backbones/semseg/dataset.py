"""Images and masks as tensors, and the check of all files before a training starts.

Every problem of a file comes out as one `BadPairError` that names the file and the way out, at
the check as well as in a worker of a loader.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import tv_tensors

from regnet_backbones.image_files import (
    CHECK_THREADS,
    STRETCHED,
    UNREADABLE,
    bit_depth,
    depth_problem,
    open_upright,
    upright_size,
)
from regnet_backbones.semseg.layouts import IGNORE, LISTED, Pairs

logger = logging.getLogger(__name__)

# Up to this many masks are decoded by the check; of more, a sample evenly spread over them.
MASKS_IN_FULL = 2000
MASKS_IN_SAMPLE = 500

# Modes in which Pillow opens PNG files of one channel. Palette indices are labels.
LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B")

PairTransform = Callable[
    [tv_tensors.Image, tv_tensors.Mask], tuple[tv_tensors.Image, tv_tensors.Mask]
]


class BadPairError(ValueError):
    """Tell which file of a dataset cannot be used, why, and what to do."""


class SegmentationDataset(Dataset[dict[str, torch.Tensor | str]]):
    """Read pairs and transform them.

    An item is a dict of `image` (float32, (3, H, W), as the transform leaves it), `mask` (int64,
    (H, W), classes and `IGNORE`) and `name` (the image's file name without suffix).

    Args:
        pairs: the files.
        transform: from an image of uint8 (3, H, W) and its mask of uint8 (H, W) to both changed.
        skip_bad: in place of a pair that cannot be read, warn once and return the next image that
            can, with a mask of `IGNORE` only: it counts in no loss and no metric.

    Raises:
        BadPairError: on reading, for a file that cannot be used, unless `skip_bad`; with it, only
            when not a single pair can be read.
    """

    def __init__(self, pairs: Pairs, transform: PairTransform, *, skip_bad: bool = False) -> None:
        self.pairs = pairs
        self.transform = transform
        self.skip_bad = skip_bad
        self._bad: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | str]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a dataset of {len(self)} pairs")
        read, image, mask = self._read_at_or_after(index)
        if read != index:
            mask = torch.full_like(mask, IGNORE)
        image, mask = self.transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
        return {
            "image": image.as_subclass(torch.Tensor),
            "mask": mask.as_subclass(torch.Tensor).long(),
            "name": self.pairs.images[read].stem,
        }

    def _read_at_or_after(self, index: int) -> tuple[int, torch.Tensor, torch.Tensor]:
        """Read a pair, or with `skip_bad` the first one from there on that can be read."""
        pairs = self.pairs
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            if candidate in self._bad:
                continue
            try:
                image, mask = read_pair(
                    pairs.images[candidate], pairs.masks[candidate], pairs.label_map
                )
            except BadPairError as error:
                if not self.skip_bad:
                    raise
                self._bad[candidate] = str(error)
                logger.warning("skipped a pair: %s", error)
                continue
            return candidate, image, mask
        raise BadPairError(
            f"none of the {len(self)} pairs can be used; the first problem: {self._bad[index]}"
        )


def check_pairs(pairs: Pairs, num_classes: int, skip_bad: bool = False) -> Pairs:
    """Check the files of a split: present, readable, of equal size, labels below the class count.

    Sizes and modes are read from the headers. Labels are read of all masks where these are fewer
    than 2,000, else of a sample; a dataset checks the rest when it reads them.

    Args:
        pairs: of a split.
        num_classes: as many as `pairs` says that there are.
        skip_bad: leave bad pairs out rather than raise.

    Returns:
        The pairs without the bad ones, which are logged as a warning.

    Raises:
        ValueError: there are more or fewer classes. As `BadPairError`: a pair is bad and `skip_bad`
            is False, or all are.
    """
    if num_classes != pairs.num_classes:
        raise ValueError(
            f"num_classes is {num_classes}, but the dataset has {pairs.num_classes} classes; "
            "give that number"
        )
    step = 1 if len(pairs) < MASKS_IN_FULL else -(-len(pairs) // MASKS_IN_SAMPLE)

    def problem(index: int) -> str | None:
        image, mask = pairs.images[index], pairs.masks[index]
        try:
            _check_headers(image, mask)
            if index % step == 0:
                read_mask(mask, pairs.label_map)
        except BadPairError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        problems = dict(enumerate(pool.map(problem, range(len(pairs)))))
    bad = {index: text for index, text in problems.items() if text is not None}
    if not bad:
        return pairs
    first = next(iter(bad.values()))
    names = ", ".join(pairs.images[index].name for index in list(bad)[:LISTED])
    names += ", ..." if len(bad) > LISTED else ""
    if len(bad) == len(pairs) or not skip_bad:
        others = f"; {len(bad)} of the {len(pairs)} pairs are bad: {names}"
        raise BadPairError(first + (others if len(bad) > 1 else ""))
    logger.warning(
        "skipped %d of %d pairs: %s; the first problem: %s", len(bad), len(pairs), names, first
    )
    return pairs.subset([index for index in range(len(pairs)) if index not in bad])


def read_pair(
    image: Path, mask: Path, label_map: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read an image, uint8 (3, H, W), and the classes of its mask, uint8 (H, W).

    Raises:
        BadPairError: one of the files cannot be used, or their sizes differ.
    """
    _check_mask_is_there(image, mask)
    pixels, classes = read_image(image), read_mask(mask, label_map)
    _check_sizes(image, mask, pixels.shape[:2], classes.shape)
    return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(classes)


def read_image(path: Path) -> np.ndarray:
    """Read an image as RGB, uint8 (H, W, 3), turned as its EXIF orientation says.

    Raises:
        BadPairError: it cannot be read, or has more than 8 bits per channel.
    """
    try:
        # Viewers and labelling tools turn it too, so that masks are drawn on the turned image.
        return np.array(open_upright(path).convert("RGB"))
    except ValueError as error:
        raise BadPairError(f"{error}, or leave out all such pairs with skip_bad") from error


def read_mask(path: Path, label_map: tuple[int, ...]) -> np.ndarray:
    """Read a mask as classes and `IGNORE`, uint8 (H, W).

    Raises:
        BadPairError: it cannot be read, is no PNG of one channel, or has labels beyond the map.
    """
    with _opened(path, "mask") as image:
        _check_mask_mode(path, image)
        labels = np.array(image)
        if image.mode == "L":
            labels //= STRETCHED.get(bit_depth(path), 1)
    # Label 256 stands for all labels of 16-bit masks that no map has.
    beyond = IGNORE + 1
    labels = labels.astype(np.uint8) if labels.dtype == bool else labels
    known = labels if labels.dtype == np.uint8 else np.clip(labels, 0, beyond)
    classes = _lookup_table(label_map)[known]
    strays = classes < 0
    if strays.any():
        found = ", ".join(str(label) for label in np.unique(labels[strays])[:LISTED])
        raise BadPairError(
            f"mask '{path}' has labels that the dataset does not define: {found}; allowed are 0 "
            f"to {len(label_map) - 1}, and {IGNORE} for pixels that count nowhere; correct the "
            "mask, or the number of classes"
        )
    return classes.astype(np.uint8)


@lru_cache(maxsize=8)
def _lookup_table(label_map: tuple[int, ...]) -> np.ndarray:
    """Return the class of labels 0 to 256 as int16, -1 for labels that are errors."""
    table = np.full(IGNORE + 2, -1, np.int16)
    table[: len(label_map)] = label_map
    table[IGNORE] = IGNORE
    return table


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[Image.Image]:
    """Open a file, and say which one it was when anything inside fails to read it."""
    try:
        with Image.open(path) as image:
            yield image
    except BadPairError:
        raise
    except UNREADABLE as error:
        raise BadPairError(
            f"{kind} '{path}' cannot be read ({error}); replace or remove it, or leave out all "
            "such pairs with skip_bad"
        ) from error


def _check_headers(image: Path, mask: Path) -> None:
    """Check what the headers of a pair tell: modes and sizes."""
    _check_mask_is_there(image, mask)
    with _opened(image, "image") as header:
        _check_image_mode(image, header)
        width, height = upright_size(header)
    with _opened(mask, "mask") as header:
        _check_mask_mode(mask, header)
        _check_sizes(image, mask, (height, width), (header.height, header.width))


def _check_mask_is_there(image: Path, mask: Path) -> None:
    if not mask.is_file():
        raise BadPairError(
            f"image '{image}' has no mask: there is no '{mask}'; add that file, remove the image, "
            "or leave out all such pairs with skip_bad"
        )


def _check_sizes(
    image: Path, mask: Path, image_size: tuple[int, ...], mask_size: tuple[int, ...]
) -> None:
    if image_size != mask_size:
        (height, width), (mask_height, mask_width) = image_size, mask_size
        raise BadPairError(
            f"mask '{mask}' is {mask_width}x{mask_height} pixels, but its image '{image}' is "
            f"{width}x{height} (width x height, turned as its EXIF data say); save both in one "
            "size, masks resized without interpolation"
        )


def _check_image_mode(path: Path, image: Image.Image) -> None:
    if problem := depth_problem(image):
        raise BadPairError(f"image '{path}' {problem}")


def _check_mask_mode(path: Path, mask: Image.Image) -> None:
    if mask.format != "PNG":
        raise BadPairError(
            f"mask '{path}' is a {mask.format} file; save it as PNG, which keeps labels exactly"
        )
    if mask.mode not in LABEL_MODES:
        raise BadPairError(
            f"mask '{path}' has channels {' '.join(mask.getbands())} (mode {mask.mode}); a mask "
            "has one channel, whose values are the labels: save it as grey or palette PNG without "
            "alpha (colours are no labels)"
        )
