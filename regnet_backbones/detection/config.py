"""Reading the config of a run."""

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from yaml import YAMLError


def read_config(config_file: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Read a config file with overrides of the command line.

    Args:
        config_file: a YAML file in detectron2's schema.
        overrides: keys and values in turn.

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
    cfg = get_cfg()
    try:
        cfg.merge_from_file(str(config_file))
        cfg.merge_from_list(list(overrides))
    except (YAMLError, TypeError) as error:  # detectron2 looks into what it read, None if nothing
        raise ValueError(f"'{config_file}' is no YAML file of config keys: {error}") from error
    except AssertionError as error:  # how yacs says that an override is wrong
        raise ValueError(
            f"{error}; overrides are pairs of a config key and a value, such as SOLVER.BASE_LR 0.01"
        ) from error
    return cfg
