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
    """Return a line of names in the order of `Names` as a row; "-" is None."""
    lines = (line.split() for line in text.strip().splitlines())
    return tuple(Names(*(None if name == "-" else name for name in line)) for line in lines)


# s is the stage and b the block, counted from one; z and i are the same counted from zero, and r is
# the number of the level.
BLOCK = Names(
    timm="s{s}.b{b}",
    torchvision="trunk_output.block{s}.block{s}-{i}",
    pycls="s{s}.b{b}",
    classyvision="trunk_output.block{s}.block{s}-{i}",
    vissl="_feature_blocks.res{r}.block{s}-{i}",
    transformers="encoder.stages.{z}.layers.{i}",
    mmdet="layer{s}.{i}",
)

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

OTHER_PARTS = (
    Names(
        "stem.conv",
        "stem.0",
        "stem.conv",
        "stem.stem.0",
        "_feature_blocks.conv1.stem.0",
        "embedder.embedder.convolution",
        "conv1",
    ),
    Names(
        "stem.bn",
        "stem.1",
        "stem.bn",
        "stem.stem.1",
        "_feature_blocks.conv1.stem.1",
        "embedder.embedder.normalization",
        "bn1",
    ),
    Names("final_conv.conv", None, "head.conv", None, None, None, None),
    Names("final_conv.bn", None, "head.bn", None, None, None, None),
    # VISSL keeps its heads apart; this is the classifier of a finetuned SEER.
    Names("head.fc", "fc", "head.fc", None, "heads.0.clf.0", "classifier.1", "fc"),
)

LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

CHANNEL_ORDERS: dict[str, ChannelOrder] = {
    "timm": "RGB",
    "timm_features": "RGB",
    "torchvision": "RGB",
    "pycls": "BGR",
    "classyvision": "RGB",
    "vissl": "RGB",
    "transformers": "RGB",
    "mmdet": "BGR",
}
DIALECTS = tuple(CHANNEL_ORDERS)

# Other names for a dialect.
ALIASES = {
    "detectron2": "pycls",
    "classy": "classyvision",
    "seer": "vissl",
    "huggingface": "transformers",
    "mmpretrain": "mmdet",
}

# What a dialect's network has apart from the table, and no other dialect can have: heads of self-
# supervised training, and whole families (V, and Z of byobnet) that only timm has.
_HEADS = re.compile(r"heads\.")
_ONLY_TIMM = re.compile(r"(stem|s\d+\.b\d+|stages\.\d+\.\d+|final_conv|head)\.")

# By any of these names a dialect is known, under whatever prefix: every extractor has the first
# block, and no other dialect calls its convolutions so. The classifier of transformers has its
# network under "regnet.", and its last layer next to that.
_SIGNS = {
    "timm": "s1.b1.conv1.conv s1.b1.conv2.conv s1.b1.conv3.conv "
    "s1.b1.conv1 s1.b1.conv2 s1.b1.conv3 "
    "stages.0.0.conv1_1x1.conv stages.0.0.conv2_kxk.conv stages.0.0.conv3_1x1.conv",
    "timm_features": "stages_0.0.conv1_1x1.conv stages_0.0.conv2_kxk.conv "
    "stages_0.0.conv3_1x1.conv",
    "torchvision": "trunk_output.block1.block1-0.f.c.0 trunk_output.block1.block1-0.f.c.1 "
    "trunk_output.block1.block1-0.proj.0",
    "pycls": "s1.b1.f.a s1.b1.f.b s1.b1.f.c",
    "classyvision": "trunk_output.block1.block1-0.f.c trunk_output.block1.block1-0.f.final_bn "
    "trunk_output.block1.block1-0.proj",
    "vissl": "_feature_blocks.res2.block1-0.f.c _feature_blocks.res2.block1-0.f.final_bn "
    "_feature_blocks.res2.block1-0.proj",
    "transformers": " ".join(
        f"{root}encoder.stages.0.layers.0.{part}.convolution"
        for root in ("regnet.", "")
        for part in ("layer.0", "layer.1", "shortcut")
    ),
    "mmdet": "layer1.0.conv3 layer1.0.bn3",
}
# The longest first, for some end in others.
_SIGN_OF = {
    f"{part}.weight": dialect
    for part, dialect in sorted(
        ((part, dialect) for dialect, parts in _SIGNS.items() for part in parts.split()),
        key=lambda sign: -len(sign[0]),
    )
}
# ResNets have the same names in these projects, so that the shapes of these parts must decide: the
# stem, and the first and the last convolution of a block.
_SHAPES = {
    "transformers": tuple(
        tuple(f"{root}{part}.convolution" for root in ("regnet.", "") for part in parts)
        for parts in (
            ("embedder.embedder",),
            ("encoder.stages.0.layers.0.layer.0",),
            ("encoder.stages.0.layers.0.layer.3", "encoder.stages.0.layers.0.layer.2"),
        )
    ),
    "mmdet": (("conv1",), ("layer1.0.conv1",), ("layer1.0.conv3",)),
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
        if not isinstance(name, str) or not name.endswith(".weight"):
            continue
        plain = _SHARD_GROUP.sub("", name)
        for sign, dialect in _SIGN_OF.items():
            if plain == sign or plain.endswith(f".{sign}"):
                prefix = plain.removesuffix(sign)
                if dialect not in _SHAPES or prefix not in found:
                    found[prefix] = dialect
                break
    return {
        prefix: dialect
        for prefix, dialect in found.items()
        if dialect not in _SHAPES or _has_shapes(state_dict, prefix, dialect)
    }


def canonical(dialect: str) -> str:
    """Return the name of a dialect that may be given by another; ValueError if there is none."""
    dialect = ALIASES.get(dialect, dialect)
    if dialect not in DIALECTS:
        raise UserError(
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
    for spelling, plain in _SPELLINGS.get(dialect, ()):
        name = spelling.sub(plain, name)
    part, _, leaf = name.rpartition(".")
    timm_part = _part(part, dialect)
    return f"{timm_part}.{leaf}" if timm_part and leaf in LEAVES else None


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
    """Whether a name is of a training head that no backbone has: VISSL's and ClassyVision's.

    The classifier of the table, which timm has as well, is not meant.
    """
    part = name.rpartition(".")[0]
    return dialect in ("vissl", "classyvision") and bool(
        _HEADS.match(name) and part not in _TO_TIMM[dialect]
    )


def flip_channels(weight: torch.Tensor) -> torch.Tensor:
    """Turn the weight of a first convolution (out, 3, k, k) from BGR to RGB images, or back."""
    if weight.shape[1] not in (1, 3):
        raise UserError(
            f"a stem of {weight.shape[1]} channels has no RGB order to flip; give channel_order= "
            "the order of the target"
        )
    return weight.flip(1)


def _part(part: str, dialect: str) -> str | None:
    """Return timm's name of a part."""
    if part in _TO_TIMM[dialect]:
        return _TO_TIMM[dialect][part]
    block = _BLOCK_PATTERNS[dialect].match(part)
    if not block or block["part"] not in _BLOCK_TO_TIMM[dialect]:
        return None
    place = block.groupdict()
    stage = int(place["s"]) if "s" in place else int(place["z"]) + 1
    number = int(place["b"]) if "b" in place else int(place["i"]) + 1
    return f"s{stage}.b{number}.{_BLOCK_TO_TIMM[dialect][place['part']]}"


def _has_shapes(state_dict: Mapping[str, torch.Tensor], prefix: str, dialect: str) -> bool:
    """Whether shapes are a RegNet's: unlike a ResNet it has a stem of 3x3, and no block widens."""
    stem, first, last = (
        next((tuple(getattr(state_dict[n], "shape", ())) for n in names if n in state_dict), ())
        for names in ([f"{prefix}{part}.weight" for part in parts] for parts in _SHAPES[dialect])
    )
    return stem[2:] == (3, 3) and (not first or not last or first[0] == last[0])


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
