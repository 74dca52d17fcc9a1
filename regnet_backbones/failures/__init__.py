"""Failures that a user can mend, in one line; anything else keeps its traceback.

`reported` is what every command runs in. What a line says to do is in the words of the framework
that the command drives: a command passes its own `hints`, by `Cause`.
"""

from regnet_backbones.failures.commands import reported
from regnet_backbones.failures.lines import Cause, error_line

__all__ = ["Cause", "error_line", "reported"]
