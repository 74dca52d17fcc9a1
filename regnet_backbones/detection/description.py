"""What a run of a detector was, for its report."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from detectron2.config import CfgNode

from regnet_backbones.adapters.detectron2.builders import BUILDERS
from regnet_backbones.adapters.detectron2.config import regnet_node
from regnet_backbones.adapters.detectron2.network import network_of
from regnet_backbones.detection.architectures import title_of
from regnet_backbones.detection.config import default_config, read_config, values_by_key
from regnet_backbones.detection.data import TRAIN_NAME, VAL_NAME, CocoSplit
from regnet_backbones.runs.trained import Description

# Settings that say where a run was, not what it is.
UNINTERESTING = ("OUTPUT_DIR", "MODEL.DEVICE", "VERSION")


def describe(
    config_file: Path, *, opts: Sequence[str] = (), val: CocoSplit | None = None
) -> Description:
    """Describe the run of a config, and the data of an evaluation with these options.

    Raises:
        UserError: the config or an override cannot be used.
    """
    own, cfg = read_config(config_file), read_config(config_file, opts)
    backbone = cfg.MODEL.BACKBONE.NAME
    network = network_of(regnet_node(cfg)) if backbone in BUILDERS else None
    name = network if isinstance(network, str) else "a RegNet by numbers" if network else backbone
    names = [VAL_NAME] if val is not None else list(cfg.DATASETS.TEST)
    json_file = cfg.DATASETS.OWN.VAL_JSON if val is None else str(val.json_file)
    files = {TRAIN_NAME: cfg.DATASETS.OWN.TRAIN_JSON, VAL_NAME: json_file}
    solver = cfg.SOLVER
    return Description(
        title=f"{title_of(cfg)} on {name}",
        network=network,
        facts=(
            ("started from", own.MODEL.WEIGHTS or "random weights"),
            ("trained on", _listed(cfg.DATASETS.TRAIN, files)),
            ("validated on", _listed(names, files)),
            ("iterations", f"{solver.MAX_ITER:,} of {solver.IMS_PER_BATCH} images"),
        ),
        changed=changed_settings(own, default_config()),
        config=own.dump(),
        batch=solver.IMS_PER_BATCH,
        lengths={"iterations": solver.MAX_ITER},
        dataset=names[0] if names else "",
        datasets=len(names),
        json_file=json_file if VAL_NAME in names else None,
        of_other_data=val is not None,
    )


def changed_settings(cfg: CfgNode, defaults: CfgNode) -> tuple[tuple[str, str, str], ...]:
    """List key, value and default of what differs from defaults, or is not among them."""
    ours, theirs = values_by_key(cfg), values_by_key(defaults)
    return tuple(
        (key, str(value), str(theirs.get(key, "not a key")))
        for key, value in ours.items()
        if (key not in theirs or value != theirs[key]) and key not in UNINTERESTING
    )


def _listed(names: Iterable[str], files: dict[str, str]) -> str:
    """List datasets by their names, those of the run's own by their files."""
    return ", ".join(files.get(name) or name for name in names) or "none"
