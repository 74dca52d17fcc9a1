"""What to do about a failure of a training, in keys of its config."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from regnet_backbones.cli.failure_lines import Cause, error_line

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def hints_of(cfg: "CfgNode") -> dict[Cause, str]:
    """Return what to do, with the present values of the keys to change."""
    solver, workers = cfg.SOLVER, cfg.DATALOADER.NUM_WORKERS
    smaller = [
        f"lower SOLVER.IMS_PER_BATCH (now {solver.IMS_PER_BATCH}) and, in proportion, "
        f"SOLVER.BASE_LR (now {solver.BASE_LR:g})",
        f"lower INPUT.MIN_SIZE_TRAIN (now {_shown(cfg.INPUT.MIN_SIZE_TRAIN)})",
    ]
    if "REGNET" in cfg.MODEL and not cfg.MODEL.REGNET.get("GRAD_CHECKPOINT", True):
        smaller.append("set MODEL.REGNET.GRAD_CHECKPOINT True")
    if not solver.AMP.ENABLED and cfg.MODEL.DEVICE != "cpu":
        smaller.append("set SOLVER.AMP.ENABLED True")
    go_on = (
        "--resume goes on from the last checkpoint, if there is one yet "
        f"(SOLVER.CHECKPOINT_PERIOD {solver.CHECKPOINT_PERIOD})"
    )
    fewer = f"lower DATALOADER.NUM_WORKERS (now {workers})"
    return {
        Cause.INTERRUPTED: go_on,
        Cause.OUT_OF_MEMORY: f"{', or '.join(smaller)}; {go_on}",
        Cause.SHARED_MEMORY: f"{fewer}, or give /dev/shm more space (docker run --shm-size 8g)",
        Cause.DISK_FULL: f"make space for OUTPUT_DIR '{cfg.OUTPUT_DIR}'; {go_on}",
        Cause.NOT_WRITABLE: f"choose another OUTPUT_DIR than '{cfg.OUTPUT_DIR}'",
        Cause.TOO_MANY_FILES: f"{fewer}, or raise the limit with `ulimit -n 65536`",
        Cause.WORKER_KILLED: f"it is mostly the lack of memory that kills one: {fewer}; {go_on}",
        Cause.PROCESS_KILLED: "it is mostly the lack of memory that kills one: "
        f"{fewer}, or {smaller[0]}; {go_on}",
        Cause.PORT_IN_USE: "give another --dist-url tcp://HOST:PORT, or 'auto' on one machine",
        Cause.NO_CONNECTION: "all machines need the same --dist-url, the address of the first "
        "one, and the run there to be started",
        Cause.NO_GPU: "set MODEL.DEVICE cpu, or install a driver and a torch that fit the GPU",
    }


@contextmanager
def quiet_about_mendable_errors() -> Iterator[None]:
    """Keep the tracebacks of errors that end in one line out of the terminal.

    Detectron2 logs the traceback of whatever ends a training. The log file has all of them.
    """
    terminal = (sys.stdout, sys.stderr)
    handlers = [
        handler
        for handler in logging.getLogger("detectron2").handlers
        if getattr(handler, "stream", None) in terminal  # its log file is a stream, too
    ]
    for handler in handlers:
        handler.addFilter(_is_news)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Tell whether a record is no traceback of an error that has a line."""
    return not (record.exc_info and record.exc_info[1] and error_line(record.exc_info[1]))


def _shown(sizes: int | tuple[int, ...]) -> str:
    """Write the sizes of images, of which there may be one or several."""
    return ", ".join(map(str, (sizes,) if isinstance(sizes, int) else sizes))
