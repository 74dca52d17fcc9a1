"""What a run of a segmenter was, for its report."""

import inspect
from collections.abc import Mapping
from pathlib import Path

import yaml
from lightning import Trainer

from regnet_backbones import zoo
from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError
from regnet_backbones.files import read_text
from regnet_backbones.runs.trained import Description, changed_settings
from regnet_backbones.runs.yaml_files import read_yaml
from regnet_backbones.semseg.checkpoints import MODEL_KEY, read_checkpoint
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.module import Segmenter

GROUPS = {"trainer": Trainer, "model": Segmenter, "data": SegmentationData}


def describe(config_file: Path | None, checkpoint: Path | None) -> Description:
    """Describe the run of a config; without one, from the arguments in a checkpoint."""
    config, text = read_config(config_file, checkpoint)
    trainer, model, data = (config.get(group, {}) for group in GROUPS)
    encoder = model["encoder"]
    by_name = isinstance(encoder, str)
    network = encoder if by_name else RegNetDesign(**encoder)
    units = {"max_steps": "steps", "max_epochs": "epochs"}
    lengths = {unit: trainer[key] for key, unit in units.items() if (trainer.get(key) or 0) > 0}
    facts = {"started from": model.get("encoder_weights") or "random weights"}
    if data:
        facts["data"] = data.get("root") or data.get("train_images")
    if lengths:
        bounds = ", ".join(f"{number:,} {unit}" for unit, number in lengths.items())
        facts["length"] = f"{bounds} of {data.get('batch_size', '?')} images"
    settings = {f"{g}.{name}": v for g in GROUPS for name, v in config.get(g, {}).items()}
    defaults = {
        f"{group}.{name}": list(p.default) if isinstance(p.default, tuple) else p.default
        for group, of in GROUPS.items()
        for name, p in inspect.signature(of).parameters.items()
        if p.default is not p.empty
    }
    return Description(
        title=f"{model['decoder']} on {encoder if by_name else 'a RegNet by numbers'}",
        network=network if not by_name or network in zoo.names() else None,
        facts=tuple((key, str(value)) for key, value in facts.items()),
        changed=changed_settings(settings, defaults, without=("trainer.default_root_dir",)),
        config=text,
        batch=data.get("batch_size", 0) * (trainer.get("accumulate_grad_batches") or 1),
        lengths=lengths,
        every=trainer.get("log_every_n_steps") or 50,
    )


def read_config(
    config_file: Path | None, checkpoint: Path | None
) -> tuple[Mapping[str, Mapping], str]:
    """Return the config and its text; of a run without one, the arguments of its model."""
    if config_file is None:
        arguments = read_checkpoint(checkpoint)[MODEL_KEY].items()
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in arguments}
        return {"model": plain}, yaml.safe_dump({"model": plain}, sort_keys=False)
    config = read_yaml(config_file)
    groups = config if isinstance(config, Mapping) else {}
    if not all(isinstance(groups.get(group), Mapping) for group in GROUPS):
        text = f"'{config_file}' is not a complete config of train-segmenter; remove it to report"
        raise UserError(f"{text} the settings in the checkpoint")
    return groups, read_text(config_file)
