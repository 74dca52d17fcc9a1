"""Images and masks as tensors, and the check of all files before a training starts.

Every problem of a file comes out as a `UserError` that names the file and the way out, at the check
as well as in a worker of a loader.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from torch.utils.data import Dataset
from torchvision import tv_tensors

from regnet_backbones.errors import UserError
from regnet_backbones.runs.image_files import (
    CHECK_THREADS,
    STRETCHED,
    UNREADABLE,
    bit_depth,
    depth_problem,
    open_upright,
    upright_size,
)
from regnet_backbones.runs.image_paths import output_names
from regnet_backbones.semseg.labels import (
    COLORS,
    LabelCounts,
    Labels,
    count_values,
    counts_text,
    first_of,
    packed,
)
from regnet_backbones.semseg.layouts import Pairs
from regnet_backbones.semseg.transforms import PairTransform

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

SAVE = "save it as grey or palette PNG whose values are the labels"


class SegmentationDataset(Dataset[dict[str, torch.Tensor | str]]):
    """Read pairs and transform them.

    An item is a dict of `image` (float32, (3, H, W), as the transform leaves it), `mask` (int64,
    (H, W), classes and `IGNORE`) and `name` (of the image, see `output_names`).
    """

    def __init__(self, pairs: Pairs, transform: PairTransform) -> None:
        self.pairs = pairs
        self.names = [name.as_posix() for name in output_names(pairs.images).values()]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | str]:
        labels, mask = self.pairs.labels, self.pairs.masks[index]
        pixels, values = _read(self.pairs.images[index], mask, labels)
        image, mask = self.transform(
            tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)),
            tv_tensors.Mask(torch.from_numpy(labels.classes_of(values).astype(np.uint8))),
        )
        return {
            "image": image.as_subclass(torch.Tensor),
            "mask": mask.as_subclass(torch.Tensor).long(),
            "name": self.names[index],
        }


def check_pairs(
    pairs: Pairs, *, skip_bad: bool = False, everything: bool = False
) -> tuple[Pairs, LabelCounts]:
    """Check the files of a split: present, readable, of equal size, with labels that have a class.

    Sizes and modes are read from the headers. Labels are read of all masks where these are fewer
    than 2,000, else of a sample; a dataset checks the rest when it reads them. `everything`, and
    `skip_bad`, which leaves bad pairs out with a warning, read all files in full. Returns the
    pairs, and what their masks hold.
    """
    everything = everything or skip_bad
    step = 1 if everything or len(pairs) < MASKS_IN_FULL else -(-len(pairs) // MASKS_IN_SAMPLE)
    labels = pairs.labels

    def look(index: int) -> str | dict[int, int]:
        """Return what is wrong with a pair, or what its mask holds."""
        image, mask = pairs.images[index], pairs.masks[index]
        try:
            _, values = _read(image, mask, labels, pixels=everything, values=index % step == 0)
        except UserError as error:
            return str(error)
        return {} if values is None else count_values(values)

    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        found = list(pool.map(look, range(len(pairs))))
    problems = {index: each for index, each in enumerate(found) if isinstance(each, str)}
    if problems:
        names = first_of([pairs.images[index].name for index in problems])
        count = f"{len(problems)} of the {len(pairs)} pairs are bad: {names}"
        first = next(iter(problems.values()))
        if not skip_bad or len(problems) == len(pairs):
            way_out = "none is left" if skip_bad else "--data.skip_bad true leaves them out"
            raise UserError(f"{first}; {count}; {way_out}")
        logger.warning("skipped: %s; the first problem: %s", count, first)
        good = [index for index in range(len(pairs)) if index not in problems]
        images, masks = (tuple(files[i] for i in good) for files in (pairs.images, pairs.masks))
        pairs = Pairs(images, masks, labels)
    return pairs, LabelCounts([each for each in found if each and isinstance(each, dict)], labels)


def read_image(path: Path) -> np.ndarray:
    """Read an image as RGB, uint8 (H, W, 3), turned as its EXIF orientation says."""
    # Viewers and labelling tools turn it too, so that masks are drawn on the turned image.
    return np.array(open_upright(path).convert("RGB"))


def _read(
    image: Path, mask: Path, labels: Labels, *, pixels: bool = True, values: bool = True
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Check a pair, and read image (H, W, 3) and values (H, W) as far as they are wanted."""
    if not mask.is_file():
        raise UserError(
            f"image '{image}' has no mask: there is no '{mask}'; add that file, or remove the image"
        )
    array = None
    if pixels:
        array = read_image(image)
        height, width = array.shape[:2]
    else:
        with _opened(image, "image") as header:
            if problem := depth_problem(header):
                raise UserError(problem)
            width, height = upright_size(header)
    with _opened(mask, "mask") as header:
        depth = _depth(mask, header)
        found = _values(header, depth, labels) if values else None
        if found is not None and (labels.classes_of(found) < 0).any():
            raise UserError(labels.strays(count_values(found)))
        if header.size != (width, height):
            raise UserError(
                f"is {header.width}x{header.height} pixels, but its image '{image}', turned as its "
                f"EXIF data say, is {width}x{height}; save both in one size"
            )
    return array, found


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[Image.Image]:
    """Open a file, and name it in whatever goes wrong inside."""
    try:
        with Image.open(path) as image:
            yield image
    except UserError as error:
        raise UserError(f"{kind} '{path}' {error}") from error
    except UNREADABLE as error:
        raise UserError(
            f"{kind} '{path}' cannot be read ({error}); replace or remove it"
        ) from error


def _values(mask: Image.Image, depth: int, labels: Labels) -> np.ndarray:
    """Return the values of a mask (H, W): labels, or colours as numbers."""
    if labels.in_color and mask.mode in ("1", "P"):
        mask = mask.convert("RGB")
    values = np.array(mask)
    values = values.astype(np.uint8) if values.dtype == bool else values
    values = values.reshape(*values.shape[:2], -1)
    if values.shape[2] in (2, 4):
        if (values[..., -1] != values[0, 0, -1]).any():
            raise UserError("has an alpha channel of several values; save it without alpha")
        values = values[..., :-1]
    if labels.in_color:
        return packed(np.broadcast_to(values, (*values.shape[:2], 3)))
    if values.shape[2] == 3 and (values != values[..., :1]).any():
        held = counts_text(count_values(packed(values)), in_color=True)
        raise UserError(
            f"has channels R G B that differ: {held}; give a table of colours ({COLORS}), or {SAVE}"
        )
    return values[..., 0] // (STRETCHED.get(depth, 1) if mask.mode == "L" else 1)


def _depth(path: Path, mask: Image.Image) -> int:
    """Check that a file keeps labels exactly; return its bits per channel."""
    packing = str(mask.info.get("compression", "")) if mask.format == "TIFF" else ""
    if mask.format not in MASK_FORMATS or any(kind in packing for kind in ("jpeg", "webp")):
        raise UserError(
            f"is a {mask.format} file{packing and f' ({packing})'}, which changes labels; draw it "
            f"again, and {SAVE}"
        )
    if getattr(mask, "n_frames", 1) > 1:
        raise UserError(f"has {mask.n_frames} pages; save each as a file")
    depth = 8
    if mask.format == "PNG":
        depth = bit_depth(path)
    elif isinstance(mask, TiffImageFile):
        depth = max(mask.tag_v2.get(BITS_PER_SAMPLE, (1,)))
    if mask.mode not in LABEL_MODES + COLOR_MODES or (mask.mode in COLOR_MODES and depth > 8):
        raise UserError(
            f"has channels {' '.join(mask.getbands())} of {depth} bits (mode {mask.mode}); {SAVE}"
        )
    return depth
