"""What a run of a detector was, for its report."""

from collections.abc import Sequence
from pathlib import Path

from regnet_backbones.adapters.detectron2.builders import BUILDERS
from regnet_backbones.adapters.detectron2.config import regnet_node
from regnet_backbones.adapters.detectron2.network import network_of
from regnet_backbones.detection.architectures import title_of
from regnet_backbones.detection.config import default_config, read_config, values_by_key
from regnet_backbones.detection.data import TRAIN_NAME, VAL_NAME, CocoSplit
from regnet_backbones.runs.trained import Description, changed_settings

# Settings that say where a run was, not what it is.
UNINTERESTING = ("OUTPUT_DIR", "MODEL.DEVICE", "VERSION")


def describe(
    config_file: Path, *, opts: Sequence[str] = (), val: CocoSplit | None = None
) -> Description:
    """Describe the run of a config, and the data of an evaluation with these options."""
    run, cfg = read_config(config_file), read_config(config_file, opts)
    defaults = values_by_key(default_config())
    model, data, solver = run.MODEL, run.DATASETS, run.SOLVER
    network = network_of(regnet_node(run)) if model.BACKBONE.NAME in BUILDERS else None
    name = network if isinstance(network, str) else "a RegNet by numbers"
    names = list(cfg.DATASETS.TEST) if val is None else [VAL_NAME]
    json_file = cfg.DATASETS.OWN.VAL_JSON if val is None else str(val.json_file)
    files = {TRAIN_NAME: data.OWN.TRAIN_JSON, VAL_NAME: json_file}
    trained_on, validated_on = (
        ", ".join(files.get(name) or name for name in group) or "none"
        for group in (data.TRAIN, names)
    )
    return Description(
        title=f"{title_of(run)} on {name if network else model.BACKBONE.NAME}",
        network=network,
        facts=(
            ("started from", model.WEIGHTS or "random weights"),
            ("trained on", trained_on),
            ("validated on", validated_on),
            ("iterations", f"{solver.MAX_ITER:,} of {solver.IMS_PER_BATCH} images"),
        ),
        changed=changed_settings(values_by_key(run), defaults, without=UNINTERESTING),
        config=run.dump(),
        batch=solver.IMS_PER_BATCH,
        lengths={"iterations": solver.MAX_ITER},
        dataset=names[0] if names else "",
        datasets=len(names),
        json_file=json_file if VAL_NAME in names else None,
        of_other_data=val is not None,
    )
