"""The names that each project gives the parts of one RegNet, as a table.

Sources, by dialect:

- timm: `timm/models/regnet.py`, `timm/models/byobnet.py` (regnetz_b16 to e8). Ours.
- timm_features: the same, as timm's `features_only=True` flattens them; SMP's `tu-` encoders.
- torchvision: `torchvision/models/regnet.py`; V1, V2 and SWAG weights.
- pycls: pycls `pycls/models/anynet.py`, and detectron2's own RegNet
  (`detectron2/modeling/backbone/regnet.py`), whose classifiers and detectors saw BGR images.
- classyvision: ClassyVision `classy_vision/models/anynet.py`.
- vissl: VISSL `vissl/models/trunks/regnet.py` and `regnet_fsdp.py`; SEER.

A name is a part ("s1.b1.conv1.bn") and a leaf ("running_mean"). The table has the parts, each in
every dialect; the way back is the same table read the other way.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

from regnet_backbones.weights.entries import as_tensors, listing
from regnet_backbones.weights.nesting import unwrap

ChannelOrder = Literal["RGB", "BGR"]


class Names(NamedTuple):
    """What each dialect calls one part; None where it has no such part."""

    timm: str
    torchvision: str | None
    pycls: str | None
    classyvision: str | None
    vissl: str | None


# s is the stage and b the block, counted from one; i is the block counted from zero, and r is the
# number of the level.
BLOCK = Names(
    timm="s{s}.b{b}",
    torchvision="trunk_output.block{s}.block{s}-{i}",
    pycls="s{s}.b{b}",
    classyvision="trunk_output.block{s}.block{s}-{i}",
    vissl="_feature_blocks.res{r}.block{s}-{i}",
)

BLOCK_PARTS = (
    Names("conv1.conv", "f.a.0", "f.a", "f.a.0", "f.a.0"),
    Names("conv1.bn", "f.a.1", "f.a_bn", "f.a.1", "f.a.1"),
    Names("conv2.conv", "f.b.0", "f.b", "f.b.0", "f.b.0"),
    Names("conv2.bn", "f.b.1", "f.b_bn", "f.b.1", "f.b.1"),
    Names("se.fc1", "f.se.fc1", "f.se.f_ex.0", "f.se.excitation.0", "f.se.excitation.0"),
    Names("se.fc2", "f.se.fc2", "f.se.f_ex.2", "f.se.excitation.2", "f.se.excitation.2"),
    Names("conv3.conv", "f.c.0", "f.c", "f.c", "f.c"),
    Names("conv3.bn", "f.c.1", "f.c_bn", "f.final_bn", "f.final_bn"),
    Names("downsample.conv", "proj.0", "proj", "proj", "proj"),
    Names("downsample.bn", "proj.1", "bn", "bn", "bn"),
)

OTHER_PARTS = (
    Names("stem.conv", "stem.0", "stem.conv", "stem.stem.0", "_feature_blocks.conv1.stem.0"),
    Names("stem.bn", "stem.1", "stem.bn", "stem.stem.1", "_feature_blocks.conv1.stem.1"),
    Names("final_conv.conv", None, "head.conv", None, None),
    Names("final_conv.bn", None, "head.bn", None, None),
    # VISSL keeps its heads apart; this is the classifier of a finetuned SEER.
    Names("head.fc", "fc", "head.fc", None, "heads.0.clf.0"),
)

LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

CHANNEL_ORDERS: dict[str, ChannelOrder] = {
    "timm": "RGB",
    "timm_features": "RGB",
    "torchvision": "RGB",
    "pycls": "BGR",
    "classyvision": "RGB",
    "vissl": "RGB",
}
DIALECTS = tuple(CHANNEL_ORDERS)

# Other names for a dialect.
ALIASES = {"detectron2": "pycls", "classy": "classyvision", "seer": "vissl"}

# What a dialect's network has beside the table, and no other dialect can have: heads of self-
# supervised training, and whole families (V, and Z of byobnet) that only timm has.
_HEADS = re.compile(r"heads\.")
_ONLY_TIMM = re.compile(r"(stem|s\d+\.b\d+|stages\.\d+\.\d+|final_conv|head)\.")

# By any of these names a dialect is known, under whatever prefix: every extractor has the first
# block, and no other dialect calls its convolutions so.
_SIGNS = {
    "timm": (
        *(f"s1.b1.conv{i}.conv.weight" for i in (1, 2, 3)),
        *(f"s1.b1.conv{i}.weight" for i in (1, 2, 3)),
        *(f"stages.0.0.{conv}.conv.weight" for conv in ("conv1_1x1", "conv2_kxk", "conv3_1x1")),
    ),
    "timm_features": tuple(
        f"stages_0.0.{conv}.conv.weight" for conv in ("conv1_1x1", "conv2_kxk", "conv3_1x1")
    ),
    "torchvision": tuple(
        f"trunk_output.block1.block1-0.{part}.weight" for part in ("f.c.0", "f.c.1", "proj.0")
    ),
    "pycls": tuple(f"s1.b1.f.{part}.weight" for part in "abc"),
    "classyvision": tuple(
        f"trunk_output.block1.block1-0.{part}.weight" for part in ("f.c", "f.final_bn", "proj")
    ),
    "vissl": tuple(
        f"_feature_blocks.res2.block1-0.{part}.weight" for part in ("f.c", "f.final_bn", "proj")
    ),
}

# The convolution that sees the image, in timm's names of the families.
STEMS = ("stem.conv.weight", "stem.weight", "stem.conv1.conv.weight")

# VISSL's trunks for sharded training group blocks once more; the groups hold no weights.
_SHARD_GROUP = re.compile(r"\bblock\d+-part\d+\.")


@dataclass(frozen=True)
class Network:
    """Where the RegNet of a state dict is.

    Attributes:
        dialect: one of `DIALECTS`.
        prefix: what stands before its names, such as "backbone.bottom_up."; may be empty.
        state: the network's entries, without the prefix.
        rest: all other entries, with their whole names.
    """

    dialect: str
    prefix: str
    state: dict[str, torch.Tensor]
    rest: dict[str, torch.Tensor]


def detect(state_dict: Mapping[str, torch.Tensor | np.ndarray]) -> str:
    """Return the dialect of the RegNet in a state dict, one of `DIALECTS`.

    Args:
        state_dict: of a network, or of a model that holds one under any prefix (`module.`,
            `backbone.bottom_up.`, `encoder.`, ...), or a checkpoint that holds such a state dict
            ("model", "state_dict", "model_state", "classy_state_dict", ...).

    Raises:
        ValueError: there is no RegNet in it, or more than one.
    """
    return locate(state_dict).dialect


def convert(
    state_dict: Mapping[str, torch.Tensor | np.ndarray],
    source: str,
    target: str,
    *,
    channel_order: ChannelOrder | None = None,
) -> dict[str, torch.Tensor]:
    """Rename a RegNet's parameters from one dialect to another.

    A prefix stays, and so does what a model has beside the network (an FPN, a decoder). Where the
    dialects differ in channel order the stem is flipped; everything else keeps its bits. The way
    back restores the state dict, but for what only ClassyVision and VISSL have: heads of self-
    supervised training, which are left out, and the group names of sharded trunks.

    Args:
        state_dict: names to tensors or numpy arrays, or a checkpoint that holds such a state dict.
        source: the dialect it is in, one of `DIALECTS` ("detectron2" is "pycls").
        target: the dialect that is wanted.
        channel_order: of the images that the weights saw, where it is not the source dialect's own
            (VISSL has classifiers that say BGR in their file name).

    Returns:
        The tensors by their new names.

    Raises:
        ValueError: a dialect is unknown, the names are another dialect's, or some of them belong to
            no part of the table or to one that `target` has not; all are counted, some listed.
    """
    source, target = canonical(source), canonical(target)
    state_dict = _entries(state_dict)
    network = locate(state_dict)
    if network.dialect != source:
        raise ValueError(
            f"the names are {network.dialect}'s, not {source}'s; pass source='{network.dialect}'"
        )
    names, lost = name_pairs(network, target)
    lost = [n for n in lost if source == target or not is_head(n, source)]
    if lost:
        raise ValueError(
            f"there is no way from {source} to {target} for {len(lost)} of {len(network.state)} "
            f"names: {listing(lost)}; they belong to no RegNet, or {target} has no such part"
        )
    flips = (channel_order or CHANNEL_ORDERS[source]) != CHANNEL_ORDERS[target]
    renamed = rename(network, names, flips=flips)
    converted = {}
    for whole_name, value in state_dict.items():
        name = whole_name.removeprefix(network.prefix)
        if whole_name in network.rest:
            converted[whole_name] = value
        elif name in names:
            converted[network.prefix + names[name]] = renamed[names[name]]
    return converted


def name_pairs(network: Network, target: str) -> tuple[dict[str, str], list[str]]:
    """Return the names of a network's entries in another dialect, and those that have none."""
    names, lost = {}, []
    for name in network.state:
        if network.dialect == target:
            names[name] = name
            continue
        ours = to_timm_name(name, network.dialect)
        theirs = ours and from_timm_name(ours, target)
        if theirs:
            names[name] = theirs
        else:
            lost.append(name)
    return names, lost


def rename(network: Network, names: Mapping[str, str], *, flips: bool) -> dict[str, torch.Tensor]:
    """Return the entries of a network that have new names, by those; the stem flipped if `flips`.

    Args:
        network: what to rename, its prefix left out.
        names: new names by old ones, as `name_pairs` finds them.
        flips: whether the new names are for images of the other channel order.
    """
    renamed = {}
    for name, new in names.items():
        value = network.state[name]
        is_stem = to_timm_name(name, network.dialect) in STEMS
        renamed[new] = flip_channels(value) if flips and is_stem else value
    return renamed


def locate(
    state_dict: Mapping[str, torch.Tensor | np.ndarray], prefix: str | None = None
) -> Network:
    """Find the RegNet in a state dict.

    Args:
        state_dict: names to tensors, or a checkpoint that holds such a state dict.
        prefix: which network to take where there are several, such as "student.".

    Raises:
        ValueError: there is none, or there are several and `prefix` does not say which.
    """
    state_dict = _entries(state_dict)
    found = find_networks(state_dict)
    if prefix is not None:
        found = {p: d for p, d in found.items() if p == prefix}
    if not found:
        where = f" under '{prefix}'" if prefix else ""
        raise ValueError(
            f"there is no RegNet{where} in these {len(state_dict)} names: "
            f"{listing(list(state_dict))}. Known are the names of {', '.join(DIALECTS)}"
        )
    if len(found) > 1:
        raise ValueError(
            f"there is more than one RegNet, under {', '.join(map(repr, sorted(found)))}; say "
            "which with prefix="
        )
    ((prefix, dialect),) = found.items()
    state = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    rest = {k: v for k, v in state_dict.items() if not k.startswith(prefix)}
    return Network(dialect, prefix, state, rest)


def find_networks(state_dict: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return the dialect of every RegNet in a state dict, by prefix."""
    found = {}
    for name in state_dict:
        plain = _SHARD_GROUP.sub("", name)
        for dialect, signs in _SIGNS.items():
            for sign in signs:
                if plain == sign or plain.endswith(f".{sign}"):
                    found[plain.removesuffix(sign)] = dialect
    return found


def canonical(dialect: str) -> str:
    """Return the name of a dialect that may be given by another.

    Raises:
        ValueError: there is no such dialect.
    """
    dialect = ALIASES.get(dialect, dialect)
    if dialect not in DIALECTS:
        raise ValueError(
            f"unknown dialect '{dialect}'; there are {', '.join(DIALECTS)} (and "
            + ", ".join(f"{alias} = {name}" for alias, name in ALIASES.items())
            + ")"
        )
    return dialect


def to_timm_name(name: str, dialect: str) -> str | None:
    """Return timm's name of a parameter, None for one that is in no RegNet of the dialect."""
    if dialect == "timm_features":
        name = re.sub(r"^(stages|stem)_", r"\1.", name)
    if dialect.startswith("timm"):
        return name if _ONLY_TIMM.match(name) else None
    name = _SHARD_GROUP.sub("", name)
    part, _, leaf = name.rpartition(".")
    timm_part = _part(part, dialect)
    return f"{timm_part}.{leaf}" if timm_part and leaf in LEAVES else None


def from_timm_name(name: str, dialect: str) -> str | None:
    """Return a dialect's name of a parameter that timm calls `name`, None if it has none."""
    if dialect == "timm":
        return name
    if dialect == "timm_features":
        return re.sub(r"^stages\.(?=\d)|^stem\.(?=conv\d)", lambda m: m[0][:-1] + "_", name)
    part, _, leaf = name.rpartition(".")
    if part in _FROM_TIMM[dialect]:
        return f"{_FROM_TIMM[dialect][part]}.{leaf}"
    block = _BLOCK_PATTERNS["timm"].match(part)
    if not block or block["part"] not in _BLOCK_FROM_TIMM[dialect]:
        return None
    stage, number = int(block["s"]), int(block["b"])
    root = getattr(BLOCK, dialect).format(s=stage, b=number, i=number - 1, r=stage + 1)
    return f"{root}.{_BLOCK_FROM_TIMM[dialect][block['part']]}.{leaf}"


def is_head(name: str, dialect: str) -> bool:
    """Tell whether a name is of a training head that no backbone has: VISSL's and ClassyVision's.

    The classifier of the table, which timm has as well, is not meant.
    """
    part = name.rpartition(".")[0]
    return dialect in ("vissl", "classyvision") and bool(
        _HEADS.match(name) and part not in _TO_TIMM[dialect]
    )


def flip_channels(weight: torch.Tensor) -> torch.Tensor:
    """Turn the weight of a first convolution (out, 3, k, k) from BGR to RGB images, or back.

    Raises:
        ValueError: it takes other than three channels, or one.
    """
    if weight.shape[1] not in (1, 3):
        raise ValueError(
            f"a stem of {weight.shape[1]} channels has no RGB order to flip; give channel_order= "
            "the order of the target"
        )
    return weight.flip(1)


def _entries(state_dict: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """Return the tensors of a state dict, or of a checkpoint that holds one."""
    state, _ = unwrap(state_dict) or (state_dict, ())
    return as_tensors(state, "the state dict")


def _part(part: str, dialect: str) -> str | None:
    """Return timm's name of a part."""
    if part in _TO_TIMM[dialect]:
        return _TO_TIMM[dialect][part]
    block = _BLOCK_PATTERNS[dialect].match(part)
    if not block or block["part"] not in _BLOCK_TO_TIMM[dialect]:
        return None
    number = int(block["b"]) if "b" in block.groupdict() else int(block["i"]) + 1
    return f"s{block['s']}.b{number}.{_BLOCK_TO_TIMM[dialect][block['part']]}"


def _block_pattern(template: str) -> re.Pattern:
    """Make the pattern of a block's parts from the template of its name."""
    pattern = re.escape(template).replace(r"\{r\}", r"\d+")
    for field in "sbi":
        pattern = pattern.replace(rf"\{{{field}\}}", rf"(?P<{field}>\d+)", 1)
        pattern = pattern.replace(rf"\{{{field}\}}", rf"(?P={field})")
    return re.compile(pattern + r"\.(?P<part>.+)$")


def _columns(rows: tuple[Names, ...]) -> tuple[dict[str, dict], dict[str, dict]]:
    """Return the table's lookups to timm and from timm, by dialect."""
    to, back = {}, {}
    for dialect in Names._fields:
        pairs = [(row.timm, getattr(row, dialect)) for row in rows if getattr(row, dialect)]
        back[dialect] = dict(pairs)
        to[dialect] = {theirs: ours for ours, theirs in pairs}
    return to, back


_TO_TIMM, _FROM_TIMM = _columns(OTHER_PARTS)
_BLOCK_TO_TIMM, _BLOCK_FROM_TIMM = _columns(BLOCK_PARTS)
_BLOCK_PATTERNS = {dialect: _block_pattern(getattr(BLOCK, dialect)) for dialect in Names._fields}
