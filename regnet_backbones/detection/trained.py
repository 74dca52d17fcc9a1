"""A trained detector as it was: its config, and every weight of its checkpoint."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNNWithTTA
from torch import nn

from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.detection.completeness import WholeCheckpointer
from regnet_backbones.detection.config import read_config, values_by_key
from regnet_backbones.detection.config_checks import check_config
from regnet_backbones.detection.optimization import check_optimization
from regnet_backbones.errors import UserError
from regnet_backbones.runs.device import check_device
from regnet_backbones.runs.trained import (
    CONFIG_NAME,
    FINAL_NAME,
    LAST_NAME,
    METRICS_NAME,
    Trained,
)
from regnet_backbones.runs.yaml_files import read_yaml

# Keys of a config that are said in another way, which an override would contradict.
SAID_OTHERWISE = {
    "MODEL.WEIGHTS": "give the checkpoint as the path",
    "MODEL.DEVICE": "give --device",
    "OUTPUT_DIR": "give --output",
}

# What a run's config always has: what decides its network and input, and the last keys of the file,
# which is sorted.
WRITTEN = {
    "DATASETS.TEST",
    "INPUT.FORMAT",
    "INPUT.MAX_SIZE_TEST",
    "INPUT.MIN_SIZE_TEST",
    "MODEL.BACKBONE.NAME",
    "MODEL.META_ARCHITECTURE",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "OUTPUT_DIR",
    "VERSION",
    "VIS_PERIOD",
}

logger = logging.getLogger(__name__)


def load_config(
    trained: Trained, *, opts: Sequence[str] = (), device: str | None = None
) -> CfgNode:
    """Return the config of a trained detector, with its checkpoint as `MODEL.WEIGHTS`.

    Args:
        trained: a detector, as `find_trained` finds it.
        opts: keys and values in turn that override the config.
        device: such as "cpu" or "cuda:1"; None for that of the config, or the CPU with a warning
            where there is no GPU.

    Raises:
        KeyError, ValueError, FileNotFoundError: the config, an override or the device cannot be
            used.
    """
    for key in opts[::2]:
        if key in SAID_OTHERWISE:
            raise UserError(f"{key} cannot be overridden here; {SAID_OTHERWISE[key]} instead")
    cfg = read_config(trained.config_file, opts)
    check_whole(trained.config_file)
    cfg.MODEL.WEIGHTS = str(trained.checkpoint)
    if device is not None:
        check_device(device)
        cfg.MODEL.DEVICE = device
    elif cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("there is no GPU: MODEL.DEVICE is cpu instead of %s", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    _check_test_augmentation(cfg)
    import_projects(cfg)
    check_config(cfg, training=False)
    check_optimization(cfg, training=False)
    return cfg


def check_whole(config_file: str | Path) -> None:
    """Check that the config that a run wrote into its folder has not been cut or replaced.

    Args:
        config_file: that can be read; another one than `config.yaml` next to what a run writes may
            have any keys.

    Raises:
        ValueError: it lacks what a run writes, or cannot be read.
    """
    path = Path(config_file)
    of_run = any((path.parent / name).is_file() for name in (LAST_NAME, FINAL_NAME, METRICS_NAME))
    if path.name != CONFIG_NAME or not of_run:
        return
    content = read_yaml(path)
    known = values_by_key(CfgNode(content)) if isinstance(content, dict) else {}
    lacking = sorted(WRITTEN - known.keys())
    if lacking:
        raise UserError(
            f"'{path}' is not the whole config of a run: it lacks {', '.join(lacking)}. It was "
            "cut or replaced; pass the config of the training, with its overrides, as --config-file"
        )


def load_weights(model: nn.Module, checkpoint: str) -> None:
    """Load a checkpoint into a detector, all of it.

    Where a training starts, heads of other classes may stay random. Here they may not.

    Args:
        model: changed in place.
        checkpoint: a file or address that detectron2's `DetectionCheckpointer` reads.

    Raises:
        ValueError: the checkpoint lacks weights of the model, or has them in other shapes.
    """
    WholeCheckpointer(model).load(checkpoint, checkpointables=[])


def with_test_augmentation(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Return the model, that averages over sizes and mirrored images if `TEST.AUG` says so."""
    return GeneralizedRCNNWithTTA(cfg, model) if cfg.TEST.AUG.ENABLED else model


def _check_test_augmentation(cfg: CfgNode) -> None:
    """Raise ValueError where `TEST.AUG` is on and detectron2 cannot do it."""
    if not cfg.TEST.AUG.ENABLED:
        return
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture != "GeneralizedRCNN" or cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS:
        raise UserError(
            "TEST.AUG.ENABLED works for MODEL.META_ARCHITECTURE 'GeneralizedRCNN' without "
            f"keypoints and precomputed proposals, this is a '{architecture}'; set "
            "TEST.AUG.ENABLED False in --opts"
        )
