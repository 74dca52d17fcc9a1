"""A folder that has a run in it: it is resumed with another config, or makes room for a new run."""

import logging
from pathlib import Path

from detectron2.config import CfgNode

from regnet_backbones.detection.config import load_config_file, values_by_key
from regnet_backbones.detection.trained import check_whole
from regnet_backbones.files import set_aside
from regnet_backbones.runs.trained import CONFIG_NAME, FINAL_NAME, LAST_NAME, METRICS_NAME

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

# What a run writes that a new one would be mixed up with. The first one is what --resume looks for.
FILES = (
    LAST_NAME,
    FINAL_NAME,
    f"model_{'[0-9]' * 7}.pth",
    "events.out.tfevents.*",
    METRICS_NAME,
)

# How many differences are named.
NAMED = 8


def set_earlier_run_aside(folder: Path) -> None:
    """Move what an earlier run left in a folder to a folder in it, with a warning.

    Logs would be mixed with those of the new run, and checkpoints taken for its own. Call it when
    the new run has its weights, which may be those of the earlier one.
    """
    files = [file for name in FILES for file in sorted(folder.glob(name))]
    if files:
        set_aside(folder, [*files, *folder.glob(CONFIG_NAME)], name="OUTPUT_DIR")


def warn_of_changes(cfg: CfgNode, config_file: Path) -> None:
    """Warn, in one line, of what a resumed run has otherwise than the run had.

    Args:
        cfg: of the resumed run.
        config_file: what detectron2 wrote when the run began; nothing is said if it is not there.
    """
    if not config_file.is_file():
        return
    try:
        check_whole(config_file)
        before = values_by_key(CfgNode(load_config_file(config_file)))
    except ValueError as error:
        logger.warning(
            "the run is resumed with the given config, which is not compared with that of the run "
            "and replaces it: %s",
            " ".join(str(error).split()),
        )
        return
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
