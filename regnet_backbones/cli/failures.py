"""How every command ends."""

import os
import select
import sys
from collections.abc import Callable, Mapping

from regnet_backbones.cli.failure_lines import Cause, error_line
from regnet_backbones.runs.origins import origin_of
from regnet_backbones.runs.stopping import StoppedError

INTERRUPTED, NOBODY_READS = 130, 141  # as a shell says it


def reported(
    command: Callable[[], int], *, hints: Mapping[Cause, str] | None = None, quiet: bool = False
) -> int:
    """Do a command, and print on stderr, in a line, what ended it if the user can mend that.

    Args:
        command: returns its exit status.
        hints: what to do about a cause, as `error_line` takes them.
        quiet: print nothing, in a process that another one speaks for.

    Returns:
        The command's exit status, 2 for what the user can fix, 1 for a training whose losses or
        weights were not finite, 130 after Ctrl-C, 143 for a training that SIGTERM or SIGHUP
        stopped, 141 if the reader of stdout has ended (`| head`).

    Raises:
        Exception: the command's, if it is no mistake of the user.
    """
    try:
        status = command()
        sys.stdout.flush()  # or a reader that has ended is met when nobody can say it
        return status
    except StoppedError as stopped:
        if not quiet:
            print(stopped, file=sys.stderr)
        return stopped.status
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return NOBODY_READS
        line = error_line(error, hints=hints)
        if line is None:
            raise
        interrupted = isinstance(error, KeyboardInterrupt)
        if not quiet:
            print(line if interrupted else f"error: {line}", file=sys.stderr)
        if interrupted:
            return INTERRUPTED
        return 1 if issubclass(origin_of(error).kind, FloatingPointError) else 2


def _nobody_reads() -> bool:
    """Whether the reader of stdout has ended; then what is left to print goes nowhere."""
    stdout = select.poll()
    stdout.register(sys.stdout.fileno(), 0)  # no event but an error
    ended = bool(stdout.poll(0))
    if ended:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ended
