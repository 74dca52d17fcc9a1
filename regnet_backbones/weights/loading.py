"""Load weights of any dialect into a model of ours: all of them, or an error and nothing."""

import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from timm.models import adapt_input_conv
from torch import nn

import regnet_backbones.weights.dialects as dialects
from regnet_backbones import zoo
from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError
from regnet_backbones.norm import restore_activations
from regnet_backbones.weights.checkpoints import Network, locate, read_checkpoint, uncompiled
from regnet_backbones.weights.dialects import CHANNEL_ORDERS, ChannelOrder
from regnet_backbones.weights.sources import Source, find_source, local_file
from regnet_backbones.weights.state_dicts import cast, compare, is_counter, listing

# Parts of a timm classifier that no feature map passes through.
CLASSIFIER_PARTS = ("head.", "final_conv.")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What a loading did.

    Attributes:
        source: where the weights came from.
        dialect: whose names they had.
        loaded: names of the model's parameters and buffers that were loaded.
        dropped: names of the file that were left out on purpose: a classifier, stages behind the
            last level, other parts of another model.
        channel_order: of the training images, "RGB" or "BGR".
        flipped: whether the stem was turned to the other order.
        licence: of the weights, None where unknown.
        mean: of the training images per RGB channel, in [0, 1]; None where unknown.
        std: of the training images per RGB channel, in [0, 1]; None where unknown.
    """

    source: str
    dialect: str
    loaded: tuple[str, ...]
    dropped: tuple[str, ...]
    channel_order: ChannelOrder
    flipped: bool
    licence: str | None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __str__(self) -> str:
        """Return a line for people."""
        parts = listing(list(dict.fromkeys(name.split(".")[0] for name in self.dropped)))
        dropped = f", dropped {len(self.dropped)} ({parts})" if self.dropped else ""
        flip = ", stem flipped to the other order" if self.flipped else ""
        return (
            f"weights {self.source}: {self.dialect}'s names, {len(self.loaded)} entries loaded"
            f"{dropped}; for {self.channel_order} images{flip}; licence {self.licence or 'unknown'}"
        )


def load(
    model: nn.Module,
    source: str | Path | Mapping[str, torch.Tensor | np.ndarray],
    *,
    channel_order: ChannelOrder | None = None,
    prefix: str | None = None,
) -> Report:
    """Load weights of any dialect into a `RegNetFeatures`, or into a model that holds one.

    A whole model, such as a segmenter, gets everything from a file of the same kind of model, and
    from any other file the network, whose last stage is in the heads of a C4 detector. Afterwards
    the model expects RGB images, unless it is of a Detectron2 config with BGR.

    Args:
        model: changed in place, but not if an error is raised.
        source: a name ("timm://regnety_032.ra_in1k", "torchvision://regnet_y_3_2gf.IMAGENET1K_V2",
            "pycls://RegNetY-3.2GF"), a URL, a path, or a state dict of tensors or numpy arrays.
        channel_order: of the training images; None for that of the dialect (BGR for pycls and
            detectron2's own RegNet, RGB for all others). A model for BGR images needs it.
        prefix: which RegNet of several in the file: the keys of its state dict, the beginning of
            its names, or both ("teacher", "backbone.", "teacher.backbone.").

    Returns:
        What was loaded, what was left out, and the licence of the weights.

    Raises:
        ValueError: weights and network do not match, or the file cannot be read.
        FileNotFoundError: no such file.
        OSError: a download failed.
    """
    model = _unwrapped(model)
    restore_activations(model)
    homes = extractors(model)
    if len(homes) != 1:
        hint = f" ({', '.join(homes)}); load into one of them" if homes else ""
        raise UserError(f"the model must have one RegNet of this package, got {len(homes)}{hint}")
    ((home, extractor),) = homes.items()
    images = "BGR" if getattr(extractor, "input_format", None) == "BGR" else "RGB"
    if images == "BGR" and channel_order is None:
        raise UserError(
            "the config of the model has INPUT.FORMAT 'BGR'; load with DetectionCheckpointer, or "
            "pass channel_order, 'RGB' or 'BGR', of the images that the weights were trained on"
        )
    if isinstance(source, Mapping):
        known, state_dict = Source("a state dict", file=Path()), source
    else:
        known = find_source(source)
        check_variant(known, extractor.name or extractor.design)
        state_dict = read_checkpoint(local_file(known), prefix=prefix).content
    network = locate(state_dict, prefix)
    plain_home = uncompiled(home)
    # SMP's `tu-` encoder has its network under "model.".
    rest = network.rest_of_model(plain_home, f"{plain_home}model.") if home else {}
    order = channel_order or CHANNEL_ORDERS[network.dialect]
    orders, keeps_rest = (order, images), bool(rest)
    loaded, report = fit(network, extractor, known, orders, home=home, keeps_rest=keeps_rest)
    for place, stage in {} if rest else last_stages(model).items():
        state, of_stage = fit(network, stage, known, orders, home=place, keeps_rest=False)
        loaded |= state
        dropped = tuple(name for name in report.dropped if name in of_stage.dropped)
        report = replace(report, dropped=dropped)
    if rest:
        own = {n: v for n, v in model.state_dict().items() if not n.startswith(home)}
        names = {uncompiled(name): name for name in own}
        rest = {names.get(name, name): value for name, value in rest.items()}
        if problems := compare(rest, own):
            text = f"the rest of the model does not match, nothing was loaded; {problems}"
            way_out = f"load(model.{home.removesuffix('.')}, ...)"
            raise UserError(f"{text}. To load the backbone alone: {way_out}")
        loaded |= cast(rest, own)
    model.load_state_dict(loaded, strict=False)
    report = replace(report, loaded=tuple(loaded))
    logger.info("%s", report)
    return report


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return what torch.compile, data parallelism or an average of weights was given."""
    while list(model._modules) in (["module"], ["_orig_mod"]):
        (model,) = model.children()
    return model


def check_variant(source: Source, network: str | RegNetDesign) -> None:
    """Raise UserError where a source is known to be of another network than a name or design."""
    variant = source.variant
    own = zoo.get(network).name if isinstance(network, str) else network
    if variant and own not in (variant.name, variant.design):
        text = f"the weights '{source.name}' need the network {variant.name}, got {network}"
        raise UserError(f"{text}; use weights of it, or MODEL.REGNET.NAME '{variant.name}'")


def extractors(model: nn.Module) -> dict[str, nn.Module]:
    """Return every `RegNetFeatures` in a model by its prefix, such as "backbone.bottom_up."."""
    # By what an extractor has, not by its class, which itself loads weights with this module.
    return {
        f"{name}." if name else "": module
        for name, module in model.named_modules()
        # Its own: what torch.compile returns has all attributes of what it was given.
        if "level_parts" in vars(module)
    }


def last_stages(model: nn.Module) -> dict[str, nn.Module]:
    """Return every `RegNetLastStage` in a model by its prefix, such as "roi_heads.res5."."""
    return {f"{n}.": m for n, m in model.named_modules() if "stage_of" in vars(m)}


def fit(
    network: Network,
    extractor: nn.Module,
    source: Source,
    orders: tuple[ChannelOrder, ChannelOrder],
    *,
    home: str,
    keeps_rest: bool,
) -> tuple[dict[str, torch.Tensor], Report]:
    """Make a network of a file fit an extractor, which is not changed, and report it.

    The returned state is complete, its names begin with `home`. What the extractor lacks is
    dropped, and the rest of the file unless `keeps_rest`. `orders` are the channel orders of the
    images that the weights saw, and that the extractor will see.
    """
    own = extractor.state_dict()
    useless = tuple(f"{part}." for part in extractor.pruned_parts)
    useless += tuple(p for p in CLASSIFIER_PARTS if not any(name.startswith(p) for name in own))
    fitted, unknown, dropped = {}, [], []
    for name, ours in network.timm_names.items():
        if dialects.is_head(name, network.dialect) or ours.startswith(useless):
            dropped.append(network.prefix + name)
        elif not ours or ours in fitted:
            unknown.append(name)
        else:
            fitted[ours] = network.state[name]
    stems = [n for n in dialects.STEMS if n in fitted and n in own and fitted[n].ndim == 4]
    stem = stems[0] if stems else None
    expected = dict(own)
    if stem and fitted[stem].shape[1] == 3:
        expected[stem] = own[stem][:, :1].expand(-1, 3, -1, -1)
    unknown += [n for n in fitted if n not in expected and not is_counter(n)]
    if problems := compare(fitted, expected, unknown):
        theirs, ours = _describe(fitted), _describe(own)
        hint = f". The file has {theirs}, the model {ours}" if theirs != ours else ""
        raise UserError(f"weights do not match the network, nothing was loaded; {problems}{hint}.")
    fitted = cast({n: v for n, v in fitted.items() if n in own}, own)
    flips = bool(stem) and orders[0] != orders[1]
    if flips:
        fitted[stem] = dialects.flip_channels(fitted[stem])
    if stem and fitted[stem].shape != own[stem].shape:
        fitted[stem] = adapt_input_conv(own[stem].shape[1], fitted[stem])
    # A frozen norm has no batch counter, a norm that is not frozen misses it in older files.
    state = {home + name: fitted.get(name, value) for name, value in own.items()}
    mean, std = source.mean, source.std
    if mean is None and not network.rest:
        own_network = getattr(extractor, "name", None) or getattr(extractor, "design", None)
        mean, std = _statistics_of_dialect(network.dialect, own_network)
    report = Report(
        source=source.name,
        dialect=network.dialect,
        loaded=tuple(state),
        dropped=(*dropped, *(() if keeps_rest else network.rest)),
        channel_order=orders[0],
        flipped=flips,
        licence=source.licence,
        mean=mean,
        std=std,
    )
    return state, report


def _statistics_of_dialect(
    dialect: str, network: str | RegNetDesign | None
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return mean and deviation of the images that a classifier of a dialect saw.

    timm's differ by network and training: they are known where all of a network's are the same.
    """
    if not dialect.startswith("timm"):
        return zoo.IMAGENET_MEAN, zoo.IMAGENET_STD
    statistics = {
        (row.mean, row.std)
        for variant in map(zoo.get, zoo.names())
        if network is not None and network in (variant.name, variant.design)
        for row in variant.weights.values()
    }
    return statistics.pop() if len(statistics) == 1 else (None, None)


def _describe(state: Mapping[str, torch.Tensor]) -> str:
    """Return blocks and width of the stages in a state dict with timm's names, and who has them."""
    widths = defaultdict(list)
    for name, value in state.items():
        if found := re.match(r"(s\d)\.b\d+\.conv3\.(conv\.)?weight$", name):
            widths[found[1]].append(value.shape[0])
    stages = [(len(blocks), blocks[0]) for blocks in widths.values()]
    names = []
    for name in zoo.names() if stages else ():
        design = zoo.get(name).design
        if design and [(s.depth, s.width) for s in design.stages][: len(stages)] == stages:
            names.append(name)
    return f"stages of (blocks, width) {stages} ({' or '.join(names) or 'not of the zoo'})"
