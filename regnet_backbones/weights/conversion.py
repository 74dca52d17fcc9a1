"""Convert weights: from any dialect to any, out of one kind of model and into another."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from regnet_backbones.errors import UserError
from regnet_backbones.weights.checkpoints import (
    CLASSY,
    Network,
    locate,
    read_checkpoint,
    write_checkpoint,
)
from regnet_backbones.weights.dialects import (
    CHANNEL_ORDERS,
    DIALECTS,
    STEMS,
    ChannelOrder,
    canonical,
    flip_channels,
    from_timm_names,
    is_head,
    to_timm_name,
)
from regnet_backbones.weights.loading import CLASSIFIER_PARTS
from regnet_backbones.weights.sources import Source, find_source, local_file
from regnet_backbones.weights.state_dicts import cast, compare, is_counter, listing

# Where a network is inside a model, and whose names it has there.
LAYOUTS: dict[str, tuple[str, str]] = {dialect: (dialect, "") for dialect in DIALECTS}
LAYOUTS |= {
    # A detectron2 model with FPN, on our backbone and on detectron2's own RegNet.
    "detector": ("timm", "backbone.bottom_up."),
    "detector_pycls": ("pycls", "backbone.bottom_up."),
    # An SMP model, on our encoder and on a `tu-` encoder.
    "smp": ("timm", "encoder."),
    "smp_tu": ("timm_features", "encoder.model."),
}

# Prefixes of the same kind of model: the rest of the model has the same names.
_KIN = ({"backbone.bottom_up."}, {"encoder.", "encoder.model."})


@dataclass(frozen=True)
class Conversion:
    """A conversion, written or ready to be.

    `pairs` has for every entry of the network its name there and its name in the new file,
    `dropped` the names that the new file has no place for, `left_out` the other top-level entries,
    and `channel_order` that of the images that the weights saw, and of those they are for now.
    """

    source: Source
    network: Network
    state: dict[str, torch.Tensor]
    pairs: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...]
    left_out: tuple[str, ...]
    channel_order: tuple[ChannelOrder, ChannelOrder]

    def mapping(self) -> str:
        """Return one line an entry: its name, its new name, its shape."""
        width = max(len(theirs) for theirs, _ in self.pairs)
        lines = [
            f"{theirs:{width}}  ->  {ours}  {tuple(self.state[ours].shape)}"
            for theirs, ours in self.pairs
        ]
        return "\n".join(lines + [f"{name:{width}}  dropped" for name in self.dropped])

    def summary(self) -> str:
        """Return in a few lines what is converted, what is not, and under which licence."""
        theirs, ours = self.channel_order
        flip = f"flipped from {theirs}" if theirs != ours else "kept"
        place = f" under '{self.network.place}'" if self.network.place else ""
        dropped = f" ({listing(list(self.dropped))})" if self.dropped else ""
        lines = [
            f"source: {self.source.name} ({self.network.dialect}'s names{place})",
            f"network: {len(self.pairs)} entries converted; channel order {ours}, {flip}",
            f"other entries: {len(self.state) - len(self.pairs)} kept, "
            f"{len(self.dropped)} dropped{dropped}",
            f"licence: {self.source.licence or 'unknown, that of where the weights came from'}",
        ]
        left_out = [f"left out: {listing(list(self.left_out))}"] if self.left_out else []
        return "\n".join(lines + left_out)


def convert(
    state_dict: Mapping[str, torch.Tensor | np.ndarray],
    source: str,
    target: str,
    *,
    channel_order: ChannelOrder | None = None,
    prefix: str | None = None,
) -> dict[str, torch.Tensor]:
    """Rename a RegNet's parameters from one dialect to another.

    A prefix stays, and so does the rest of a model (an FPN, a decoder). Where the dialects differ
    in channel order the stem is flipped. The way back restores the state dict, except for what only
    ClassyVision and VISSL have: heads of self-supervised training, and names of sharded groups.

    Args:
        state_dict: names to tensors or numpy arrays, or a checkpoint that holds such a state dict.
        source: the dialect it is in, one of `DIALECTS` ("detectron2" is "pycls").
        target: the dialect that is wanted.
        channel_order: of the images that the weights saw, if not the source dialect's own.
        prefix: which of several networks, such as "teacher.".

    Returns:
        The tensors by their new names.

    Raises:
        ValueError: a dialect is unknown, the names are another dialect's, or some have no
            counterpart in `target`.
    """
    source, target = canonical(source), canonical(target)
    network = locate(state_dict, prefix)
    if network.dialect != source:
        raise UserError(
            f"the names are {network.dialect}'s, not {source}'s; pass source='{network.dialect}'"
        )
    names, lost = _name_pairs(network, target)
    lost = [n for n in lost if source == target or not is_head(n, source)]
    if lost:
        raise UserError(
            f"there is no way from {source} to {target} for {len(lost)} of {len(network.state)} "
            f"names: {listing(lost)}; they belong to no RegNet, or {target} has no such part"
        )
    flips = (channel_order or CHANNEL_ORDERS[source]) != CHANNEL_ORDERS[target]
    renamed = _rename(network, names, flips=flips)
    converted = {}
    for whole_name, value in network.entries.items():
        name = whole_name.removeprefix(network.prefix)
        if whole_name in network.rest:
            converted[whole_name] = value
        elif name in names:
            converted[network.prefix + names[name]] = renamed[names[name]]
    return converted


def convert_file(
    source: str | Path,
    output: str | Path | None = None,
    *,
    to: str | None = None,
    into: str | Path | None = None,
    channel_order: ChannelOrder | None = None,
    prefix: str | None = None,
    into_prefix: str | None = None,
) -> Conversion:
    """Convert weights, and write them to `output`; nothing is written without one.

    From a whole model to the same kind of model all weights are kept; otherwise only the network is
    taken, with its classifier if the new form has one. Other entries of a checkpoint are left out.
    The options are those of `regnet-backbones convert-weights`.
    """
    if (to is None) == (into is None):
        raise UserError("give either to=, a form, or into=, a checkpoint to put the network into")
    if into is None and into_prefix is not None:
        raise UserError("into_prefix= (--into-prefix) needs into= (--into), a checkpoint")
    if to is not None and to not in LAYOUTS:
        raise UserError(f"unknown form '{to}'; there are {', '.join(LAYOUTS)}")
    known = find_source(source)
    checkpoint = read_checkpoint(local_file(known), prefix=prefix)
    network = locate(checkpoint.content, prefix)
    if into is None:
        host = None
        dialect, place = LAYOUTS[to]
        rest = _kept(network, place)
        nesting = "model" if place.startswith("backbone.") else None
        nesting = CLASSY if dialect in ("classyvision", "vissl") else nesting
    else:
        checkpoint = read_checkpoint(into, prefix=into_prefix)
        host = locate(checkpoint.content, into_prefix)
        dialect, place, rest = host.dialect, host.prefix, host.rest
        nesting = checkpoint.nesting or None
    orders = (channel_order or CHANNEL_ORDERS[network.dialect], CHANNEL_ORDERS[dialect])
    names, dropped = _names(network, dialect, place, host)
    number, count = torch.empty(0), torch.empty(0, dtype=torch.int64)
    cast(network.state, {n: count if is_counter(n) else number for n in network.state})
    cast(rest, rest)
    renamed = _rename(network, names, flips=orders[0] != orders[1])
    state = {**rest, **{place + name: value for name, value in renamed.items()}}
    if host is not None:  # the same entries, but for the batch counters that a frozen norm lacks
        unknown = [name for name in state if name not in host.entries and not is_counter(name)]
        problems = compare(state, host.entries, unknown)
        if problems:
            raise UserError(f"the network does not fit into '{into}': {problems}")
        state = {name: state.get(name, value) for name, value in host.entries.items()}
    lost = () if host is None and rest else network.rest
    pairs = [(network.prefix + name, place + theirs) for name, theirs in names.items()]
    if output is not None:
        # These have a nesting of their own, or none.
        is_fixed = Path(output).suffix.lower() in (".safetensors", ".pkl", ".pyth")
        write_checkpoint(output, state, nesting=None if is_fixed else nesting)
    return Conversion(
        source=known,
        network=network,
        state=state,
        pairs=tuple((theirs, ours) for theirs, ours in pairs if ours in state),
        dropped=(*(network.prefix + name for name in dropped), *lost),
        left_out=tuple(map(str, checkpoint.extras)),
        channel_order=orders,
    )


def _name_pairs(network: Network, target: str) -> tuple[dict[str, str], list[str]]:
    """Return the names of a network's entries in another dialect, and those that have none."""
    if network.dialect == target:
        return {name: name for name in network.state}, []
    ours = {name: to_timm_name(name, network.dialect) for name in network.state}
    theirs = from_timm_names({name for name in ours.values() if name}, target)
    # Two spellings of one name would be one entry.
    once = {theirs[timm]: name for name, timm in ours.items() if timm in theirs}
    names = {name: new for new, name in once.items()}
    return names, [name for name in network.state if name not in names]


def _rename(network: Network, names: Mapping[str, str], *, flips: bool) -> dict[str, torch.Tensor]:
    """Return the entries of a network that have new names, by those; `flips` the stem."""
    renamed = {}
    for name, new in names.items():
        value = network.state[name]
        is_stem = to_timm_name(name, network.dialect) in STEMS
        renamed[new] = flip_channels(value) if flips and is_stem else value
    return renamed


def _kept(network: Network, place: str) -> dict[str, torch.Tensor]:
    """Return the rest of a model, if the new form is of the same kind of model."""
    for inside in next((kin for kin in _KIN if place in kin), ()):
        if network.prefix.endswith(inside):
            outer = network.prefix.removesuffix(inside)
            return {n.removeprefix(outer): v for n, v in network.rest.items()}
    return {}


def _names(
    network: Network, dialect: str, place: str, host: Network | None
) -> tuple[dict[str, str], list[str]]:
    """Return the network's new names, and what is dropped: heads that the new form lacks."""
    names, lost = _name_pairs(network, dialect)
    ours = {name: to_timm_name(name, network.dialect) or "" for name in network.state}
    # The final convolution of a byobnet network gives its C5, that of others only their classes.
    is_byobnet = any(name.startswith("stages.") for name in ours.values())
    classifier = ("head.",) if is_byobnet else CLASSIFIER_PARTS
    heads = [
        name
        for name in network.state
        if is_head(name, network.dialect) or ours[name].startswith(classifier)
    ]
    if host is not None:  # spelled as they are there
        there = {to_timm_name(name, dialect): name for name in host.state}
        names = {name: there.get(ours[name], new) for name, new in names.items()}
    if place:
        names = {name: theirs for name, theirs in names.items() if name not in heads}
    strange = [name for name in lost if name not in heads]
    if strange:
        raise UserError(
            f"{dialect} has no name for {len(strange)} of {len(network.state)} entries of a "
            f"{network.dialect} network: {listing(strange)}"
        )
    return names, [name for name in heads if name not in names]
