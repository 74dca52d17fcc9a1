"""torchvision's detectors and segmenters on a RegNet.

The contracts are torchvision's: of a detector's backbone `torchvision/models/detection/
backbone_utils.py`, of a segmenter's `torchvision/models/segmentation/_utils.py`. The builders take
the arguments of torchvision's own (`models/detection/mask_rcnn.py`, ...) and choose as those do:
without weights of the backbone nothing is frozen, and batch norm is trained.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import nn
from torchvision.models import get_model_weights
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.segmentation import FCN, LRASPP, DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from regnet_backbones import zoo
from regnet_backbones.backbone import LEVELS, RegNetFeatures
from regnet_backbones.design import RegNetDesign
from regnet_backbones.errors import UserError
from regnet_backbones.norm import Norm
from regnet_backbones.weights import Report
from regnet_backbones.zoo import IMAGENET_MEAN, IMAGENET_STD

Top = Literal["pool", "p6p7", "p6p7_of_c5"]
# `WeightsEnum | bool | str | Path | None`; torchvision has no types.
BackboneWeights: TypeAlias = object

# Between the values of a file's mean or deviation and those given, of pixels in [0, 1].
_TOLERANCE = 0.002

logger = logging.getLogger(__name__)


class RegNetMaps(RegNetFeatures):
    """A `RegNetFeatures` that returns its maps by name, as torchvision's models take them.

    Args:
        name_or_design: a name of `regnet_backbones.zoo.names()`, or a `RegNetDesign`.
        names: what each level to return is called, such as `{4: "aux", 5: "out"}`.
        options: others of `RegNetFeatures`.
    """

    def __init__(
        self, name_or_design: str | RegNetDesign, names: Mapping[int, str], **options: object
    ):
        super().__init__(name_or_design, out_levels=tuple(names), **options)
        self.map_names = list(names.values())

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return maps (N, channels[l], ceil(H / strides[l]), ...) of RGB images `x`, by name."""
        maps: dict[str, torch.Tensor] = {}
        for name, feature_map in zip(self.map_names, self.list_maps(x)):  # noqa: B905
            maps[name] = feature_map
        return maps


class RegNetFPN(nn.Module):
    """A RegNet under a feature pyramid network (FPN), the backbone of torchvision's detectors.

    The names of its state dict are those of torchvision's `BackboneWithFPN`: `body.` and `fpn.`.

    Args:
        name_or_design: a name of `regnet_backbones.zoo.names()`, or a `RegNetDesign`.
        out_channels: channels of the returned maps.
        levels: of the RegNet that enter the FPN, consecutive ones of 2 to 5.
        top: what comes on top: "pool" (P6 by max pooling, for R-CNN), "p6p7" (convolutions of P5,
            as in torchvision), "p6p7_of_c5" (of C5, as in the paper and Detectron2), or None.
        norm, freeze_at, pretrained: see `RegNetFeatures`.
        norm_layer: of the FPN, called with a number of channels; None for none.
        options: others of `RegNetFeatures`.

    Attributes:
        out_channels: channels of each returned map.
        body: the RegNet, a `RegNetMaps`.

    Raises:
        ValueError: as `RegNetFeatures`, or for other levels, or another top.
    """

    def __init__(
        self,
        name_or_design: str | RegNetDesign,
        *,
        out_channels: int = 256,
        levels: Sequence[int] = (2, 3, 4, 5),
        top: Top | None = "pool",
        norm: Norm = "FrozenBN",
        freeze_at: int = 2,
        pretrained: bool | str | Path = False,
        norm_layer: Callable[[int], nn.Module] | None = None,
        **options: object,
    ):
        super().__init__()
        if not pretrained and (norm == "FrozenBN" or freeze_at):
            logger.warning(
                "random weights are frozen (norm='%s', freeze_at=%d): pass pretrained, load some "
                "with regnet_backbones.weights.load, or set norm='BN', freeze_at=0",
                *(norm, freeze_at),
            )
        levels = tuple(levels)
        if not levels or levels[0] < 2 or levels != LEVELS[levels[0] - 1 : levels[-1]]:
            raise UserError(f"levels must be consecutive numbers from 2 to 5, got {levels}")
        names = {level: str(i) for i, level in enumerate(levels)}
        settings = {"norm": norm, "freeze_at": freeze_at, "pretrained": pretrained}
        self.body = RegNetMaps(name_or_design, names, **settings, **options)
        channels = list(self.body.channels.values())
        self.fpn = FeaturePyramidNetwork(
            channels, out_channels, _top_of(top, channels[-1], out_channels), norm_layer
        )
        self.out_channels = out_channels

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return maps "0", "1", ... of the FPN, then the top, of RGB images `x` (N, C, H, W)."""
        return self.fpn(self.body(x))


def faster_rcnn(name_or_design: str | RegNetDesign, **kwargs: object) -> FasterRCNN:
    """Build a Faster R-CNN with the arguments of torchvision's `fasterrcnn_resnet50_fpn`.

    Args:
        name_or_design: a name of `regnet_backbones.zoo.names()`, or a `RegNetDesign`.
        kwargs: `num_classes` (91), the background included; `weights_backbone`, None or anything
            that `pretrained` of `RegNetFeatures` may be, or a member of torchvision's enums or its
            name; `trainable_backbone_layers`, 0 to 5, from the last (3 with weights, else 5);
            `norm`, see `RegNetFeatures` ("FrozenBN" with weights, else "BN"); and those of
            torchvision's class.

    Raises:
        ValueError: `image_mean` or `image_std` are not those of the images that the weights saw,
            or an argument is invalid.
    """
    return _detector(FasterRCNN, name_or_design, **kwargs)


def mask_rcnn(name_or_design: str | RegNetDesign, **kwargs: object) -> MaskRCNN:
    """Build a Mask R-CNN; arguments and errors as of `faster_rcnn`."""
    return _detector(MaskRCNN, name_or_design, **kwargs)


def keypoint_rcnn(
    name_or_design: str | RegNetDesign,
    *,
    num_classes: int | None = None,
    num_keypoints: int | None = None,
    **kwargs: object,
) -> KeypointRCNN:
    """Build a Keypoint R-CNN; other arguments and errors as of `faster_rcnn`.

    Args:
        num_classes: the background included; None for 2.
        num_keypoints: of an object; None for 17.
    """
    kwargs["num_classes"] = 2 if num_classes is None else num_classes
    kwargs["num_keypoints"] = 17 if num_keypoints is None else num_keypoints
    return _detector(KeypointRCNN, name_or_design, **kwargs)


def retinanet(name_or_design: str | RegNetDesign, **kwargs: object) -> RetinaNet:
    """Build a RetinaNet on P3 to P7, P6 of C5; arguments and errors as of `faster_rcnn`."""
    fpn = {"levels": (3, 4, 5), "top": "p6p7_of_c5"}
    return _detector(RetinaNet, name_or_design, fpn=fpn, **kwargs)


def fcos(name_or_design: str | RegNetDesign, **kwargs: object) -> FCOS:
    """Build an FCOS on P3 to P7, P6 of P5; arguments and errors as of `faster_rcnn`."""
    return _detector(FCOS, name_or_design, fpn={"levels": (3, 4, 5), "top": "p6p7"}, **kwargs)


def deeplabv3(
    name_or_design: str | RegNetDesign, *, aux_loss: bool | None = None, **kwargs: object
) -> DeepLabV3:
    """Build a DeepLabV3 with the arguments of `deeplabv3_resnet50`; its output stride is 8.

    Args:
        name_or_design: a name of `regnet_backbones.zoo.names()`, or a `RegNetDesign`.
        aux_loss: whether there is a second classifier, on C4, for training.
        kwargs: `num_classes` (21); `weights_backbone`, see `faster_rcnn`; and options of
            `RegNetFeatures`.
    """
    return _fully_convolutional(DeepLabV3, DeepLabHead, name_or_design, aux_loss, **kwargs)


def fcn(
    name_or_design: str | RegNetDesign, *, aux_loss: bool | None = None, **kwargs: object
) -> FCN:
    """Build an FCN of output stride 8; arguments and errors as of `deeplabv3`."""
    return _fully_convolutional(FCN, FCNHead, name_or_design, aux_loss, **kwargs)


def lraspp(
    name_or_design: str | RegNetDesign,
    *,
    num_classes: int | None = None,
    aux_loss: bool | None = None,
    **kwargs: object,
) -> LRASPP:
    """Build an LR-ASPP of output stride 16; other arguments and errors as of `deeplabv3`.

    Args:
        num_classes: the background included; None for 21.
        aux_loss: False or None, which scripts pass; there is no second classifier.

    Raises:
        ValueError: `aux_loss` is true.
    """
    if aux_loss:
        raise UserError("LR-ASPP has no auxiliary classifier; pass aux_loss=False")
    body = _segmenter_body(name_or_design, {3: "low", 5: "high"}, 16, **kwargs)
    classes = 21 if num_classes is None else num_classes
    return LRASPP(body, body.channels[3], body.channels[5], classes)


def _detector(
    model: type[nn.Module],
    name_or_design: str | RegNetDesign,
    *,
    fpn: Mapping[str, object] | None = None,
    weights: None = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: BackboneWeights = None,
    trainable_backbone_layers: int | None = None,
    norm: Norm | None = None,
    **kwargs: object,
) -> nn.Module:
    """Build a detector of torchvision's on a `RegNetFPN`."""
    _check_no_weights(weights)
    known = {*signature(model).parameters, *signature(GeneralizedRCNNTransform).parameters}
    if unknown := kwargs.keys() - known - {"_skip_resize"}:  # which torchvision would ignore
        raise UserError(f"{model.__name__} has no arguments {', '.join(sorted(unknown))}")
    pretrained = _pretrained(name_or_design, weights_backbone)
    trainable = trainable_backbone_layers
    if trainable is not None and trainable not in range(6):
        raise UserError(f"trainable_backbone_layers must be 0 (none) to 5 (all), got {trainable}")
    if not pretrained and trainable not in (None, 5):
        logger.warning(
            "trainable_backbone_layers=%s needs weights_backbone; it is ignored", trainable
        )
    trainable = (3 if trainable is None else trainable) if pretrained else 5
    backbone = RegNetFPN(
        name_or_design,
        norm=norm or ("FrozenBN" if pretrained else "BN"),
        freeze_at=5 - trainable,
        pretrained=pretrained,
        **(fpn or {}),
    )
    statistics = _image_statistics(backbone.body, kwargs)
    classes = 91 if num_classes is None else num_classes
    return model(backbone, classes, **{**kwargs, **statistics})


def _fully_convolutional(
    model: type[nn.Module],
    head: type[nn.Module],
    name_or_design: str | RegNetDesign,
    aux_loss: bool | None,
    *,
    num_classes: int | None = None,
    **kwargs: object,
) -> nn.Module:
    """Build a segmenter of torchvision's that is a backbone, a classifier and an auxiliary one."""
    names = {4: "aux", 5: "out"} if aux_loss else {5: "out"}
    body = _segmenter_body(name_or_design, names, 8, **kwargs)
    classes = 21 if num_classes is None else num_classes
    auxiliary = FCNHead(body.channels[4], classes) if aux_loss else None
    return model(body, head(body.channels[5], classes), auxiliary)


def _segmenter_body(
    name_or_design: str | RegNetDesign,
    names: Mapping[int, str],
    output_stride: int,
    *,
    weights: None = None,
    progress: bool = True,
    weights_backbone: BackboneWeights = None,
    **options: object,
) -> RegNetMaps:
    """Build the backbone of a segmenter."""
    _check_no_weights(weights)
    pretrained = _pretrained(name_or_design, weights_backbone)
    options |= {"output_stride": output_stride, "pretrained": pretrained}
    body = RegNetMaps(name_or_design, names, **options)
    loaded = body.loaded
    if loaded and loaded.mean and not _same(loaded, (IMAGENET_MEAN, IMAGENET_STD)):
        logger.warning(
            "the weights %s expect images normalised with mean %s and std %s; the presets of "
            "torchvision's reference scripts use other values",
            *(loaded.source, loaded.mean, loaded.std),
        )
    return body


def _top_of(top: Top | None, c5_channels: int, out_channels: int) -> ExtraFPNBlock | None:
    """Return the levels on top of an FPN."""
    if top is None:
        return None
    if top == "pool":
        return LastLevelMaxPool()
    if top not in ("p6p7", "p6p7_of_c5"):
        raise UserError(f"top must be 'pool', 'p6p7', 'p6p7_of_c5' or None, got {top!r}")
    is_of_c5 = top == "p6p7_of_c5"
    block = LastLevelP6P7(c5_channels if is_of_c5 else out_channels, out_channels)
    block.use_P5 = not is_of_c5  # which torchvision guesses from the numbers of channels
    return block


def _check_no_weights(weights: object) -> None:
    if weights is not None:
        raise UserError(
            f"weights must be None, as none of whole models are published, got {weights!r}; pass "
            "weights_backbone, or load a checkpoint with load_state_dict"
        )


def _pretrained(name_or_design: str | RegNetDesign, weights: BackboneWeights) -> bool | str | Path:
    """Translate torchvision's `weights_backbone` to `pretrained` of `RegNetFeatures`."""
    if weights is None or weights is False:
        return False
    if weights is True or weights == "DEFAULT":
        return True
    named = re.fullmatch(r"(\w+_Weights)\.(\w+)", str(weights))
    if named is None:
        return weights
    torchvision_name = None
    if not isinstance(name_or_design, RegNetDesign):
        torchvision_name = zoo.get(name_or_design).torchvision_name
    own = get_model_weights(torchvision_name) if torchvision_name else None
    if own is None or own.__name__ != named[1]:
        raise UserError(
            f"weights_backbone {named[0]} is for another network than {name_or_design}; pass "
            + (f"one of {own.__name__}" if own else "'DEFAULT' for timm's, torchvision has none")
        )
    return f"torchvision://{torchvision_name}.{named[2]}"


def _image_statistics(body: RegNetMaps, given: Mapping[str, object]) -> dict[str, object]:
    """Return `image_mean` and `image_std` of the weights; raise where others are given."""
    loaded = body.loaded
    if loaded is None or loaded.mean is None:
        return {}
    expected = {"image_mean": list(loaded.mean), "image_std": list(loaded.std)}
    values = [given.get(key) or expected[key] for key in expected]
    if not _same(loaded, values):
        raise UserError(
            f"the weights {loaded.source} need image_mean {expected['image_mean']} and image_std "
            f"{expected['image_std']}, got {values[0]} and {values[1]}; leave both out"
        )
    return expected


def _same(loaded: Report, values: Sequence[Sequence[float]]) -> bool:
    """Whether mean and deviation are those of the images that weights saw."""
    pairs = zip((*loaded.mean, *loaded.std), (*values[0], *values[1]), strict=True)
    return all(abs(a - b) <= _TOLERANCE for a, b in pairs)
