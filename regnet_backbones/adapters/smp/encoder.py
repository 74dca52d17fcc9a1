"""RegNet as an encoder of segmentation-models-pytorch (SMP): `smp.Unet("regnety_032")`.

Importing this module registers every name of `regnet_backbones.zoo` in SMP's table of encoders.
SMP's own `get_encoder` and `get_preprocessing_params` know weights only as files of SMP's making on
the Hugging Face hub: calls for names of ours go to functions of this module instead.
"""

import ast
import sys
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import fields
from functools import wraps
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch
from segmentation_models_pytorch import encoders as smp_encoders
from segmentation_models_pytorch.encoders._base import EncoderMixin

from regnet_backbones import zoo
from regnet_backbones.backbone import LEVELS, RegNetFeatures
from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError, as_user_error
from regnet_backbones.weights.sources import is_name

# SMP sends names that start with these to other encoders, or gives them other decoders.
RESERVED_PREFIXES = ("tu-", "timm-", "mit_b", "vgg")

# How names of designs begin that are made of their numbers.
DESIGN_PREFIX = "regnet("


class RegNetEncoder(RegNetFeatures, EncoderMixin):
    """A `RegNetFeatures` that returns its maps as SMP's decoders take them.

    Args:
        name_or_design: a name of `regnet_backbones.zoo.names()`, or a `RegNetDesign`.
        depth: 3, 4 or 5, the level of the last map. Stages behind it are not built.
        in_channels, output_stride, pretrained: see `RegNetFeatures`.

    Attributes:
        out_channels: channels of each returned map, the image first.
        output_stride: stride of the last map: `2 ** depth`, or the one asked for if less.

    Raises:
        ValueError: as `RegNetFeatures`, or for another depth.
    """

    output_stride: int = 32  # in place of the property of `EncoderMixin`

    def __init__(
        self,
        name_or_design: str | RegNetDesign,
        *,
        depth: int = 5,
        in_channels: int = 3,
        output_stride: Literal[8, 16, 32] = 32,
        pretrained: bool | str | Path = False,
    ):
        if depth not in (3, 4, 5):
            raise UserError(f"depth of a RegNet encoder must be 3, 4 or 5, got {depth}")
        super().__init__(
            name_or_design,
            in_channels=in_channels,
            output_stride=output_stride,
            norm="BN",
            pretrained=pretrained,
            out_levels=LEVELS[:depth],
        )
        self._depth = depth
        self._in_channels = in_channels
        self._output_stride = output_stride
        self._out_channels = [in_channels, *self.channels.values()]
        self.output_stride = self.strides[depth]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the image and the maps C1 to C{depth}, of images `x` (N, in_channels, H, W).

        A map is (N, out_channels[l], ceil(H / strides[l]), ceil(W / strides[l])).
        """
        maps = self.list_maps(x)  # TorchScript cannot compile `super().forward(x)`
        maps.insert(0, x)
        return maps


def design_name(design: RegNetDesign) -> str:
    """Return the name of a design that every process with this package builds: its numbers.

    `smp.Unet("regnet(w_0=48, w_a=27.9, w_m=2.09, depth=16, group_width=8)")` needs no registration.
    """
    given = {f.name: getattr(design, f.name) for f in fields(design)}
    needed = {f.name: value for f in fields(design) if (value := given[f.name]) != f.default}
    return f"{DESIGN_PREFIX}{', '.join(f'{name}={value}' for name, value in needed.items())})"


def register_encoder(name: str, name_or_design: str | RegNetDesign) -> None:
    """Make a network an encoder of SMP: `smp.Unet(name, encoder_weights=None)`.

    A model of `save_pretrained` holds the network, and loads where `regnet_backbones` is imported.

    Args:
        name: what SMP calls it from now on; again with the same network is fine.
        name_or_design: a `RegNetDesign`, or a name of `regnet_backbones.zoo.names()`.

    Raises:
        ValueError: SMP has another encoder of that name or like it, or the network is unknown.
    """
    if name.startswith(RESERVED_PREFIXES):
        raise UserError(f"name must not start with one of {RESERVED_PREFIXES}, got '{name}'")
    _register(name, name_or_design)


def register_encoders() -> None:
    """Register every name of the zoo, and send SMP's calls for our names here."""
    for name in zoo.names():
        _register(name, name)
    _route("get_encoder", _get_encoder)
    _route("get_preprocessing_params", _get_preprocessing_params)


def _register(name: str, network: str | RegNetDesign) -> None:
    """Put a network into SMP's registry."""
    entry = _entry(network)
    other = smp_encoders.encoders.setdefault(name, entry)
    if other != entry:
        known = f"'{name}' ({other['encoder'].__name__}, {other['params']})"
        raise UserError(f"SMP already has an encoder {known}; choose another name")


def _entry(name_or_design: str | RegNetDesign) -> dict[str, object]:
    """Return what SMP's registry holds of a network, in its form."""
    settings = {}
    if isinstance(name_or_design, str):
        variant = zoo.get(name_or_design)
        name_or_design = variant.name
        rgb = {"input_space": "RGB", "input_range": [0, 1]}
        for tag, weights in variant.weights.items():
            settings[tag] = {**rgb, "mean": list(weights.mean), "std": list(weights.std)}
        if settings:
            settings = {"imagenet": settings[variant.default_tag], **settings}
    params = {"name_or_design": name_or_design}
    return {"encoder": RegNetEncoder, "params": params, "pretrained_settings": settings}


def _route(function: str, ours: Callable) -> None:
    """Send calls of a function of `smp.encoders` for our names to `ours`, in every module."""
    stock = getattr(smp_encoders, function)
    if hasattr(stock, "routes_regnets"):
        return
    first = next(iter(signature(stock).parameters))

    @wraps(stock)
    def routed(*args: object, **kwargs: object) -> object:
        name = args[0] if args else kwargs.get(first)
        if str(name).startswith(DESIGN_PREFIX) and name not in smp_encoders.encoders:
            _register(name, _design_of(name))
        is_ours = smp_encoders.encoders.get(name, {}).get("encoder") is RegNetEncoder
        return (ours if is_ours else stock)(*args, **kwargs)

    routed.routes_regnets = True
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get(function) is stock:
            setattr(module, function, routed)


def _design_of(name: str) -> RegNetDesign:
    """Return the design of a name that `design_name` made."""
    known = {f.name for f in fields(RegNetDesign)}
    pairs = [pair.partition("=") for pair in name[len(DESIGN_PREFIX) : -1].split(", ")]
    if not name.endswith(")") or not all(key in known for key, _, _ in pairs):
        raise UserError(f"'{name[:200]}' must have arguments of RegNetDesign: {sorted(known)}")
    with as_user_error(TypeError, ValueError, prefix=f"'{name[:200]}': "):
        return RegNetDesign(**{key: _value(value) for key, _, value in pairs})


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):  # a word, such as silu
        return text


def save_designs(module: ModuleType) -> None:
    """Let `save_pretrained` of SMP's `hub_mixin` name a RegNet by what it is, as others know it."""
    stock = module.SMPHubMixin.save_pretrained

    @wraps(stock)
    def save_pretrained(self: torch.nn.Module, *args: object, **kwargs: object) -> object:
        encoder = getattr(self, "encoder", None)
        if isinstance(encoder, RegNetEncoder) and "encoder_name" in self.config:
            self.config["encoder_name"] = encoder.name or design_name(encoder.design)
        return stock(self, *args, **kwargs)

    module.SMPHubMixin.save_pretrained = save_pretrained


def _get_encoder(
    name: str,
    in_channels: int = 3,
    depth: int = 5,
    weights: str | None = None,
    output_stride: int = 32,
    **kwargs: object,
) -> RegNetEncoder:
    """Build an encoder; `kwargs` are of SMP's `tu-` encoders, or what a model does not know."""
    if ignored := [key for key, value in kwargs.items() if value is not None]:
        warnings.warn(f"the encoder '{name}' ignores {', '.join(ignored)}", stacklevel=3)
    entry = smp_encoders.encoders[name]
    return RegNetEncoder(
        **entry["params"],
        depth=depth,
        in_channels=in_channels,
        output_stride=output_stride,
        pretrained=_pretrained(name, weights, entry["pretrained_settings"]),
    )


def _get_preprocessing_params(encoder_name: str, pretrained: str = "imagenet") -> dict[str, object]:
    """Return what weights of ours expect."""
    settings = smp_encoders.encoders[encoder_name]["pretrained_settings"]
    if pretrained not in settings:
        known = f"pass one of {list(settings)}, got {pretrained!r}"
        raise UserError(f"no preprocessing for these weights of '{encoder_name}'; {known}")
    return deepcopy(settings[pretrained])


def _pretrained(name: str, weights: str | None, settings: Mapping[str, object]) -> bool | str:
    """Translate SMP's `encoder_weights` to `pretrained` of `RegNetFeatures`."""
    if weights is None:
        return False
    if weights in settings:
        return True if weights == "imagenet" else weights
    # A path must be text: of a `Path` SMP's `save_pretrained` would write "imagenet".
    if isinstance(weights, str) and (
        "://" in weights or is_name(weights) or Path(weights).expanduser().is_file()
    ):
        return weights
    raise UserError(
        f"encoder_weights of '{name}' must be None (random weights), one of {list(settings)}, a "
        "source such as 'torchvision://regnet_y_3_2gf.IMAGENET1K_V2' or a path as text, got "
        f"{weights!r}. To load a whole saved model, pass encoder_weights=None to from_pretrained"
    )


register_encoders()
