"""Detectron2's checkpointer for models with our backbone: every dialect, and never in part.

Stock `DetectionCheckpointer` matches names by their ends, logs what it did not find, and keeps
random weights there; of a `.pkl` it runs what the file says. For a model that holds a
`RegNetBackbone` its methods read files safely, rename the backbone's part to the model's names, and
raise if that is not complete. The rest of a detector is matched as before: heads of other classes
stay random, with detectron2's warning.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from regnet_backbones.adapters.detectron2.compat.hook import replaces
from regnet_backbones.adapters.detectron2.network import check_images
from regnet_backbones.errors import MissingFileError
from regnet_backbones.norm import restore_activations
from regnet_backbones.weights.checkpoints import (
    Network,
    SeveralNetworksError,
    checkpoint_of,
    locate,
    uncompiled,
)
from regnet_backbones.weights.dialects import CHANNEL_ORDERS, find_networks
from regnet_backbones.weights.loading import check_variant, extractors, fit, last_stages
from regnet_backbones.weights.sources import Source, find_source, is_name, local_file
from regnet_backbones.weights.state_dicts import as_tensors, cast, versions_of, with_versions
from regnet_backbones.weights.unpickling import read_content

# What detectron2 takes from the end of a path.
HEURISTICS = "?matching_heuristics=True"

logger = logging.getLogger(__name__)

_State = dict[str, torch.Tensor]


def load_every_dialect(module: ModuleType) -> None:
    """Extend `DetectionCheckpointer` of `detectron2.checkpoint.detection_checkpoint`."""

    @replaces(module.DetectionCheckpointer)
    def load(stock, self, path, *args, **kwargs):
        if not path or not extractors(self.model):
            return stock(self, path, *args, **kwargs)
        self.regnet_source = path
        try:
            return stock(self, _on_this_machine(path), *args, **kwargs)
        finally:
            del self.regnet_source

    @replaces(module.DetectionCheckpointer)
    def _load_file(stock, self, filename):
        if not extractors(self.model):
            return stock(self, filename)
        return _read(Path(filename), getattr(self, "regnet_source", filename))

    @replaces(module.DetectionCheckpointer)
    def _load_model(stock, self, checkpoint):
        if extractors(self.model):
            path = getattr(self, "regnet_source", None) or "a state dict"
            # Checkpointers of other projects have a reading of their own.
            checkpoint["model"] = as_tensors(checkpoint["model"], path)
            _take_backbones(checkpoint, path, self.model)
        return stock(self, checkpoint)


def _on_this_machine(path: str) -> str:
    """Return the file of named weights or of a URL, any other path as it is."""
    file = path.removesuffix(HEURISTICS)
    if is_name(file):
        return str(local_file(find_source(file)))
    if "://" not in path and not any(Path(name).is_file() for name in (path, file)):
        raise MissingFileError(
            f"no weights file at '{path}'; set MODEL.WEIGHTS to a file, a URL or a name such as "
            "'timm://regnety_032', or to '' to start from random weights"
        )
    return path


def _read(file: Path, path: str) -> dict[str, object]:
    """Read a file into the form that the checkpointer expects: weights under "model"."""
    content = read_content(file)
    try:
        checkpoint = checkpoint_of(content, file)
        resumes = {"iteration", "model"} <= checkpoint.extras.keys()
    except SeveralNetworksError:
        resumes = True
    if resumes:  # a training that also keeps an average or a teacher
        checkpoint = checkpoint_of(content, file, prefix="model")
    # What other projects save next to the weights means nothing to detectron2.
    extras = checkpoint.extras if checkpoint.nesting == "model" else {}
    if path.endswith(HEURISTICS):
        extras = {**extras, "matching_heuristics": True}
    return {**extras, "model": checkpoint.state}


def _take_backbones(checkpoint: dict[str, object], path: str, model: nn.Module) -> None:
    """Rename what a checkpoint has for each backbone to the names of the model, in place."""
    restore_activations(model)
    state = {uncompiled(name): value for name, value in checkpoint["model"].items()}
    named, networks, outer = {}, [], None
    for home, backbone in extractors(model).items():
        plain_home = uncompiled(home)
        network = locate(state, _prefix_for(plain_home, state))
        networks.append(network)
        is_detector = home != "" and network.prefix.endswith(plain_home)
        if is_detector:
            outer = network.prefix.removesuffix(plain_home)
        named |= _fit_backbone(network, path, model, home, backbone, is_detector)
    others = [n for n in state if not any(n.startswith(network.prefix) for network in networks)]
    if outer is None:  # a classifier or another kind of model, of which only the network is taken
        checkpoint.pop("matching_heuristics", None)
        others = []
        for place, stage in last_stages(model).items():
            source, orders = Source(path, file=Path(path)), ("RGB", "RGB")  # it has no stem
            named |= fit(networks[0], stage, source, orders, home=place, keeps_rest=False)[0]
    own, outer = model.state_dict(), outer or ""
    names = {uncompiled(name): name for name in own}
    rest = {name.removeprefix(outer): state[name] for name in others}
    matched = {names.get(name, name): value for name, value in rest.items()} | named
    loaded = {n: v for n, v in matched.items() if n in own and own[n].shape == v.shape}
    modules = {uncompiled(f"{name}."): name for name, _ in model.named_modules()}
    versions = {
        modules[place]: version
        for name, version in versions_of(checkpoint["model"]).items()
        if (place := uncompiled(f"{name}.").removeprefix(outer)) in modules
    }
    checkpoint["model"] = with_versions(matched | cast(loaded, own), versions)


def _fit_backbone(
    network: Network,
    path: str,
    model: nn.Module,
    home: str,
    backbone: nn.Module,
    is_detector: bool,
) -> _State:
    """Return the network of a checkpoint for a backbone, and for the images that it gets."""
    # Detectron2 has kinds of paths of its own, of which nothing is known.
    source = find_source(path) if is_name(path) else Source(path, file=Path(path))
    variant = backbone.name or backbone.design
    check_variant(source, variant)
    format_ = getattr(backbone, "input_format", None) or getattr(model, "input_format", None)
    images = "BGR" if format_ == "BGR" else "RGB"
    told = getattr(backbone, "weights_format", None)
    order = told or CHANNEL_ORDERS[network.dialect]
    # MMDetection's have their network under "backbone.", too.
    is_detector = is_detector and network.dialect != "mmdet"
    if is_detector and network.dialect == "timm":
        order = images  # of this package, trained on the images of this config
    orders = (order, images)
    named, report = fit(network, backbone, source, orders, home=home, keeps_rest=is_detector)
    if not (is_detector or told) and backbone.in_channels == 3:
        seen = (report.mean, report.std)
        if given := _mean_and_std(backbone, model):
            check_images(path, order, seen, input_format=format_ or "RGB", given=given)
    logger.info("%s", report)
    return named


def _mean_and_std(backbone: nn.Module, model: nn.Module) -> list[list[float]] | None:
    """Return what normalises the images of a backbone; None where nothing is known of it."""
    # The builder of a config keeps the values on the backbone, that of a LazyConfig does not.
    for owner in (backbone, model):
        values = [getattr(owner, name, None) for name in ("pixel_mean", "pixel_std")]
        if all(value is not None for value in values):
            return [torch.as_tensor(value).flatten().tolist() for value in values]
    return None


def _prefix_for(home: str, state: Mapping[str, torch.Tensor]) -> str | None:
    """Choose among several networks of a checkpoint the one that stands where the model's does."""
    found = find_networks(state)
    at_home = [prefix for prefix in found if prefix.endswith(home)]
    return home if home in found else at_home[0] if len(at_home) == 1 else None
