"""Whether the images that a detectron2 config makes are those that its weights saw."""

from collections.abc import Sequence

from regnet_backbones import zoo
from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError
from regnet_backbones.weights.dialects import ChannelOrder
from regnet_backbones.zoo import IMAGENET_MEAN, IMAGENET_STD

# Differences of rounding between published configs are below this, of 255.
_TOLERANCE = 0.5


def check_images(
    weights: str,
    order: ChannelOrder,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    *,
    input_format: str,
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
) -> None:
    """Raise ValueError where a config makes other images than some weights saw.

    BGR weights are right in a BGR config as they are, and in an RGB config with a flipped stem.
    RGB weights are for an RGB config.

    Args:
        weights: what to call them in the error.
        order: of the channels that the weights saw.
        mean: per RGB channel, of pixels in [0, 1]; None where unknown, which is not checked.
        std: per RGB channel, likewise.
        input_format: `INPUT.FORMAT`.
        pixel_mean: `MODEL.PIXEL_MEAN`, of pixels in [0, 255], in the order of `input_format`.
        pixel_std: `MODEL.PIXEL_STD`, likewise.
    """
    right = "BGR" if order == input_format == "BGR" else "RGB"
    right_mean, right_std = (
        # What is unknown is taken as given, in the right order.
        [round(255 * value, 3) for value in known][:: -1 if right == "BGR" else 1]
        if known
        else list(given)[:: 1 if input_format == right else -1]
        for known, given in ((mean, pixel_mean), (std, pixel_std))
    )
    if (
        input_format == right
        and _are_near(pixel_mean, right_mean)
        and _are_near(pixel_std, right_std)
    ):
        return
    given_mean, given_std = (
        [round(float(v), 3) for v in values] for values in (pixel_mean, pixel_std)
    )
    raise UserError(
        f"the weights '{weights}' saw other images than this config makes (INPUT.FORMAT "
        f"'{input_format}', MODEL.PIXEL_MEAN {given_mean}, MODEL.PIXEL_STD {given_std}); set\n"
        f'  INPUT.FORMAT: "{right}"\n'
        f"  MODEL.PIXEL_MEAN: {right_mean}\n"
        f"  MODEL.PIXEL_STD: {right_std}\n"
        "or, for weights that did see such images, MODEL.REGNET.WEIGHTS_FORMAT: "
        f'"{input_format}"'
    )


def check_order(weights: str, order: ChannelOrder, *, input_format: str) -> None:
    """Raise ValueError where RGB weights get BGR images, of which nothing but the order is known.

    BGR weights are right either way, as `check_images` says.
    """
    if order == "RGB" and input_format == "BGR":
        raise UserError(
            f"the weights '{weights}' are taken for RGB images, and INPUT.FORMAT is 'BGR'; set it "
            "to 'RGB', or MODEL.REGNET.WEIGHTS_FORMAT to the order that they saw: 'RGB' turns "
            "their stem, 'BGR' leaves it"
        )


def statistics_of_dialect(
    dialect: str, network: str | RegNetDesign
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return mean and deviation of the images that a classifier of a dialect saw.

    timm's differ by network and training: they are known where all of a network's are the same.
    """
    if not dialect.startswith("timm"):
        return IMAGENET_MEAN, IMAGENET_STD
    variants = [zoo.get(name) for name in zoo.names()]
    statistics = {
        (row.mean, row.std)
        for variant in variants
        if network in (variant.name, variant.design)
        for row in variant.weights.values()
    }
    return statistics.pop() if len(statistics) == 1 else (None, None)


def _are_near(given: Sequence[float], right: Sequence[float]) -> bool:
    """Tell whether two lists of channel values are the same but for rounding."""
    return len(given) == len(right) and all(
        abs(a - b) <= _TOLERANCE for a, b in zip(given, right, strict=True)
    )
