"""The processes of a run: those of detectron2's `launch`, or those that torchrun has started.

On several machines detectron2 wants the same command on each, with the rank of the machine
(`--num-machines`, `--machine-rank`, `--dist-url`). torchrun starts the processes itself.
"""

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.queues import SimpleQueue
from types import FrameType

import torch
from detectron2.engine import launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import distributed as dist
from torch.multiprocessing import ProcessExitedException

from regnet_backbones.adapters.detectron2 import leave_groups, make_local_groups
from regnet_backbones.errors import UserError
from regnet_backbones.runs.stopping import StoppedError, StopSignals

# What the screen shows below warnings; `log.txt` has everything. Detectron2's handlers change the
# name of a record to "d2." for those that come after them.
SHOWN = (
    *("regnet_backbones", "fvcore.common.checkpoint"),
    *("detectron2.utils.events", "detectron2.evaluation.evaluator"),
    *("d2.utils.events", "d2.evaluation.evaluator"),
)


def started_by_torchrun() -> bool:
    """Return whether this is one of several processes that torchrun has started."""
    return dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1


def is_first_process() -> bool:
    """Return whether this process prints what is printed once."""
    return not started_by_torchrun() or os.environ["RANK"] == "0"


def check_processes(processes: int, machines: int, machine_rank: int, url: str | None) -> None:
    """Raise UserError if `run_in_processes` cannot be called so."""
    if started_by_torchrun() and (processes > 1 or machines > 1):
        raise UserError("leave out --num-gpus and --num-machines, which torchrun replaces")
    if machines > 1 and (url in (None, "auto") or not 0 <= machine_rank < machines):
        raise UserError(
            "several machines need --dist-url tcp://HOST:PORT of the first one and --machine-rank "
            f"from 0 to {machines - 1}, got {url} and {machine_rank}"
        )
    gpus = torch.cuda.device_count()
    if processes < 1 or 0 < gpus < processes:
        raise UserError(
            f"--num-gpus (--devices) must be 1 to {gpus}, the number of GPUs, got {processes}"
        )


def run_in_processes(
    function: Callable[..., object],
    args: tuple,
    place: tuple[int, int, int, str | None],
    *,
    output: str,
    device: str,
) -> None:
    """Run `function(*args)` in every process, and raise the first UserError or StoppedError.

    `place` is what `check_processes` takes; `output` is the folder of the logs.
    """
    work = (function, args, output, device)
    if started_by_torchrun():
        _join_torchrun()
        _work(*work)
        leave_groups()
        return
    processes, machines, machine_rank, url = place
    if processes * machines == 1:
        _work(*work)
        return
    # It reports that processes are ended which a failed one leaves behind.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    with _ForwardedSignals() as signals:
        try:
            launch(_hand_over_errors, processes, machines, machine_rank, url, (errors, *work))
        except ProcessExitedException:
            if not errors.empty():
                raise errors.get() from None
            if signals.received:
                raise signals.early_stop() from None
            raise


def _work(function: Callable[..., object], args: tuple, output: str, device: str) -> None:
    """Take this process's part of the cores, and run with logs."""
    processes = comm.get_local_size()
    if device == "cpu" and processes > 1:  # more threads stall each other
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    with _logs(output):
        function(*args)


@contextmanager
def _logs(output: str) -> Iterator[None]:
    """Log to the terminal and `log.txt` until the end, as detectron2 does."""
    theirs, ours, fvcore = map(logging.getLogger, ("detectron2", "regnet_backbones", "fvcore"))
    loggers = (theirs, ours, fvcore)
    before = [(log, list(log.handlers), log.level, log.propagate) for log in loggers]
    setup_logger.cache_clear()  # it adds no handlers for a folder that it knows
    for log in (theirs, fvcore):
        setup_logger(output, distributed_rank=comm.get_rank(), name=log.name)
    for handler in (*theirs.handlers, *fvcore.handlers):
        if getattr(handler, "stream", None) in (sys.stdout, sys.stderr):  # its log file is one, too
            handler.addFilter(_is_shown)
    ours.handlers, ours.propagate = list(theirs.handlers), False
    ours.setLevel(logging.DEBUG)
    try:
        yield
    finally:  # or another run of this process would print everything twice
        for log, handlers, level, propagate in before:
            log.handlers, log.propagate = handlers, propagate
            log.setLevel(level)


def _is_shown(record: logging.LogRecord) -> bool:
    # Python prints the traceback that ends a run, and the command many errors in one line.
    if record.exc_info or record.levelno >= logging.WARNING:
        return not record.exc_info
    return record.levelno >= logging.INFO and record.name.startswith(SHOWN)


class _ForwardedSignals(StopSignals):
    """Note a signal, and send it to the processes that this one has started."""

    def note(self, number: int, frame: FrameType | None) -> None:
        """Note it and send it."""
        for process in multiprocessing.active_children():
            os.kill(process.pid, number)
        super().note(number, frame)


def _hand_over_errors(errors: SimpleQueue, *work: object) -> None:
    """Work, and end this process with what the user can read of its error."""
    try:
        _work(*work)
    except (UserError, StoppedError) as error:
        errors.put(error)
        sys.exit(error.status)


def _join_torchrun() -> None:
    """Join the processes that torchrun started, as detectron2's worker does."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    make_local_groups(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
