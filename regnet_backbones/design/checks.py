"""What single numbers must be, whichever design, space or count they belong to."""

from math import nan
from numbers import Integral, Real

from regnet_backbones.errors import UserError


def positive_integer(name: str, value: object, hint: str = "") -> int:
    """Return an integer above 0 as Python's own.

    Raises:
        ValueError: it is none; `hint`, in the message, says what it stands for.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        what = f"a positive integer ({hint})" if hint else "a positive integer"
        raise UserError(f"{name} must be {what}, got {value!r}")
    return int(value)


def share_or_none(name: str, value: object) -> float:
    """Return a share of a whole as Python's own float, 0 where there is none.

    Raises:
        ValueError: it is no number in [0, 1].
    """
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else nan
    if not 0 <= number <= 1:
        raise UserError(f"{name} must be a number in [0, 1], 0 for none, got {value!r}")
    return number
