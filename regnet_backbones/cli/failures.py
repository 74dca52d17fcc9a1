"""Old name of `run_command`, until every room calls that."""

from collections.abc import Callable, Mapping

from regnet_backbones.cli.failure_lines import Cause
from regnet_backbones.cli.run import run_command

__all__ = ["Cause", "reported"]


def reported(
    command: Callable[[], int], *, hints: Mapping[Cause, str] | None = None, quiet: bool = False
) -> int:
    """Run a command as `run_command` does."""
    return run_command(command, quiet=quiet)
