"""How the training images of a semantic segmenter are augmented."""

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform


class PadToSize(T.Augmentation):
    """Pad images on the right and at the bottom, their labels with the ignored one.

    Args:
        size: height and width that an image has at least afterwards.
        pixel: value of added pixels.
        label: label of added pixels.
    """

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


def build_train_mapper(cfg: CfgNode) -> DatasetMapper:
    """Build what reads and augments a training image and its mask.

    Resize (`INPUT.MIN_SIZE_TRAIN`), crop with at most `INPUT.CROP.SINGLE_CATEGORY_MAX_AREA` of one
    class, flip, change colours (`INPUT.COLOR_AUG_SSD`); pad what is smaller than an absolute crop.
    """
    crop, ignored = cfg.INPUT.CROP, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    augmentations = utils.build_augmentation(cfg, is_train=True)  # resize, flip
    if crop.ENABLED:
        augmentations.insert(
            1,
            T.RandomCrop_CategoryAreaConstraint(
                crop.TYPE, crop.SIZE, crop.SINGLE_CATEGORY_MAX_AREA, ignored
            ),
        )
    if cfg.INPUT.COLOR_AUG_SSD:
        augmentations.append(ColorAugSSDTransform(img_format=cfg.INPUT.FORMAT))
    if crop.ENABLED and crop.TYPE == "absolute":
        # Near the mean: about zero for the network, as the padding of a batch is.
        grey = round(float(np.mean(cfg.MODEL.PIXEL_MEAN)))
        augmentations.append(PadToSize(crop.SIZE, pixel=grey, label=ignored))
    return DatasetMapper(cfg, is_train=True, augmentations=augmentations)
