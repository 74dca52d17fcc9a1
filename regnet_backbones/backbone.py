"""RegNetFeatures: a timm RegNet as an extractor of multi-scale feature maps C1 to C5.

timm is the network (`timm/models/regnet.py`, and `timm/models/byobnet.py` for regnetz_b16 to e8,
after "Designing Network Design Spaces", arXiv 2003.13678). This module takes its stem and stages,
gives them the normalisation, the freezing and the checkpointing that dense prediction needs, and
returns the maps. The maps are those of timm's `features_only`: for RegNetV (pre-activation) and
RegNetZ (linear bottlenecks) they come before the activation that the classifier would apply.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import timm
import torch
from timm.layers import GroupNormAct
from timm.models import FeatureInfo, checkpoint_seq
from timm.models.regnet import RegNet, RegNetCfg
from torch import nn

from regnet_backbones import zoo
from regnet_backbones.design import RegNetDesign, UnbuildableError
from regnet_backbones.design.formats import timm_arguments
from regnet_backbones.errors import MissingFileError, UserError
from regnet_backbones.norm import (
    Norm,
    activated_norms,
    convert_norm,
    freeze,
    restore_activations,
    update_twice,
)
from regnet_backbones.weights.loading import Report, load
from regnet_backbones.weights.sources import PREFIXES, is_name

LEVELS = (1, 2, 3, 4, 5)
OUTPUT_STRIDES = (8, 16, 32)


class RegNetFeatures(nn.Module):
    """A RegNet that returns its feature maps, ordered by stride.

    Parameter names are timm's own (`stem.conv.weight`, `s1.b1.conv1.conv.weight`, ...). It takes
    the place of `timm.create_model(..., features_only=True)`: `feature_info`,
    `set_grad_checkpointing`, `torch.jit.script` and `torch.fx` work as there.

    Args:
        name_or_design: a name of `regnet_backbones.zoo.names()`, or a `RegNetDesign`.
        in_channels: channels of the input image.
        output_stride: stride of the last map, 8, 16 or 32; below 32 the last stages are dilated.
        norm: "BN" as published, "SyncBN", "FrozenBN" or "GN" (see `norm.convert_norm`).
        freeze_at: number of fixed levels as in detectron2: 0 none, 1 the stem, 2 the stem and the
            first stage, ..., 5 everything. `train()` cannot thaw them.
        drop_path_rate: stochastic depth, rising linearly to this rate in the last block.
        pretrained: False for random weights, True for the default weights of the zoo, a tag of the
            variant, a source such as "torchvision://regnet_y_3_2gf.IMAGENET1K_V2" or a URL, or a
            file in any dialect (see `regnet_backbones.weights`). They expect RGB images.
        grad_checkpointing: keep only block inputs in training and recompute the rest. The momentum
            of batch norms, which see each batch twice, is set for the same statistics.
        out_levels: levels to return, some of 1 to 5. Stages behind the last are not built.

    Attributes:
        channels: channels of each returned map, by level.
        strides: stride of each returned map, by level.
        design: the `RegNetDesign`, or None where the widths follow no law (regnetz_b16 to e8).
        feature_info: timm's record of the maps: `channels()`, `reduction()`, `module_name()`.
        activated_norms: names of the norms that also apply an activation.
        loaded: what is known of the weights that `pretrained` asked for, None for random ones.

    Raises:
        ValueError: an argument is invalid, the design cannot be built, or weights do not match.
        FileNotFoundError: `pretrained` is neither a tag of the variant nor a file.
        OSError: weights could not be fetched.
    """

    def __init__(
        self,
        name_or_design: str | RegNetDesign,
        *,
        in_channels: int = 3,
        output_stride: Literal[8, 16, 32] = 32,
        norm: Norm = "BN",
        freeze_at: int = 0,
        drop_path_rate: float = 0.0,
        pretrained: bool | str | Path = False,
        grad_checkpointing: bool = False,
        out_levels: Sequence[int] = LEVELS[1:],
    ):
        super().__init__()
        out_levels = tuple(out_levels)
        levels = sorted(set(out_levels) & set(LEVELS))
        _check(in_channels >= 1, "in_channels must be at least 1", in_channels)
        _check(output_stride in OUTPUT_STRIDES, "output_stride must be 8, 16 or 32", output_stride)
        _check(0 <= drop_path_rate < 1, "drop_path_rate must be in [0, 1)", drop_path_rate)
        is_rising = bool(levels) and list(out_levels) == levels
        _check(is_rising, "out_levels must be some of 1 to 5, rising", out_levels)
        variant = None if isinstance(name_or_design, RegNetDesign) else zoo.get(name_or_design)
        source = pretrained_source(variant, pretrained)
        if pretrained and norm == "GN":
            allowed = "norm='BN', 'SyncBN' or 'FrozenBN'"
            raise UserError(f"pretrained weights need {allowed}, got 'GN'; or pretrained=False")
        options = {
            "in_chans": in_channels,
            "output_stride": output_stride,
            "drop_path_rate": drop_path_rate,
            "num_classes": 0,
        }
        if variant is None:
            network = _build_design(name_or_design, **options)
        else:
            network = timm.create_model(variant.name, **options)

        self.name = variant.name if variant else None
        self.design: RegNetDesign | None = variant.design if variant else name_or_design
        self.in_channels = in_channels
        self.output_stride = output_stride
        self.grad_checkpointing = False
        self.out_levels = out_levels
        self._indices = [level - 1 for level in out_levels]
        self.feature_info = FeatureInfo(network.feature_info, self._indices)
        info = self.feature_info
        self.channels: dict[int, int] = dict(zip(out_levels, info.channels(), strict=True))
        self.strides: dict[int, int] = dict(zip(out_levels, info.reduction(), strict=True))
        self._take_parts(network, info.module_name(0))
        self.activated_norms: tuple[str, ...] = activated_norms(self)
        self.set_grad_checkpointing(grad_checkpointing)
        convert_norm(self, norm)
        self.loaded: Report | None = None if source is None else load(self, source)
        self.freeze(freeze_at)

    if TYPE_CHECKING:  # torch's own has no types

        def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            """Return the maps of `out_levels`, see `forward`."""

    # TorchScript has no tuple of any length, so that the return type is in `__call__` alone.
    def forward(self, x: torch.Tensor):  # type: ignore[no-untyped-def]
        """Return the maps of `out_levels`, in TorchScript as a list.

        Args:
            x: images (N, in_channels, H, W), any height and width.

        Returns:
            One map a level, `C{l}: (N, channels[l], ceil(H / strides[l]), ceil(W / strides[l]))`.
        """
        maps = self.list_maps(x)
        if torch.jit.is_scripting():
            return maps
        return tuple(maps)

    def list_maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return what `forward` does as a list, for the `forward` of a subclass.

        Args:
            x: see `forward`, (N, in_channels, H, W).
        """
        maps = self._byobnet_maps(x) if hasattr(self, "stages") else self._regnet_maps(x)
        return [maps[index] for index in self._indices]

    def train(self, mode: bool = True) -> "RegNetFeatures":
        """Set training mode for everything that is not frozen.

        Raises:
            ValueError: a converter has deleted activations, see `norm.lost_activations`. Those that
                torch's `convert_sync_batchnorm` left unused are restored.
        """
        restore_activations(self)
        super().train(mode)
        for part in self._frozen_parts():
            # What transformers' from_pretrained puts into a model requires gradients.
            self.get_submodule(part).requires_grad_(False).eval()
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only block inputs in training, as `grad_checkpointing=True` does from the start.

        Args:
            enable: False takes it back.
        """
        if enable == self.grad_checkpointing:
            return
        self.grad_checkpointing = enable
        for stage in self._stages():
            stage.grad_checkpointing = enable  # read by timm's RegStage
            update_twice(stage, enable)

    def checkpoint_blocks(self) -> None:
        """Call `set_grad_checkpointing`, the name since 0.2; this one goes in 0.3."""
        text = "checkpoint_blocks() is set_grad_checkpointing() since 0.2 and goes in 0.3"
        warnings.warn(text, FutureWarning, stacklevel=2)
        self.set_grad_checkpointing()

    def freeze(self, levels: int) -> None:
        """Fix the first levels for good; those that are fixed stay so.

        Args:
            levels: how many, counted as `freeze_at`.

        Raises:
            UserError: that is not 0 to 5.
        """
        _check(levels in (0, *LEVELS), "freeze_at must be 0 (nothing) to 5 (all)", levels)
        self.freeze_at = levels
        for part in self._frozen_parts():
            freeze(self.get_submodule(part))

    def extra_repr(self) -> str:
        """Name the network and what was asked of it."""
        return f"{self.name or self.design}, freeze_at={self.freeze_at}, levels={self.out_levels}"

    def _take_parts(self, network: nn.Module, first_map: str) -> None:
        """Own the parts of a timm network up to the last level; remember what was left out.

        `ByobNet` has a final convolution that gives its C5, and C1 may lie inside its stem.
        """
        last = max(self.out_levels)
        self.stem = network.stem
        self.c1_layer = first_map.removeprefix("stem").removeprefix(".")
        if isinstance(network, RegNet):
            parts: list[tuple[str, ...]] = [("stem",), ("s1",), ("s2",), ("s3",), ("s4",)]
            for part in parts[1:last]:
                self.add_module(part[0], getattr(network, part[0]))
        else:
            parts = [("stem",), *((f"stages.{i}",) for i in range(3)), ("stages.3", "final_conv")]
            self.stages = network.stages[: last - 1]
            if last == 5:
                self.final_conv = network.final_conv
        self.level_parts: dict[int, tuple[str, ...]] = dict(zip(LEVELS, parts, strict=True))
        self.pruned_parts = tuple(part for level in parts[last:] for part in level)

    def _frozen_parts(self) -> list[str]:
        """Name the submodules that `freeze_at` fixes."""
        frozen = range(1, min(self.freeze_at, max(self.out_levels)) + 1)
        return [part for level in frozen for part in self.level_parts[level]]

    def _stages(self) -> list[nn.Module]:
        """Return the stages, without the stem."""
        if hasattr(self, "stages"):
            return list(self.stages)
        return [part for name, part in self.named_children() if name != "stem"]

    def _regnet_maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Run stem and stages, whose outputs are C1, C2, ..."""
        maps = []
        for part in self.children():
            x = part(x)
            maps.append(x)
        return maps

    def _byobnet_maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Run a byobnet trunk: C1 may lie inside the stem, C5 is the final convolution's."""
        maps = []
        if self.c1_layer:
            for name, layer in self.stem.named_children():
                x = layer(x)
                if name == self.c1_layer:
                    maps.append(x)
        else:
            x = self.stem(x)
            maps.append(x)
        for stage in self.stages:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint_seq(stage, x)
            else:
                x = stage(x)
            maps.append(x)
        if hasattr(self, "final_conv"):
            maps[-1] = self.final_conv(x)
        return maps


def _check(is_right: bool, rule: str, given: object) -> None:
    if not is_right:
        raise UserError(f"{rule}, got {given}")


def pretrained_source(
    variant: zoo.Variant | None, pretrained: bool | str | Path
) -> str | Path | None:
    """Return the source of weights that `pretrained` asks for, None for random weights."""
    if pretrained is False or pretrained is None:
        return None
    name, tags = (variant.name, tuple(variant.weights)) if variant else ("a design", ())
    if pretrained is True and variant:
        return f"timm://{name}"
    if pretrained in tags:
        return f"timm://{name}.{pretrained}"
    is_file = pretrained is not True and Path(pretrained).expanduser().is_file()
    if not is_file and not is_name(pretrained):
        allowed = f"a tag of {name} ({', '.join(tags) or 'none'}), a file, a URL"
        rule = f"pretrained must be {allowed} or begin with {', '.join(PREFIXES)}"
        raise MissingFileError(f"{rule}, got '{pretrained}'")
    return pretrained


def _build_design(design: RegNetDesign, **options: float) -> RegNet:
    """Build a design with timm, and refuse it where timm computes other stages than the design."""
    norm_layer = "batchnorm"
    if design.norm_group_width:
        norm_layer = partial(GroupNormAct, group_size=design.norm_group_width)
    try:
        network = RegNet(RegNetCfg(**timm_arguments(design), norm_layer=norm_layer), **options)
    except AssertionError:
        built = "not four stages"  # which timm asserts
    else:
        built = [
            (len(list(network.get_submodule(info["module"]).children())), info["num_chs"])
            for info in network.feature_info[1:]
        ]
    wanted = [(stage.depth, stage.width) for stage in design.stages]
    if built != wanted:
        # It generates widths in float32, where a block is on the edge between two stages.
        text = f"timm builds other stages (depth, width) than {design}: {built}, expected {wanted}"
        raise UnbuildableError(f"{text}; change w_a or w_m in the fourth digit")
    return network
