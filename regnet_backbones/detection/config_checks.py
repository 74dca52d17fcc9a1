"""Values of a config that detectron2 takes as they are, and stumbles over when a run has begun."""

import os
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import get_norm
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, ROI_HEADS_REGISTRY

# The smallest value of keys that are counts; the first ones of a training alone.
TRAINING_COUNTS = {"SOLVER.IMS_PER_BATCH": 1, "SOLVER.MAX_ITER": 1, "SOLVER.CHECKPOINT_PERIOD": 1}
COUNTS = {"DATALOADER.NUM_WORKERS": 0}

NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
SCHEDULERS = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR", "WarmupPolyLR")
SAMPLERS = (
    "TrainingSampler",
    "RepeatFactorTrainingSampler",
    "RandomSubsetTrainingSampler",
    "WeightedTrainingSampler",
    "WeightedCategoryTrainingSampler",
)
CHOICES = {
    "INPUT.FORMAT": ("BGR", "RGB", "L", "YUV-BT.601"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm", "full_model"),
}
TRAINING_CHOICES = {"SOLVER.LR_SCHEDULER_NAME": SCHEDULERS, "DATALOADER.SAMPLER_TRAIN": SAMPLERS}

# Norms that every detector has.
OF_BACKBONES = ("MODEL.REGNET.NORM", "MODEL.FPN.NORM")

# Where a dataset's metadata says what it is read from.
PLACES = ("json_file", "panoptic_json", "image_root", "image_dir", "dirname")


def check_config(cfg: CfgNode, *, training: bool, processes: int = 1) -> None:
    """Check values that are wrong whatever the data, before anything is built.

    Args:
        cfg: of a run; what it names of projects is imported already.
        training: not only an evaluation.
        processes: how many run.

    Raises:
        ValueError: with the key, what it may be, and what it is.
    """
    for key, least in (COUNTS | (TRAINING_COUNTS if training else {})).items():
        if _value(cfg, key) < least:
            raise ValueError(f"{key} must be {least} or more, got {_value(cfg, key)}")
    if training and cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH must be a multiple of the {processes} processes, got "
            f"{cfg.SOLVER.IMS_PER_BATCH}"
        )
    for key, choices in (CHOICES | (TRAINING_CHOICES if training else {})).items():
        _check_choice(key, _value(cfg, key), choices)
    _check_device(cfg.MODEL.DEVICE)
    _check_names(cfg)
    if len(cfg.MODEL.PIXEL_MEAN) != len(cfg.MODEL.PIXEL_STD):
        raise ValueError(
            "MODEL.PIXEL_MEAN and MODEL.PIXEL_STD must have one number for each channel, got "
            f"{list(cfg.MODEL.PIXEL_MEAN)} and {list(cfg.MODEL.PIXEL_STD)}"
        )
    for key, norm in _norms(cfg.MODEL, "MODEL"):
        _check_norm(key, norm)
    if training and processes > 1 and cfg.MODEL.DEVICE == "cpu":
        synced = [key for key in OF_BACKBONES if _value(cfg, key) == "SyncBN"]
        if synced:
            raise ValueError(
                f"{' and '.join(synced)} 'SyncBN' needs GPUs in several processes, got {processes} "
                "processes on the CPU; set it to 'BN' or 'FrozenBN', or run in one process"
            )


def check_datasets_exist(cfg: CfgNode, *, training: bool) -> None:
    """Check that the datasets of a config are registered, and what they are read from is there.

    Raises:
        ValueError: one is not registered, or none is named.
        FileNotFoundError: a file or folder is not there.
    """
    for key in ("TRAIN", "TEST") if training else ("TEST",):
        names = cfg.DATASETS[key]
        if not names and (key == "TRAIN" or not training):
            raise ValueError(
                f"DATASETS.{key} is empty; name registered datasets, such as "
                "\"('coco_2017_train',)\", or give one's own with --train-json, --train-images, "
                "--val-json and --val-images"
            )
        for name in names:
            _check_dataset(f"DATASETS.{key}", name)


def _check_dataset(key: str, name: str) -> None:
    registered = DatasetCatalog.list()
    if name not in registered:
        raise ValueError(
            f"{key} names '{name}', which is not registered{_meant(name, registered)}; detectron2 "
            "has its own datasets registered and the demo's; one's own are given with --train-json "
            "and the like, or registered in code that runs before"
        )
    metadata = MetadataCatalog.get(name)
    for place in PLACES:
        path = metadata.get(place)
        if not isinstance(path, str) or "://" in path or Path(path).exists():
            continue
        root = os.environ.get("DETECTRON2_DATASETS")
        where = f"is '{root}'" if root else "is not set, which means 'datasets' of this folder"
        raise FileNotFoundError(
            f"the dataset '{name}' of {key} has no '{path}'; set DETECTRON2_DATASETS to the folder "
            f"that holds it (it {where})"
        )


def _check_names(cfg: CfgNode) -> None:
    """Check the names that are looked up in registries first."""
    named = [
        ("MODEL.META_ARCHITECTURE", META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", BACKBONE_REGISTRY),
    ]
    if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        named.append(("MODEL.ROI_HEADS.NAME", ROI_HEADS_REGISTRY))
    for key, registry in named:
        name, known = _value(cfg, key), sorted(known for known, _ in registry)
        if name not in registry:
            raise ValueError(
                f"{key} is no registered name: '{name}'{_meant(name, known)}; it may be one of "
                f"{', '.join(known)}"
            )


def _check_choice(key: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{key} must be one of {', '.join(choices)}, got '{value}'")


def _check_device(device: str) -> None:
    try:
        torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"MODEL.DEVICE must be cpu, cuda, or one GPU such as cuda:1, got '{device}'"
        ) from error


def _check_norm(key: str, norm: str | Callable) -> None:
    """Check a norm of detectron2's, in the words that name the key."""
    try:
        get_norm(norm, 32)
    except KeyError as error:
        raise ValueError(
            f"{key} must be one of {', '.join(map(repr, NORMS))}, got '{norm}'"
        ) from error


def _norms(node: CfgNode, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the keys of norms that are used, and their values; a RegNet checks its own."""
    for key, value in node.items():
        name = f"{prefix}.{key}"
        if isinstance(value, CfgNode) and key not in ("RESNETS", "REGNET"):
            yield from _norms(value, name)
        elif key == "NORM" and isinstance(value, str):
            yield name, value


def _value(cfg: CfgNode, key: str) -> object:
    """Return what a config has at a dotted key."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _meant(name: str, known: Sequence[str]) -> str:
    """Suggest the names that are written alike."""
    close = get_close_matches(name, known, n=2)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
