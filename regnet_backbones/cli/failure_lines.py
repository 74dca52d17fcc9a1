"""Old names, until no room asks for them."""

from enum import Enum, auto

from regnet_backbones.cli.run import describe


class Cause(Enum):
    """Keys of hints that nobody reads any more."""

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


def error_line(error: BaseException) -> str | None:
    """Return the line of an error without `error: `."""
    line, _ = describe(error)
    return line and line.removeprefix("error: ")
