"""Detectron2's panoptic evaluation and drawing without the package panopticapi.

That package is not on the Python package index. Detectron2 imports three functions of it, most of
them inside the call that needs them: they are there during those imports and calls, and only then.
"""

from contextlib import AbstractContextManager
from types import ModuleType

from regnet_backbones.adapters.detectron2.compat.stand_ins import (
    is_importable,
    module_with,
    provide_during,
    stand_in_modules,
)

# The methods that import panopticapi when they are called.
CALLERS = {
    "detectron2.evaluation.panoptic_evaluation": ("COCOPanopticEvaluator", "process evaluate"),
    "detectron2.utils.visualizer": ("Visualizer", "draw_dataset_dict"),
}


def is_absent(_module: ModuleType) -> bool:
    """Tell whether panopticapi cannot be imported."""
    return not is_importable("panopticapi")


def imports_absent_panopticapi(source: str) -> bool:
    """Tell whether `source` imports panopticapi, and it cannot be imported."""
    return "from panopticapi" in source and not is_importable("panopticapi")


def panopticapi_absent() -> AbstractContextManager[None]:
    """Provide what detectron2 uses of panopticapi."""
    from regnet_backbones.adapters.detectron2.compat import panoptic_quality as ours

    return stand_in_modules(
        module_with("panopticapi"),
        module_with("panopticapi.utils", rgb2id=ours.rgb2id, id2rgb=ours.id2rgb),
        module_with("panopticapi.evaluation", pq_compute=ours.pq_compute),
    )


def panopticapi_absent_when_called(module: ModuleType) -> None:
    """Provide it during the calls that import it."""
    class_name, methods = CALLERS[module.__name__]
    for method in methods.split():
        provide_during(getattr(module, class_name), method, panopticapi_absent)
