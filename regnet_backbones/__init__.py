"""RegNet backbones for Detectron2, segmentation-models-pytorch, torchvision and transformers.

Importing this package registers everything, before or after the framework is imported:

- Detectron2 gets the `MODEL.REGNET` config node, the builders `build_regnet_backbone` and
  `build_regnet_fpn_backbone`, RegNet weights of every dialect as `MODEL.WEIGHTS`, and what
  detectron2 0.6 needs to run on today's torch.
- segmentation-models-pytorch gets every RegNet as an encoder, `smp.Unet("regnety_032")`, and the
  architectures `smp.OCRNet` and `smp.UNet3Plus`.
- torchvision gets detectors and segmenters, `get_model("maskrcnn_regnety_032_fpn")`.
- transformers gets `RegNetFeaturesConfig` for `AutoBackbone` and the models that hold one.

The import itself is light: neither torch nor a framework is imported before it is used.
"""

from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import wrapt

from regnet_backbones import design, zoo
from regnet_backbones.adapters.detectron2 import compat
from regnet_backbones.design import Complexity, RegNetDesign, complexity
from regnet_backbones.errors import MissingFileError

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from regnet_backbones import weights
    from regnet_backbones.adapters.smp.encoder import register_encoder
    from regnet_backbones.backbone import RegNetFeatures
    from regnet_backbones.predictor import load

__version__ = "0.2.0"

__all__ = [
    "Complexity",
    "RegNetDesign",
    "RegNetFeatures",
    "add_regnet_config",
    "complexity",
    "config_path",
    "design",
    "load",
    "register_encoder",
    "setup_environment",
    "weights",
    "zoo",
]

# When a module of a framework has been imported, an adapter is, and its function is called.
_D2 = "regnet_backbones.adapters.detectron2"
_POST_IMPORT_HOOKS = (
    ("detectron2.config.defaults", f"{_D2}.config:extend_defaults"),
    ("detectron2.modeling.backbone", f"{_D2}.builders"),
    ("detectron2.modeling", f"{_D2}.heads"),
    ("detectron2.solver.build", f"{_D2}.solver:choose_by_config"),
    ("detectron2.solver", f"{_D2}.solver:choose_by_config"),
    ("detectron2.engine.defaults", f"{_D2}.solver:choose_by_config"),
    ("detectron2.checkpoint.detection_checkpoint", f"{_D2}.checkpoint:load_every_dialect"),
    ("detectron2.data.datasets", f"{_D2}.shapes:register_on_import"),
    ("segmentation_models_pytorch.encoders", "regnet_backbones.adapters.smp.encoder"),
    (
        "segmentation_models_pytorch.base.hub_mixin",
        "regnet_backbones.adapters.smp.encoder:save_designs",
    ),
    (
        "segmentation_models_pytorch",
        "regnet_backbones.adapters.smp.architectures:register_architectures",
    ),
    ("torchvision.models", "regnet_backbones.adapters.torchvision:register_models"),
    (
        "transformers.models.auto.configuration_auto",
        "regnet_backbones.adapters.transformers:register_config",
    ),
)

# Public names whose modules need torch or a framework, imported when first asked for.
_LAZY = {
    "RegNetFeatures": "regnet_backbones.backbone",
    "load": "regnet_backbones.predictor",
    "register_encoder": "regnet_backbones.adapters.smp.encoder",
}


def config_path(name: str = "") -> Path:
    """Return the path of a config that comes with this package.

    Args:
        name: a path below `configs/`, such as "detectron2/Base-RegNet-FPN.yaml"; empty for the
            folder itself.

    Raises:
        FileNotFoundError: no such config; the message lists similar names, or all.
    """
    package = Path(__file__).resolve().parent
    installed, checkout = package / "configs", package.parent / "configs"
    root = installed if installed.is_dir() else checkout
    if not (root / name).exists():
        files = [path for path in root.rglob("*") if path.suffix in (".yaml", ".py")]
        known = sorted(str(path.relative_to(root)) for path in files)
        near = get_close_matches(name, known, n=5, cutoff=0.5) or known
        raise MissingFileError(f"no config '{name}' in {root}; there are: {', '.join(near)}")
    return root / name


def add_regnet_config(cfg: "CfgNode") -> None:
    """Add all of our keys to a config, and those of detectron2's projects; keys it has stay.

    Of these, `get_cfg()` has `MODEL.REGNET` alone once `regnet_backbones` is imported, which is
    enough for a RegNet. The recipes of `configs/` and the configs of our tools' runs need the rest.

    Args:
        cfg: of detectron2, changed in place.
    """
    from regnet_backbones.detection.defaults import add_tool_config

    add_tool_config(cfg)


def setup_environment() -> None:
    """Let detectron2's `get_cfg()` return all of our keys, as `add_regnet_config` adds them.

    Detectron2 calls it if the environment variable `DETECTRON2_ENV_MODULE` is `regnet_backbones`,
    which brings RegNet, and our recipes, to scripts that you cannot change.
    """
    _after_import("detectron2.config", "regnet_backbones.detection.defaults:extend_get_cfg")


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name == "weights":
        return import_module("regnet_backbones.weights")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def _after_import(module: str, hook: str) -> None:
    """Run a hook when a module of a framework is imported, or now."""
    wrapt.register_post_import_hook(partial(_run_hook, hook), module)


def _run_hook(hook: str, framework_module: ModuleType) -> None:
    adapter, _, function = hook.partition(":")
    module = import_module(adapter)
    if function:
        getattr(module, function)(framework_module)


compat.install()
for _module, _hook in _POST_IMPORT_HOOKS:
    _after_import(_module, _hook)
