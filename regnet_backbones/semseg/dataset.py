"""Images and masks as tensors, and the check of all files before a training starts.

Every problem of a file comes out as one `BadPairError` that names the file and the way out, at
the check as well as in a worker of a loader.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
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
from regnet_backbones.semseg.labels import (
    IGNORE,
    LISTED,
    LabelCounts,
    Labels,
    advice,
    count_values,
    counts_text,
    packed,
)
from regnet_backbones.semseg.layouts import Pairs

logger = logging.getLogger(__name__)

# Up to this many masks are decoded by the check; of more, a sample evenly spread over them.
MASKS_IN_FULL = 2000
MASKS_IN_SAMPLE = 500

# Formats that keep labels exactly, and Pillow's modes of masks: of one channel, where the indices
# of a palette are labels, and of several.
MASK_FORMATS = ("PNG", "TIFF", "BMP", "GIF")
LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B")
COLOR_MODES = ("LA", "RGB", "RGBA")

BITS_PER_SAMPLE = 258  # a tag of TIFF files

PairTransform = Callable[
    [tv_tensors.Image, tv_tensors.Mask], tuple[tv_tensors.Image, tv_tensors.Mask]
]


class BadPairError(ValueError):
    """Tell which file of a dataset cannot be used, why, and what to do."""


class SegmentationDataset(Dataset[dict[str, torch.Tensor | str]]):
    """Read pairs and transform them.

    An item is a dict of `image` (float32, (3, H, W), as the transform leaves it), `mask` (int64,
    (H, W), classes and `IGNORE`) and `name` (of the image, see `Pairs.names`).

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
        self.names = pairs.names()
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
            "name": self.names[read],
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
                    pairs.images[candidate], pairs.masks[candidate], pairs.labels
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


def check_pairs(
    pairs: Pairs, *, skip_bad: bool = False, everything: bool = False
) -> tuple[Pairs, LabelCounts]:
    """Check the files of a split: present, readable, of equal size, with labels that have a class.

    Sizes and modes are read from the headers. Labels are read of all masks where these are fewer
    than 2,000, else of a sample; a dataset checks the rest when it reads them.

    Args:
        pairs: of a split.
        skip_bad: leave bad pairs out rather than raise.
        everything: read all masks and images in full.

    Returns:
        The pairs without the bad ones, which are logged as a warning; and what their masks hold.

    Raises:
        BadPairError: a pair is bad and `skip_bad` is False, or all are.
    """
    step = 1 if everything or len(pairs) < MASKS_IN_FULL else -(-len(pairs) // MASKS_IN_SAMPLE)

    def look(index: int) -> tuple[str | None, dict[int, int] | None]:
        image, mask = pairs.images[index], pairs.masks[index]
        try:
            _check_headers(image, mask)
            if everything:
                read_image(image)
            if index % step:
                return None, None
            counted = count_values(_read_values(mask, pairs.labels))
        except BadPairError as error:
            return str(error), None
        strays = pairs.labels.strays(counted)
        return strays and f"mask '{mask}' {strays}", counted

    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        found = list(pool.map(look, range(len(pairs))))
    bad = {index: text for index, (text, _) in enumerate(found) if text is not None}
    counted = [(text, mask) for text, mask in found if mask is not None]
    if bad:
        first = next(iter(bad.values()))
        names = ", ".join(pairs.images[index].name for index in list(bad)[:LISTED])
        names += ", ..." if len(bad) > LISTED else ""
        if len(bad) == len(pairs) or not skip_bad:
            others = f"; {len(bad)} of the {len(pairs)} pairs are bad: {names}"
            strays = any(text is not None for text, _ in counted)
            held = LabelCounts.of([mask for _, mask in counted], pairs.labels)
            raise BadPairError(
                first
                + (others if len(bad) > 1 else "")
                + (f"; {advice(pairs.labels, held)}" if strays else "")
            )
        logger.warning(
            "skipped %d of %d pairs: %s; the first problem: %s",
            *(len(bad), len(pairs), names, first),
        )
        pairs = pairs.subset([index for index in range(len(pairs)) if index not in bad])
    good = [mask for text, mask in counted if text is None]
    return pairs, LabelCounts.of(good, pairs.labels)


def read_pair(image: Path, mask: Path, labels: Labels) -> tuple[torch.Tensor, torch.Tensor]:
    """Read an image, uint8 (3, H, W), and the classes of its mask, uint8 (H, W).

    Raises:
        BadPairError: one of the files cannot be used, or their sizes differ.
    """
    _check_mask_is_there(image, mask)
    pixels, classes = read_image(image), read_mask(mask, labels)
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


def read_mask(path: Path, labels: Labels) -> np.ndarray:
    """Read a mask as classes and `IGNORE`, uint8 (H, W).

    Raises:
        BadPairError: it cannot be read, cannot hold labels, or has values that have no class.
    """
    values = _read_values(path, labels)
    classes = labels.classes_of(values)
    if (classes < 0).any():
        raise BadPairError(f"mask '{path}' {labels.strays(count_values(values))}")
    return classes.astype(np.uint8)


def _read_values(path: Path, labels: Labels) -> np.ndarray:
    """Read the values of a mask (H, W): labels, or colours as numbers."""
    with _opened(path, "mask") as image:
        depth = _check_mask_mode(path, image)
        if labels.in_color and image.mode in ("1", "P"):
            values = np.array(image.convert("RGB"))
        else:
            values = np.array(image)
        stretched = image.mode == "L" and not labels.in_color
    values = values.astype(np.uint8) if values.dtype == bool else values
    if stretched:
        values //= STRETCHED.get(depth, 1)
    if values.ndim == 3 and values.shape[2] in (2, 4):
        alpha, values = values[..., -1], values[..., :-1]
        if (alpha != alpha.flat[0]).any():
            raise BadPairError(
                f"mask '{path}' has an alpha channel of several values, and alpha is not a label; "
                "save it without"
            )
    if values.ndim == 3 and (values == values[..., :1]).all():
        values = values[..., 0]
    if labels.in_color:
        return packed(values if values.ndim == 3 else np.stack([values] * 3, axis=-1))
    if values.ndim == 3:
        held = counts_text(count_values(packed(values)), in_color=True)
        raise BadPairError(
            f"mask '{path}' has channels R G B (mode RGB), which differ: {held}. Say which class "
            "each colour is in a file for --data.colors, one 'NAME R G B' a line, or save it as "
            "grey or palette PNG whose values are the labels"
        )
    return values


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


def _check_mask_mode(path: Path, mask: Image.Image) -> int:
    """Check that a file keeps labels exactly; return its bits per channel."""
    packing = str(mask.info.get("compression", "")) if mask.format == "TIFF" else ""
    if mask.format not in MASK_FORMATS or any(kind in packing for kind in ("jpeg", "webp")):
        raise BadPairError(
            f"mask '{path}' is a {mask.format} file{packing and f' ({packing})'}; save it as "
            "PNG from what it was made of: compression as in JPEG changes the values of pixels, "
            "and so their labels, and a converted file keeps the wrong ones"
        )
    if getattr(mask, "n_frames", 1) > 1:
        raise BadPairError(f"mask '{path}' has {mask.n_frames} pages; save each as a file")
    depth = 8
    if mask.format == "PNG":
        depth = bit_depth(path)
    elif isinstance(mask, TiffImageFile):
        depth = max(mask.tag_v2.get(BITS_PER_SAMPLE, (1,)))
    if mask.mode not in LABEL_MODES + COLOR_MODES or (mask.mode in COLOR_MODES and depth > 8):
        raise BadPairError(
            f"mask '{path}' has channels {' '.join(mask.getbands())} of {depth} bits (mode "
            f"{mask.mode}); a mask has labels in one channel, or colours of 8 bits: save it as "
            "grey or palette PNG whose values are the labels"
        )
    return depth
