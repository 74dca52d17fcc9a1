"""RegNet as a detectron2 backbone: `RegNetBackbone` and the registered builders.

The contract is detectron2's (`modeling/backbone/backbone.py`, `fpn.py`): a builder takes
`(cfg, input_shape)` and returns a `Backbone`, whose forward gives a dict of named maps. Functions
take a config, the class takes explicit arguments and knows of no config.
"""

import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from regnet_backbones.adapters.detectron2.config import fcos_node, regnet_node
from regnet_backbones.adapters.detectron2.network import (
    check_weights,
    feature_levels,
    warn_of_frozen_random_weights,
)
from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.backbone import RegNetFeatures
from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError
from regnet_backbones.norm import Norm

logger = logging.getLogger(__name__)


class RegNetBackbone(RegNetFeatures, Backbone):
    """A `RegNetFeatures` that returns its maps by detectron2's names.

    It is one rather than has one, so that its parameters keep timm's names without a prefix.

    Args:
        name_or_design: a name of `regnet_backbones.zoo.names()`, or a `RegNetDesign`.
        out_features: maps to return: "stem" (C1), "res2" to "res5" or "s1" to "s4" (C2 to C5 both).
        norm: see `RegNetFeatures`.
        options: others of `RegNetFeatures`; `freeze_at` is detectron2's `MODEL.BACKBONE.FREEZE_AT`.

    Attributes:
        input_format: channel order of the detector's images, "RGB" or "BGR"; None if unknown.
        pixel_mean, pixel_std: what normalises the channels of its images; None if unknown.
        weights_format: of the images that the weights to load saw, None for that of their dialect.

    Raises:
        ValueError: as `RegNetFeatures`, or for an unknown feature name.
    """

    def __init__(
        self,
        name_or_design: str | RegNetDesign,
        *,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        norm: Norm = "FrozenBN",
        **options: object,
    ):
        levels = feature_levels(out_features)
        out_levels = sorted(set(levels.values()))
        super().__init__(name_or_design, norm=norm, out_levels=out_levels, **options)
        self.input_format: str | None = None
        self.pixel_mean: tuple[float, ...] | None = None
        self.pixel_std: tuple[float, ...] | None = None
        self.weights_format: str | None = None
        self._level_by_feature = levels
        self._out_features = list(levels)
        self._out_feature_channels = {f: self.channels[level] for f, level in levels.items()}
        self._out_feature_strides = {f: self.strides[level] for f, level in levels.items()}

    if TYPE_CHECKING:

        def __call__(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            """Return the maps of `out_features` by name, see `forward`."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the maps of `out_features` by name, of images `x` (N, in_channels, H, W).

        A map is (N, channels, ceil(H / stride), ceil(W / stride)).
        """
        maps = dict(zip(self.out_levels, super().forward(x), strict=True))
        return {feature: maps[level] for feature, level in self._level_by_feature.items()}


def build_regnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> RegNetBackbone:
    """Build the RegNet of `MODEL.REGNET` with the maps of `MODEL.REGNET.OUT_FEATURES`.

    Args:
        cfg: of which `MODEL.REGNET` is read; keys that it lacks have our defaults.
        input_shape: of the images, of which the number of channels is read.

    Raises:
        ValueError: the node names no network, or one that cannot be built or feed an FPN.
    """
    node = regnet_node(cfg)
    return _build_bottom_up(cfg, node, input_shape, node.OUT_FEATURES)


def build_regnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a RegNet under an FPN: P2 to P5 from `MODEL.FPN.IN_FEATURES`, P6 by max pooling.

    Features are res2 to res5, or s1 to s4; arguments and errors as of `build_regnet_backbone`.
    """
    return _build_fpn(cfg, input_shape, lambda bottom_up: LastLevelMaxPool())


def build_retinanet_regnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a RegNet under an FPN for RetinaNet: P3 to P5, and P6 and P7 by convolutions of C5.

    The coarsest of `MODEL.FPN.IN_FEATURES` (res3 to res5) gives P6, as in detectron2's builder;
    arguments and errors as of `build_regnet_backbone`.
    """

    def build_top(bottom_up: RegNetBackbone) -> nn.Module:
        coarsest = cfg.MODEL.FPN.IN_FEATURES[-1]
        channels = bottom_up.output_shape()[coarsest].channels
        return LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS, in_feature=coarsest)

    return _build_fpn(cfg, input_shape, build_top)


def build_fcos_regnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a RegNet under an FPN for FCOS: P3 to P5, and P6 and P7 by convolutions of P5.

    The convention of AdelaiDet, CondInst and BlendMask. `MODEL.FCOS.TOP_LEVELS` is 2, 1 (P6) or 0;
    arguments and errors as of `build_regnet_backbone`.
    """
    top_levels = fcos_node(cfg).TOP_LEVELS
    if top_levels not in (0, 1, 2):
        raise UserError(f"MODEL.FCOS.TOP_LEVELS must be 2 (P6, P7), 1 (P6) or 0, got {top_levels}")

    def build_top(bottom_up: RegNetBackbone) -> nn.Module | None:
        channels = cfg.MODEL.FPN.OUT_CHANNELS
        coarsest = f"p{max(feature_levels(cfg.MODEL.FPN.IN_FEATURES).values())}"
        if top_levels == 2:
            return LastLevelP6P7(channels, channels, in_feature=coarsest)
        return LastLevelP6(channels, channels, in_feature=coarsest) if top_levels else None

    return _build_fpn(cfg, input_shape, build_top)


class LastLevelP6(LastLevelP6P7):
    """P6 by a convolution of P5, the first half of detectron2's `LastLevelP6P7`."""

    def __init__(self, in_channels: int, out_channels: int, in_feature: str = "p5"):
        super().__init__(in_channels, out_channels, in_feature)
        self.num_levels = 1
        del self.p7

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return P6 alone, (N, out_channels, ceil(H / 2), ceil(W / 2))."""
        return [self.p6(x)]


BUILDERS: dict[str, Callable[[CfgNode, ShapeSpec], Backbone]] = {
    builder.__name__: builder
    for builder in (
        build_regnet_backbone,
        build_regnet_fpn_backbone,
        build_retinanet_regnet_fpn_backbone,
        build_fcos_regnet_fpn_backbone,
    )
}


def register_builders(*, replace: bool = False) -> None:
    """Register the builders of this module in detectron2's `BACKBONE_REGISTRY`.

    A builder of the same name that another project registers, before or later, stays with a
    warning; `replace` takes the name from it.
    """
    known = BACKBONE_REGISTRY._obj_map
    for name, builder in BUILDERS.items():
        other = known.get(name, builder)
        if other is builder or replace:
            known[name] = builder
        else:
            _warn_of_other_builder(name, other)
    stock = BACKBONE_REGISTRY._do_register
    if getattr(stock, "lets_later_builders_win", False):
        return

    def register_over_ours(name: str, builder: Callable) -> None:
        if name in BUILDERS and known.get(name) is BUILDERS[name] is not builder:
            del known[name]
            _warn_of_other_builder(name, builder)
        stock(name, builder)

    register_over_ours.lets_later_builders_win = True
    BACKBONE_REGISTRY._do_register = register_over_ours


def _warn_of_other_builder(name: str, builder: Callable) -> None:
    logger.warning(
        "%s of %s is used; for that of regnet_backbones call %s.register_builders(replace=True)",
        *(name, getattr(builder, "__module__", builder), __name__),
    )


def _build_fpn(
    cfg: CfgNode, input_shape: ShapeSpec, build_top: Callable[[RegNetBackbone], nn.Module | None]
) -> FPN:
    """Build the RegNet of a config under an FPN, with the levels on top that `build_top` makes."""
    in_features = cfg.MODEL.FPN.IN_FEATURES
    bottom_up = _build_bottom_up(cfg, regnet_node(cfg), input_shape, in_features)
    strides = [bottom_up.output_shape()[name].stride for name in in_features]
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise UserError(
            "strides of MODEL.FPN.IN_FEATURES must double from map to map, as in ['res2', 'res3', "
            f"'res4', 'res5'], got {list(in_features)} with strides {strides}; for MODEL.REGNET."
            "OUTPUT_STRIDE below 32 set MODEL.BACKBONE.NAME to 'build_regnet_backbone'"
        )
    return FPN(
        bottom_up=bottom_up,
        in_features=in_features,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=build_top(bottom_up),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _build_bottom_up(
    cfg: CfgNode, node: CfgNode, input_shape: ShapeSpec, out_features: Sequence[str]
) -> RegNetBackbone:
    """Build the RegNet of a config and its `MODEL.REGNET` with the maps `out_features`.

    Heads are built after their backbone: what the config names of a project is imported by then.
    """
    import_projects(cfg)
    warn_of_frozen_random_weights(cfg, node)
    backbone = RegNetBackbone(
        check_weights(cfg),
        out_features=out_features,
        in_channels=input_shape.channels,
        output_stride=node.OUTPUT_STRIDE,
        norm=node.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        drop_path_rate=node.DROP_PATH_RATE,
        grad_checkpointing=node.GRAD_CHECKPOINT,
    )
    backbone.input_format = cfg.INPUT.FORMAT
    backbone.pixel_mean = tuple(cfg.MODEL.PIXEL_MEAN)
    backbone.pixel_std = tuple(cfg.MODEL.PIXEL_STD)
    backbone.weights_format = node.WEIGHTS_FORMAT or None
    return backbone


register_builders()
