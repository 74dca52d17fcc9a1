"""The torchvision adapter: detectors and segmenters by name. Imports nothing by itself.

import regnet_backbones  # before or after torchvision
import torchvision

model = torchvision.models.get_model("maskrcnn_regnety_032_fpn", weights_backbone="DEFAULT")
"""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from regnet_backbones import zoo
from regnet_backbones.adapters import import_lazily

_LAZY = {"RegNetFPN": "models", "RegNetMaps": "models"}

# The names in torchvision's registry, and the functions of `models` that build them.
MODELS = {
    "fasterrcnn_{}_fpn": "faster_rcnn",
    "maskrcnn_{}_fpn": "mask_rcnn",
    "keypointrcnn_{}_fpn": "keypoint_rcnn",
    "retinanet_{}_fpn": "retinanet",
    "fcos_{}_fpn": "fcos",
    "deeplabv3_{}": "deeplabv3",
    "fcn_{}": "fcn",
    "lraspp_{}": "lraspp",
}

__all__ = list(_LAZY)


def __getattr__(name: str) -> object:
    """Import a name from the module that has it."""
    return import_lazily(__name__, _LAZY, name)


def register_models(models: ModuleType) -> None:
    """Register every model of every zoo name; called with `torchvision.models` when imported.

    torchvision's `register_model` is not public. Without it, the functions of
    `regnet_backbones.adapters.torchvision.models` remain.
    """
    register = getattr(getattr(models, "_api", None), "register_model", None)
    if register is None:
        return

    # Weights of whole models, of which none are published.
    no_weights = models.WeightsEnum("RegNetModelWeights", ())
    for pattern, function in MODELS.items():
        for name in zoo.names():
            register(pattern.format(name))(_builder(function, name, no_weights))


def _builder(function: str, name: str, weights: type) -> Callable[..., object]:
    """Return what the registry holds of a model: it imports the adapter when it is called."""

    def build(*, weights: None = None, progress: bool = True, **kwargs: object) -> object:
        builder = getattr(import_module(f"{__name__}.models"), function)
        return builder(name, weights=weights, progress=progress, **kwargs)

    build.__name__ = build.__qualname__ = function
    build.__doc__ = f"Build it on {name}, see `{__name__}.models.{function}`."
    build.__annotations__["weights"] = weights | None  # where `get_model_weights` looks
    return build
