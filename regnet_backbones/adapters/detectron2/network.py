"""Which RegNet a config asks for, and whether weights and images of the config fit it."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from regnet_backbones.adapters.detectron2.config import NUMBERS, REQUIRED_NUMBERS, regnet_node
from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError
from regnet_backbones.weights.dialects import CHANNEL_ORDERS, ChannelOrder
from regnet_backbones.weights.loading import check_variant
from regnet_backbones.weights.sources import find_source, is_name

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# Detectron2's ResNet calls C2 to C5 res2 to res5, its RegNet calls them s1 to s4.
FEATURE_LEVELS = {"stem": 1}
FEATURE_LEVELS |= {f"s{level - 1}": level for level in (2, 3, 4, 5)}
FEATURE_LEVELS |= {f"res{level}": level for level in (2, 3, 4, 5)}

# Differences of rounding between published configs are below this, of 255.
_TOLERANCE = 0.5

logger = logging.getLogger(__name__)


def feature_levels(names: Sequence[str]) -> dict[str, int]:
    """Return the level (1 to 5) of each feature name, in the order given."""
    if not names or not set(names) <= set(FEATURE_LEVELS):
        raise UserError(
            f"features of a RegNet must be among {', '.join(FEATURE_LEVELS)}, got {list(names)}; "
            "set MODEL.REGNET.OUT_FEATURES or MODEL.FPN.IN_FEATURES"
        )
    return {name: FEATURE_LEVELS[name] for name in names}


def network_of(node: "CfgNode") -> str | RegNetDesign:
    """Return the network that a `MODEL.REGNET` node asks for: a zoo name, or a design."""
    if node.NAME:
        if given := [f"MODEL.REGNET.{key}" for key in NUMBERS if node[key] is not None]:
            logger.warning(
                "MODEL.REGNET.NAME is '%s', so %s are ignored; set NAME to '' to use the numbers",
                *(node.NAME, ", ".join(given)),
            )
        return node.NAME
    if missing := [key for key in REQUIRED_NUMBERS if node[key] is None]:
        raise UserError(
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


def check_weights(cfg: "CfgNode") -> str | RegNetDesign:
    """Check the name in `MODEL.WEIGHTS` against the rest of a config, and return the network.

    What the file contains is checked when it is loaded.
    """
    node, weights = regnet_node(cfg), cfg.MODEL.WEIGHTS
    network = network_of(node)
    if node.WEIGHTS_FORMAT not in ("", "RGB", "BGR"):
        raise UserError(
            "MODEL.REGNET.WEIGHTS_FORMAT must be 'RGB', 'BGR', or '' for the weights' own, "
            f"got '{node.WEIGHTS_FORMAT}'"
        )
    if not is_name(weights):
        return network
    source = find_source(weights)
    check_variant(source, network)
    if source.variant is not None and node.NORM == "GN":
        raise UserError(
            f"MODEL.WEIGHTS '{weights}' need batch norm, got MODEL.REGNET.NORM 'GN'; set NORM to "
            "'BN', 'SyncBN' or 'FrozenBN', or MODEL.WEIGHTS to '' to start from random weights"
        )
    given = (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    if source.dialect and len(given[0]) == 3 and not node.WEIGHTS_FORMAT:
        order, seen = CHANNEL_ORDERS[source.dialect], (source.mean, source.std)
        check_images(weights, order, seen, input_format=cfg.INPUT.FORMAT, given=given)
    return network


def check_images(
    weights: str,
    order: ChannelOrder,
    seen: Sequence[Sequence[float] | None],
    *,
    input_format: str,
    given: Sequence[Sequence[float]],
) -> None:
    """Check that a config makes the images that some weights saw.

    BGR weights are right in a BGR config, and in an RGB config with a flipped stem. `seen` are mean
    and deviation per RGB channel, of pixels in [0, 1], None where unknown; `given` those of the
    config, of pixels in [0, 255] and in the order of `input_format`.
    """
    right = "BGR" if order == input_format == "BGR" else "RGB"
    given = [[round(float(value), 3) for value in values] for values in given]
    expected = []
    for known, values in zip(seen, given, strict=True):
        if known:
            scaled = [round(255 * value, 3) for value in known]
            expected.append(scaled[::-1] if right == "BGR" else scaled)
        else:  # taken as given, in the right order
            expected.append(values if input_format == right else values[::-1])
    same = all(
        len(ours) == len(theirs)
        and all(abs(a - b) <= _TOLERANCE for a, b in zip(ours, theirs, strict=True))
        for ours, theirs in zip(given, expected, strict=True)
    )
    if input_format == right and same:
        return
    raise UserError(
        f"the weights '{weights}' expect other images than this config gives (INPUT.FORMAT "
        f"'{input_format}', MODEL.PIXEL_MEAN {given[0]}, MODEL.PIXEL_STD {given[1]}); set\n"
        f'  INPUT.FORMAT: "{right}"\n'
        f"  MODEL.PIXEL_MEAN: {expected[0]}\n"
        f"  MODEL.PIXEL_STD: {expected[1]}\n"
        "or, if they were trained on such images, MODEL.REGNET.WEIGHTS_FORMAT: "
        f'"{input_format}"'
    )


def warn_of_frozen_random_weights(cfg: "CfgNode", node: "CfgNode") -> None:
    """Warn where a training from random weights would keep a part of them."""
    freeze_at = cfg.MODEL.BACKBONE.FREEZE_AT
    if not cfg.MODEL.WEIGHTS and (node.NORM == "FrozenBN" or freeze_at > 0):
        logger.warning(
            "MODEL.WEIGHTS is empty, and MODEL.REGNET.NORM '%s' with MODEL.BACKBONE.FREEZE_AT %d "
            "freezes random weights; set MODEL.WEIGHTS, such as 'timm://regnety_032', or NORM 'BN' "
            "and FREEZE_AT 0 to train from scratch",
            *(node.NORM, freeze_at),
        )
