"""The config that detectors and segmenters start from."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from detectron2.config import CfgNode, get_cfg

# Values that only a config with DeepLab's keys may have: meta architecture, head, schedule.
NEED_DEEPLAB_KEYS = {
    "SemanticSegmentor",
    "DeepLabV3Head",
    "DeepLabV3PlusHead",
    "AnySizeDeepLabV3PlusHead",
    "WarmupPolyLR",
}


def get_config() -> CfgNode:
    """Return detectron2's default config with our keys and those of its DeepLab project.

    Every `config.yaml` that `tools/train_net.py` writes can be merged into it. DeepLab's keys are
    all new ones: nothing that detectron2 has by itself gets another default. Where detectron2 was
    installed without its projects there are none, and DeepLab's configs cannot be loaded.
    """
    cfg = get_cfg()
    if find_spec("detectron2.projects.deeplab") is not None:
        from detectron2.projects.deeplab import add_deeplab_config

        from regnet_backbones.detection import heads  # noqa: F401  (registers ours)

        add_deeplab_config(cfg)
    # As detectron2's PointRend project names it: random brightness, contrast, saturation and hue.
    cfg.INPUT.COLOR_AUG_SSD = False
    return cfg


def read_config(config_file: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Read a config file with overrides of the command line.

    A detector's config has no keys of DeepLab: what is written of it, `get_cfg()` alone can read.

    Args:
        config_file: a YAML file in detectron2's schema.
        overrides: keys and values in turn.

    Raises:
        FileNotFoundError: there is no such file.
        KeyError: a key of the file does not exist.
        ValueError: an override's does not, or has no value, or a value has the wrong type.
    """
    if not Path(config_file).is_file():
        raise FileNotFoundError(
            f"no config file '{config_file}'; give one with --config-file, such as "
            "configs/detectron2/quick/mask_rcnn_regnet_small_fpn.yaml"
        )
    cfg = _merge(get_config(), config_file, overrides)
    chosen = (
        cfg.MODEL.META_ARCHITECTURE,
        cfg.MODEL.SEM_SEG_HEAD.NAME,
        cfg.SOLVER.LR_SCHEDULER_NAME,
    )
    if NEED_DEEPLAB_KEYS.isdisjoint(chosen):
        cfg = _merge(get_cfg(), config_file, overrides)
    return cfg


def _merge(cfg: CfgNode, config_file: str | Path, overrides: Sequence[str]) -> CfgNode:
    """Merge a file and overrides into a config."""
    try:
        cfg.merge_from_file(str(config_file))
        cfg.merge_from_list(list(overrides))
    except AssertionError as error:  # how yacs says that an override is wrong
        raise ValueError(
            f"{error}; overrides are pairs of a config key and a value, such as SOLVER.BASE_LR 0.01"
        ) from error
    return cfg
