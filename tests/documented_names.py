"""The public names: those that the pages of docs/api document."""

import importlib
import re
from pathlib import Path

PAGES = Path(__file__).parent.parent / "docs" / "api"
# Packages whose `__all__` is what they offer.
PACKAGES = (
    "regnet_backbones",
    "regnet_backbones.design",
    "regnet_backbones.export",
    "regnet_backbones.optimize",
    "regnet_backbones.shapes",
    "regnet_backbones.weights",
)

DIRECTIVE = re.compile(r"^\.\. (currentmodule|autoclass|autofunction):: (\S+)$", re.MULTILINE)


def documented_names():
    """Return the object of every public name, by module and name."""
    found = {}
    for page in sorted(PAGES.glob("*.md")):
        module = None
        for directive, name in DIRECTIVE.findall(page.read_text()):
            if directive == "currentmodule":
                module = name
            elif name.startswith("regnet_backbones."):
                found[name] = _object(*name.rpartition(".")[::2])
            else:
                found[f"{module}.{name}"] = _object(module, name)
    return found


def _object(module, name):
    return getattr(importlib.import_module(module), name)
