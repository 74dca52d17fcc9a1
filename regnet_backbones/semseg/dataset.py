"""Images and masks as tensors: read, checked before a training starts, and augmented.

Every problem of a file is a `UserError` that names it, at the check and in a worker of a loader.
Transforms are torchvision's v2, of a `tv_tensors.Image` (uint8, (3, H, W)) and a `tv_tensors.Mask`
(uint8, (H, W)); the image becomes float32, normalised. Grey images have one channel for three.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from regnet_backbones.errors import UserError
from regnet_backbones.runs import image_files
from regnet_backbones.runs.functions import find_function
from regnet_backbones.runs.image_files import output_names
from regnet_backbones.runs.resume import seeded
from regnet_backbones.semseg import labels as label_tools
from regnet_backbones.semseg.coco import PaintedMask, PanopticMask
from regnet_backbones.semseg.labels import IGNORE, LabelCounts, Labels
from regnet_backbones.semseg.layouts import Pairs
from regnet_backbones.zoo import IMAGENET_MEAN, IMAGENET_STD

logger = logging.getLogger(__name__)

Pair = tuple[tv_tensors.Image, tv_tensors.Mask]
PairTransform = Callable[[tv_tensors.Image, tv_tensors.Mask], Pair]

# Colour distortions of SSD (https://arxiv.org/abs/1512.02325) without its swapped channels: each
# of them is applied to every second image.
PHOTOMETRIC = ({"brightness": 0.125}, {"contrast": 0.5}, {"saturation": 0.5}, {"hue": 0.05})

# The check decodes up to this many masks; of more, a sample evenly spread over them.
MASKS_DECODED = 2000

# Formats that keep labels exactly, and Pillow's modes of masks: of one channel (indices of a
# palette are labels), and of several.
MASK_FORMATS = ("PNG", "TIFF", "BMP", "GIF")
LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B")
COLOR_MODES = ("LA", "RGB", "RGBA")

SAVE = "save it as a grey or palette PNG whose values are the labels"


class SegmentationDataset(Dataset[dict[str, torch.Tensor | str]]):
    """Read pairs, as RGB or grey images (1 channel), and transform them.

    An item is a dict of `image` (float32, (3, H, W), as the transform leaves it), `mask` (int64,
    (H, W), classes and `IGNORE`) and `name`. The transform draws from a `ResumableSampler`'s seed.
    """

    def __init__(self, pairs: Pairs, transform: PairTransform, *, channels: int = 3) -> None:
        self.pairs, self.channels = pairs, channels
        self.names = [name.as_posix() for name in output_names(pairs.images).values()]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, drawn: int | tuple[int, int]) -> dict[str, torch.Tensor | str]:
        if isinstance(drawn, tuple):
            with seeded(drawn[1]):
                return self[drawn[0]]
        path, labels = self.pairs.images[drawn], self.pairs.labels
        pixels = read_image(path, self.channels)
        size = (pixels.shape[1], pixels.shape[0])
        values = _read_mask(self.pairs.masks[drawn], labels, path, size)
        image, mask = self.transform(
            tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)),
            tv_tensors.Mask(torch.from_numpy(labels.classes_of(values).astype(np.uint8))),
        )
        return {
            "image": image.as_subclass(torch.Tensor),
            "mask": mask.as_subclass(torch.Tensor).long(),
            "name": self.names[drawn],
        }


def check_pairs(
    pairs: Pairs, *, skip_bad: bool = False, everything: bool = False
) -> tuple[Pairs, LabelCounts]:
    """Return the pairs of a split whose files are right, and what their masks have; see `skip_bad`.

    Headers are read of all files, labels of `MASKS_DECODED` masks at most, unless `everything` is.
    """
    everything = everything or skip_bad
    step, turned = 1 if everything else -(-len(pairs) // MASKS_DECODED), []

    def look(index: int) -> str | dict[int, int]:  # what is wrong, or what the mask holds
        image, mask = pairs.images[index], pairs.masks[index]
        try:
            size, is_turned = _header(image)
            if everything:
                image_files.open_upright(image)
            values = _read_mask(mask, pairs.labels, image, size, decode=index % step == 0)
        except UserError as error:
            return str(error)
        if is_turned:
            turned.append(image.name)
        return label_tools.count_values(values)

    with ThreadPoolExecutor(image_files.CHECK_THREADS) as pool:
        found = list(pool.map(look, range(len(pairs))))
    problems = {index: each for index, each in enumerate(found) if isinstance(each, str)}
    if problems:
        names = label_tools.first_of([pairs.images[index].name for index in problems])
        count = f"{len(problems)} of the {len(pairs)} pairs are bad: {names}"
        first = next(iter(problems.values()))
        if not skip_bad or len(problems) == len(pairs):
            way_out = "none is left" if skip_bad else "fix them, or set --data.skip_bad true"
            raise UserError(f"{first}; {count}; {way_out}")
        logger.warning("skipped: %s; the first problem: %s", count, first)
        good = [index for index in range(len(pairs)) if index not in problems]
        images, masks = (tuple(files[i] for i in good) for files in (pairs.images, pairs.masks))
        pairs = Pairs(images, masks, pairs.labels)
    if turned:
        text = "%d images are turned by their EXIF data; check that their masks are, too: %s"
        logger.warning(text, len(turned), label_tools.first_of(sorted(turned)))
    counted = [each for each in found if each and isinstance(each, dict)]
    return pairs, LabelCounts(counted, pairs.labels)


def read_image(path: Path, channels: int = 3) -> np.ndarray:
    """Return an image as RGB or grey (1 channel), uint8 (H, W, channels), upright by its EXIF."""
    return pixels_of(image_files.open_upright(path), channels)


def pixels_of(image: Image.Image, channels: int) -> np.ndarray:
    """Return an image as `read_image` does."""
    pixels = np.array(image.convert({1: "L", 3: "RGB"}[channels]))
    return pixels.reshape(image.height, image.width, channels)


def _header(path: Path) -> tuple[tuple[int, int], bool]:
    """Return width and height of an upright image, and whether EXIF data turn it in this size.

    The image is not decoded. If its size changes, that of its mask is what shows how it is turned.
    """
    with _opened(path, "image") as image:
        if problem := image_files.depth_problem(image):
            raise UserError(problem)
        size = image_files.upright_size(image)
        return size, image_files.is_turned(image) and size == image.size


def _read_mask(
    path: Path | PaintedMask | PanopticMask,
    labels: Labels,
    image: Path,
    size: tuple[int, int],
    *,
    decode: bool = True,
) -> np.ndarray:
    """Check the mask of an image of a size, and return its values (H, W); none undecoded."""
    if not isinstance(path, Path):
        if path.size != size:
            sides = "is {}x{} pixels in its json, '{}' {}x{}".format(*path.size, image, *size)
            raise UserError(f"{path.name} {sides} (after its EXIF orientation); correct the json")
        return path.values() if decode else np.empty(0, np.uint8)
    if not path.is_file():
        raise UserError(f"image '{image}' has no mask '{path}'; add that file or remove the image")
    with _opened(path, "mask") as mask:
        if mask.format not in MASK_FORMATS:
            raise UserError(f"is a {mask.format} file, which changes labels; export again, {SAVE}")
        if mask.size != size:
            sides = f"is {mask.width}x{mask.height} pixels, its image '{image}' {size[0]}x{size[1]}"
            raise UserError(f"{sides} (after its EXIF orientation); save both in the same size")
        depth = image_files.bit_depth(path) if mask.format == "PNG" else 8
        if mask.mode not in LABEL_MODES + COLOR_MODES or (mask.mode in COLOR_MODES and depth > 8):
            raise UserError(f"has {depth} bits per channel and Pillow's mode {mask.mode}; {SAVE}")
        if not decode:
            return np.empty(0, np.uint8)
        values = _values(mask, labels, image_files.STRETCHED.get(depth, 1))
        if (labels.classes_of(values) < 0).any():
            raise UserError(labels.strays(label_tools.count_values(values)))
    return values


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[Image.Image]:
    """Open a file, and name it in whatever goes wrong inside."""
    try:
        with Image.open(path) as image:
            yield image
    except UserError as error:
        raise UserError(f"{kind} '{path}' {error}") from error
    except image_files.UNREADABLE as error:
        raise UserError(f"{kind} '{path}' cannot be read ({error}); replace it") from error


def _values(mask: Image.Image, labels: Labels, stretched: int) -> np.ndarray:
    """Return the values of a mask (H, W): labels, or colours as numbers."""
    if mask.mode in COLOR_MODES or labels.in_color:
        colors = np.array(mask.convert("RGB"))
        if labels.in_color:
            return label_tools.packed(colors)
        if (colors != colors[..., :1]).any():
            counted = label_tools.count_values(label_tools.packed(colors))
            held = label_tools.values_text(counted, in_color=True)
            raise UserError(f"has colours: {held}; set --data.colors, or {SAVE}")
        return colors[..., 0]
    values = np.array(mask)
    if values.dtype == bool:
        return values.astype(np.uint8)
    return values // stretched if mask.mode == "L" else values


def train_transform(
    crop_size: int,
    *,
    scale_range: tuple[float, float] = (0.9, 1.1),
    flip: float = 0.5,
    photometric: bool = False,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    short_side: int | None = None,
    augmentation: str | None = None,
) -> v2.Compose:
    """Return the augmentation of training; arguments as of `SegmentationData`.

    Smaller images are padded, at random sides, with the mean, their masks with `IGNORE`.
    """
    fill = {tv_tensors.Image: [255 * value for value in mean], tv_tensors.Mask: IGNORE}
    colours = [v2.RandomApply([v2.ColorJitter(**change)], p=0.5) for change in PHOTOMETRIC]
    crop = v2.RandomCrop(crop_size, pad_if_needed=True, fill=fill)
    resized = partial(resize, short_side=short_side)
    if augmentation is None:
        of_colours = colours if photometric else []
        jittered = partial(resized, scale_range=scale_range)
        steps = [jittered, crop, v2.RandomHorizontalFlip(flip), *of_colours]
    else:
        steps = [resized, CustomAugmentation(augmentation), crop]
    return v2.Compose([*steps, val_transform(mean=mean, std=std)])


@dataclass(frozen=True)
class CustomAugmentation:
    """A user's callable by its path, see `find_augmentation`; each data worker finds its own."""

    path: str

    def __call__(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> Pair:
        """Call it with arrays, and check what it returns."""
        given = image.permute(1, 2, 0).contiguous().numpy(), mask.numpy()
        found = find_augmentation(self.path)(*given)
        arrays = isinstance(found, tuple) and all(isinstance(each, np.ndarray) for each in found)
        shapes = [each.shape for each in found] if arrays else []
        fits = len(shapes) == 2 and shapes[0] == (*shapes[1], len(image))
        if not fits or any(each.dtype != np.uint8 for each in found):
            held = [f"{v.dtype} {v.shape}" for v in found] if arrays else type(found).__name__
            wanted = f"a uint8 image (H, W, {len(image)}) and a uint8 mask (H, W), numpy arrays"
            raise UserError(f"--data.augmentation '{self.path}' must return {wanted}, got {held}")
        pixels, labels = (torch.from_numpy(np.ascontiguousarray(each)) for each in found)
        return tv_tensors.Image(pixels.permute(2, 0, 1)), tv_tensors.Mask(labels)


@cache
def find_augmentation(path: str) -> Callable[[np.ndarray, np.ndarray], object]:
    """Return the augmentation of `--data.augmentation`; of a class, build an object."""
    found = find_function(path, "--data.augmentation")
    return found() if inspect.isclass(found) else found


def val_transform(
    *, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> v2.Compose:
    """Return the transform of validation: normalisation, in the size of the file."""
    for name, values, least in (("mean", mean, 0.0), ("std", std, 1e-6)):
        matches = len(values) in (1, 3) and len(values) == len(mean)
        if not matches or not all(least <= value <= 1 for value in values):
            wanted = "3 numbers (RGB) or 1 (grey) for pixels in [0, 1], as many for mean as for std"
            way_out = "divide numbers for [0, 255] by 255"
            raise UserError(f"{name} must be {wanted}, got {tuple(values)}; {way_out}")
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))])


def resize(
    image: tv_tensors.Image,
    mask: tv_tensors.Mask,
    scale_range: tuple[float, float] = (1.0, 1.0),
    short_side: int | None = None,
) -> Pair:
    """Resize both by one random factor, the image bilinearly, the mask by the nearest pixel."""
    scale = torch.empty(()).uniform_(*scale_range).item()
    height, width = image.shape[-2:]
    if short_side is not None:
        scale *= short_side / min(height, width)
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    image = F.resize(image, size, v2.InterpolationMode.BILINEAR, antialias=True)
    # torchvision resizes masks with "nearest", which takes the corner of each pixel where the
    # image's interpolation takes the centre: labels would be shifted by up to half a pixel.
    plain = mask.as_subclass(torch.Tensor).unsqueeze(0)
    plain = F.resize(plain, size, v2.InterpolationMode.NEAREST_EXACT)
    return image, tv_tensors.Mask(plain.squeeze(0))
