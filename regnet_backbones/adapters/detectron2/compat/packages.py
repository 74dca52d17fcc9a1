"""Packages that detectron2 imports and that are not there: stand-ins, for as long as needed.

Upstream main also imports from the repository of its authors: what it means there exists elsewhere,
and a package of the internal name whose `__path__` leads there lets Python's own import find it.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType

from regnet_backbones.adapters.detectron2.compat.hook import replaces

CITYSCAPES = "deeplearning.projects.cityscapesApi"
DEMO = "vision.fair.detectron2.demo"
# The modules of panopticapi, and what our `panoptic_quality` has of them.
PANOPTICAPI = {
    "panopticapi": "",
    "panopticapi.utils": "rgb2id id2rgb",
    "panopticapi.evaluation": "pq_compute",
}
# What imports absent packages when it is called, by module: functions, and methods of classes.
CITYSCAPES_CALLERS = {
    "detectron2.data.datasets.cityscapes": ": load_cityscapes_instances _cityscapes_files_to_dict",
    "detectron2.evaluation.cityscapes_evaluation": (
        "CityscapesInstanceEvaluator CityscapesSemSegEvaluator: process evaluate"
    ),
}


def is_importable(name: str) -> bool:
    """Return whether `name` is a module that can be imported, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # no parent package; a stand-in without a spec
        return False


def says(words: str, *, without: str = "") -> Callable[[str], bool]:
    """Return a cause of the table: a source holds `words`, and a package `without` is not there."""
    return lambda source: words in source and not (without and is_importable(without))


@contextmanager
def stand_in_modules(*modules: ModuleType) -> Iterator[None]:
    """Make modules importable by their names, unless an outer call has done it."""
    added = [module for module in modules if sys.modules.get(module.__name__) is None]
    sys.modules.update({module.__name__: module for module in added})
    try:
        yield
    finally:
        for module in added:
            sys.modules.pop(module.__name__, None)


def pkg_resources_absent() -> AbstractContextManager[None]:
    """setuptools 81 removed pkg_resources, of which one function is used."""

    def resource_filename(package: str, resource: str) -> str:
        spec = importlib.util.find_spec(package)
        return str(Path(spec.submodule_search_locations[0]) / resource)

    return stand_in_modules(_module("pkg_resources", resource_filename=resource_filename))


def caffe2_absent() -> AbstractContextManager[None]:
    """torch ships no Caffe2, which tracing and scripting do not need: leave that half out."""
    return stand_in_modules(_module("detectron2.export.api", __all__=[]))


def detectron2_is_used(_source: str) -> bool:
    """Return whether detectron2 is imported: without it, absent packages stay absent."""
    return "detectron2" in sys.modules


def panopticapi_absent(module: ModuleType) -> None:
    """Detectron2, and projects on it, import panopticapi, which is not on the package index.

    Names that we do not have are errors, which show where this stand-in comes from.
    """
    from regnet_backbones.adapters.detectron2.compat import panoptic_quality as ours

    module.__doc__ = f"A stand-in for {module.__name__}, which is not installed."
    module.__file__ = ours.__file__
    for name in PANOPTICAPI[module.__name__].split():
        setattr(module, name, getattr(ours, name))


def cityscapes_internal_when_called(module: ModuleType) -> None:
    """Functions import cityscapesscripts from a package of the authors' own, when called."""

    def provide() -> AbstractContextManager[None]:
        spec = importlib.util.find_spec("cityscapesscripts")
        # If that is not installed, the error still ends in its name.
        places = spec.submodule_search_locations if spec is not None else ()
        return stand_in_modules(*_packages(CITYSCAPES, [str(Path(p).parent) for p in places]))

    _provide_during(module, CITYSCAPES_CALLERS, provide)


def script_imports_internal_demo(_source: str) -> bool:
    """Return whether the script that runs is a demo that imports its neighbour from there."""
    script = _running_script()
    return script.is_file() and f"from {DEMO}." in script.read_text(errors="replace")


def demo_internal(_module: ModuleType) -> None:
    """demo/demo.py imports its predictor.py from a package of the authors' own."""
    for package in _packages(DEMO, [str(_running_script().parent)]):
        sys.modules[package.__name__] = package


def _provide_during(
    module: ModuleType, callers: dict[str, str], context: Callable[[], AbstractContextManager[None]]
) -> None:
    """Open `context` whenever one of the module's `callers` is called."""

    def call(stock, *args, **kwargs):
        with context():
            return stock(*args, **kwargs)

    classes, _, functions = callers[module.__name__].partition(":")
    for owner in [getattr(module, name) for name in classes.split()] or [module]:
        for call.__name__ in functions.split():
            replaces(owner)(call)


def _packages(name: str, folders: list[str]) -> list[ModuleType]:
    """Make a package whose modules lie in `folders`, and the packages that it is in."""
    parts = name.split(".")
    outer = [".".join(parts[:depth]) for depth in range(1, len(parts))]
    return [*(_module(n, __path__=[]) for n in outer), _module(name, __path__=folders)]


def _module(name: str, **attributes: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(attributes)
    return module


def _running_script() -> Path:
    """Return the file that Python was started with, a folder if there is none."""
    return Path(getattr(sys.modules.get("__main__"), "__file__", None) or "").resolve()
