"""YAML files read as plain data: a tag or a key that is given twice is an error."""

from pathlib import Path

import yaml
from yaml.constructor import ConstructorError

from regnet_backbones.errors import UserError
from regnet_backbones.files import read_text

_STANDARD = "tag:yaml.org,2002:"

# Detectron2's own RetinaNet and Panoptic-DeepLab configs give a list by a tag that runs Python. The
# text is not run: it is looked up here.
_KNOWN: dict[str, list] = {
    "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]": [
        [x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)
    ],
    "[int(x * 0.1 * 640) for x in range(5, 16)]": [int(x * 0.1 * 640) for x in range(5, 16)],
}


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader, in which a key that is given twice is an error, and a date is text."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Compose a map, and check its keys."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in seen:
                problem = f"the key '{key.value}' is given twice"
                raise ConstructorError(None, None, problem, key.start_mark)
            seen.add(name)
        return node


def _construct_tagged(loader: yaml.SafeLoader, node: yaml.Node) -> list:
    """Look up what detectron2 computes by a tag; refuse any other one."""
    if node.tag == f"{_STANDARD}python/object/apply:eval":
        given = loader.construct_sequence(node)
        for expression, value in _KNOWN.items():
            if given == [expression]:
                return value
    tag = node.tag.replace(_STANDARD, "!!")
    problem = f"the tag '{tag}' could run code; write the value instead"
    raise ConstructorError(None, None, problem, node.start_mark)


_PlainLoader.add_constructor(None, _construct_tagged)
_PlainLoader.add_constructor(f"{_STANDARD}timestamp", yaml.SafeLoader.construct_scalar)


def read_yaml(path: str | Path) -> object:
    """Read a YAML file of plain values, None if it is empty; raise UserError for anything else."""
    text = read_text(path)
    try:
        return yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"'{path}'{line}: not a YAML file of plain values: {problem}") from error
