"""A design in the words of Detectron2, segmentation-models-pytorch (SMP) and timm.

Sources of the words: `MODEL.REGNET` in `regnet_backbones/adapters/detectron2/config.py`,
`register_encoder` in `regnet_backbones/adapters/smp/encoder.py`, `RegNetCfg` in
`timm/models/regnet.py`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields

from regnet_backbones.design.blocks import TORCHVISION_MIN_RATIO, AnyNetDesign
from regnet_backbones.design.law import Design, RegNetDesign
from regnet_backbones.errors import UserError

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

TIMM_ARGUMENTS = {
    "depth": "depth",
    "w_0": "w0",
    "w_a": "wa",
    "w_m": "wm",
    "group_width": "group_size",
    "bottleneck_multiplier": "bottle_ratio",
    "se_ratio": "se_ratio",
    "stem_width": "stem_width",
    "rounding": "group_min_ratio",
    "shortcut": "downsample",
    "linear_out": "linear_out",
    "preact": "preact",
    "head_width": "num_features",
    "activation": "act_layer",
}

# Where timm has another word or number for a choice.
TIMM_VALUES: dict[tuple[str, object], object] = {
    ("rounding", "paper"): 0.0,
    ("rounding", "torchvision"): TORCHVISION_MIN_RATIO,
    ("shortcut", "none"): None,
}


def to_format(
    name: str, design: Design, *, title: str = "my_regnet", base: str | None = None
) -> str:
    """Return a design as text for another project.

    Args:
        name: "detectron2", a config that trains the design from random weights; "smp" or "timm",
            Python code that builds a U-Net or a classifier.
        design: the network.
        title: its name in SMP.
        base: config that Detectron2's builds on, as `_BASE_` names it: relative to the folder of
            the new config. None for a part of a config, with a backbone under an FPN.

    Raises:
        ValueError: the format is unknown, or has no words for the design.
    """
    regnet = check_is_regnet(design)
    if name == "detectron2":
        return _detectron2_yaml(regnet, base)
    if base is not None:
        raise UserError(f"a base is for the format detectron2, got '{base}' with {name}")
    if name == "timm":
        return _timm_code(regnet)
    if name == "smp":
        return (
            "import segmentation_models_pytorch as smp\n"
            "from regnet_backbones import RegNetDesign, register_encoder\n"
            "\n"
            f'register_encoder("{title}", {python_code(regnet)})\n'
            f'model = smp.Unet("{title}", encoder_weights=None)'
        )
    raise UserError(f"a format is one of {', '.join(FORMATS)}, got '{name}'")


def check_is_regnet(design: Design) -> RegNetDesign:
    """Return a design that is a RegNet, which timm and the adapters of this package build."""
    if isinstance(design, AnyNetDesign):
        raise UserError(
            "only RegNets, whose widths follow a quantized line, are built and scaled here, got an "
            "AnyNet: use the spaces RegNetX or RegNetY, or the nearest RegNet by `fit` with these "
            "widths and depths"
        )
    return design


def timm_arguments(design: RegNetDesign, *, changed_only: bool = False) -> Mapping[str, object]:
    """Return a design as arguments of timm's `RegNetCfg`, all but the norm layer.

    `changed_only`: leave out what is timm's default.
    """
    values = _changed(design) if changed_only else asdict(design)
    return {
        TIMM_ARGUMENTS[name]: TIMM_VALUES.get((name, value), value)
        for name, value in values.items()
        if name in TIMM_ARGUMENTS
    }


def python_code(design: RegNetDesign) -> str:
    """Return a design as Python code."""
    return f"RegNetDesign({_arguments(_changed(design))})"


def _detectron2_yaml(design: RegNetDesign, base: str | None) -> str:
    """Return a config for Detectron2."""
    unknown = [name for name in _changed(design) if name not in DETECTRON2_KEYS]
    if unknown:
        raise UserError(
            f"MODEL.REGNET has no key for {', '.join(unknown)}; if the network is one of "
            "regnet_backbones.zoo.names(), set MODEL.REGNET.NAME, otherwise use RegNetFeatures, "
            "SMP or timm"
        )
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
    """Return Python code that builds a design as a classifier of timm."""
    arguments = _arguments(timm_arguments(design, changed_only=True))
    imports = "from timm.models.regnet import RegNet, RegNetCfg\n"
    if design.norm_group_width:
        imports = (
            f"from functools import partial\n\nfrom timm.layers import GroupNormAct\n{imports}"
        )
        arguments += f", norm_layer=partial(GroupNormAct, group_size={design.norm_group_width})"
    return f"{imports}\nmodel = RegNet(RegNetCfg({arguments}))"


def _arguments(values: Mapping[str, object]) -> str:
    """Return values by name as arguments in Python code."""
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _changed(design: RegNetDesign) -> dict[str, object]:
    """Return the numbers without a default, or unlike it."""
    return {
        each.name: getattr(design, each.name)
        for each in fields(design)
        if getattr(design, each.name) != each.default
    }
