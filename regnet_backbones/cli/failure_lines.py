"""One line for a failure: what happened, and what to do.

A text of ours, or of a library's check of a config, is the line as it is. What torch, the operating
system and other processes say is recognized by a table of causes. An error of neither kind is a
defect, and has no line.
"""

import errno
import os
import re
from collections.abc import Callable, Mapping
from enum import Enum, auto
from pathlib import Path

from regnet_backbones.runs.origins import Origin, origin_of

OURS = str(Path(__file__).resolve().parents[1]) + os.sep

# Code of others whose `raise` speaks to who has written a config or a command line.
SPEAKING = tuple(
    path.replace("/", os.sep)
    for path in (
        "/yacs/config.py",
        "/fvcore/common/config.py",
        "/fvcore/common/registry.py",
        "/detectron2/config/",
        "/detectron2/data/catalog.py",
        "/jsonargparse/",
    )
)

# What ours raise at a mistake of the user; an AssertionError or a RuntimeError is our own mistake.
SAID = (ValueError, KeyError, ModuleNotFoundError, FloatingPointError)

ALLOCATION = re.compile(r"[Tt]ried to allocate (?P<size>[\d.]+ \w+)|allocate (?P<array>[\d.]+ \w+)")


class Cause(Enum):
    """What is no text of ours, and is mended outside of the code."""

    INTERRUPTED = auto()
    OUT_OF_MEMORY = auto()
    SHARED_MEMORY = auto()
    DISK_FULL = auto()
    NOT_WRITABLE = auto()
    TOO_MANY_FILES = auto()
    WORKER_KILLED = auto()
    PROCESS_KILLED = auto()
    PORT_IN_USE = auto()
    NO_CONNECTION = auto()
    NO_DOWNLOAD = auto()
    NO_GPU = auto()


# What to do, where the command does not say it in the words of its framework.
ADVICE = {
    Cause.OUT_OF_MEMORY: "take smaller images, a smaller batch or a smaller network",
    Cause.SHARED_MEMORY: "use fewer data workers, or give /dev/shm more space (docker run "
    "--shm-size 8g)",
    Cause.DISK_FULL: "make space; files that were written before are whole",
    Cause.NOT_WRITABLE: "choose a folder that you may write to",
    Cause.TOO_MANY_FILES: "use fewer data workers, or raise the limit with `ulimit -n 65536`",
    Cause.WORKER_KILLED: "it is mostly the lack of memory that kills one: use fewer data workers",
    Cause.PROCESS_KILLED: "it is mostly the lack of memory that kills one: use fewer processes or "
    "smaller batches",
    Cause.PORT_IN_USE: "end the other run, or choose another port",
    Cause.NO_CONNECTION: "check that the first machine runs, its address and port, and its "
    "firewall",
    Cause.NO_DOWNLOAD: "download the file where there is a network, and give its path instead",
    Cause.NO_GPU: "run on the CPU, or install a driver and a torch that fit the GPU",
}


def error_line(error: BaseException, *, hints: Mapping[Cause, str] | None = None) -> str | None:
    """Say what happened and what to do about it.

    Args:
        error: what a command was ended by, of this process or, as text, of one that it started.
        hints: what to do about a cause, in the words of the framework; ours where it has none.

    Returns:
        The line, of more than one only where a text of ours is longer; None for what is no mistake
        of the user, whose traceback is needed.
    """
    origin = origin_of(error)
    for cause, happened in TABLE.items():
        # Of a failure while a failed file is closed, the first one is the cause.
        for candidate in (*_before(error), origin):
            if text := happened(candidate):
                advice = (hints or {}).get(cause, ADVICE.get(cause))
                return f"{text}; {advice}" if advice else text
    return _as_said(origin)


def _as_said(origin: Origin) -> str | None:
    """Return the text of an error that was worded for users."""
    if issubclass(origin.kind, OSError):
        return ERRNO_PREFIX.sub("", origin.text) or origin.kind.__name__
    by_import = issubclass(origin.kind, ModuleNotFoundError) and not origin.by_statement
    if by_import:
        return f"{origin.text}; install it" if "regnet_backbones" not in origin.text else None
    speaks = not origin.file or (
        origin.by_statement
        and (origin.file.startswith(OURS) or any(part in origin.file for part in SPEAKING))
    )
    return origin.text if speaks and issubclass(origin.kind, SAID) else None


ERRNO_PREFIX = re.compile(r"^\[Errno \d+\] ")


def _before(error: BaseException) -> tuple[Origin, ...]:
    """Return what was being handled when torch failed to close a file that it could not write."""
    context = error.__context__
    if isinstance(error, RuntimeError) and isinstance(context, (OSError, RuntimeError)):
        return (origin_of(context),)
    return ()


def _interrupted(origin: Origin) -> str | None:
    if not issubclass(origin.kind, KeyboardInterrupt):
        return None
    return f"interrupted {origin.text}".rstrip()


def _out_of_memory(origin: Origin) -> str | None:
    if issubclass(origin.kind, RuntimeError):
        from regnet_backbones.measure.memory import (
            OUT_OF_MEMORY,  # a process without torch needs none
        )

        no_memory = any(words in origin.text for words in OUT_OF_MEMORY)
    else:
        no_memory = issubclass(origin.kind, MemoryError) or origin.number == errno.ENOMEM
    if not no_memory:
        return None
    found = ALLOCATION.search(origin.text)
    asked = f" ({found['size'] or found['array']} more were asked for)" if found else ""
    return f"out of {'GPU ' if 'CUDA' in origin.text else ''}memory{asked}"


def _shared_memory(origin: Origin) -> str | None:
    if not issubclass(origin.kind, (RuntimeError, OSError)):
        return None
    no_space = "/torch_" in origin.text and "No space left" in origin.text
    return "shared memory is full" if no_space or "Bus error" in origin.text else None


def _disk_full(origin: Origin) -> str | None:
    full = origin.number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    torch_says = ("PytorchStreamWriter failed", "iostream error", ". unexpected pos ")
    if issubclass(origin.kind, RuntimeError) and any(t in origin.text for t in torch_says):
        return "a checkpoint could not be written, as the disk is full or a limit is reached"
    return f"the disk is full ({ERRNO_PREFIX.sub('', origin.text)})" if full else None


def _not_writable(origin: Origin) -> str | None:
    numbers = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
    return ERRNO_PREFIX.sub("", origin.text) if origin.number in numbers else None


def _too_many_files(origin: Origin) -> str | None:
    signs = ("Too many open files", "received 0 items of ancdata")
    too_many = origin.number == errno.EMFILE or (
        issubclass(origin.kind, (RuntimeError, OSError)) and any(s in origin.text for s in signs)
    )
    return "too many files are open" if too_many else None


def _worker_killed(origin: Origin) -> str | None:
    found = re.search(r"DataLoader worker \(pid.*?\) (is killed|exited)[^.]*", origin.text)
    return f"a {found[0].replace('DataLoader', 'data')}" if found else None


def _process_killed(origin: Origin) -> str | None:
    found = re.search(r"process \d+ terminated with signal \w+", origin.text)
    return found[0] if found else None


def _port_in_use(origin: Origin) -> str | None:
    in_use = "EADDRINUSE" in origin.text or "ddress already in use" in origin.text
    port = re.search(r"port:? (\d+)", origin.text)
    return f"port {port[1] if port else 'of the run'} is in use" if in_use else None


def _no_connection(origin: Origin) -> str | None:
    found = re.search(r"client socket has timed out.*?connect to \(([^)]*)\)", origin.text)
    return f"no connection to the first process at {found[1]}" if found else None


def _no_download(origin: Origin) -> str | None:
    found = re.match(r"<urlopen error (?:\[Errno -?\d+\] )?(.*)>", origin.text)
    return f"a download failed ({found[1]})" if found else None


def _no_gpu(origin: Origin) -> str | None:
    signs = (
        "Torch not compiled with CUDA",
        "Found no NVIDIA driver",
        "No CUDA GPUs are available",
        "no kernel image is available",
        "NVIDIA driver on your system is too old",
    )
    return "no GPU can be used" if any(sign in origin.text for sign in signs) else None


# In this order: what a full /dev/shm says is also what a full disk says.
TABLE: dict[Cause, Callable[[Origin], str | None]] = {
    Cause.INTERRUPTED: _interrupted,
    Cause.SHARED_MEMORY: _shared_memory,
    Cause.OUT_OF_MEMORY: _out_of_memory,
    Cause.TOO_MANY_FILES: _too_many_files,
    Cause.DISK_FULL: _disk_full,
    Cause.NOT_WRITABLE: _not_writable,
    Cause.WORKER_KILLED: _worker_killed,
    Cause.PROCESS_KILLED: _process_killed,
    Cause.PORT_IN_USE: _port_in_use,
    Cause.NO_CONNECTION: _no_connection,
    Cause.NO_DOWNLOAD: _no_download,
    Cause.NO_GPU: _no_gpu,
}
