"""Convert weights: from any dialect to any, out of one kind of model and into another."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

import regnet_backbones.weights.checkpoints as checkpoints
import regnet_backbones.weights.dialects as dialects
from regnet_backbones.errors import UserError
from regnet_backbones.weights.checkpoints import Network
from regnet_backbones.weights.dialects import CHANNEL_ORDERS, DIALECTS, ChannelOrder
from regnet_backbones.weights.loading import CLASSIFIER_PARTS
from regnet_backbones.weights.sources import find_source, local_file
from regnet_backbones.weights.state_dicts import cast, compare, is_counter, listing

# Where a network is inside a model, and whose names it has there.
LAYOUTS: dict[str, tuple[str, str]] = {
    **{dialect: (dialect, "") for dialect in DIALECTS},
    # A detectron2 model with FPN, on our backbone and on detectron2's own RegNet.
    "detector": ("timm", "backbone.bottom_up."),
    "detector_pycls": ("pycls", "backbone.bottom_up."),
    # A detector of torchvision's, on our `RegNetFPN`.
    "torchvision-detection": ("timm", "backbone.body."),
    # Our `RegNetFeaturesBackbone`; "transformers" is transformers' own `RegNetModel`.
    "transformers-backbone": ("timm", "features."),
    # An SMP model, on our encoder and on a `tu-` encoder.
    "smp": ("timm", "encoder."),
    "smp_tu": ("timm_features", "encoder.model."),
}

# The FPN of a detector in detectron2 (`modeling/backbone/fpn.py`) and in torchvision
# (`ops/feature_pyramid_network.py`): {l} is the level of a map, {i} counts from the finest.
_FPN_PARTS = (
    ("fpn_lateral{l}", "fpn.inner_blocks.{i}.0"),
    ("fpn_lateral{l}.norm", "fpn.inner_blocks.{i}.1"),
    ("fpn_output{l}", "fpn.layer_blocks.{i}.0"),
    ("fpn_output{l}.norm", "fpn.layer_blocks.{i}.1"),
    ("top_block.p6", "fpn.extra_blocks.p6"),
    ("top_block.p7", "fpn.extra_blocks.p7"),
)
_FPN_COLUMNS = {"bottom_up.": 0, "body.": 1}


def convert(
    state_dict: Mapping[str, torch.Tensor | np.ndarray],
    source: str,
    target: str,
    *,
    channel_order: ChannelOrder | None = None,
    prefix: str | None = None,
) -> dict[str, torch.Tensor]:
    """Return a RegNet's parameters by their names in another dialect.

    A prefix stays, and so does the rest of a model (an FPN, a decoder). Where the dialects differ
    in channel order the stem is flipped. The way back restores the state dict, except for what only
    ClassyVision and VISSL have: heads of self-supervised training, and names of sharded groups.

    Args:
        state_dict: names to tensors or numpy arrays, or a checkpoint with such a state dict.
        source: the dialect it is in, one of `DIALECTS` ("detectron2" is "pycls").
        target: the new dialect.
        channel_order: of the training images, if not that of the source dialect.
        prefix: which of several networks, such as "teacher.".

    Raises:
        ValueError: a dialect is unknown or the wrong one, or lacks names.
    """
    source, target = dialects.canonical(source), dialects.canonical(target)
    network = checkpoints.locate(state_dict, prefix)
    if network.dialect != source:
        found = network.dialect
        raise UserError(f"the names are {found}'s, got source='{source}'; pass source='{found}'")
    names = _new_names(network, target)
    heads = {name for name in network.state if dialects.is_head(name, source)}
    _check_names(network, target, {*names, *heads})
    flips = (channel_order or CHANNEL_ORDERS[source]) != CHANNEL_ORDERS[target]
    renamed = _rename(network, names, flips=flips)
    return {**network.rest, **{network.prefix + name: value for name, value in renamed.items()}}


def convert_file(
    source: str | Path,
    output: str | Path | None = None,
    *,
    to: str | None = None,
    into: str | Path | None = None,
    channel_order: ChannelOrder | None = None,
    prefix: str | None = None,
) -> tuple[str, str]:
    """Convert weights, write them to `output` if given, and return lines: entries, and a summary.

    From a whole model to the same kind of model all weights are kept; otherwise only the network,
    with its classifier if the new form has one.
    """
    if (to is None) == (into is None):
        raise UserError("pass either --to, a form, or --into, a checkpoint that gets the network")
    if to is not None and to not in LAYOUTS:
        raise UserError(f"--to must be one of {', '.join(LAYOUTS)}, got '{to}'")
    known = find_source(source)
    checkpoint = checkpoints.read_checkpoint(local_file(known), prefix=prefix)
    network = checkpoints.locate(checkpoint.content, prefix)
    host = None
    if into is None:
        dialect, place = LAYOUTS[to]
        # Of the same kind of model the rest has the same names.
        kind = place.partition(".")[0]
        rest = network.rest_of_model(
            *(p for _, p in LAYOUTS.values() if kind and p.startswith(kind))
        )
        whole, rest = rest, _fpn_between(network, place, rest)
        left_out = [n for n in whole if rest is not whole and not n.startswith("backbone.")]
        nesting = "model" if place.startswith("backbone.") else None
        nesting = checkpoints.CLASSY if dialect in ("classyvision", "vissl") else nesting
    else:
        checkpoint = checkpoints.read_checkpoint(into)
        host = checkpoints.locate(checkpoint.content)
        dialect, place, rest = host.dialect, host.prefix, host.rest
        nesting = checkpoint.nesting or None
    names = _new_names(network, dialect)
    heads = _heads(network)
    _check_names(network, dialect, {*names, *heads})
    if place:
        names = {name: new for name, new in names.items() if name not in heads}
    if host is not None:  # spelled as they are there
        there = {timm: name for name, timm in host.timm_names.items() if timm}
        names = {name: there.get(network.timm_names[name], new) for name, new in names.items()}
    number, count = torch.empty(0), torch.empty(0, dtype=torch.int64)
    cast(network.state, {n: count if is_counter(n) else number for n in network.state})
    cast(rest, rest)
    theirs, ours = channel_order or CHANNEL_ORDERS[network.dialect], CHANNEL_ORDERS[dialect]
    renamed = _rename(network, names, flips=theirs != ours)
    state = {**rest, **{place + name: value for name, value in renamed.items()}}
    if host is not None:  # the same entries, but for the batch counters that a frozen norm lacks
        if problems := compare(state, host.entries):
            raise UserError(f"the network does not fit into '{into}': {problems}")
        state = {name: state.get(name, value) for name, value in host.entries.items()}
    if output is not None:
        # These have a nesting of their own, or none.
        is_fixed = Path(output).suffix.lower() in (".safetensors", ".pkl", ".pyth")
        checkpoints.write_checkpoint(output, state, nesting=None if is_fixed else nesting)

    pairs = {network.prefix + n: place + new for n, new in names.items() if place + new in state}
    dropped = [network.prefix + name for name in heads if name not in names]
    dropped += network.rest if host is not None or not rest else left_out
    width = max(map(len, pairs))
    mapping = [f"{a:{width}}  ->  {b}  {tuple(state[b].shape)}" for a, b in pairs.items()]
    mapping += [f"{name:{width}}  dropped" for name in dropped]
    under = f" under '{network.place}'" if network.place else ""
    summary = [
        f"source: {known.name} ({network.dialect}'s names{under})",
        f"network: {len(pairs)} entries converted; channel order {ours}, "
        + (f"flipped from {theirs}" if theirs != ours else "kept"),
        f"other entries: {len(state) - len(pairs)} kept, {len(dropped)} dropped"
        + (f" ({listing(dropped)})" if dropped else ""),
        f"licence: {known.licence or 'unknown, that of where the weights came from'}",
    ]
    if checkpoint.extras:
        summary.append(f"left out: {listing([str(key) for key in checkpoint.extras])}")
    return "\n".join(mapping), "\n".join(summary)


def _fpn_between(
    network: Network, place: str, rest: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Rename the FPN of a detector whose network goes to `place`, and leave the heads out.

    `rest` is all but the network; it stays where the detector is of the same framework.
    """
    columns = [
        next((column for end, column in _FPN_COLUMNS.items() if prefix.endswith(end)), None)
        for prefix in (network.prefix, place)
    ]
    if None in columns or columns[0] == columns[1]:
        return rest
    here = {n.removeprefix("backbone."): v for n, v in rest.items() if n.startswith("backbone.")}
    names = {parts[columns[0]]: parts[columns[1]] for parts in _fpn_names(list(here), network)}
    if unknown := [f"backbone.{n}" for n in here if n.rpartition(".")[0] not in names]:
        text = f"{len(unknown)} entries are not of an FPN that both frameworks have"
        raise UserError(f"{text}: {listing(unknown)}; convert the network alone with --to timm")
    split = {name: name.rpartition(".") for name in here}
    return {f"backbone.{names[split[n][0]]}.{split[n][2]}": value for n, value in here.items()}


def _fpn_names(names: list[str], network: Network) -> list[tuple[str, str]]:
    """Return the names of the parts of an FPN in both frameworks."""
    found = [re.match(r"fpn_lateral(\d)|fpn\.inner_blocks\.(\d)", name) for name in names]
    levels = {int(match[1]) for match in found if match and match[1]}
    if not levels:  # torchvision counts them, and the last is that of the last stage
        stages = [re.match(r"s(\d)|stages\.(\d)", timm) for timm in network.timm_names.values()]
        last = max(int(m[1]) + 1 if m[1] else int(m[2]) + 2 for m in stages if m)
        count = len({match[2] for match in found if match})
        levels = set(range(last - count + 1, last + 1))
    return [
        (theirs.format(l=level), ours.format(i=i))
        for i, level in enumerate(sorted(levels))
        for theirs, ours in _FPN_PARTS
    ]


def _new_names(network: Network, target: str) -> dict[str, str]:
    """Return the names in another dialect of those entries of a network that have one."""
    if network.dialect == target:
        return {name: name for name in network.state}
    theirs = dialects.from_timm_names(set(network.timm_names.values()) - {""}, target)
    # Two spellings of one name would be one entry.
    once = {theirs[timm]: name for name, timm in network.timm_names.items() if timm in theirs}
    return {name: new for new, name in once.items()}


def _check_names(network: Network, target: str, known: set[str]) -> None:
    if lost := [name for name in network.state if name not in known]:
        count = f"{len(lost)} of {len(network.state)} entries"
        raise UserError(f"{target} has no name for {count}: {listing(lost)}; use another dialect")


def _rename(network: Network, names: Mapping[str, str], *, flips: bool) -> dict[str, torch.Tensor]:
    """Return the entries of a network that have new names, by those; `flips` the stem."""
    renamed = {}
    for name, new in names.items():
        value = network.state[name]
        is_stem = network.timm_names[name] in dialects.STEMS
        renamed[new] = dialects.flip_channels(value) if flips and is_stem else value
    return renamed


def _heads(network: Network) -> list[str]:
    """Return the entries of a network that give classes, and no feature map."""
    # The final convolution of a byobnet network gives its C5.
    is_byobnet = any(name.startswith("stages.") for name in network.timm_names.values())
    parts = ("head.",) if is_byobnet else CLASSIFIER_PARTS
    heads = [name for name, timm in network.timm_names.items() if timm.startswith(parts)]
    return heads + [name for name in network.state if dialects.is_head(name, network.dialect)]
