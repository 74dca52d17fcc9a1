"""A folder that has a run in it: which is resumed with another config, or begun anew."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm

from regnet_backbones.detection.config import load_config_file, values_by_key
from regnet_backbones.files import set_aside, write_whole
from regnet_backbones.inference.trained import CONFIG_NAME, FINAL_NAME, LAST_NAME, METRICS_NAME

logger = logging.getLogger(__name__)

# The state of optimizer and schedule, which a checkpoint has, holds these.
KEPT = (
    "SOLVER.BASE_LR",
    "SOLVER.BIAS_LR_FACTOR",
    "SOLVER.MOMENTUM",
    "SOLVER.NESTEROV",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.WEIGHT_DECAY_BIAS",
    "SOLVER.WEIGHT_DECAY_NORM",
)

# Where and how often something is written, looked at or evaluated: training does not know of it.
IRRELEVANT = ("OUTPUT_DIR", "VIS_PERIOD", "SOLVER.CHECKPOINT_PERIOD", "DATALOADER.CHECK_IMAGES")
IRRELEVANT_PARTS = ("TEST.",)

# What a run writes that a new one would be mixed up with, beside the metrics.
FILES = (FINAL_NAME, f"model_{'[0-9]' * 7}.pth", LAST_NAME, "events.out.tfevents.*")

# How many differences are named.
NAMED = 8


class EarlierRun:
    """What an earlier run left in a folder, noted before this run writes to it.

    Only the first process looks, and moves files.

    Args:
        folder: of both.
    """

    def __init__(self, folder: Path):
        self._folder, self._config_file = folder, folder / CONFIG_NAME
        writes = comm.is_main_process()
        known = writes and self._config_file.is_file()
        self._config = self._config_file.read_bytes() if known else None
        self._files = [file for name in FILES for file in sorted(folder.glob(name)) if writes]
        metrics = folder / METRICS_NAME
        grown = writes and metrics.is_file() and metrics.stat().st_size > 0
        self._metrics = [metrics] if grown else []

    @contextmanager
    def config_kept_if_refused(self) -> Iterator[None]:
        """Keep the config of the earlier run in its folder where this run is refused.

        Detectron2 writes the config of every start before it looks at the checkpoint.
        """
        try:
            yield
        except BaseException:
            if self._config is not None:
                self._write_config(self._config_file)
            raise

    def set_aside(self) -> None:
        """Move what the earlier run left to a folder of its own, and say so.

        Logs would be mixed with this run's, and its checkpoints be taken for this run's. To be
        called when this run has its weights, which may be those of the earlier one.
        """
        if not (self._files or self._metrics):
            return
        aside = set_aside(self._folder, self._files, name="OUTPUT_DIR", in_use=self._metrics)
        if self._config is not None:
            self._write_config(aside / CONFIG_NAME)

    def _write_config(self, path: Path) -> None:
        """Write the config that the earlier run had."""
        write_whole(path, lambda file: file.write(self._config))


def warn_of_changes(cfg: CfgNode, config_file: Path) -> None:
    """Warn, in one line, of what a resumed run has otherwise than the run had.

    Args:
        cfg: of the resumed run.
        config_file: what detectron2 wrote when the run began; nothing is said if it is not there.
    """
    if not config_file.is_file():
        return
    before = values_by_key(CfgNode(load_config_file(config_file)))
    now = values_by_key(cfg)
    changed = [
        key
        for key, value in sorted(now.items())
        if before.get(key, value) != value
        and key not in IRRELEVANT
        and not key.startswith(IRRELEVANT_PARTS)
    ]
    if not changed:
        return
    said = [
        f"{key} was {before[key]} and is {now[key]}"
        + (" (no effect: the checkpoint's goes on)" if key in KEPT else "")
        for key in changed[:NAMED]
    ]
    more = f"; {len(changed) - NAMED} more" if len(changed) > NAMED else ""
    logger.warning(
        "resumed with another config than in '%s': %s%s. Give what it was to go on exactly, or "
        "another OUTPUT_DIR to start anew",
        *(config_file, "; ".join(said), more),
    )
