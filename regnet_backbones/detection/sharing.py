"""A trained detector as a folder to share, see `runs.sharing`."""

from functools import reduce
from pathlib import Path

from detectron2.config import CfgNode

from regnet_backbones.detection.classes import class_names, known_classes
from regnet_backbones.detection.config import default_config, read_config, values_by_key
from regnet_backbones.detection.data import OWN_KEYS
from regnet_backbones.detection.description import describe
from regnet_backbones.detection.trained import load_detector
from regnet_backbones.files import read_json, write_whole
from regnet_backbones.runs.sharing import Facts, check_unchanged, is_path, name_and_licence
from regnet_backbones.runs.trained import CONFIG_NAME, SHARED_NAME, Trained, find_trained
from regnet_backbones.weights.checkpoints import write_checkpoint

# What is of a machine or a program of it, not of the model.
OF_THE_RUN = (
    *("OUTPUT_DIR", "MODEL.DEVICE", "INPUT.AUGMENTATION", "LOGGERS"),
    *("DATASETS.PROPOSAL_FILES_TRAIN", "DATASETS.PROPOSAL_FILES_TEST"),
    *(f"DATASETS.OWN.{key}" for key in OWN_KEYS),
)


def share(trained: Trained, folder: Path) -> Facts:
    """Write config and weights of a detector to a folder, and return what is known of it."""
    (cfg, model), of_run = load_detector(trained), read_config(trained.config_file)
    weights, licence = name_and_licence(of_run.MODEL.WEIGHTS)
    state = model.state_dict()
    write_checkpoint(folder / SHARED_NAME, state)
    text = _without_paths(of_run).dump().encode()
    write_whole(folder / CONFIG_NAME, lambda file: file.write(text))
    check_unchanged(trained, state, load_detector(find_trained(folder))[1].state_dict())
    own = cfg.DATASETS.OWN
    files = {"train": own.TRAIN_JSON, "val": own.VAL_JSON}
    return Facts(
        title=describe(trained.config_file).title,
        classes=class_names(cfg, known_classes(cfg)),
        weights=weights,
        licence=licence,
        images={
            part: len(read_json(file)["images"])
            for part, file in files.items()
            if file and Path(file).is_file()
        },
    )


def _without_paths(cfg: CfgNode) -> CfgNode:
    """Put defaults in place of what only the machine of the run has; return the config."""
    defaults = default_config()
    for key, value in values_by_key(cfg).items():
        if key in OF_THE_RUN or is_path(value):
            *nodes, name = key.split(".")
            reduce(getattr, nodes, cfg)[name] = reduce(getattr, nodes, defaults)[name]
    cfg.MODEL.WEIGHTS = name_and_licence(cfg.MODEL.WEIGHTS)[0]
    return cfg
