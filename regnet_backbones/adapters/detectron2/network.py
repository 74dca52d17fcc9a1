"""Which RegNet a config asks for, and whether the rest of the config fits it."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from regnet_backbones.adapters.detectron2.config import NUMBERS, REQUIRED_NUMBERS, regnet_node
from regnet_backbones.adapters.detectron2.input import check_images
from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError
from regnet_backbones.weights.dialects import CHANNEL_ORDERS
from regnet_backbones.weights.loading import check_variant
from regnet_backbones.weights.sources import find_source, is_name

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# Detectron2's ResNet calls C2 to C5 res2 to res5, its RegNet calls them s1 to s4.
FEATURE_LEVELS = {"stem": 1}
FEATURE_LEVELS |= {f"s{level - 1}": level for level in (2, 3, 4, 5)}
FEATURE_LEVELS |= {f"res{level}": level for level in (2, 3, 4, 5)}

logger = logging.getLogger(__name__)


def feature_levels(names: Sequence[str]) -> dict[str, int]:
    """Return the level (1 to 5) of each feature name, in the order given.

    Raises:
        ValueError: a name is unknown, or none is given.
    """
    unknown = [name for name in names if name not in FEATURE_LEVELS]
    if unknown or not names:
        raise UserError(
            f"features of a RegNet are {', '.join(FEATURE_LEVELS)}, got {list(names)}; set "
            "MODEL.REGNET.OUT_FEATURES and MODEL.FPN.IN_FEATURES to some of these"
        )
    return {name: FEATURE_LEVELS[name] for name in names}


def network_of(node: "CfgNode") -> str | RegNetDesign:
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
        raise UserError(
            "MODEL.REGNET names no network: set MODEL.REGNET.NAME, such as 'regnety_032', or the "
            f"numbers {', '.join(REQUIRED_NUMBERS)}; missing: {', '.join(missing)}"
        )
    try:
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
    except ValueError as error:
        raise UserError(f"the numbers of MODEL.REGNET give no network: {error}") from error


def check_weights(cfg: "CfgNode") -> None:
    """Check `MODEL.WEIGHTS` against the rest of a config, as far as its name tells what it is.

    Builders do the same; nothing is fetched or read. What only the file can tell is checked when it
    is loaded.

    Raises:
        ValueError: there are no such weights, they are of another network or norm, or saw other
            images than this config makes.
    """
    node = regnet_node(cfg)
    check_weights_of(cfg, node, network_of(node))


def check_weights_of(cfg: "CfgNode", node: "CfgNode", network: str | RegNetDesign) -> None:
    """Do what `check_weights` says, for a node and its network that are known already."""
    if node.WEIGHTS_FORMAT not in ("", "RGB", "BGR"):
        raise UserError(
            "MODEL.REGNET.WEIGHTS_FORMAT must be 'RGB', 'BGR', or '' for what the weights' own "
            f"project uses, got '{node.WEIGHTS_FORMAT}'"
        )
    weights = cfg.MODEL.WEIGHTS
    if not is_name(weights):
        return
    source = find_source(weights)
    check_variant(source, network)
    if source.variant is not None and node.NORM == "GN":
        raise UserError(
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


def warn_of_frozen_random_weights(cfg: "CfgNode", node: "CfgNode") -> None:
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


def check_fpn(node: "CfgNode", in_features: Sequence[str]) -> None:
    """Raise ValueError where FPN would stop at a bare assertion."""
    wanted = list(feature_levels(in_features).values())
    offered = set(feature_levels(node.OUT_FEATURES).values())
    if not set(wanted) <= offered:
        raise UserError(
            f"MODEL.FPN.IN_FEATURES {list(in_features)} are not all in MODEL.REGNET.OUT_FEATURES "
            f"{list(node.OUT_FEATURES)}; add them there"
        )
    if wanted != list(range(wanted[0], wanted[0] + len(wanted))):
        raise UserError(
            "MODEL.FPN.IN_FEATURES must be neighbours from fine to coarse, such as "
            f"['res2', 'res3', 'res4', 'res5'], got {list(in_features)}"
        )
    if node.OUTPUT_STRIDE != 32:
        raise UserError(
            "an FPN needs maps whose strides double, a dilated RegNet repeats one: "
            f"MODEL.REGNET.OUTPUT_STRIDE must be 32, got {node.OUTPUT_STRIDE}; for a dilated "
            "backbone set MODEL.BACKBONE.NAME to 'build_regnet_backbone'"
        )
