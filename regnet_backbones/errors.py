"""Errors that a user can fix, by type.

They are raised where the mistake is seen and worded there. The command line prints such an error in
one line and exits with its `status`; any other error keeps its traceback.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Something that the user gave is wrong: the message has it, what is allowed, and a fix.

    Attributes:
        status: exit status of a command that it ends.
    """

    status = 2

    def __str__(self) -> str:
        """Return the message, without the traceback that torch puts before that of a worker."""
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        return str(self.args[0] if self.args else "").rpartition(name)[2].rstrip()


class MissingFileError(UserError, FileNotFoundError):
    """A file or a folder that the user named does not exist."""


class MissingPackageError(UserError, ModuleNotFoundError):
    """An optional package is not installed.

    Args:
        message: names the package, and how to install it.
        name: of the module, as `ModuleNotFoundError` takes it.
    """

    def __init__(self, message: str, *, name: str | None = None) -> None:
        ModuleNotFoundError.__init__(self, message, name=name)


class UnknownNameError(UserError, KeyError):
    """A name that a table of ours does not hold."""


class DivergedError(UserError, FloatingPointError):
    """Losses or weights are not finite any more."""

    status = 1


def from_traceback(text: str) -> UserError | None:
    """Return the error of this module in the traceback of another process; None if another."""
    found = list(re.finditer(rf"^{re.escape(__name__)}\.(\w+): ", text, re.MULTILINE))
    return globals()[found[-1][1]](text[found[-1].end() :].rstrip()) if found else None


@contextmanager
def as_user_error(*types: type[Exception], prefix: str = "") -> Iterator[None]:
    """Turn errors of another library, which checks what the user gave, into a line of ours."""
    try:
        yield
    except UserError:
        raise
    except types as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        line = " ".join(part.strip() for part in str(message).splitlines())
        raise UserError(f"{prefix}{line}") from error
