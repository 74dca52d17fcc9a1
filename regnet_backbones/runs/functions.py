"""Functions of the user that an option names as `module:name`: only a training imports them."""

import os
import sys
from collections.abc import Callable
from pkgutil import resolve_name

from regnet_backbones.errors import UserError


def find_function(path: str, option: str) -> Callable[..., object]:
    """Import what an option names, from the current folder, too.

    Raises:
        UserError: it cannot be imported, or it is not callable.
    """
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        found = resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        way_out = "use module:function, of a module that Python can import here"
        raise UserError(f"{option} '{path}' cannot be imported ({error}); {way_out}") from error
    if not callable(found):
        raise UserError(f"{option} '{path}' must be callable, got a {type(found).__name__}")
    return found
