"""RegNet as a detectron2 backbone: `RegNetBackbone` and the registered builders.

The contract is detectron2's (`modeling/backbone/backbone.py`, `fpn.py`): a builder takes
`(cfg, input_shape)` and returns a `Backbone`, whose forward gives a dict of named maps. Functions
take a config, the class takes explicit arguments and knows of no config.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from regnet_backbones.adapters.detectron2_config import NUMBERS, REQUIRED_NUMBERS, regnet_node
from regnet_backbones.adapters.detectron2_input import check_images
from regnet_backbones.backbone import RegNetFeatures
from regnet_backbones.design import RegNetDesign
from regnet_backbones.norm import Norm
from regnet_backbones.weights.dialects import CHANNEL_ORDERS
from regnet_backbones.weights.loading import check_variant
from regnet_backbones.weights.sources import find_source, is_name

# Detectron2's ResNet calls C2 to C5 res2 to res5, its RegNet calls them s1 to s4.
FEATURE_LEVELS = {"stem": 1}
FEATURE_LEVELS |= {f"s{level - 1}": level for level in (2, 3, 4, 5)}
FEATURE_LEVELS |= {f"res{level}": level for level in (2, 3, 4, 5)}

logger = logging.getLogger(__name__)


class RegNetBackbone(RegNetFeatures, Backbone):
    """A `RegNetFeatures` that returns its maps by detectron2's names.

    It is one rather than has one, so that its parameters keep timm's names without a prefix.

    Args:
        name_or_design: a name of `regnet_backbones.zoo.names()`, or a `RegNetDesign`.
        out_features: names of the maps to return: "stem" (C1), "res2" to "res5" or "s1" to "s4"
            (C2 to C5 both).
        in_channels, output_stride, norm, freeze_at, drop_path_rate, pretrained, grad_checkpointing:
            see `RegNetFeatures`; `freeze_at` counts as detectron2's `MODEL.BACKBONE.FREEZE_AT`.

    Attributes:
        input_format: channel order of the images that the detector gets, "RGB" or "BGR"; None
            where the builder did not say and the detector itself has to know.
        weights_format: of the images that the weights to load saw, None for what their dialect
            says.

    Raises:
        ValueError: as `RegNetFeatures`, or for an unknown feature name.
    """

    def __init__(
        self,
        name_or_design: str | RegNetDesign,
        *,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        in_channels: int = 3,
        output_stride: Literal[8, 16, 32] = 32,
        norm: Norm = "FrozenBN",
        freeze_at: int = 0,
        drop_path_rate: float = 0.0,
        pretrained: bool | str | Path = False,
        grad_checkpointing: bool = False,
    ):
        levels = feature_levels(out_features)
        super().__init__(
            name_or_design,
            in_channels=in_channels,
            output_stride=output_stride,
            norm=norm,
            freeze_at=freeze_at,
            drop_path_rate=drop_path_rate,
            pretrained=pretrained,
            grad_checkpointing=grad_checkpointing,
            out_levels=sorted(set(levels.values())),
        )
        self.input_format: str | None = None
        self.weights_format: str | None = None
        self._level_by_feature = levels
        self._out_features = list(levels)
        self._out_feature_channels = {f: self.channels[level] for f, level in levels.items()}
        self._out_feature_strides = {f: self.strides[level] for f, level in levels.items()}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the maps of `out_features` by name.

        Args:
            x: images (N, in_channels, H, W), any height and width.

        Returns:
            For each name a map (N, channels, ceil(H / stride), ceil(W / stride)).
        """
        maps = dict(zip(self.out_levels, super().forward(x), strict=True))
        return {feature: maps[level] for feature, level in self._level_by_feature.items()}


def build_regnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> RegNetBackbone:
    """Build the RegNet of `MODEL.REGNET` with the maps of `MODEL.REGNET.OUT_FEATURES`.

    Raises:
        ValueError: the node names no network, or one that cannot be built.
    """
    node = regnet_node(cfg)
    return _build_bottom_up(cfg, node, input_shape, node.OUT_FEATURES)


def build_regnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a RegNet under an FPN: P2 to P5 from `MODEL.FPN.IN_FEATURES`, P6 by max pooling.

    `MODEL.FPN.IN_FEATURES` may say res2 to res5, as stock ResNet configs do, or s1 to s4.

    Raises:
        ValueError: the node names no network, or one that cannot feed an FPN.
    """
    node = regnet_node(cfg)
    in_features = cfg.MODEL.FPN.IN_FEATURES
    _check_fpn(node, in_features)
    return FPN(
        bottom_up=_build_bottom_up(cfg, node, input_shape, in_features),
        in_features=in_features,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


BUILDERS: dict[str, Callable[[CfgNode, ShapeSpec], Backbone]] = {
    "build_regnet_backbone": build_regnet_backbone,
    "build_regnet_fpn_backbone": build_regnet_fpn_backbone,
}


def register_builders(*, replace: bool = False) -> None:
    """Register the builders of this module in detectron2's `BACKBONE_REGISTRY`.

    A builder of the same name that somebody else registered stays, with a warning, whether it came
    before this or comes later: a project with its own copy keeps working as it did.

    Args:
        replace: take the name from the other builder instead.
    """
    for name, builder in BUILDERS.items():
        other = BACKBONE_REGISTRY._obj_map.get(name)
        if other is builder:
            continue
        if other is not None and not replace:
            _say_theirs_stays(name, other)
            continue
        BACKBONE_REGISTRY._obj_map.pop(name, None)
        BACKBONE_REGISTRY.register(builder)
    _let_later_builders_win()


def feature_levels(names: Sequence[str]) -> dict[str, int]:
    """Return the level (1 to 5) of each feature name, in the order given.

    Raises:
        ValueError: a name is unknown, or none is given.
    """
    unknown = [name for name in names if name not in FEATURE_LEVELS]
    if unknown or not names:
        raise ValueError(
            f"features of a RegNet are {', '.join(FEATURE_LEVELS)}, got {list(names)}; set "
            "MODEL.REGNET.OUT_FEATURES and MODEL.FPN.IN_FEATURES to some of these"
        )
    return {name: FEATURE_LEVELS[name] for name in names}


def network_of(node: CfgNode) -> str | RegNetDesign:
    """Return the network that a `MODEL.REGNET` node asks for: a zoo name, or a design.

    Raises:
        ValueError: there is neither a name nor all five numbers, or the numbers give no RegNet.
    """
    given = [key for key in NUMBERS if node[key] is not None]
    if node.NAME:
        if given:
            logger.warning(
                "MODEL.REGNET.NAME is '%s', so %s are ignored; set NAME to '' to use the numbers",
                node.NAME,
                ", ".join(f"MODEL.REGNET.{key}" for key in given),
            )
        return node.NAME
    missing = [key for key in REQUIRED_NUMBERS if node[key] is None]
    if missing:
        raise ValueError(
            "MODEL.REGNET names no network: set MODEL.REGNET.NAME, such as 'regnety_032', or the "
            f"numbers {', '.join(REQUIRED_NUMBERS)}; missing: {', '.join(missing)}"
        )
    return RegNetDesign(
        w_0=node.W0,
        w_a=node.WA,
        w_m=node.WM,
        depth=node.DEPTH,
        group_width=node.GROUP_W,
        bottleneck_multiplier=1.0 if node.BOT_MUL is None else node.BOT_MUL,
        se_ratio=0.0 if node.SE_R is None else node.SE_R,
        stem_width=node.STEM_W,
        rounding=node.ROUNDING,
    )


def check_weights(cfg: CfgNode) -> None:
    """Check `MODEL.WEIGHTS` against the rest of a config, as far as its name tells what it is.

    Builders do the same; nothing is fetched or read. What only the file can tell is checked when it
    is loaded.

    Raises:
        ValueError: there are no such weights, they are of another network or norm, or saw other
            images than this config makes.
    """
    node = regnet_node(cfg)
    _check_weights(cfg, node, network_of(node))


def _check_weights(cfg: CfgNode, node: CfgNode, network: str | RegNetDesign) -> None:
    """Do what `check_weights` says, for a node and its network that are known already."""
    if node.WEIGHTS_FORMAT not in ("", "RGB", "BGR"):
        raise ValueError(
            "MODEL.REGNET.WEIGHTS_FORMAT must be 'RGB', 'BGR', or '' for what the weights' own "
            f"project uses, got '{node.WEIGHTS_FORMAT}'"
        )
    weights = cfg.MODEL.WEIGHTS
    if not is_name(weights):
        return
    source = find_source(weights)
    check_variant(source, network)
    if source.variant is not None and node.NORM == "GN":
        raise ValueError(
            f"MODEL.WEIGHTS '{weights}' are for batch norm, got MODEL.REGNET.NORM 'GN'; set it to "
            "'BN', 'SyncBN' or 'FrozenBN', or MODEL.WEIGHTS to '' to start from random weights"
        )
    if source.dialect and len(cfg.MODEL.PIXEL_MEAN) == 3 and not node.WEIGHTS_FORMAT:
        check_images(
            weights,
            CHANNEL_ORDERS[source.dialect],
            source.mean,
            source.std,
            input_format=cfg.INPUT.FORMAT,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
        )


def _build_bottom_up(
    cfg: CfgNode, node: CfgNode, input_shape: ShapeSpec, out_features: Sequence[str]
) -> RegNetBackbone:
    """Build the RegNet of a config and its `MODEL.REGNET` with the maps `out_features`."""
    network = network_of(node)
    _warn_of_frozen_random_weights(cfg, node)
    _check_weights(cfg, node, network)
    backbone = RegNetBackbone(
        network,
        out_features=out_features,
        in_channels=input_shape.channels,
        output_stride=node.OUTPUT_STRIDE,
        norm=node.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        drop_path_rate=node.DROP_PATH_RATE,
        grad_checkpointing=node.GRAD_CHECKPOINT,
    )
    backbone.input_format = cfg.INPUT.FORMAT
    backbone.weights_format = node.WEIGHTS_FORMAT or None
    return backbone


def _warn_of_frozen_random_weights(cfg: CfgNode, node: CfgNode) -> None:
    """Warn where a training from random weights would keep a part of them."""
    freeze_at = cfg.MODEL.BACKBONE.FREEZE_AT
    if not cfg.MODEL.WEIGHTS and (node.NORM == "FrozenBN" or freeze_at > 0):
        logger.warning(
            "MODEL.WEIGHTS is empty, and MODEL.REGNET.NORM '%s' with MODEL.BACKBONE.FREEZE_AT %d "
            "freezes random weights; set MODEL.WEIGHTS, such as 'timm://regnety_032', or NORM 'BN' "
            "and FREEZE_AT 0 to train from scratch",
            node.NORM,
            freeze_at,
        )


def _check_fpn(node: CfgNode, in_features: Sequence[str]) -> None:
    """Raise ValueError where FPN would stop at a bare assertion."""
    wanted = list(feature_levels(in_features).values())
    offered = set(feature_levels(node.OUT_FEATURES).values())
    if not set(wanted) <= offered:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES {list(in_features)} are not all in MODEL.REGNET.OUT_FEATURES "
            f"{list(node.OUT_FEATURES)}; add them there"
        )
    if wanted != list(range(wanted[0], wanted[0] + len(wanted))):
        raise ValueError(
            "MODEL.FPN.IN_FEATURES must be neighbours from fine to coarse, such as "
            f"['res2', 'res3', 'res4', 'res5'], got {list(in_features)}"
        )
    if node.OUTPUT_STRIDE != 32:
        raise ValueError(
            "an FPN needs maps whose strides double, a dilated RegNet repeats one: "
            f"MODEL.REGNET.OUTPUT_STRIDE must be 32, got {node.OUTPUT_STRIDE}; for a dilated "
            "backbone set MODEL.BACKBONE.NAME to 'build_regnet_backbone'"
        )


def _let_later_builders_win() -> None:
    """Let a builder that is registered later under one of our names take it, with a warning.

    Detectron2's registry would raise in the import of a project that has its own copy.
    """
    if hasattr(BACKBONE_REGISTRY._do_register, "lets_later_builders_win"):
        return
    do_register = BACKBONE_REGISTRY._do_register

    def do_register_over_ours(name: str, builder: Callable) -> None:
        ours = BUILDERS.get(name)
        if ours is not None and builder is not ours and name in BACKBONE_REGISTRY:
            del BACKBONE_REGISTRY._obj_map[name]
            _say_theirs_stays(name, builder)
        do_register(name, builder)

    do_register_over_ours.lets_later_builders_win = True
    BACKBONE_REGISTRY._do_register = do_register_over_ours


def _say_theirs_stays(name: str, builder: Callable) -> None:
    """Warn that somebody else's builder is used under one of our names."""
    logger.warning(
        "%s is registered by %s, which is used instead of regnet_backbones' own; for ours call "
        "regnet_backbones.adapters.detectron2.register_builders(replace=True)",
        name,
        getattr(builder, "__module__", builder),
    )


register_builders()
