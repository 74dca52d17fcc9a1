"""The names that each project gives the parts of one RegNet, as a table.

Sources, by dialect:

- timm: `timm/models/regnet.py`, `timm/models/byobnet.py` (regnetz_b16 to e8). Ours.
- timm_features: the same, as timm's `features_only=True` flattens them; SMP's `tu-` encoders.
- torchvision: `torchvision/models/regnet.py`; V1, V2 and SWAG weights.
- pycls: pycls `pycls/models/anynet.py`, and detectron2's own RegNet
  (`detectron2/modeling/backbone/regnet.py`), whose classifiers and detectors saw BGR images.
- classyvision: ClassyVision `classy_vision/models/anynet.py`.
- vissl: VISSL `vissl/models/trunks/regnet.py` and `regnet_fsdp.py`; SEER.
- transformers: `transformers/models/regnet/modeling_regnet.py`, the plain model and the classifier.
- mmdet: MMDetection `mmdet/models/backbones/regnet.py`, and mmpretrain's of the same name. Their
  published weights come from pycls (`tools/model_converters/regnet2mmdet.py`) or were trained on
  BGR images as pycls' were (`bgr_to_rgb=False` in the configs).

A name is a part ("s1.b1.conv1.bn") and a leaf ("running_mean"). The table has the parts, each in
every dialect; the way back is the same table read the other way.
"""

import itertools
import re
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

import torch

from regnet_backbones.errors import UserError

ChannelOrder = Literal["RGB", "BGR"]


class Names(NamedTuple):
    """What each dialect calls one part; None where it has no such part."""

    timm: str
    torchvision: str | None
    pycls: str | None
    classyvision: str | None
    vissl: str | None
    transformers: str | None
    mmdet: str | None


def _rows(text: str) -> tuple[Names, ...]:
    """Return rows of names in the order of `Names`; "-" is None."""
    names = iter(None if name == "-" else name for name in text.split())
    return tuple(itertools.starmap(Names, zip(*[names] * len(Names._fields), strict=True)))


# s is the stage and b the block, counted from one; z and i are the same counted from zero, and r is
# the number of the level.
(BLOCK,) = _rows("""
    s{s}.b{b} trunk_output.block{s}.block{s}-{i} s{s}.b{b} trunk_output.block{s}.block{s}-{i}
        _feature_blocks.res{r}.block{s}-{i} encoder.stages.{z}.layers.{i} layer{s}.{i}
""")

BLOCK_PARTS = _rows("""
    conv1.conv f.a.0 f.a f.a.0 f.a.0 layer.0.convolution conv1
    conv1.bn f.a.1 f.a_bn f.a.1 f.a.1 layer.0.normalization bn1
    conv2.conv f.b.0 f.b f.b.0 f.b.0 layer.1.convolution conv2
    conv2.bn f.b.1 f.b_bn f.b.1 f.b.1 layer.1.normalization bn2
    se.fc1 f.se.fc1 f.se.f_ex.0 f.se.excitation.0 f.se.excitation.0 layer.2.attention.0 -
    se.fc2 f.se.fc2 f.se.f_ex.2 f.se.excitation.2 f.se.excitation.2 layer.2.attention.2 -
    conv3.conv f.c.0 f.c f.c f.c layer.3.convolution conv3
    conv3.bn f.c.1 f.c_bn f.final_bn f.final_bn layer.3.normalization bn3
    downsample.conv proj.0 proj proj proj shortcut.convolution downsample.0
    downsample.bn proj.1 bn bn bn shortcut.normalization downsample.1
""")

# VISSL keeps its heads apart; "heads.0.clf.0" is the classifier of a finetuned SEER.
OTHER_PARTS = _rows("""
    stem.conv stem.0 stem.conv stem.stem.0 _feature_blocks.conv1.stem.0
        embedder.embedder.convolution conv1
    stem.bn stem.1 stem.bn stem.stem.1 _feature_blocks.conv1.stem.1
        embedder.embedder.normalization bn1
    final_conv.conv - head.conv - - - -
    final_conv.bn - head.bn - - - -
    head.fc fc head.fc - heads.0.clf.0 classifier.1 fc
""")

LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

DIALECTS = ("timm", "timm_features", *Names._fields[1:])
CHANNEL_ORDERS: dict[str, ChannelOrder] = {
    dialect: "BGR" if dialect in ("pycls", "mmdet") else "RGB" for dialect in DIALECTS
}

# Other names for a dialect.
ALIASES = {"detectron2": "pycls", "classy": "classyvision", "seer": "vissl", "mmpretrain": "mmdet"}

# Families that only timm has (V, and Z of byobnet) have names apart from the table.
_ONLY_TIMM = re.compile(r"(stem|s\d+\.b\d+|stages\.\d+\.\d+|final_conv|head)\.")

# By a weight of the first block a dialect is known, under whatever prefix: every extractor has that
# block. The classifier of transformers has its network under "regnet.".
_SIGNS = {
    dialect: re.compile(rf"(?:^|\.)({part})\.weight$")
    for dialect, part in {
        "timm": r"s1\.b1\.conv[123](\.conv)?|stages\.0\.0\.conv\d_\w+\.conv",
        "timm_features": r"stages_0\.0\.conv\d_\w+\.conv",
        "torchvision": r"trunk_output\.block1\.block1-0\.(f\.c\.[01]|proj\.0)",
        "pycls": r"s1\.b1\.f\.[abc]",
        "classyvision": r"trunk_output\.block1\.block1-0\.(f\.c|f\.final_bn|proj)",
        "vissl": r"_feature_blocks\.res2\.block1-0\.(f\.c|f\.final_bn|proj)",
        "transformers": r"(regnet\.)?encoder\.stages\.0\.layers\.0\."
        r"(layer\.[01]|shortcut)\.convolution",
        "mmdet": r"layer1\.0\.(conv3|bn3)",
    }.items()
}
# ResNets have the same names in these projects, so that the shapes of these parts must decide: the
# stem, and the first and the last convolution of a block.
_SHAPES = {
    "transformers": (
        "embedder.embedder.convolution",
        "encoder.stages.0.layers.0.layer.0.convolution",
        "encoder.stages.0.layers.0.layer.3.convolution",
    ),
    "mmdet": ("conv1", "layer1.0.conv1", "layer1.0.conv3"),
}

# The convolution that sees the image, in timm's names of the families.
STEMS = ("stem.conv.weight", "stem.weight", "stem.conv1.conv.weight")

# Other spellings of a dialect, and what the table has for them. VISSL's trunks for sharded training
# group blocks once more; the groups hold no weights. transformers' classifier holds the plain model
# under "regnet."; its blocks without squeeze-and-excitation have the last convolution in its place.
_SHARD_GROUP = re.compile(r"\bblock\d+-part\d+\.")
_SPELLINGS = {
    "vissl": ((_SHARD_GROUP, ""),),
    "transformers": (
        (re.compile(r"^regnet\."), ""),
        (re.compile(r"\blayer\.2\.(?=convolution|normalization)"), "layer.3."),
    ),
}


def find_networks(state_dict: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return the dialect of every RegNet in a state dict, by prefix."""
    found: dict[str, str] = {}
    for name in state_dict:
        plain = _SHARD_GROUP.sub("", name) if isinstance(name, str) else ""
        for dialect, sign in _SIGNS.items():
            if match := sign.search(plain):
                prefix = plain[: match.start(1)]
                if dialect not in _SHAPES or prefix not in found:
                    found[prefix] = dialect
    return {
        prefix: dialect
        for prefix, dialect in found.items()
        if dialect not in _SHAPES or _has_shapes(state_dict, prefix, dialect)
    }


def canonical(dialect: str) -> str:
    """Return the name of a dialect that may be given by another; ValueError if there is none."""
    dialect = ALIASES.get(dialect, dialect)
    if dialect not in DIALECTS:
        aliases = ", ".join(f"{alias} = {name}" for alias, name in ALIASES.items())
        allowed = f"{', '.join(DIALECTS)} ({aliases})"
        raise UserError(f"dialect must be one of {allowed}, got '{dialect}'")
    return dialect


def to_timm_name(name: str, dialect: str) -> str | None:
    """Return timm's name of a parameter, None for one that is in no RegNet of the dialect."""
    if dialect == "timm_features":
        name = re.sub(r"^(stages|stem)_", r"\1.", name)
    if dialect.startswith("timm"):
        return name if _ONLY_TIMM.match(name) else None
    part, _, leaf = _plain(name, dialect).rpartition(".")
    if part in _TO_TIMM[dialect]:
        return f"{_TO_TIMM[dialect][part]}.{leaf}" if leaf in LEAVES else None
    block = _BLOCK_PATTERNS[dialect].match(part)
    if leaf not in LEAVES or not block or block["part"] not in _BLOCK_TO_TIMM[dialect]:
        return None
    place = block.groupdict()
    stage = int(place["s"]) if "s" in place else int(place["z"]) + 1
    number = int(place["b"]) if "b" in place else int(place["i"]) + 1
    return f"s{stage}.b{number}.{_BLOCK_TO_TIMM[dialect][place['part']]}.{leaf}"


def from_timm_names(names: Collection[str], dialect: str) -> dict[str, str]:
    """Return a dialect's names of the parameters of one network, by timm's; some have none."""
    theirs = {name: _from_timm_name(name, dialect) for name in names}
    found = {name: new for name, new in theirs.items() if new is not None}
    if dialect == "transformers":
        excited = any(".attention." in new for new in found.values())
        root = "regnet." if any(new.startswith("classifier.") for new in found.values()) else ""
        for name, new in found.items():
            new = new if excited else new.replace(".layer.3.", ".layer.2.")
            found[name] = new if new.startswith("classifier.") else root + new
    return found


def _from_timm_name(name: str, dialect: str) -> str | None:
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
    root = getattr(BLOCK, dialect).format(s=stage, z=stage - 1, b=number, i=number - 1, r=stage + 1)
    return f"{root}.{_BLOCK_FROM_TIMM[dialect][block['part']]}.{leaf}"


def is_head(name: str, dialect: str) -> bool:
    """Whether a name is of a head of VISSL's or ClassyVision's, but for the table's classifier."""
    is_of_heads = dialect in ("vissl", "classyvision") and name.startswith("heads.")
    return is_of_heads and name.rpartition(".")[0] not in _TO_TIMM[dialect]


def flip_channels(weight: torch.Tensor) -> torch.Tensor:
    """Turn the weight of a first convolution (out, 3, k, k) from BGR to RGB images, or back."""
    if weight.shape[1] not in (1, 3):
        text = f"a stem of {weight.shape[1]} channels cannot be flipped from RGB to BGR"
        raise UserError(f"{text}; pass channel_order= the order of the target")
    return weight.flip(1)


def _plain(name: str, dialect: str) -> str:
    """Return the spelling of a name that the table has."""
    for spelling, plain in _SPELLINGS.get(dialect, ()):
        name = spelling.sub(plain, name)
    return name


def _has_shapes(state_dict: Mapping[str, torch.Tensor], prefix: str, dialect: str) -> bool:
    """Whether shapes are a RegNet's: unlike a ResNet it has a stem of 3x3, and no block widens."""
    shapes = {
        _plain(name.removeprefix(prefix), dialect): tuple(getattr(value, "shape", ()))
        for name, value in state_dict.items()
        if isinstance(name, str) and name.startswith(prefix)
    }
    stem, first, last = (shapes.get(f"{part}.weight", ()) for part in _SHAPES[dialect])
    return stem[2:] == (3, 3) and first[:1] == (last or first)[:1]


def _block_pattern(template: str) -> re.Pattern:
    """Make the pattern of a block's parts from the template of its name."""
    pattern = re.escape(template).replace(r"\{r\}", r"\d{1,3}")
    for field in "szbi":
        pattern = pattern.replace(rf"\{{{field}\}}", rf"(?P<{field}>\d{{1,3}})", 1)
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
