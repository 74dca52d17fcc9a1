"""Detectron2's checkpointer for models with our backbone: every dialect, and never in part.

Stock `DetectionCheckpointer` matches names by their ends, logs what it did not find, and keeps
random weights there; of a `.pkl` it runs what the file says. For a model that holds a
`RegNetBackbone` its methods read files safely, rename the backbone's part to the model's names, and
raise if that is not complete. The rest of a detector is matched as before: heads of other classes
stay random, with detectron2's warning.
"""

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import torch
from torch import nn

from regnet_backbones.adapters.detectron2.network import (
    check_images,
    check_order,
    statistics_of_dialect,
)
from regnet_backbones.adapters.detectron2.weights import url_error
from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.weights.checkpoints import (
    Network,
    SeveralNetworksError,
    checkpoint_of,
    locate,
)
from regnet_backbones.weights.dialects import CHANNEL_ORDERS, find_networks, to_timm_name
from regnet_backbones.weights.loading import check_variant, extractors, fit
from regnet_backbones.weights.sources import URL_PREFIXES, Source, find_source, is_name
from regnet_backbones.weights.state_dicts import as_tensors, cast, compare, is_counter
from regnet_backbones.weights.unpickling import read_content

logger = logging.getLogger(__name__)

_State = dict[str, torch.Tensor]


def load_every_dialect(module: ModuleType) -> None:
    """Extend `DetectionCheckpointer` of `detectron2.checkpoint.detection_checkpoint`, once."""
    checkpointer = module.DetectionCheckpointer
    stock_load, stock_load_file = checkpointer.load, checkpointer._load_file
    stock_load_model = checkpointer._load_model
    if hasattr(stock_load, "loads_every_dialect"):
        return

    @functools.wraps(stock_load)
    def load(self, path, *args, **kwargs):
        if path and extractors(self.model):
            _check_exists(path)
        self.regnet_source = path
        try:
            return stock_load(self, path, *args, **kwargs)
        except URLError as error:
            if not path.startswith(URL_PREFIXES):
                raise
            raise url_error(path, error) from error
        finally:
            del self.regnet_source

    @functools.wraps(stock_load_file)
    def _load_file(self, filename):
        if not extractors(self.model):
            return stock_load_file(self, filename)
        return _read(Path(filename), getattr(self, "regnet_source", filename))

    @functools.wraps(stock_load_model)
    def _load_model(self, checkpoint):
        if extractors(self.model):
            path = getattr(self, "regnet_source", None) or "a state dict"
            # Checkpointers of other projects have a reading of their own.
            checkpoint["model"] = as_tensors(checkpoint["model"], path)
            _take_backbones(checkpoint, path, self.model)
        return stock_load_model(self, checkpoint)

    load.loads_every_dialect = True
    checkpointer.load = load
    checkpointer._load_file = _load_file
    checkpointer._load_model = _load_model


def _check_exists(path: str) -> None:
    """Check that there is a file at a path of this machine."""
    # What follows a "?" is options to detectron2, unless it belongs to the name of a file.
    if "://" not in path and not any(Path(p).is_file() for p in (path, path.partition("?")[0])):
        raise MissingFileError(
            f"no weights file at '{path}'; set MODEL.WEIGHTS to a file, a URL or a name such as "
            "'timm://regnety_032', or to '' to start from random weights"
        )


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
    if "matching_heuristics=True" in path.partition("?")[2]:
        extras = {**extras, "matching_heuristics": True}
    return {**extras, "model": checkpoint.state}


def _take_backbones(checkpoint: dict[str, object], path: str, model: nn.Module) -> None:
    """Rename what a checkpoint has for each backbone to the names of the model, in place.

    Raises a UserError where it has no complete backbone of this network, the images of the config
    are not those that its weights saw, or weights to load are not finite.
    """
    state, named, outer = checkpoint["model"], {}, None
    networks = []
    for home, backbone in extractors(model).items():
        network = locate(state, _prefix_for(home, state))
        networks.append(network)
        if home and network.prefix.endswith(home):
            outer = network.prefix.removesuffix(home)
        named |= _fit_backbone(network, path, model, home, backbone)
    others = [n for n in state if not any(n.startswith(network.prefix) for network in networks)]
    if outer is None:  # a classifier or another kind of model, of which only the network is taken
        checkpoint.pop("matching_heuristics", None)
        others = []
        named |= _stages_of_heads(networks[0], path, model)
    matched = {name.removeprefix(outer or ""): state[name] for name in others} | named
    own = model.state_dict()
    loaded = {n: v for n, v in matched.items() if n in own and own[n].shape == v.shape}
    checkpoint["model"] = matched | cast(loaded, own)


def _fit_backbone(
    network: Network, path: str, model: nn.Module, home: str, backbone: nn.Module
) -> _State:
    """Return the network of a checkpoint for a backbone, and for the images that it gets."""
    # Detectron2 has kinds of paths of its own, of which nothing is known.
    source = find_source(path) if is_name(path) else Source(path, file=Path(path))
    check_variant(source, backbone.name or backbone.design)
    format_ = getattr(backbone, "input_format", None) or getattr(model, "input_format", None)
    images = "BGR" if format_ == "BGR" else "RGB"
    told = getattr(backbone, "weights_format", None)
    order = told or CHANNEL_ORDERS[network.dialect]
    # MMDetection's have their network under "backbone.", too.
    is_detector = home != "" and network.prefix.endswith(home) and network.dialect != "mmdet"
    if is_detector and network.dialect == "timm":
        order = images  # of this package, trained on the images of this config
    elif not (is_detector or told) and backbone.in_channels == 3:
        given = _mean_and_std(backbone, model)
        mean, std = source.mean, source.std
        if mean is None and not network.rest:
            mean, std = statistics_of_dialect(network.dialect, backbone.name or backbone.design)
        if given is None:
            check_order(path, order, input_format=images)
        else:
            values = {"pixel_mean": given[0], "pixel_std": given[1]}
            check_images(path, order, mean, std, input_format=format_ or "RGB", **values)
    orders = (order, images)
    named, report = fit(network, backbone, source, orders, home=home, keeps_rest=is_detector)
    logger.info("backbone: %s", report)
    return named


def _mean_and_std(backbone: nn.Module, model: nn.Module) -> list[list[float]] | None:
    """Return what normalises the images of a backbone; None where nothing is known of it.

    The builder of a config keeps the values on the backbone. Built without one, as in a LazyConfig,
    they are known where the model shows them.
    """
    for owner in (backbone, model):
        values = [getattr(owner, name, None) for name in ("pixel_mean", "pixel_std")]
        if all(value is not None for value in values):
            return [torch.as_tensor(value).flatten().tolist() for value in values]
    return None


def _stages_of_heads(network: Network, path: str, model: nn.Module) -> _State:
    """Return the weights of stages that a model runs in its heads, such as those of a C4 detector.

    Raises a UserError where the network has no such stage, another, or one with more in it.
    """
    named: _State = {}
    for home, stage in model.named_modules():
        if not hasattr(stage, "stage_of"):
            continue
        own = stage.state_dict()
        names = {name: to_timm_name(name, network.dialect) for name in network.state}
        given = {names[n]: value for n, value in network.state.items() if names[n] in own}
        parts = {name.partition(".")[0] for name in own}
        unknown = [
            n
            for n, ours in names.items()
            if ours and ours.partition(".")[0] in parts and ours not in own and not is_counter(n)
        ]
        if problems := compare(given, own, unknown):
            raise UserError(
                f"the weights '{path}' do not fill {home}, the last stage of {stage.stage_of}: "
                f"{problems}; take a file of the whole network"
            )
        named |= {f"{home}.{name}": given.get(name, value) for name, value in own.items()}
        logger.info("%s: the last stage, %d entries, of %s", home, len(given), path)
    return named


def _prefix_for(home: str, state: Mapping[str, torch.Tensor]) -> str | None:
    """Choose among several networks of a checkpoint the one that stands where the model's does."""
    found = find_networks(state)
    at_home = [prefix for prefix in found if prefix.endswith(home)]
    return home if home in found else at_home[0] if len(at_home) == 1 else None
