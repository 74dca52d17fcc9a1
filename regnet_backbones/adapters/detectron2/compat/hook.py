"""A meta-path finder that fixes named modules as they are imported.

The module's own finder and loader do the work: ours only stand between, for the length of one
import, and other import hooks (wrapt's among them) may stand before or behind.

The import protocol: https://docs.python.org/3/reference/import.html#the-meta-path
"""

import functools
import importlib.abc
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NamedTuple

logger = logging.getLogger("regnet_backbones.adapters.detectron2.compat")


class Fix:
    """A row: a function, named after the cause, and the modules that it fixes if it is `needed`.

    `needed` gets the source of a module. The first line of the function's docstring is the cause.
    """

    def __init__(self, apply: Callable, needed: Callable[[str], object], *modules: str):
        self.apply, self.needed, self.modules = apply, needed, modules
        self.cause = (apply.__doc__ or "").partition("\n")[0]


class DuringImport(Fix):
    """`apply()` is a context that is open while the code of the modules runs."""


class AfterImport(Fix):
    """`apply(module)` changes each module once it has run."""


class WhenAbsent(Fix):
    """`apply(module)` fills each module, a package and what is in it, if no other finder has it."""


class AppliedFix(NamedTuple):
    """A fix that was applied to a module."""

    module: str
    name: str
    cause: str


class FixFinder(importlib.abc.MetaPathFinder):
    """Finds the modules that have a fix, through the other finders, and fixes them."""

    def __init__(self, fixes: Iterable[Fix]):
        self._fixes: dict[str, list[Fix]] = {}
        for fix in fixes:
            for module in fix.modules:
                self._fixes.setdefault(module, []).append(fix)
        self._applied: dict[AppliedFix, None] = {}
        self._searching = threading.local()

    @property
    def applied(self) -> tuple[AppliedFix, ...]:
        """Return what was applied, in order."""
        return tuple(self._applied)

    def install(self) -> None:
        """Go in front of the other finders; fix what is imported already."""
        if self in sys.meta_path:
            return
        sys.meta_path.insert(0, self)
        for name in self._fixes:
            module = sys.modules.get(name)
            # One that is still being imported, further up the stack, is left alone.
            spec = getattr(module, "__spec__", None)
            if module is not None and not getattr(spec, "_initializing", False):
                self._change(module)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the other finders' spec with a loader that applies our fixes."""
        searching = self._searching.__dict__.setdefault("names", set())
        # Another hook may answer by asking the whole meta path again: that search is not ours.
        if fullname not in self._fixes or fullname in searching:
            return None
        searching.add(fullname)
        try:
            specs = (finder.find_spec(fullname, path, target) for finder in list(sys.meta_path))
            spec = next((spec for spec in specs if spec is not None), None)
        finally:
            searching.discard(fullname)
        if spec is None:
            return self._stand_in(fullname, path)
        if spec.loader is not None:
            spec.loader = _FixingLoader(spec.loader, self)
        return spec

    def _stand_in(self, fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """Return the spec of a module that is absent, and that a fix provides."""
        for fix in self._fixes[fullname]:
            # The path of a stand-in is empty: into a real package nothing is put.
            if isinstance(fix, WhenAbsent) and not path and fix.needed(""):
                is_package = any(name.startswith(f"{fullname}.") for name in self._fixes)
                loader = _StandInLoader(fix, self)
                return ModuleSpec(fullname, loader, origin=__name__, is_package=is_package)
        return None

    def run_fixed(self, loader: importlib.abc.Loader, module: ModuleType) -> None:
        """Run `module` with `loader`, inside its contexts, then change what is to be changed."""
        source = source_of(module)
        with ExitStack() as contexts:
            for fix in self._fixes[module.__name__]:
                if isinstance(fix, DuringImport) and fix.needed(source):
                    contexts.enter_context(fix.apply())
                    self.record(module, fix)
            loader.exec_module(module)
        self._change(module)

    def _change(self, module: ModuleType) -> None:
        source = source_of(module)
        for fix in self._fixes[module.__name__]:
            if isinstance(fix, AfterImport) and fix.needed(source):
                try:
                    fix.apply(module)
                    self.record(module, fix)
                # A detectron2 we have not seen must stay importable: warn of what does not fit.
                except Exception:
                    logger.warning(
                        "%s does not fit this version of %s, which is left unchanged (%s)",
                        *(fix.apply.__name__, module.__name__, fix.cause),
                        exc_info=True,
                    )

    def record(self, module: ModuleType, fix: Fix) -> None:
        """Note a fix that was applied."""
        self._applied[AppliedFix(module.__name__, fix.apply.__name__, fix.cause)] = None


class _FixingLoader:
    """Stands in for a module's loader until the module runs, then steps out of the way."""

    def __init__(self, loader: importlib.abc.Loader, finder: FixFinder):
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str):
        if name in ("_loader", "_finder"):  # not there yet: an instance that is being copied
            raise AttributeError(name)
        return getattr(self._loader, name)  # get_code, get_source, get_resource_reader, ...

    def exec_module(self, module: ModuleType) -> None:
        if module.__loader__ is self:
            module.__loader__ = self._loader
        if module.__spec__ is not None and module.__spec__.loader is self:
            module.__spec__.loader = self._loader
        self._finder.run_fixed(self._loader, module)


class _StandInLoader(importlib.abc.Loader):
    """Makes the module that a fix provides."""

    def __init__(self, fix: Fix, finder: FixFinder):
        self._fix = fix
        self._finder = finder

    def exec_module(self, module: ModuleType) -> None:
        self._fix.apply(module)
        self._finder.record(module, self._fix)


def replaces(owner: object) -> Callable[[Callable], None]:
    """Replace what `owner` has by the name of a function, which gets the stock one first."""

    def replace(function: Callable) -> None:
        stock = getattr(owner, function.__name__)

        @functools.wraps(stock)
        def replacement(*args, **kwargs):
            return function(stock, *args, **kwargs)

        setattr(owner, function.__name__, replacement)

    return replace


def source_of(module: ModuleType) -> str:
    """Return the source of a module, empty if there is none."""
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):
        return ""
