"""A folder that has a run in it: which is resumed with another config, or begun anew."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm

from regnet_backbones.detection.config import values_by_key
from regnet_backbones.whole_files import write_whole

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

# How many differences are named.
NAMED = 8


@contextmanager
def kept_if_refused(config_file: Path) -> Iterator[None]:
    """Keep the config of a run in its folder where a resumption is refused.

    Detectron2 writes the config of every start before it looks at the checkpoint.

    Args:
        config_file: of the run.
    """
    writes = comm.is_main_process() and config_file.is_file()
    before = config_file.read_bytes() if writes else None
    try:
        yield
    except BaseException:
        if before is not None:
            write_whole(config_file, lambda file: file.write(before))
        raise


def begin_anew(folder: Path) -> None:
    """Forget which checkpoint was the last of an earlier run, and say so.

    A resumption would take it for this run's, until this run has written one.

    Args:
        folder: of a run that is not resumed.
    """
    last = folder / "last_checkpoint"
    if last.is_file():
        logger.warning(
            "'%s' has an earlier run in it (%s), whose files will be overwritten: this is a new "
            "one, and --resume will not go on with the other; another OUTPUT_DIR keeps both",
            *(folder, last.read_text()),
        )
        last.unlink()


def warn_of_changes(cfg: CfgNode, config_file: Path) -> None:
    """Warn, in one line, of what a resumed run has otherwise than the run had.

    Args:
        cfg: of the resumed run.
        config_file: what detectron2 wrote when the run began; nothing is said if it is not there.
    """
    if not config_file.is_file():
        return
    before = values_by_key(CfgNode(CfgNode.load_yaml_with_base(str(config_file))))
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
