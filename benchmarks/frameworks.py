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
import time
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.cocoeval import COCOeval
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models import detection
from torchvision.models.detection import faster_rcnn, fcos, mask_rcnn, retinanet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign
from torchvision.transforms import v2

from regnet_backbones.adapters.torchvision import RegNetFPN
from regnet_backbones.adapters.torchvision.models import deeplabv3
from regnet_backbones.design import RegNetDesign
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.inference import Inference
from regnet_backbones.semseg.metrics import results_of

DESIGN = RegNetDesign(w_0=48, w_a=28.0, w_m=1.8, depth=7, group_width=16)
CLASSES = 6  # the background is the first of a detector, the last of the segmenter
GROUP_NORM = partial(nn.GroupNorm, 32)


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


def detection_data(root: Path, split: str) -> CocoDetection:
    """Return a split of the shapes: float32 images, and targets as torchvision takes them."""
    flips = [v2.RandomHorizontalFlip()] if split == "train" else []
    transforms = v2.Compose([v2.ToImage(), *flips, v2.ToDtype(torch.float32, scale=True)])
    annotations = root / "annotations" / f"instances_{split}.json"
    data = CocoDetection(root / "images" / split, annotations, transforms=transforms)
    return wrap_dataset_for_transforms_v2(data, ("image_id", "boxes", "labels", "masks"))


def detector_loss(model: nn.Module, batch: list) -> torch.Tensor:
    """Return the sum of the losses of a batch of images and targets."""
    return sum(model(*map(list, zip(*batch, strict=True))).values())


def segmenter_loss(model: nn.Module, batch: list) -> torch.Tensor:
    """Return the cross entropy of the pixels of a batch of images and masks."""
    images, masks = (torch.stack([each[key] for each in batch]) for key in ("image", "mask"))
    return F.cross_entropy(model(images)["out"], masks, ignore_index=255)


@torch.inference_mode()
def average_precisions(model: nn.Module, data: CocoDetection) -> dict[str, float]:
    """Return the AP of boxes and, of a model that draws them, of masks."""
    boxes, masks = [], []
    for image, target in data:
        found = model([image])[0]
        found["boxes"][:, 2:] -= found["boxes"][:, :2]
        for k, label in enumerate(found["labels"].tolist()):
            one = {"image_id": target["image_id"], "category_id": label}
            one["score"] = found["scores"][k].item()
            boxes.append(one | {"bbox": found["boxes"][k].tolist()})
            if "masks" in found:
                mask = np.asfortranarray(found["masks"][k, 0] > 0.5, np.uint8)
                masks.append(one | {"segmentation": rle.encode(mask)})
    results = {}
    for kind, found in {"bbox": boxes, "segm": masks}.items():
        if found:
            evaluation = COCOeval(data.coco, data.coco.loadRes(found), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            results[f"{kind}_ap"] = round(100 * float(evaluation.stats[0]), 2)
    return results


@torch.inference_mode()
def mean_iou(model: nn.Module, data: Dataset) -> dict[str, float]:
    """Return the mean IoU in the size of the images."""
    counts, inference = torch.zeros(CLASSES, CLASSES, dtype=torch.long), Inference(short_side=64)
    for each in data:
        found = inference.classes(lambda images: model(images)["out"], each["image"][None])
        pairs = (each["mask"] * CLASSES + found[0]).flatten()
        counts += pairs.bincount(minlength=CLASSES**2).view_as(counts)
    return {"miou": round(100 * results_of(counts, [*map(str, range(CLASSES))])["miou"], 2)}


def schedule(step: int, name: str, steps: int) -> float:
    """Return the rate of a step as a part of the peak, as the recipes have it."""
    if name == "deeplabv3":
        return min((step + 1) / 51, (1 - max(0, step - 50) / (steps - 50)) ** 0.9)
    return min(0.001 + step / 40, (1 + math.cos(math.pi * step / steps)) / 2)


def main() -> None:
    """Train, evaluate, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", choices=("mask_rcnn", "retinanet", "fcos", "deeplabv3"))
    parser.add_argument("--shapes", type=Path, default=Path("datasets/shapes"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = build(args.model)
    if args.model == "deeplabv3":
        options = {"scale_range": (0.9, 1.1), "photometric": False}
        root = args.shapes / "semantic"
        data = SegmentationData("ade20k", root, short_side=64, crop_size=64, **options)
        data.setup("fit")
        train, held_out = data.train_set, data.val_set
        loss_of, evaluate, lr = segmenter_loss, mean_iou, 0.003
    else:
        train, held_out = (detection_data(args.shapes, split) for split in ("train", "val"))
        loss_of, evaluate, lr = detector_loss, average_precisions, 0.0015
    loader = DataLoader(train, batch_size=8, shuffle=True, drop_last=True, collate_fn=list)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([{"params": decayed}, others], lr=lr, weight_decay=0.01)
    rates = partial(schedule, name=args.model, steps=args.steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rates)
    start = time.perf_counter()
    batches = islice(chain.from_iterable(repeat(loader)), args.steps)
    for step, batch in enumerate(batches, start=1):
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % 50 == 0:
            print(f"step {step}  loss {loss.item():.3f}", flush=True)
    result = {"model": args.model, "steps": args.steps, "seed": args.seed}
    result["seconds"] = round(time.perf_counter() - start)
    print(json.dumps(result | evaluate(model.eval(), held_out)))


if __name__ == "__main__":
    main()
