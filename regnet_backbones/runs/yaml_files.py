"""YAML files read as plain data: no tag is obeyed, and no small file becomes a large value.

A config needs scalars, lists and maps. What YAML 1.1 takes for a date stays text. Aliases may be
used where the file stays small with every alias written out.
"""

from pathlib import Path

import yaml
from yaml.constructor import ConstructorError

from regnet_backbones.errors import UserError
from regnet_backbones.files import read_text

MAX_BYTES = 2_000_000
MAX_VALUES = 100_000  # with aliases written out

_STANDARD = "tag:yaml.org,2002:"
# The most characters of a scalar, by the tags that are obeyed; the lists and maps of them.
_MAX_CHARACTERS = {"str": 10_000, "int": 100, "float": 100, "null": 10, "bool": 10}
_COLLECTIONS = ("seq", "map")
_TEXT = ("timestamp", "value")  # a date, and "="

# Detectron2's own RetinaNet and Panoptic-DeepLab configs give a list by a tag that runs Python. The
# text is not run: it is looked up here.
_EVAL = "python/object/apply:eval"
_KNOWN: dict[str, list] = {
    "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]": [
        [x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)
    ],
    "[int(x * 0.1 * 640) for x in range(5, 16)]": [int(x * 0.1 * 640) for x in range(5, 16)],
}


def read_yaml(path: str | Path) -> object:
    """Read a YAML file of plain values; nothing that it names is imported or called.

    Returns:
        Text, numbers, True, False, None, and lists and dicts of these; None for an empty file.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is not YAML in UTF-8, it has a tag or gives a key twice, or it is too large.
    """
    size = Path(path).stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"'{path}' has {size:,} bytes; a YAML file may have {MAX_BYTES:,}")
    text = read_text(path)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {})
        return loader.construct_document(node)
    except RecursionError as error:
        raise UserError(f"'{path}' is nested too deeply to be read as YAML") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"'{path}'{line}: not a YAML file of plain values: {problem}") from error


def _check(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Check a node and all below it, and return how many values it has with aliases written out.

    An alias is the node that it names. `sizes` are those of the nodes seen, by their ids; 0 for one
    that is not left yet.
    """
    if sizes.setdefault(id(node), 0):
        return sizes[id(node)]
    kind, parts, problem = node.tag.removeprefix(_STANDARD), [], ""
    if kind in _TEXT and isinstance(node, yaml.ScalarNode):
        kind, node.tag = "str", f"{_STANDARD}str"
    if kind == _EVAL and isinstance(node, yaml.SequenceNode) and len(node.value) == 1:
        known = _KNOWN.get(str(node.value[0].value))
        if known is not None:
            kind, node.tag = "seq", f"{_STANDARD}seq"
            node.value = yaml.compose(str(known), yaml.SafeLoader).value
    if kind not in (*_MAX_CHARACTERS, *_COLLECTIONS) or not node.tag.startswith(_STANDARD):
        tag = node.tag.replace(_STANDARD, "!!")[:200]
        problem = f"the tag '{tag}'; tags are refused, since they can run code: write the value"
    elif isinstance(node, yaml.MappingNode):
        problem = _wrong_key(node)
        parts = [value for _, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif len(node.value) > (limit := _MAX_CHARACTERS.get(kind, 0)):
        problem = f"a value of {len(node.value):,} characters; {limit:,} are allowed"
    if any(sizes.get(id(part)) == 0 for part in parts):
        problem = "an alias of what it is in"
    size = 1 if problem else 1 + sum(_check(part, sizes) for part in parts)
    if size > MAX_VALUES:
        problem = f"more than {MAX_VALUES:,} values with aliases written out"
    if problem:
        raise ConstructorError(None, None, problem, node.start_mark)
    sizes[id(node)] = size
    return size


def _wrong_key(node: yaml.MappingNode) -> str:
    """Say which key is not a plain name, or given twice, of which YAML would keep the last."""
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        kind, line = key.tag.removeprefix(_STANDARD), key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or kind not in (*_MAX_CHARACTERS, "merge"):
            return f"a key that is not a plain name, in line {line}"
        if (kind, key.value) in seen:
            return f"the key '{key.value[:200]}' is given twice, again in line {line}"
        seen.add((kind, key.value))
    return ""
