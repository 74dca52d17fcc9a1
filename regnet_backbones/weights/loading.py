"""Load weights of any dialect into a model of ours: all of them, or an error and nothing."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from timm.models import adapt_input_conv
from torch import nn

from regnet_backbones import zoo
from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError
from regnet_backbones.weights.checkpoints import Network, locate, read_checkpoint
from regnet_backbones.weights.dialects import (
    CHANNEL_ORDERS,
    STEMS,
    ChannelOrder,
    flip_channels,
    is_head,
    to_timm_name,
)
from regnet_backbones.weights.sources import Source, find_source, local_file
from regnet_backbones.weights.state_dicts import cast, compare, is_counter, listing

# Parts of a timm classifier that no feature map passes through.
CLASSIFIER_PARTS = ("head.", "final_conv.")

# What timm's features_only network is called inside SMP's `tu-` encoder.
_TU_ENCODER = "model."

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What a loading did.

    Attributes:
        source: where the weights came from.
        dialect: whose names they had.
        loaded: names of the model's parameters and buffers that were loaded.
        dropped: names of the file that were left out on purpose: a classifier, stages behind the
            last level, the FPN and heads or the decoder of another model.
        channel_order: of the images that the weights saw, "RGB" or "BGR".
        flipped: whether the stem was turned to the other order.
        licence: of the weights, None where unknown.
    """

    source: str
    dialect: str
    loaded: tuple[str, ...]
    dropped: tuple[str, ...]
    channel_order: ChannelOrder
    flipped: bool
    licence: str | None

    def __str__(self) -> str:
        """Say it in one line."""
        parts = list(dict.fromkeys(name.split(".")[0] for name in self.dropped))
        dropped = f", dropped {len(self.dropped)} ({listing(parts)})"
        flip = ", stem flipped to the other order" if self.flipped else ""
        return (
            f"weights {self.source}: {self.dialect}'s names, {len(self.loaded)} entries loaded"
            f"{dropped if self.dropped else ''}; for {self.channel_order} images{flip}; "
            f"licence {self.licence or 'unknown'}"
        )


@dataclass(frozen=True)
class Fitted:
    """A network of a file with a value for each entry of an extractor, and what it dropped."""

    network: Network
    state: dict[str, torch.Tensor]
    dropped: tuple[str, ...]
    channel_order: ChannelOrder
    flipped: bool


def load(
    model: nn.Module,
    source: str | Path | Mapping[str, torch.Tensor | np.ndarray],
    *,
    channel_order: ChannelOrder | None = None,
    prefix: str | None = None,
) -> Report:
    """Load weights of any dialect into a `RegNetFeatures`, or into a model that holds one.

    A whole model, such as a segmenter, gets everything from a file of the same kind of model, and
    from any other file the backbone. Afterwards the model expects RGB images, unless it is of a
    Detectron2 config that says BGR.

    Args:
        model: changed in place (not at all when this raises).
        source: a name ("timm://regnety_032.ra_in1k", "torchvision://regnet_y_3_2gf.IMAGENET1K_V2",
            "pycls://RegNetY-3.2GF"), a URL, a path, or a state dict of tensors or numpy arrays.
        channel_order: of the images that the weights saw; None for that of the dialect (BGR for
            pycls and detectron2's own RegNet, RGB for all others). A model for BGR images needs it.
        prefix: which RegNet of the file to take where it holds several: the keys of its state dict,
            the beginning of its names, or both ("teacher", "backbone.", "teacher.backbone.").

    Returns:
        What was loaded, what was left out, and under which licence the weights are.

    Raises:
        ValueError: the weights are of another network, entries are missing, unknown, of another
            shape or not finite, or the file cannot be read.
        FileNotFoundError: a path names no file.
        OSError: a download failed.
    """
    model = getattr(model, "_orig_mod", model)  # of what torch.compile returned
    homes = extractors(model)
    if len(homes) != 1:
        raise UserError(
            f"the model holds {len(homes)} RegNets of regnet_backbones"
            + (f" ({', '.join(homes)}); load into one of them" if homes else "; it must hold one")
        )
    ((home, extractor),) = homes.items()
    images = getattr(extractor, "input_format", None)
    if images == "BGR" and channel_order is None:
        raise UserError(
            "the model is of a Detectron2 config that says INPUT.FORMAT 'BGR'; load its weights "
            "with DetectionCheckpointer, which checks them against the config, or say what images "
            "they saw, channel_order='RGB' or 'BGR'"
        )
    if isinstance(source, Mapping):
        known, state_dict = Source("a state dict", file=Path()), source
    else:
        known = find_source(source)
        check_variant(known, extractor.name or extractor.design)
        state_dict = read_checkpoint(local_file(known), prefix=prefix).content
    fitted = fit(
        state_dict,
        extractor,
        channel_order=channel_order,
        image_order="BGR" if images == "BGR" else "RGB",
        prefix=prefix,
    )
    loaded = {home + name: value for name, value in fitted.state.items()}
    rest = _rest_of_model(fitted.network, home, model)
    loaded |= rest
    model.load_state_dict(loaded, strict=False)
    report = report_of(known, fitted, tuple(loaded), keeps_rest=bool(rest))
    logger.info("%s", report)
    return report


def report_of(
    source: Source, fitted: Fitted, loaded: tuple[str, ...], *, keeps_rest: bool
) -> Report:
    """Report the loading of a fitted network, and of the rest of its model if `keeps_rest`."""
    network = fitted.network
    dropped = tuple(network.prefix + name for name in fitted.dropped)
    return Report(
        source=source.name,
        dialect=network.dialect,
        loaded=loaded,
        dropped=dropped + (() if keeps_rest else tuple(network.rest)),
        channel_order=fitted.channel_order,
        flipped=fitted.flipped,
        licence=source.licence,
    )


def check_variant(source: Source, network: str | RegNetDesign) -> None:
    """Raise ValueError where a source is known to be of another network than a name or design."""
    if source.variant is None:
        return
    named = isinstance(network, str)
    if source.variant is zoo.get(network) if named else source.variant.design == network:
        return
    raise UserError(
        f"the weights '{source.name}' are of {source.variant.name}, and the network is {network}; "
        f"take weights of that network, or the network {source.variant.name} (Detectron2: "
        f"MODEL.REGNET.NAME '{source.variant.name}')"
    )


def extractors(model: nn.Module) -> dict[str, nn.Module]:
    """Return every `RegNetFeatures` in a model by its prefix, such as "backbone.bottom_up."."""
    # By what an extractor has, not by its class, which itself loads weights with this module.
    return {
        f"{name}." if name else "": module
        for name, module in model.named_modules()
        # Its own: what torch.compile returns has all attributes of what it was given.
        if "level_parts" in vars(module)
    }


def fit(
    state_dict: Mapping[str, torch.Tensor | np.ndarray],
    extractor: nn.Module,
    *,
    channel_order: ChannelOrder | None = None,
    image_order: ChannelOrder = "RGB",
    prefix: str | None = None,
) -> Fitted:
    """Find the network of a state dict and make it fit an extractor, which is not changed.

    What the extractor does not have is dropped: a classifier, and stages behind its last level. A
    stem of three channels is adapted to the extractor's `in_channels` as timm does (summed for one
    channel, repeated and rescaled for more). `image_order` is of the images that the extractor will
    see. Raise a UserError where entries are missing, unknown, of another shape or not finite.
    """
    network = locate(state_dict, prefix)
    order = channel_order or CHANNEL_ORDERS[network.dialect]
    own = extractor.state_dict()
    useless = tuple(f"{part}." for part in extractor.pruned_parts)
    useless += tuple(p for p in CLASSIFIER_PARTS if not any(name.startswith(p) for name in own))
    fitted, unknown, dropped = {}, [], []
    for name, value in network.state.items():
        ours = to_timm_name(name, network.dialect)
        if is_head(name, network.dialect) or (ours and ours.startswith(useless)):
            dropped.append(name)
        elif ours is None or ours in fitted:
            unknown.append(name)
        else:
            fitted[ours] = value
    stem = next((n for n in STEMS if n in fitted and n in own and fitted[n].ndim == 4), None)
    expected = dict(own)
    if stem and fitted[stem].shape[1] == 3:
        expected[stem] = own[stem][:, :1].expand(-1, 3, -1, -1)
    unknown += [n for n in fitted if n not in expected and not is_counter(n)]
    problems = compare(fitted, expected, unknown)
    if problems:
        theirs, ours = _describe(fitted), _describe(own)
        raise UserError(
            f"the weights do not match the network, nothing was loaded; {problems}."
            + (f" The file has {theirs}, the model {ours}." if theirs != ours else "")
        )
    fitted = cast({n: v for n, v in fitted.items() if n in own}, own)
    flips = stem is not None and order != image_order
    if flips:
        fitted[stem] = flip_channels(fitted[stem])
    if stem and fitted[stem].shape != own[stem].shape:
        fitted[stem] = adapt_input_conv(own[stem].shape[1], fitted[stem])
    # A frozen norm has no batch counter, a norm that is not frozen misses it in older files.
    state = {name: fitted.get(name, value) for name, value in own.items()}
    return Fitted(network, state, tuple(dropped), order, flips)


def _rest_of_model(network: Network, home: str, model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a file's values for what a model of the same kind has next to its backbone."""
    inside = [i for i in (home, home + _TU_ENCODER) if network.prefix.endswith(i)]
    if not home or not network.rest or not inside:
        return {}
    outer = network.prefix.removesuffix(inside[0])
    own = {n: v for n, v in model.state_dict().items() if not n.startswith(home)}
    rest = {n.removeprefix(outer): v for n, v in network.rest.items() if n.startswith(outer)}
    problems = compare(rest, own, [n for n in rest if n not in own])
    if problems:
        raise UserError(
            "the file holds a whole model, whose other parts do not match this one, nothing was "
            f"loaded; {problems}. To take only its backbone, load into the backbone: "
            f"load(model.{home.removesuffix('.')}, ...)"
        )
    return cast(rest, own)


def _describe(state: Mapping[str, torch.Tensor]) -> str:
    """Return blocks and width of the stages in a state dict with timm's names, and who has them."""
    stages = []
    for stage in range(1, 5):
        blocks = {name.split(".")[1] for name in state if name.startswith(f"s{stage}.b")}
        ends = [f"s{stage}.b1.conv3.conv.weight", f"s{stage}.b1.conv3.weight"]
        stages += [(len(blocks), state[end].shape[0]) for end in ends if end in state]
    known = {name: zoo.get(name).design for name in zoo.names()}
    names = [
        name
        for name, design in known.items()
        if stages
        and design
        and [(s.depth, s.width) for s in design.stages][: len(stages)] == stages
    ]
    return f"stages of (blocks, width) {stages} ({' or '.join(names) or 'not of the zoo'})"
