"""YAML files read as plain data: no tag is obeyed, and no small file becomes a large value.

A config needs scalars, lists and maps. What YAML 1.1 takes for a date stays text. Aliases may be
used where the file stays small with every alias written out.
"""

from copy import deepcopy
from pathlib import Path
from typing import ClassVar

import yaml
from yaml.constructor import ConstructorError

from regnet_backbones.files import read_text

MAX_BYTES = 2_000_000
MAX_CHARACTERS = {"str": 10_000, "int": 100, "float": 100}  # of one scalar
MAX_VALUES = 100_000  # with aliases written out

_STANDARD = "tag:yaml.org,2002:"
_PLAIN = {_STANDARD + kind for kind in ("null", "bool", "int", "float", "str", "seq", "map")}
_MERGE = _STANDARD + "merge"

# Detectron2's own RetinaNet and Panoptic-DeepLab configs give a list by a tag that runs Python. The
# text is not run: it is looked up here.
_EVAL = _STANDARD + "python/object/apply:eval"
_KNOWN: dict[str, list] = {
    "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]": [
        [x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)
    ],
    "[int(x * 0.1 * 640) for x in range(5, 16)]": [int(x * 0.1 * 640) for x in range(5, 16)],
}


class _PlainLoader(yaml.SafeLoader):
    """A safe loader that knows plain values only."""

    yaml_implicit_resolvers: ClassVar = {
        first: [row for row in rows if row[0] in _PLAIN | {_MERGE}]
        for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def look_up(self, node: yaml.SequenceNode) -> list:
        """Return the list of a known text."""
        return deepcopy(_KNOWN[node.value[0].value])


_PlainLoader.add_constructor(_EVAL, _PlainLoader.look_up)


def read_yaml(path: str | Path) -> object:
    """Read a YAML file of plain values; nothing that it names is imported or called.

    Returns:
        Text, numbers, True, False, None, and lists and dicts of these; None for an empty file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML in UTF-8, it has a tag or gives a key twice, or it is too large.
    """
    size = Path(path).stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"'{path}' has {size:,} bytes; a YAML file may have {MAX_BYTES:,}")
    text = read_text(path)
    try:
        loader = _PlainLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {})
        return loader.construct_document(node)
    except RecursionError as error:
        raise ValueError(f"'{path}' is nested too deeply to be read as YAML") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ValueError(f"'{path}'{line}: not a YAML file of plain values: {problem}") from error


def _check(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Check a node and all below it, and return how many values it has with aliases written out.

    Args:
        node: of the composed document, in which an alias is the node that it names.
        sizes: of the nodes seen, by their ids; 0 for one that is not left yet.
    """
    known = sizes.get(id(node))
    if known == 0:
        raise ConstructorError(None, None, "an alias of what it is in", node.start_mark)
    if known:
        return known
    sizes[id(node)] = 0
    if node.tag not in _PLAIN and not _is_known(node):
        tag = node.tag.replace(_STANDARD, "!!")[:200]
        advice = "tags are refused, since they can run code: write the plain value"
        raise ConstructorError(None, None, f"the tag '{tag}'; {advice}", node.start_mark)
    size = 1
    if isinstance(node, yaml.ScalarNode):
        limit = MAX_CHARACTERS.get(node.tag.removeprefix(_STANDARD), 10)
        if len(node.value) > limit:
            problem = f"a value of {len(node.value):,} characters; {limit:,} are allowed"
            raise ConstructorError(None, None, problem, node.start_mark)
    elif isinstance(node, yaml.MappingNode):
        _check_keys(node)
        size += sum(_check(value, sizes) for _, value in node.value)
    else:
        size += sum(_check(value, sizes) for value in node.value)
    if size > MAX_VALUES:
        problem = f"more than {MAX_VALUES:,} values with aliases written out"
        raise ConstructorError(None, None, problem, node.start_mark)
    sizes[id(node)] = size
    return size


def _is_known(node: yaml.Node) -> bool:
    """Return whether a node is one of the lists of detectron2's that can be looked up."""
    if node.tag != _EVAL or not isinstance(node, yaml.SequenceNode) or len(node.value) != 1:
        return False
    return isinstance(node.value[0], yaml.ScalarNode) and node.value[0].value in _KNOWN


def _check_keys(node: yaml.MappingNode) -> None:
    """Raise for a key that is not a scalar, or that is given twice: YAML would keep the last."""
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag not in _PLAIN | {_MERGE}:
            raise ConstructorError(None, None, "a key that is not a plain name", key.start_mark)
        if (key.tag, key.value) in lines:
            first = lines[key.tag, key.value]
            problem = f"the key '{key.value[:200]}' is there twice, first in line {first}"
            raise ConstructorError(None, None, problem, key.start_mark)
        lines[key.tag, key.value] = key.start_mark.line + 1
