"""RegNet backbones for dense prediction, registered in Detectron2.

Importing this package is all the registration there is, before or after the framework:

- Detectron2 gets the `MODEL.REGNET` config node and the builders `build_regnet_backbone` and
  `build_regnet_fpn_backbone`, and what detectron2 0.6 needs to run on today's torch.

The import itself is light: neither torch nor a framework is imported before it is used.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import wrapt

from regnet_backbones import design, zoo
from regnet_backbones.adapters import detectron2_compat
from regnet_backbones.design import Complexity, RegNetDesign, complexity

if TYPE_CHECKING:
    from regnet_backbones.backbone import RegNetFeatures

__version__ = "0.1.0.dev0"

__all__ = [
    "Complexity",
    "RegNetDesign",
    "RegNetFeatures",
    "add_regnet_config",
    "complexity",
    "config_path",
    "design",
    "setup_environment",
    "zoo",
]

# Run when a module of the framework is imported; at once where it already is.
_POST_IMPORT_HOOKS = {
    "detectron2.config.defaults": "regnet_backbones.adapters.detectron2_config:extend_defaults",
    "detectron2.modeling.backbone": "regnet_backbones.adapters.detectron2:register_on_import",
    "detectron2.solver.build": "regnet_backbones.adapters.detectron2_solver:choose_by_config",
    "detectron2.solver": "regnet_backbones.adapters.detectron2_solver:choose_by_config",
    "detectron2.engine.defaults": "regnet_backbones.adapters.detectron2_solver:choose_by_config",
    "detectron2.utils.file_io": "regnet_backbones.adapters.detectron2_weights:register_on_import",
    "detectron2.data.datasets": "regnet_backbones.adapters.detectron2_shapes:register_on_import",
}

# Public names whose modules need torch or a framework, imported when first asked for.
_LAZY = {
    "RegNetFeatures": "regnet_backbones.backbone",
    "add_regnet_config": "regnet_backbones.adapters.detectron2_config",
}


def config_path(name: str = "") -> Path:
    """Return the path of a config that comes with this package.

    Args:
        name: a path below `configs/`, such as "detectron2/Base-RegNet-FPN.yaml"; empty for the
            folder itself.

    Raises:
        FileNotFoundError: there is no such config; the message lists those there are.
    """
    package = Path(__file__).resolve().parent
    installed, checkout = package / "configs", package.parent / "configs"
    root = installed if installed.is_dir() else checkout
    path = root / name
    if not path.exists():
        known = sorted(str(p.relative_to(root)) for p in root.rglob("*.yaml"))
        raise FileNotFoundError(f"no config '{name}' in {root}; there are: {', '.join(known)}")
    return path


def setup_environment() -> None:
    """Do nothing more than the import did; detectron2 calls this.

    Detectron2 imports the module that the environment variable `DETECTRON2_ENV_MODULE` names while
    its own package is imported, and calls this function of it. So
    `DETECTRON2_ENV_MODULE=regnet_backbones` brings RegNet to scripts that do not know of it.
    """


def __getattr__(name: str) -> object:
    """Import a public name that needs torch or a framework."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def _register() -> None:
    """Hook into the frameworks, whether they are imported already or not."""
    detectron2_compat.install()
    for module, hook in _POST_IMPORT_HOOKS.items():
        wrapt.register_post_import_hook(hook, module)


_register()
