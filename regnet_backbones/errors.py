"""Errors that a user can fix, by type.

They are raised where the mistake is seen and worded there. The command line prints such an error in
one line and exits with its `status`; any other error keeps its traceback.
"""


class UserError(ValueError):
    """Something that the user gave is wrong: the message says what, what is allowed, how to fix it.

    Attributes:
        status: exit status of a command that it ends.
    """

    status = 2


class MissingFileError(UserError, FileNotFoundError):
    """A file or a folder that the user named does not exist."""


class MissingPackageError(UserError, ModuleNotFoundError):
    """An optional package is not installed."""


class UnknownNameError(UserError, KeyError):
    """A name that a table of ours does not hold."""

    __str__ = Exception.__str__  # a KeyError would show the text in quotes


class DivergedError(UserError, FloatingPointError):
    """Losses or weights are not finite any more."""

    status = 1
