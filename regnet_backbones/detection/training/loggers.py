"""Loggers of Lightning (`LOGGERS`) for a detector: what detectron2's storage has, they get."""

import inspect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage
from PIL import Image

from regnet_backbones.errors import as_user_error
from regnet_backbones.runs.look import log_picture

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

WINDOW = 20  # values of which detectron2 logs the median


class LoggerWriter(EventWriter):
    """Write scalars and pictures to Lightning's loggers; `logged` is their last iteration.

    `status` is what they are told of the run when it ends: "success", or "failed" if it stopped.
    """

    def __init__(self, loggers: "Sequence[Logger]", *, logged: int = -1):
        self._loggers, self._logged, self.status = loggers, logged, "success"

    def write(self) -> None:
        """Write what is newer than the last writing. Detectron2's TensorBoard drops pictures."""
        storage, rows = get_event_storage(), defaultdict(dict)
        for name, (value, step) in storage.latest_with_smoothing_hint(WINDOW).items():
            if step > self._logged:
                rows[step][name] = float(value)
        for each in self._loggers:
            for step in sorted(rows):
                each.log_metrics(rows[step], step)
            for name, pixels, step in storage._vis_data:
                if step > self._logged:
                    log_picture(each, name, _picture(np.asarray(pixels)), step)
            each.save()
        self._logged = max(rows, default=self._logged)

    def close(self) -> None:
        """End the loggers."""
        for each in self._loggers:
            each.finalize(self.status)


def build_loggers(cfg: CfgNode, *, only_check: bool = False) -> "list[Logger]":
    """Build the loggers of `LOGGERS` or only check them; their `save_dir` is `OUTPUT_DIR`."""
    if not cfg.LOGGERS:
        return []
    from lightning.pytorch import loggers

    built = []
    for each in cfg.LOGGERS:
        entry = each if isinstance(each, Mapping) else {"class_path": each}
        path, given = str(entry.get("class_path")), dict(entry.get("init_args") or {})
        errors = (ImportError, AttributeError, TypeError, ValueError)
        with as_user_error(*errors, prefix=f"LOGGERS, {each}: "):
            if unknown := entry.keys() - {"class_path", "init_args"}:
                raise TypeError(f"keys are class_path and init_args, got {', '.join(unknown)}")
            logger = resolve_name(path) if "." in path else getattr(loggers, path)
            if not (isinstance(logger, type) and issubclass(logger, loggers.Logger)):
                raise TypeError(f"'{path}' is not a logger of Lightning")
            needs = inspect.signature(logger).parameters.get("save_dir")
            if needs is not None and needs.default is needs.empty:
                given.setdefault("save_dir", cfg.OUTPUT_DIR)
            inspect.signature(logger).bind(**given)
            built += [] if only_check else [logger(**given)]
    return built


def _picture(pixels: np.ndarray) -> Image.Image:
    """Return pixels (3, H, W), uint8 or from 0 to 1, as a picture."""
    if pixels.dtype != np.uint8:
        pixels = (255 * pixels).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels.transpose(1, 2, 0))
