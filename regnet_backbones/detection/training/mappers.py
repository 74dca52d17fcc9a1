"""What reads and augments the images of an architecture."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pkgutil import resolve_name

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.utils.file_io import PathManager
from PIL import Image

from regnet_backbones.detection.architectures import architecture_of
from regnet_backbones.errors import UserError
from regnet_backbones.runs.image_files import UNREADABLE, depth_problem

Mapper = Callable[[dict], dict | None]


def train_mapper(cfg: CfgNode) -> Mapper:
    """Return what makes a training input of a dataset's record.

    Detectors have detectron2's `DatasetMapper`; segmenters crop by classes and change colours (see
    `semantic`); Panoptic-DeepLab learns centres and offsets, which its mapper makes.
    """
    build = architecture_of(cfg).mapper
    if build:
        return _Of8Bits(resolve_name(build)(cfg))
    return _Of8Bits(DatasetMapper(cfg, is_train=True))


def test_mapper(cfg: CfgNode) -> Mapper:
    """Return what makes an input of an evaluation of a dataset's record."""
    return _Of8Bits(DatasetMapper(cfg, is_train=False))


@dataclass(frozen=True)
class _Of8Bits:
    """A mapper that refuses images of more bits, which detectron2 reads as white.

    A class, since data workers that are spawned unpickle their mapper.
    """

    mapper: Mapper

    def __call__(self, record: dict) -> dict | None:
        """Map a record.

        Raises:
            ValueError: its image has more than 8 bits per channel.
        """
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
