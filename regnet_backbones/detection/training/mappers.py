"""What reads and augments the training images of an architecture."""

from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper

SEGMENTER = "SemanticSegmentor"


def train_mapper(cfg: CfgNode) -> Callable[[dict], dict | None]:
    """Return what makes a training input of a dataset's record.

    Detectors have detectron2's `DatasetMapper`; segmenters crop by classes and change colours (see
    `semantic` beside this); Panoptic-DeepLab learns centres and offsets, which its mapper makes.
    """
    if cfg.MODEL.META_ARCHITECTURE == SEGMENTER:
        from regnet_backbones.detection.training.semantic import build_train_mapper

        return build_train_mapper(cfg)
    if cfg.MODEL.META_ARCHITECTURE == "PanopticDeepLab":
        from detectron2.projects.panoptic_deeplab import PanopticDeeplabDatasetMapper

        return PanopticDeeplabDatasetMapper(cfg)
    return DatasetMapper(cfg, is_train=True)
