"""Convert weights files: from any dialect to any, out of one kind of model and into another."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from regnet_backbones.weights.dialects import (
    CHANNEL_ORDERS,
    DIALECTS,
    ChannelOrder,
    Network,
    find_networks,
    is_head,
    locate,
    name_pairs,
    rename,
    to_timm_name,
)
from regnet_backbones.weights.entries import listing
from regnet_backbones.weights.files import Checkpoint, read_checkpoint, write_checkpoint
from regnet_backbones.weights.loading import CLASSIFIER_PARTS
from regnet_backbones.weights.matching import cast, compare, is_counter
from regnet_backbones.weights.sources import find_source, local_file

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

# Prefixes of the same kind of model: what is beside the network has the same names.
_KIN = ({"backbone.bottom_up."}, {"encoder.", "encoder.model."})


@dataclass(frozen=True)
class Conversion:
    """A conversion that is ready to be written.

    Attributes:
        source: where the weights came from.
        network: what was found there.
        state: all entries of the new file.
        nesting: key under which they go, None for what the new file's suffix does by itself.
        pairs: for every entry of the network its name there and its name in the new file.
        dropped: names of the source that the new file has no place for.
        left_out: top-level entries of the source, or of the checkpoint that its network goes into,
            that are no weights or others than those taken: optimizer, iteration, options, ...
        channel_order: of the images that the weights saw, and of those they are for now.
        licence: of the weights, None where unknown.
    """

    source: str
    network: Network
    state: dict[str, torch.Tensor]
    nesting: str | None
    pairs: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...]
    left_out: tuple[str, ...]
    channel_order: tuple[ChannelOrder, ChannelOrder]
    licence: str | None

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
        kept = len(self.state) - len(self.pairs)
        return "\n".join(
            [
                f"source: {self.source} ({self.network.dialect}'s names"
                + (f" under '{self.network.prefix}'" if self.network.prefix else "")
                + ")",
                f"network: {len(self.pairs)} entries converted; channel order {ours}, {flip}",
                f"beside it: {kept} entries kept, {len(self.dropped)} dropped"
                + (f" ({listing(list(self.dropped))})" if self.dropped else ""),
                f"licence: {self.licence or 'unknown, that of where the weights came from'}",
            ]
            + ([f"left out: {listing(list(self.left_out))}"] if self.left_out else [])
        )


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
    """Convert weights, and write them where `output` says.

    From a whole model to the same kind of model all weights are kept; otherwise only the network is
    taken, with its classifier where the new form has one. What lies beside the weights is left out:
    an optimizer's state, for one, is that of the weights that are replaced.

    Args:
        source: a name of published weights, a URL, or a path.
        output: the new file, whose suffix says its format (see `files.write_checkpoint`); None to
            write nothing.
        to: the form to convert to, one of `LAYOUTS`.
        into: instead of `to`: a checkpoint of a model, whose network is replaced.
        channel_order: of the images that the weights saw, None for that of their dialect.
        prefix: which network of the source to take where it holds several, such as "teacher.".
        into_prefix: which network of `into` to replace where it holds several.

    Returns:
        The conversion, written or not.

    Raises:
        ValueError: no or both of `to` and `into`, an unknown form, entries that it has no name for,
            a network other than the one it replaces, several where no prefix says which, or an
            unreadable file.
        FileNotFoundError: there is no such file.
        OSError: a download failed.
    """
    if (to is None) == (into is None):
        raise ValueError("give either to=, a form, or into=, a checkpoint to put the network into")
    if into is None and into_prefix is not None:
        raise ValueError(
            "into_prefix= (--into-prefix) says which network of into= (--into) to replace, and "
            "into= is missing"
        )
    if to is not None and to not in LAYOUTS:
        raise ValueError(f"unknown form '{to}'; there are {', '.join(LAYOUTS)}")
    known = find_source(source)
    checkpoint = read_checkpoint(local_file(known))
    network = locate(checkpoint.state, prefix)
    if into is None:
        target = _form(to, network)
    else:
        checkpoint = read_checkpoint(into)
        target = _host(into, checkpoint, into_prefix)
    orders = (channel_order or CHANNEL_ORDERS[network.dialect], CHANNEL_ORDERS[target.dialect])
    names, dropped = _names(network, target.dialect, with_classifier=not target.prefix)
    number, count = torch.empty(0), torch.empty(0, dtype=torch.int64)
    cast(network.state, {n: count if is_counter(n) else number for n in network.state})
    cast(target.rest, target.rest)
    renamed = rename(network, names, flips=orders[0] != orders[1])
    state = {**target.rest, **{target.prefix + name: value for name, value in renamed.items()}}
    if target.host is not None:
        state = _replaced(target.host, state, into)
    conversion = Conversion(
        source=known.name,
        network=network,
        state=state,
        nesting=target.nesting,
        pairs=tuple(
            (network.prefix + name, target.prefix + theirs)
            for name, theirs in names.items()
            if target.prefix + theirs in state
        ),
        dropped=tuple(network.prefix + name for name in dropped)
        + (() if target.keeps_rest else tuple(network.rest)),
        left_out=tuple(map(str, checkpoint.extras)),
        channel_order=orders,
        licence=known.licence,
    )
    if output is not None:
        # These have a nesting of their own, or none.
        is_fixed = Path(output).suffix.lower() in (".safetensors", ".pkl", ".pyth")
        write_checkpoint(output, state, nesting=None if is_fixed else target.nesting)
    return conversion


@dataclass(frozen=True)
class _Target:
    """Where a network goes: `host` is the state dict that has another one there, if there is."""

    dialect: str
    prefix: str
    rest: Mapping[str, torch.Tensor]
    nesting: str | None
    keeps_rest: bool
    host: Mapping[str, torch.Tensor] | None = None


def _form(to: str, network: Network) -> _Target:
    """Return the place of a network in one of `LAYOUTS`."""
    dialect, prefix = LAYOUTS[to]
    nesting = None
    if dialect in ("classyvision", "vissl"):
        nesting = "classy_state_dict"
    elif prefix.startswith("backbone."):
        nesting = "model"
    rest = _kept(network, prefix)
    return _Target(dialect, prefix, rest, nesting, keeps_rest=bool(rest))


def _host(into: str | Path, checkpoint: Checkpoint, prefix: str | None) -> _Target:
    """Return the place of the network in a checkpoint, which is the file `into`.

    Raises:
        ValueError: there are several, and `prefix` does not say which.
    """
    found = sorted(find_networks(checkpoint.state))
    if prefix is None and len(found) > 1:
        raise ValueError(
            f"'{into}' holds more than one RegNet, under {', '.join(map(repr, found))}; say which "
            "to replace with into_prefix= (--into-prefix)"
        )
    host = locate(checkpoint.state, prefix)
    return _Target(
        host.dialect,
        host.prefix,
        host.rest,
        checkpoint.nesting or None,
        keeps_rest=False,
        host=checkpoint.state,
    )


def _kept(network: Network, place: str) -> dict[str, torch.Tensor]:
    """Return what a model has beside its network, if the new form is of the same kind of model."""
    for kin in _KIN:
        for inside in kin:
            if place in kin and network.prefix.endswith(inside):
                outer = network.prefix.removesuffix(inside)
                return {n.removeprefix(outer): v for n, v in network.rest.items()}
    return {}


def _names(
    network: Network, dialect: str, *, with_classifier: bool
) -> tuple[dict[str, str], list[str]]:
    """Return the network's new names, and what is dropped: heads that the new form has not.

    Raises:
        ValueError: other parts have no name in the dialect.
    """
    names, lost = name_pairs(network, dialect)
    ours = {name: to_timm_name(name, network.dialect) or "" for name in network.state}
    # The final convolution of a byobnet network gives its C5, that of others only their classes.
    is_byobnet = any(name.startswith("stages.") for name in ours.values())
    classifier = ("head.",) if is_byobnet else CLASSIFIER_PARTS
    heads = [
        name
        for name in network.state
        if is_head(name, network.dialect) or ours[name].startswith(classifier)
    ]
    if not with_classifier:
        names = {name: theirs for name, theirs in names.items() if name not in heads}
    strange = [name for name in lost if name not in heads]
    if strange:
        raise ValueError(
            f"{dialect} has no name for {len(strange)} of {len(network.state)} entries of a "
            f"{network.dialect} network: {listing(strange)}"
        )
    return names, [name for name in heads if name not in names]


def _replaced(
    host: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], into: str | Path
) -> dict[str, torch.Tensor]:
    """Return the entries of `host` with the values of `state`, which must be the same entries.

    A frozen norm has no batch counter, so those may differ.

    Raises:
        ValueError: the network is another one.
    """
    unknown = [name for name in state if name not in host and not is_counter(name)]
    problems = compare(state, host, unknown)
    if problems:
        raise ValueError(f"the network does not fit into '{into}': {problems}")
    return {name: state.get(name, value) for name, value in host.items()}
