"""How Sphinx makes the pages of this folder: `make docs`."""

import re

from sphinx.application import Sphinx

import regnet_backbones

project = "regnet_backbones"
author = "the authors of regnet_backbones"
release = regnet_backbones.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "RegNet backbones"
html_copy_source = False
html_show_copyright = False

# Pages link to headings of each other by GitHub's names for them.
myst_heading_anchors = 4

napoleon_numpy_docstring = False
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80

# Types of others: their documentation is not looked up, pages are built without a network.
_OTHERS = (
    *("collections", "os", "pathlib", "random", "types", "typing"),
    *("detectron2", "fvcore", "lightning", "nn", "numpy", "PIL", "torch", "torchvision"),
    *("segmentation_models_pytorch", "transformers"),
)
nitpick_ignore_regex = [
    ("py:.*", rf"({'|'.join(_OTHERS)})\..+"),
    ("py:class", r".*\.([A-Z]|Model)"),  # type variables
    # What only type checkers import: detectron2's config, and models of `load`.
    ("py:class", r"CfgNode|DetectorPredictor|SegmenterPredictor"),
    # Types of arguments and results that users do not make themselves, and the errors, by name.
    ("py:class", r"regnet_backbones\..+"),
    ("py:exc", r"\w+Error|EarlyStop"),
]


def _to_restructured_text(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Rewrite a docstring where it means something else to Sphinx than to its readers."""
    text = "\n\n".join(_rewritten(part) for part in "\n".join(lines).split("\n\n"))
    # What stands before the colon of a property would be its type; an empty one is none.
    lines[:] = (f": {text}" if what == "property" else text).split("\n")


def _rewritten(paragraph: str) -> str:
    """Rewrite a paragraph or a section of a docstring."""
    if paragraph.startswith("    "):
        return f"::\n\n{paragraph}"  # a table, or code
    # Code is in single backticks, letters may follow.
    paragraph = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``\\ ", paragraph)
    # As of a property, of what is returned.
    return re.sub(r"^(Returns:\n +)(?=\S)", r"\1: ", paragraph)


def setup(app: Sphinx) -> None:
    """Connect what is above, before napoleon, which has priority 500."""
    app.connect("autodoc-process-docstring", _to_restructured_text, priority=400)
