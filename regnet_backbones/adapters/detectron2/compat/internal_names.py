"""Upstream main imports from the repository of its authors, which nobody else has.

What it imports there exists elsewhere: Cityscapes' scripts are the package cityscapesscripts, and
`demo/demo.py` means the `predictor.py` beside it. A package of the internal name whose `__path__`
leads there lets Python's own import find it.
"""

import inspect
import sys
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from regnet_backbones.adapters.detectron2.compat.stand_ins import (
    is_importable,
    module_with,
    provide_during,
    stand_in_modules,
)

CITYSCAPES = "deeplearning.projects.cityscapesApi"
DEMO = "vision.fair.detectron2.demo"
# The scripts that evaluate, by the name of the package and by the internal one.
CITYSCAPES_EVALUATIONS = tuple(
    f"{prefix}cityscapesscripts.evaluation.eval{what}LevelSemanticLabeling"
    for prefix in ("", f"{CITYSCAPES}.")
    for what in ("Instance", "Pixel")
)
# What imports Cityscapes' scripts when it is called: functions, and methods of classes.
CALLERS = {
    "detectron2.data.datasets.cityscapes": {
        "": "load_cityscapes_instances _cityscapes_files_to_dict",
    },
    "detectron2.evaluation.cityscapes_evaluation": {
        "CityscapesInstanceEvaluator": "process evaluate",
        "CityscapesSemSegEvaluator": "process evaluate",
    },
}


def imports_internal_cityscapes(module: ModuleType) -> bool:
    """Tell whether functions of the module import Cityscapes' scripts from the internal package."""
    return f" {CITYSCAPES}." in inspect.getsource(module) and _is_absent(CITYSCAPES)


def cityscapes_internal_when_called(module: ModuleType) -> None:
    """Let the internal package hold cityscapesscripts during the calls that import it."""
    for class_name, functions in CALLERS[module.__name__].items():
        owner = getattr(module, class_name) if class_name else module
        for function in functions.split():
            provide_during(owner, function, _cityscapes)


def script_imports_internal_demo(_module: ModuleType) -> bool:
    """Tell whether the script that runs is a demo that imports its neighbour from there."""
    script = _running_script()
    return (
        script is not None
        and f"from {DEMO}." in script.read_text(errors="replace")
        and _is_absent(DEMO)
    )


def demo_internal(_module: ModuleType) -> None:
    """Let the internal package hold what lies beside the script, which has not imported it yet."""
    for package in _packages(DEMO, [str(_running_script().parent)]):
        sys.modules[package.__name__] = package


def _cityscapes() -> AbstractContextManager[None]:
    spec = find_spec("cityscapesscripts")
    # Where that is not installed, the error still ends in its name.
    places = spec.submodule_search_locations if spec is not None else ()
    return stand_in_modules(*_packages(CITYSCAPES, [str(Path(p).parent) for p in places]))


def _packages(name: str, folders: list[str]) -> list[ModuleType]:
    """Make a package whose modules lie in `folders`, and the packages that it is in."""
    parts = name.split(".")
    outer = [".".join(parts[:depth]) for depth in range(1, len(parts))]
    return [*(module_with(n, __path__=[]) for n in outer), module_with(name, __path__=folders)]


def _is_absent(package: str) -> bool:
    return not is_importable(package.partition(".")[0])


def _running_script() -> Path | None:
    """Return the file that Python was started with."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(file).resolve() if file and Path(file).is_file() else None
