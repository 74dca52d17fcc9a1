"""A design in the words of Detectron2, segmentation-models-pytorch (SMP) and timm, and as JSON.

Sources of the words: `MODEL.REGNET` in `regnet_backbones/adapters/detectron2/config.py`,
`register_encoder` in `regnet_backbones/adapters/smp/encoder.py`, `RegNetCfg` in
`timm/models/regnet.py`.

A JSON file is an object with "designs", a list of flat rows: the numbers of the design under their
names here, then flops, params, activations, latency_ms and memory_mib. Users add columns of their
own. Of a search all that was measured is a row, "kept" or not, and "chosen" is the number of the
best.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regnet_backbones.design.law import TORCHVISION_MIN_RATIO, RegNetDesign
from regnet_backbones.errors import UserError
from regnet_backbones.files import read_json, write_whole

if TYPE_CHECKING:
    from regnet_backbones.design.searching import Candidate, Found

FORMATS = ("detectron2", "smp", "timm")

# Numbers of a design that `MODEL.REGNET` has keys for.
DETECTRON2_KEYS = {
    "w_0": "W0",
    "w_a": "WA",
    "w_m": "WM",
    "depth": "DEPTH",
    "group_width": "GROUP_W",
    "bottleneck_multiplier": "BOT_MUL",
    "se_ratio": "SE_R",
    "stem_width": "STEM_W",
    "rounding": "ROUNDING",
}

# Where timm has another name for a number.
TIMM_NAMES = {
    "w_0": "w0",
    "w_a": "wa",
    "w_m": "wm",
    "group_width": "group_size",
    "bottleneck_multiplier": "bottle_ratio",
    "rounding": "group_min_ratio",
    "shortcut": "downsample",
    "head_width": "num_features",
    "activation": "act_layer",
}

# Where timm has another word or number for a choice.
TIMM_VALUES: dict[tuple[str, object], object] = {
    ("rounding", "paper"): 0.0,
    ("rounding", "torchvision"): TORCHVISION_MIN_RATIO,
    ("shortcut", "none"): None,
}

ROWS_KEY = "designs"
CHOSEN_KEY = "chosen"


def to_format(
    name: str, design: RegNetDesign, *, title: str = "my_regnet", base: str | None = None
) -> str:
    """Return a design as text for another project.

    Args:
        name: "detectron2", a config that trains the design from random weights; "smp" or "timm",
            Python code that builds a U-Net or a classifier.
        design: the network.
        title: its name in SMP.
        base: `_BASE_` of Detectron2's config; None for a part of one, with a backbone under an FPN.

    Raises:
        ValueError: the format is unknown, or cannot describe the design.
    """
    if name not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, got '{name}'")
    if name == "detectron2":
        return _detectron2_yaml(design, base)
    if base is not None:
        raise UserError(f"base needs the format detectron2, got '{base}' with {name}")
    if name == "timm":
        return _timm_code(design)
    return (
        "import segmentation_models_pytorch as smp\n"
        "from regnet_backbones import RegNetDesign, register_encoder\n"
        "\n"
        f'register_encoder("{title}", {python_code(design)})\n'
        f'model = smp.Unet("{title}", encoder_weights=None)'
    )


def timm_arguments(design: RegNetDesign, *, changed_only: bool = False) -> dict[str, object]:
    """Return a design as arguments of timm's `RegNetCfg`, all but the norm layer."""
    values = _changed(design) if changed_only else asdict(design)
    return {
        TIMM_NAMES.get(name, name): TIMM_VALUES.get((name, value), value)
        for name, value in values.items()
        if name != "norm_group_width"
    }


def python_code(design: RegNetDesign) -> str:
    """Return a design as Python code."""
    return f"RegNetDesign({_arguments(_changed(design))})"


def row_of(candidate: "Candidate") -> dict[str, object]:
    """Return a `candidate` as a flat row; what was not measured is left out.

    Args:
        candidate: of a sample or a search.
    """
    cost = candidate.cost
    row = asdict(candidate.design)
    row |= {"flops": cost.flops, "params": cost.params, "activations": cost.activations}
    measured = {"latency_ms": candidate.latency_ms, "memory_mib": candidate.memory_mib}
    return row | {name: value for name, value in measured.items() if value is not None}


def design_of(row: object) -> RegNetDesign:
    """Return the design of a row.

    Args:
        row: a mapping as `row_of` makes it; other columns are ignored.

    Raises:
        ValueError: numbers are missing or give no network.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"a design must be an object of names and numbers, got {row!r}")
    needed = [each.name for each in fields(RegNetDesign) if each.default is MISSING]
    missing = [name for name in needed if name not in row]
    if missing:
        raise UserError(f"a design needs {', '.join(needed)}; missing: {', '.join(missing)}")
    return RegNetDesign(**{e.name: row[e.name] for e in fields(RegNetDesign) if e.name in row})


def write_records(
    path: str | Path, rows: Sequence[Mapping[str, object]], *, about: Mapping[str, object]
) -> None:
    """Write rows, and what is to be known about them, as JSON, whole or not at all.

    Args:
        path: the file.
        rows: as `row_of` makes them.
        about: what is to be known, by name.
    """
    text = json.dumps({**about, ROWS_KEY: list(rows)}, indent=1) + "\n"
    write_whole(Path(path), lambda file: file.write(text.encode()))


def write_search(
    path: str | Path, found: "Found", best: Sequence["Candidate"], *, about: Mapping[str, object]
) -> None:
    """Write all that a search has measured, what was kept, and which is the first of the best."""
    rows = [row_of(each) | {"kept": each in found.kept} for each in found.measured]
    chosen = found.measured.index(best[0]) if best else None
    write_records(path, rows, about={**about, CHOSEN_KEY: chosen})


def read_records(path: str | Path) -> list[object]:
    """Return the rows of a JSON file: a list, or an object whose "designs" is one.

    Args:
        path: the file.

    Raises:
        ValueError: the file is not such JSON, or holds no row.
        OSError: it cannot be read.
    """
    return read_results(path)[0]


def read_results(path: str | Path) -> tuple[list[Any], Any]:
    """Return the rows of a file, and which a search chose: None if none, 0 if it was no search."""
    content = read_json(path)
    if not isinstance(content, dict):
        content = {ROWS_KEY: content}
    rows = content.get(ROWS_KEY)
    if not isinstance(rows, list) or not rows:
        raise UserError(f'{path} must be a list of designs, or an object with one as "{ROWS_KEY}"')
    return rows, content.get(CHOSEN_KEY, 0)


def _detectron2_yaml(design: RegNetDesign, base: str | None) -> str:
    unknown = [name for name in _changed(design) if name not in DETECTRON2_KEYS]
    if unknown:
        text = f"MODEL.REGNET has no key for {', '.join(unknown)}"
        raise UserError(f"{text}; set MODEL.REGNET.NAME to a named network, or use smp or timm")
    # All of them, and no name: a base may have others.
    keys = {key: getattr(design, name) for name, key in DETECTRON2_KEYS.items()}
    builder = "" if base else 'NAME: "build_regnet_fpn_backbone", '
    lines = [
        *([f'_BASE_: "{base}"'] if base else []),
        "MODEL:",
        '  WEIGHTS: ""  # none are published for your own network, so nothing is frozen',
        f"  BACKBONE: {{{builder}FREEZE_AT: 0}}",
        "  REGNET:",
        '    NAME: ""',
        *(f"    {key}: {json.dumps(value)}" for key, value in keys.items()),
        '    NORM: "BN"  # with few images a GPU "SyncBN" or "GN"',
    ]
    if not base:
        lines += ["  FPN:", '    IN_FEATURES: ["res2", "res3", "res4", "res5"]']
    return "\n".join(lines)


def _timm_code(design: RegNetDesign) -> str:
    arguments = _arguments(timm_arguments(design, changed_only=True))
    imports = "from timm.models.regnet import RegNet, RegNetCfg\n"
    if design.norm_group_width:
        imports = (
            f"from functools import partial\n\nfrom timm.layers import GroupNormAct\n{imports}"
        )
        arguments += f", norm_layer=partial(GroupNormAct, group_size={design.norm_group_width})"
    return f"{imports}\nmodel = RegNet(RegNetCfg({arguments}))"


def _arguments(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _changed(design: RegNetDesign) -> dict[str, object]:
    """Return the numbers without a default, or unlike it."""
    return {
        each.name: getattr(design, each.name)
        for each in fields(design)
        if getattr(design, each.name) != each.default
    }
