"""Train one of torchvision's models on the demo's RegNet and shapes, and print AP or mean IoU.

    python tools/make_shapes.py --output datasets/shapes
    python -m benchmarks.frameworks mask_rcnn --steps 500

What `configs/detectron2/quick/{mask_rcnn,retinanet,fcos}_regnet_small_fpn.yaml` and, with decoder
DeepLabV3, `configs/semseg/quick/unet_regnet_small_shapes.yaml` learn in the other frameworks. The
network, FPN, heads, anchors, sampling, batches, rates and thresholds are those of the recipes, as
far as torchvision has the options. Losses, matching and initial weights are torchvision's own.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path

import torch
from pycocotools.cocoeval import Params
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import detection
from torchvision.models.detection import faster_rcnn, fcos, mask_rcnn, retinanet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign
from torchvision.transforms import v2

from benchmarks.peers import LOSSES, average_precision, coco_images, detector_loss, fit, mean_iou
from regnet_backbones.adapters.torchvision import RegNetFPN
from regnet_backbones.adapters.torchvision.models import deeplabv3
from regnet_backbones.design import RegNetDesign
from regnet_backbones.semseg.datamodule import SegmentationData

DESIGN = RegNetDesign(w_0=48, w_a=28.0, w_m=1.8, depth=7, group_width=16)
CLASSES = 6  # the background is the first of a detector, the last of the segmenter
GROUP_NORM = partial(nn.GroupNorm, 32)

# Of COCO, in float64: the IoU of two masks, a ratio of counts, may be just one of them.
LIMITS = Params("segm")
THRESHOLDS = {"iou_thresholds": [*LIMITS.iouThrs], "rec_thresholds": [*LIMITS.recThrs]}

# Images to train on, the loss of a batch, and what returns the scores of the trained model.
Task = tuple[Dataset, Callable[[list], torch.Tensor], Callable[[], dict[str, float]]]


def build(name: str) -> nn.Module:
    """Build a model as the recipe of the other framework has it."""
    if name == "deeplabv3":
        return deeplabv3(DESIGN, num_classes=CLASSES)
    fpn = {"levels": (2, 3, 4, 5), "top": "pool"}
    if name == "retinanet":
        fpn = {"levels": (3, 4, 5), "top": "p6p7_of_c5"}
    norms = {"norm": "BN", "freeze_at": 0, "norm_layer": nn.BatchNorm2d}
    backbone = RegNetFPN(DESIGN, out_channels=64, **fpn, **norms)
    options = {"min_size": 128, "max_size": 128}
    ratios = ((0.5, 1.0, 2.0),) * 5
    if name == "fcos":
        points = AnchorGenerator(((4,), (8,), (16,), (32,), (64,)), ((1.0,),) * 5)
        options |= {"anchor_generator": points, "head": fcos.FCOSHead(64, 1, CLASSES, 2)}
        return detection.FCOS(backbone, CLASSES, **options)
    if name == "retinanet":
        sizes = ((16, 20), (32, 40), (64, 80), (96, 104), (112, 120))
        head = retinanet.RetinaNetHead(64, 6, CLASSES, GROUP_NORM)
        for part in (head.classification_head, head.regression_head):
            part.conv = part.conv[:2]  # of four
        options |= {"anchor_generator": AnchorGenerator(sizes, ratios), "head": head}
        return detection.RetinaNet(backbone, CLASSES, detections_per_img=100, **options)
    return detection.MaskRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((12,), (24,), (48,), (72,), (96,)), ratios),
        rpn_pre_nms_top_n_train=100,
        rpn_post_nms_top_n_train=50,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=50,
        rpn_batch_size_per_image=64,
        box_head=faster_rcnn.FastRCNNConvFCHead((64, 7, 7), [64, 64], [256], GROUP_NORM),
        box_predictor=faster_rcnn.FastRCNNPredictor(256, CLASSES),
        box_batch_size_per_image=16,
        box_positive_fraction=0.5,
        mask_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 14, 2),
        mask_head=mask_rcnn.MaskRCNNHeads(64, (64, 64), 1, nn.BatchNorm2d),
        mask_predictor=mask_rcnn.MaskRCNNPredictor(64, 64, CLASSES),
        **options,
    )


def detector_task(model: nn.Module, shapes: Path) -> Task:
    """Return what a detector learns from, and its scores."""
    train, val = (
        (shapes / "annotations" / f"instances_{split}.json", shapes / "images" / split)
        for split in ("train", "val")
    )
    images = coco_images(*train, v2.RandomHorizontalFlip(), masks=True)
    tested = coco_images(*val, masks=True)
    scores = partial(average_precision, model, tested, **THRESHOLDS)
    return images, partial(detector_loss, model), scores


def segmenter_task(model: nn.Module, shapes: Path) -> Task:
    """Return what a segmenter learns from, and its scores."""
    options = {"scale_range": (0.9, 1.1), "photometric": False}
    data = SegmentationData("ade20k", shapes / "semantic", short_side=64, crop_size=64, **options)
    data.setup("fit")

    def logits(images: torch.Tensor) -> torch.Tensor:
        return model(images)["out"]

    def loss(batch: list) -> torch.Tensor:
        images, masks = (torch.stack([each[key] for each in batch]) for key in ("image", "mask"))
        return LOSSES["ce"](logits(images), masks)

    def scores() -> dict[str, float]:
        pairs = map(itemgetter("image", "mask"), DataLoader(data.val_set))
        return {"mIoU": mean_iou(logits, pairs, CLASSES, short_side=64)}

    return data.train_set, loss, scores


def schedule(step: int, name: str, steps: int) -> float:
    """Return the rate of a step as a part of the peak, as the recipes have it."""
    if name == "deeplabv3":
        return min((step + 1) / 51, (1 - max(0, step - 50) / (steps - 50)) ** 0.9)
    return min(0.001 + step / 40, (1 + math.cos(math.pi * step / steps)) / 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate, print one line of JSON; return 0."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", choices=("mask_rcnn", "retinanet", "fcos", "deeplabv3"))
    parser.add_argument("--shapes", type=Path, default=Path("datasets/shapes"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    model = build(args.model)
    task, lr = (segmenter_task, 0.003) if args.model == "deeplabv3" else (detector_task, 0.0015)
    images, loss, scores = task(model, args.shapes)
    batches = DataLoader(images, batch_size=8, shuffle=True, drop_last=True, collate_fn=list)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([{"params": decayed}, others], lr=lr, weight_decay=0.01)
    rate = partial(schedule, name=args.model, steps=args.steps)
    result = {"model": args.model, "steps": args.steps, "seed": args.seed}
    result["cpu_seconds"] = fit(batches, loss, optimizer, rate, args.steps)
    model.eval()
    print(json.dumps(result | scores()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
