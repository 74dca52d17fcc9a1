"""Augmentation and normalisation of an image together with its mask, from torchvision's v2.

Called with a `tv_tensors.Image` (uint8, (3, H, W)) and a `tv_tensors.Mask` (uint8, (H, W)), they
return both, the image normalised float32. Random numbers are torch's, which loaders seed.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from regnet_backbones.errors import UserError
from regnet_backbones.semseg.labels import IGNORE
from regnet_backbones.zoo import IMAGENET_MEAN, IMAGENET_STD

Pair = tuple[tv_tensors.Image, tv_tensors.Mask]
PairTransform = Callable[[tv_tensors.Image, tv_tensors.Mask], Pair]

# Colour distortions of SSD (https://arxiv.org/abs/1512.02325) without its swapped channels: each
# of them is applied to every second image.
PHOTOMETRIC = ({"brightness": 0.125}, {"contrast": 0.5}, {"saturation": 0.5}, {"hue": 0.05})


def train_transform(
    crop_size: int,
    *,
    scale_range: tuple[float, float] = (0.5, 2.0),
    flip: float = 0.5,
    photometric: bool = True,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    short_side: int | None = None,
) -> v2.Compose:
    """Return the augmentation of training; arguments as of `SegmentationData`.

    Smaller images are padded, at random sides, with the mean, their masks with `IGNORE`.
    """
    if not 0 <= flip <= 1:
        raise UserError(f"flip is a probability from 0 to 1, got {flip}")
    colours = [v2.RandomApply([v2.ColorJitter(**change)], p=0.5) for change in PHOTOMETRIC]
    # Zero is the mean once an image is normalised.
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
    return v2.Compose(
        [
            Resize(scale_range, short_side),
            CropAtMost(crop_size),
            v2.RandomHorizontalFlip(flip),
            *(colours if photometric else []),
            val_transform(mean=mean, std=std),
            v2.RandomCrop(crop_size, pad_if_needed=True, fill=fill),
        ]
    )


def val_transform(
    *, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> v2.Compose:
    """Return the transform of validation: normalisation, in the size of the file."""
    for name, values, least in (("mean", mean, 0.0), ("std", std, 1e-6)):
        if len(values) != 3 or not all(least <= value <= 1 for value in values):
            raise UserError(
                f"{name} must be three numbers, one per RGB channel, of pixels in [0, 1], got "
                f"{tuple(values)}; divide those of pixels in [0, 255] by 255"
            )
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))])


class Resize(nn.Module):
    """Resize both by one random factor, the image bilinearly, the mask by the nearest pixel."""

    def __init__(self, scale_range: tuple[float, float], short_side: int | None = None) -> None:
        super().__init__()
        least, largest = scale_range
        if not 0 < least <= largest:
            raise UserError(f"scale_range must be 0 < least <= largest, got {scale_range}")
        self.scale_range = scale_range
        self.short_side = short_side

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> Pair:
        """Resize an image and its mask to one size."""
        scale = torch.empty(()).uniform_(*self.scale_range).item()
        height, width = image.shape[-2:]
        if self.short_side is not None:
            scale *= self.short_side / min(height, width)
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        image = F.resize(image, size, v2.InterpolationMode.BILINEAR, antialias=True)
        # torchvision resizes masks with "nearest", which takes the corner of each pixel where the
        # image's interpolation takes the centre: labels would be shifted by up to half a pixel.
        plain = mask.as_subclass(torch.Tensor).unsqueeze(0)
        plain = F.resize(plain, size, v2.InterpolationMode.NEAREST_EXACT)
        return image, tv_tensors.Mask(plain.squeeze(0))


class CropAtMost(nn.Module):
    """Cut out a random window of at most `size` pixels a side, the same of both."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> Pair:
        """Cut a window out of an image and its mask."""
        return v2.RandomCrop([min(self.size, side) for side in image.shape[-2:]])(image, mask)
