"""Reading the config of a run from YAML files and a command line."""

import logging
import os
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.file_io import PathManager
from fvcore.common.config import BASE_KEY

from regnet_backbones.detection.defaults import add_tool_config
from regnet_backbones.errors import MissingFileError, UserError, as_user_error
from regnet_backbones.runs.trained import CONFIG_NAME, FINAL_NAME, LAST_NAME, METRICS_NAME
from regnet_backbones.runs.yaml_files import read_yaml

# The last keys of the file that a run writes, which is sorted.
LAST_KEYS = {"VERSION", "VIS_PERIOD"}

PAIRS = "overrides are pairs of a config key and a value, such as SOLVER.BASE_LR 0.01"

logger = logging.getLogger(__name__)


def default_config() -> CfgNode:
    """Return the config of our tools before a file is read: detectron2's keys and all of ours."""
    cfg = get_cfg()
    add_tool_config(cfg)
    return cfg


def read_config(config_file: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Return an unfrozen config of `config_file` (YAML) and `overrides`, keys and values in turn.

    What neither gives is as in `default_config`.

    Raises:
        UserError: a file is missing, empty, not YAML of plain values, or of a run that was cut; a
            key does not exist, or a value has the wrong type.
    """
    if len(overrides) % 2:
        raise UserError(f"'{overrides[-1]}' has no value; {PAIRS}")
    cfg, loaded = default_config(), CfgNode(load_config_file(config_file))
    _check_known(values_by_key(loaded), cfg, f"it is in '{config_file}'")
    with as_user_error(KeyError, ValueError, TypeError, prefix=f"'{config_file}': "):
        cfg.merge_from_other_cfg(loaded)
    _check_known(overrides[::2], cfg, PAIRS)
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        with as_user_error(ValueError, TypeError, prefix=f"{key}: "):
            cfg.merge_from_list([key, value])
    return cfg


def load_config_file(config_file: str | Path) -> dict[str, object]:
    """Return the values of a config file over those of its `_BASE_`; tags of YAML are refused."""
    path = Path(config_file)
    if not path.is_file():
        raise MissingFileError(f"no config file '{config_file}'; pass one with --config-file")
    loaded = _load_with_bases(str(path), ())
    written = (path.with_name(name) for name in (LAST_NAME, FINAL_NAME, METRICS_NAME))
    is_of_run = path.name == CONFIG_NAME and any(file.is_file() for file in written)
    if is_of_run and (lacking := sorted(LAST_KEYS - loaded.keys())):
        raise UserError(
            f"'{path}' lacks {', '.join(lacking)}; pass the whole config with --config-file"
        )
    return loaded


def use_cpu_without_gpu(cfg: CfgNode) -> None:
    """Set `MODEL.DEVICE` to the CPU, with a warning, if it is a GPU that does not exist."""
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("no GPU found: using MODEL.DEVICE cpu instead of %s", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"


def changed(cfg: CfgNode, *pairs: object) -> CfgNode:
    """Return an unfrozen copy of a config with other values, given as keys and values in turn."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(list(pairs))
    return cfg


def values_by_key(node: CfgNode, prefix: str = "") -> dict[str, object]:
    """Return the values of a config by the full names of their keys, tuples as lists."""
    found: dict[str, object] = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            found |= values_by_key(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = _listed(value)
    return found


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the names that are written like one; empty where none is."""
    close = get_close_matches(name, list(known), n=2)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def _listed(value: object) -> object:
    """Return a value with lists in the place of tuples, inside of others too."""
    return [_listed(item) for item in value] if isinstance(value, (tuple, list)) else value


def _check_known(keys: Iterable[str], cfg: CfgNode, place: str) -> None:
    """Raise UserError for a key that a config has no value of."""
    known = values_by_key(cfg)
    for key in keys:
        if key not in known:
            raise UserError(f"no config key '{key}'{did_you_mean(key, known)}; {place}")


def _load_with_bases(name: str, chain: tuple[str, ...]) -> dict[str, object]:
    """Load a file, to which the `_BASE_` of the files in `chain` led."""
    if name in chain:
        raise UserError(f"circle of _BASE_ files, remove one: {' -> '.join((*chain, name))}")
    try:
        own = read_yaml(PathManager.get_local_path(name))
    except FileNotFoundError as error:
        by = f", which '{chain[-1]}' names as its _BASE_" if chain else ""
        raise MissingFileError(f"no config file '{name}'{by}") from error
    if not isinstance(own, dict):
        kind = "an empty file" if own is None else f"a {type(own).__name__}"
        raise UserError(f"'{name}' must be a YAML file of config keys, got {kind}")
    bases = own.pop(BASE_KEY, [])
    merged: dict[str, object] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or not base:
            raise UserError(f"_BASE_ of '{name}' must be a config file, got {base!r}")
        base = os.path.expanduser(base)
        if "://" not in base:
            base = os.path.normpath(os.path.join(os.path.dirname(name), base))
        merged = _merged(_load_with_bases(base, (*chain, name)), merged)
    return _merged(own, merged)


def _merged(values: dict[str, object], base: dict[str, object]) -> dict[str, object]:
    """Return the values of a file over those of its `_BASE_`."""
    merged = dict(base)
    for key, value in values.items():
        if isinstance(value, dict):
            below = base.get(key)
            value = _merged(value, below if isinstance(below, dict) else {})
        merged[key] = value
    return merged
