"""The transformers adapter: a RegNet as an `AutoBackbone`. Imports nothing by itself."""

from importlib import import_module
from types import ModuleType

from regnet_backbones.adapters import import_lazily

_LAZY = {"RegNetFeaturesBackbone": "modeling", "RegNetFeaturesConfig": "configuration"}

__all__ = list(_LAZY)


def __getattr__(name: str) -> object:
    """Import a name from the module that has it."""
    return import_lazily(__name__, _LAZY, name)


def register_config(configuration_auto: ModuleType) -> None:
    """Make `AutoConfig` know "regnet_features"; called with its module when that is imported.

    A transformers that is too old for the adapter stays as it is.
    """
    try:
        config = import_module(f"{__name__}.configuration").RegNetFeaturesConfig
    except ImportError:
        return
    configuration_auto.AutoConfig.register(config.model_type, config, exist_ok=True)
