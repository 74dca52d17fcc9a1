"""What reads and augments the images of an architecture."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pkgutil import resolve_name

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from detectron2.utils.file_io import PathManager
from PIL import Image

from regnet_backbones.detection.architectures import architecture_of
from regnet_backbones.errors import UserError
from regnet_backbones.runs.image_files import UNREADABLE, depth_problem

Mapper = Callable[[dict], dict | None]


def train_mapper(cfg: CfgNode) -> Mapper:
    """Return what makes a training input of a dataset's record, in the way of the architecture."""
    build = architecture_of(cfg).mapper
    return _Of8Bits(resolve_name(build)(cfg) if build else DatasetMapper(cfg, is_train=True))


def test_mapper(cfg: CfgNode) -> Mapper:
    """Return what makes an input of an evaluation of a dataset's record."""
    return _Of8Bits(DatasetMapper(cfg, is_train=False))


def segmenter_train_mapper(cfg: CfgNode) -> DatasetMapper:
    """Return what reads and augments a training image of a segmenter and its mask.

    Resize (`INPUT.MIN_SIZE_TRAIN`), crop with at most `INPUT.CROP.SINGLE_CATEGORY_MAX_AREA` of one
    class, flip, change colours (`INPUT.COLOR_AUG_SSD`); pad what is smaller than an absolute crop.
    """
    crop, ignored = cfg.INPUT.CROP, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    augmentations = build_augmentation(cfg, is_train=True)  # resize, flip
    if crop.ENABLED:
        cropping = T.RandomCrop_CategoryAreaConstraint(
            crop.TYPE, crop.SIZE, crop.SINGLE_CATEGORY_MAX_AREA, ignored
        )
        augmentations.insert(1, cropping)
    if cfg.INPUT.COLOR_AUG_SSD:
        from detectron2.projects.point_rend import ColorAugSSDTransform

        augmentations.append(ColorAugSSDTransform(img_format=cfg.INPUT.FORMAT))
    if crop.ENABLED and crop.TYPE == "absolute":
        # Near the mean: about zero for the network, as the padding of a batch is.
        grey = round(float(np.mean(cfg.MODEL.PIXEL_MEAN)))
        augmentations.append(PadToSize(crop.SIZE, pixel=grey, label=ignored))
    return DatasetMapper(cfg, is_train=True, augmentations=augmentations)


class PadToSize(T.Augmentation):
    """Pad images to a height and width on the right and at the bottom, and their labels."""

    def __init__(self, size: tuple[int, int], *, pixel: int, label: int):
        super().__init__()
        self.size, self.pixel, self.label = tuple(size), pixel, label

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Return the padding of an image (H, W, C)."""
        height, width = image.shape[:2]
        bottom, right = max(0, self.size[0] - height), max(0, self.size[1] - width)
        return T.PadTransform(
            0, 0, right, bottom, width, height, pad_value=self.pixel, seg_pad_value=self.label
        )


@dataclass(frozen=True)
class _Of8Bits:
    """A mapper that refuses images of more bits, which detectron2 reads as white.

    A class, since data workers that are spawned unpickle their mapper.
    """

    mapper: Mapper

    def __call__(self, record: dict) -> dict | None:
        problem = None
        # An image that cannot be opened is left to the mapper.
        with (
            suppress(*UNREADABLE),
            PathManager.open(record["file_name"], "rb") as file,
            Image.open(file) as image,
        ):
            problem = depth_problem(image)
        if problem:
            raise UserError(f"image '{record['file_name']}' {problem}")
        return self.mapper(record)
