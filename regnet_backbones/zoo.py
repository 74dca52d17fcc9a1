"""Every named RegNet: its design, its names elsewhere, and its pretrained weights.

Names and tags are timm's. `zoo.json` has timm's tables, written by `tools/make_zoo.py`;
`zoo_published.json` has what others have published:

- paper names: arXiv 2003.13678 for RegNetX and RegNetY, 2103.01988 (SEER) for regnety_640 to 2560.
- names in torchvision, whose widths are those of the `_tv` rows where they differ from the paper's.
- the training jobs after which pycls names its files (`configs/dds_baselines`).
- top-1 on ImageNet-1k: as published by pycls (at 224) or by torchvision, of all others as timm
  measured it at the size of their training (`results/results-imagenet.csv`, August 2026).

regnetz_b16 to e8 (timm `timm/models/byobnet.py`, after "Fast and Accurate Model Scaling", arXiv
2103.06877) have widths that follow no linear law, and so no design; `_evos` is EvoNorm. timm's
nf_regnet_b* (scaled weight standardization instead of norms) and haloregnetz_b (attention) are
other networks and not listed.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from types import MappingProxyType
from typing import Any

from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_PYCLS_FILE = "https://dl.fbaipublicfiles.com/pycls/dds_baselines/{job}/{name}_dds_8gpu.pyth"


@dataclass(frozen=True)
class Weights:
    """Pretrained weights of a variant.

    Attributes:
        tag: what timm calls this training, such as "ra3_in1k".
        hub_id: repository of the converted weights on the Hugging Face hub.
        url: the original release file, None where timm and pycls record none.
        licence: identifier of the licence of the weights, not of the code.
        mean: per RGB channel, subtracted from pixels in [0, 1].
        std: per RGB channel, divided by afterwards.
        input_size: (channels, height, width) of training, or of fine-tuning at the end.
        num_classes: outputs of the classifier, 0 where the weights have none.
        top1: published ImageNet-1k validation accuracy in percent at `input_size`, None for weights
            of another number of classes.
    """

    tag: str
    hub_id: str
    url: str | None
    licence: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_size: tuple[int, int, int]
    num_classes: int
    top1: float | None


@dataclass(frozen=True)
class Variant:
    """A named network.

    Attributes:
        name: timm's name.
        design: the numbers of the network, None where its widths follow no linear law.
        channels: channels of the maps C1 (stride 2) to C5 (stride 32).
        paper_name: its name in the paper and in pycls, None for what only timm or torchvision has.
        torchvision_name: its name in torchvision, if that has it with the same widths.
        weights: pretrained weights by tag, the default first; read-only.
    """

    name: str
    design: RegNetDesign | None
    channels: tuple[int, int, int, int, int]
    paper_name: str | None
    torchvision_name: str | None
    weights: Mapping[str, Weights] = field(hash=False)

    @property
    def default_tag(self) -> str | None:
        """Tag of the default weights, None if there are no weights."""
        return next(iter(self.weights), None)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Pickle and copy by name: a variant is a row of the table."""
        return get, (self.name,)


def names() -> tuple[str, ...]:
    """Return all names, by family (X, Y, V, Z) and rising size."""
    return tuple(_VARIANTS)


def get(name: str) -> Variant:
    """Return the variant of that name.

    Args:
        name: timm's name ("regnety_032"), torchvision's ("regnet_y_3_2gf"), or the paper's, as
            pycls and mmdetection write it too ("RegNetY-3.2GF", "RegNetX-4.0GF", "regnetx_4GF").
            torchvision's "regnet_x_400mf" and the paper's "RegNetX-400MF" are two networks.

    Raises:
        ValueError: no such variant, or the name has a tag.
    """
    variant = _VARIANTS.get(name) or _BY_TORCHVISION.get(name) or _BY_PAPER.get(_plain(name))
    if variant is not None:
        return variant
    base, _, tag = name.partition(".")
    if base in _VARIANTS:
        tags = ", ".join(_VARIANTS[base].weights) or "none"
        text = f"'{name}' has a tag; pass the name '{base}' and the tag '{tag}' separately"
        raise UserError(f"{text} (known tags: {tags})")
    similar = _similar(name)
    hint = f"did you mean {' or '.join(map(repr, similar))}? " if similar else ""
    raise UserError(f"unknown RegNet '{name}'; {hint}regnet_backbones.zoo.names() lists all")


def _plain(name: str) -> str:
    """Reduce the spellings of a paper name to one: RegNetX-4.0GF, RegNetX-4GF, regnetx_4.0gf."""
    return name.lower().replace("_", "-").replace(".0gf", "gf")


def _similar(name: str) -> list[str]:
    """Return up to three names like this one; among equals those of the nearest size."""

    def size(name: str) -> int:
        return int((re.findall(r"\d+", name) or [0])[0])

    scores = {known: SequenceMatcher(None, name.lower(), known).ratio() for known in _VARIANTS}
    near = [known for known, score in scores.items() if score >= 0.75]
    return sorted(near, key=lambda known: (-scores[known], abs(size(known) - size(name))))[:3]


def _read_table() -> dict[str, Variant]:
    """Read both files, in the order of `names()`."""
    folder = Path(__file__).parent
    rows = json.loads((folder / "zoo.json").read_text())
    published = json.loads((folder / "zoo_published.json").read_text())
    table = {}
    for name, row in rows.items():
        paper_name = published["paper_names"].get(name)
        weights = {}
        for tag, known in row["weights"].items():
            values: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in known.items()
            }
            if tag == "pycls_in1k":
                job = published["pycls_jobs"][name]
                values["url"] = _PYCLS_FILE.format(job=job, name=paper_name)
            top1 = published["top1"].get(f"{name}.{tag}")
            weights[tag] = Weights(tag=tag, top1=top1, **values)
        table[name] = Variant(
            name,
            RegNetDesign(**row["design"]) if row["design"] else None,
            tuple(row["channels"]),
            paper_name,
            published["torchvision_names"].get(name),
            MappingProxyType(weights),
        )
    return table


_VARIANTS = _read_table()
_BY_TORCHVISION = {row.torchvision_name: row for row in _VARIANTS.values() if row.torchvision_name}
_BY_PAPER = {_plain(row.paper_name): row for row in _VARIANTS.values() if row.paper_name}
