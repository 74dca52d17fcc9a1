"""What reads and augments the training images of an architecture."""

from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper

SEGMENTER = "SemanticSegmentor"


def train_mapper(cfg: CfgNode) -> Callable[[dict], dict | None]:
    """Return what makes a training input of a dataset's record; a segmenter has its own way."""
    if cfg.MODEL.META_ARCHITECTURE != SEGMENTER:
        return DatasetMapper(cfg, is_train=True)
    from regnet_backbones.detection.semantic import build_train_mapper

    return build_train_mapper(cfg)
