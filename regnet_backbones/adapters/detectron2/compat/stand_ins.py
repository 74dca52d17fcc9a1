"""Modules and attributes that exist for a while: during one import, or during one call."""

import functools
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType

_lock = threading.Lock()
_users: dict[str, int] = {}  # how many open contexts provide a module, by its name


def is_importable(name: str) -> bool:
    """Tell whether `name` is a module that can be imported, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # no parent package; a stand-in without a spec
        return False


def module_with(name: str, **attributes: object) -> ModuleType:
    """Make a module called `name` that holds `attributes`."""
    module = ModuleType(name)
    vars(module).update(attributes)
    return module


@contextmanager
def stand_in_modules(*modules: ModuleType) -> Iterator[None]:
    """Make `modules`, which must not be importable otherwise, importable by their names."""
    with _lock:
        for module in modules:
            if not _users.get(module.__name__):
                sys.modules[module.__name__] = module
            _users[module.__name__] = _users.get(module.__name__, 0) + 1
    try:
        yield
    finally:
        with _lock:
            for module in modules:
                _users[module.__name__] -= 1
                if not _users[module.__name__]:
                    sys.modules.pop(module.__name__, None)


@contextmanager
def stand_in_attribute(owner: object, name: str, value: object) -> Iterator[None]:
    """Give `owner` an attribute that it does not have."""
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)


def provide_during(
    owner: object, function: str, context: Callable[[], AbstractContextManager[None]]
) -> None:
    """Open `context` whenever the `function` of a class or module is called."""
    stock = getattr(owner, function)

    @functools.wraps(stock)
    def wrapped(*args, **kwargs):
        with context():
            return stock(*args, **kwargs)

    setattr(owner, function, wrapped)
