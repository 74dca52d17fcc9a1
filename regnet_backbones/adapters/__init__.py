"""One adapter a framework; each is imported when its framework is, and never by another."""

from collections.abc import Mapping
from importlib import import_module


def import_lazily(package: str, modules: Mapping[str, str], name: str) -> object:
    """Return a name of a package from the module in `modules` that has it, for `__getattr__`."""
    if name in modules:
        return getattr(import_module(f"{package}.{modules[name]}"), name)
    raise AttributeError(f"module '{package}' has no attribute '{name}'")
