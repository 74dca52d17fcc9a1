"""Detectors and segmenters on our extractor, and the same ones on that of their framework."""

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from benchmarks.cases import Case, Part
from benchmarks.extractors import STAGES, detectron2s_regnet
from regnet_backbones import config_path, zoo

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# Of ADE20K.
SEGMENTER_CLASSES = 150

# Of SMP, by part.
ARCHITECTURES = {"segmenter": "Unet", "deeplabv3plus": "DeepLabV3Plus"}

# Boxes of an image to train on, as shares of it: x_0, y_0, x_1, y_1.
BOXES = ((0.1, 0.1, 0.4, 0.5), (0.3, 0.2, 0.9, 0.8), (0.5, 0.6, 0.7, 0.9), (0.0, 0.0, 1.0, 1.0))


def detector_config(case: Case) -> "CfgNode":
    """Return the config of a Mask R-CNN of our recipe."""
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(str(config_path("detectron2/Base-RegNet-FPN.yaml")))
    cfg.MODEL.REGNET.NAME = case.variant
    cfg.MODEL.WEIGHTS = "random"  # nothing is read here; empty, it would be warned of
    cfg.MODEL.DEVICE = case.device
    cfg.MODEL.FPN.IN_FEATURES = list(STAGES)
    return cfg


def our_detector(case: Case) -> nn.Module:
    """Return a Mask R-CNN of our recipe on our backbone.

    A random classifier finds nothing, and the mask head would have no work: proposals are all of
    the first class here, so that images have as many instances as a detector may return.
    """
    from detectron2.modeling import build_model

    model = build_model(detector_config(case))
    nn.init.constant_(model.roi_heads.box_predictor.cls_score.bias[:1], 10)
    return model


def detector_of_detectron2(case: Case) -> nn.Module:
    """Return the same Mask R-CNN on detectron2's own RegNet."""
    model = our_detector(case)
    model.backbone.bottom_up = detectron2s_regnet(
        zoo.get(case.variant).design,
        norm="FrozenBN",
        freeze_at=model.backbone.bottom_up.freeze_at,
    ).to(case.device)
    return model


def detector_inputs(case: Case) -> list[dict[str, object]]:
    """Return what a detector takes: images, with instances to train on."""
    from detectron2.structures import BitMasks, Boxes, Instances

    height, width = case.size
    boxes = torch.tensor(BOXES) * torch.tensor([width, height, width, height])
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.round().int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    instances = Instances(
        case.size,
        gt_boxes=Boxes(boxes),
        gt_classes=torch.arange(len(boxes)),
        gt_masks=BitMasks(masks),
    )
    pixels = (case.images() * 58 + 120).clamp(0, 255)  # of a photo's mean and deviation
    return [
        {"image": image, "height": height, "width": width, "instances": instances}
        for image in pixels
    ]


def run_detector(model: nn.Module, inputs: object) -> object:
    """Give a detector its images; in training it writes numbers to a storage."""
    from detectron2.utils.events import EventStorage

    with EventStorage():
        return model(inputs)


def detector_loss(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the sum of a detector's losses."""
    return sum(losses.values())


def our_segmenter(case: Case) -> nn.Module:
    """Return a segmenter of SMP on our encoder."""
    return _segmenter(case.part, case.variant)


def segmenter_of_smp(case: Case) -> nn.Module:
    """Return a segmenter of SMP on SMP's own encoder."""
    return _segmenter(case.part, f"tu-{case.variant}")


def segmenter_loss(logits: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of logits (N, classes, H, W) to labels in columns."""
    count, classes, height, width = logits.shape
    labels = torch.arange(width, device=logits.device).remainder(classes)
    return functional.cross_entropy(logits.float(), labels.expand(count, height, width))


def _segmenter(part: Part, encoder_name: str) -> nn.Module:
    """Build a segmenter with random weights."""
    import segmentation_models_pytorch as smp

    options = {"encoder_weights": None, "classes": SEGMENTER_CLASSES}
    return smp.create_model(ARCHITECTURES[part], encoder_name, **options)
