"""Reading the config of a run."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from yaml import YAMLError

# How yacs and fvcore say that a value is of another type.
MISMATCH = re.compile(
    r"Type mismatch \(<class '(?:[\w.]+\.)?(?P<type>\w+)'> vs\. <class '[\w.]+'>\) with values "
    r"\((?P<old>.*) vs\. (?P<new>.*)\) for config key: (?P<key>\S+)",
    re.DOTALL,
)


def read_config(config_file: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Read a config file with overrides of the command line.

    Args:
        config_file: a YAML file in detectron2's schema.
        overrides: keys and values in turn.

    Returns:
        The config, not frozen; what neither file nor overrides say is as in `get_cfg()`.

    Raises:
        FileNotFoundError: there is no such file.
        KeyError: a key of the file does not exist.
        ValueError: an override's does not, or has no value; a value has the wrong type; the file is
            no YAML, or is empty.
    """
    if not Path(config_file).is_file():
        raise FileNotFoundError(
            f"no config file '{config_file}'; give one with --config-file, such as "
            "configs/detectron2/quick/mask_rcnn_regnet_small_fpn.yaml"
        )
    _check_pairs(overrides)
    cfg = get_cfg()
    try:
        cfg.merge_from_file(str(config_file))
    except YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f"line {place.line + 1}: {error.problem}" if place else " ".join(str(error).split())
        raise ValueError(f"'{config_file}' is no YAML file of config keys: {where}") from error
    except (TypeError, AttributeError, UnicodeDecodeError) as error:  # it was read, and is no dict
        raise ValueError(
            f"'{config_file}' is no YAML file of config keys: it is empty, or text of another kind"
        ) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no config file '{error.filename}', which '{config_file}' names as its _BASE_"
        ) from error
    except KeyError as error:
        raise KeyError(
            f"{error.args[0]}{_meant(cfg, error.args[0])}, in '{config_file}'"
        ) from error
    except ValueError as error:
        raise ValueError(f"{_reworded(str(error))}, in '{config_file}'") from error
    try:
        cfg.merge_from_list(list(overrides))
    except AssertionError as error:  # how yacs says that an override is wrong
        raise ValueError(
            f"{error}{_meant(cfg, str(error))}; overrides are pairs of a config key and a value, "
            "such as SOLVER.BASE_LR 0.01"
        ) from error
    except ValueError as error:
        raise ValueError(_reworded(str(error))) from error
    return cfg


def values_by_key(node: CfgNode, prefix: str = "") -> dict[str, object]:
    """Return the values of a config by the full names of their keys.

    Args:
        node: a config, or a part of one.
        prefix: of the names, with the dot at its end.

    Returns:
        The values; tuples as lists, which are all that a YAML file knows.
    """
    found: dict[str, object] = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            found |= values_by_key(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = _listed(value)
    return found


def _listed(value: object) -> object:
    """Return a value with lists in the place of tuples, inside of others too."""
    return [_listed(item) for item in value] if isinstance(value, (tuple, list)) else value


def _check_pairs(overrides: Sequence[str]) -> None:
    """Raise ValueError where keys and values do not take turns."""
    joined = [text for text in overrides[::2] if "=" in text]
    if joined or len(overrides) % 2:
        got = joined[0] if joined else overrides[-1]
        raise ValueError(
            "overrides are pairs of a config key and a value, such as SOLVER.BASE_LR 0.01, got "
            f"'{got}' {'with = between them' if joined else 'without a value'}"
        )


def _reworded(text: str) -> str:
    """Say a mismatch of types as the key, its type and present value, and what was given."""
    found = MISMATCH.search(text)
    if found is None:
        return text
    old = found["old"] if found["type"] != "CfgNode" else "keys of its own, one in a line below it"
    return f"{found['key']} must be of the type {found['type']} ({old}), got '{found['new']}'"


def _meant(cfg: CfgNode, text: str) -> str:
    """Suggest keys that are written like the one that a text ends with."""
    key = text.rpartition(": ")[2]
    close = get_close_matches(key, _keys(cfg), n=2)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _keys(cfg: CfgNode) -> list[str]:
    """Return all keys of a config, those of nodes too."""
    parts = [key.split(".") for key in values_by_key(cfg)]
    return list(dict.fromkeys(".".join(p[:n]) for p in parts for n in range(1, len(p) + 1)))
