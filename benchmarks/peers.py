"""Train torchvision's detectors and SMP's segmenters under the conditions of a run of ours.

    python -m benchmarks.peers detector output/detector/config.yaml --backbone resnet18
    python -m benchmarks.peers segmenter output/semseg/tensorboard/config.yaml --backbone resnet18

The config of a run, on a COCO json or on folders of images and PNG masks, gives the data, sizes of
images and anchors, batch, steps, optimizer, rates and seed. Networks, losses and metrics are those
of torchvision, timm, SMP and torchmetrics, and weights are random.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.detection import MeanAveragePrecision
from torchvision import tv_tensors
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.transforms import v2
from yacs.config import CfgNode

from benchmarks.families import multiply_adds
from benchmarks.machine import conditions
from regnet_backbones.runs.results import write_json

VOID = 255
DICE = smp.losses.DiceLoss("multiclass", ignore_index=VOID)
LOSSES = {"ce": nn.CrossEntropyLoss(ignore_index=VOID), "dice": DICE}


class TimmFPN(nn.Module):
    """An extractor of timm under torchvision's feature pyramid, with batch norm."""

    def __init__(self, name: str, levels: Sequence[int], out_channels: int):
        super().__init__()
        self.body = timm.create_model(name, features_only=True, out_indices=levels)
        channels, pool = self.body.feature_info.channels(), LastLevelMaxPool()
        self.fpn = FeaturePyramidNetwork(channels, out_channels, pool, nn.BatchNorm2d)
        self.out_channels = out_channels

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the maps of the pyramid by torchvision's names."""
        return self.fpn({str(level): each for level, each in enumerate(self.body(images))})


def build_detector(name: str, cfg: CfgNode) -> FasterRCNN:
    """Build a Faster or Mask R-CNN with torchvision's heads and the sizes of a config."""
    levels = [int(level.removeprefix("res")) - 1 for level in cfg.MODEL.FPN.IN_FEATURES]
    names, width = [str(level) for level in range(len(levels))], cfg.MODEL.FPN.OUT_CHANNELS
    sizes, ratios = cfg.MODEL.ANCHOR_GENERATOR.SIZES, cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS
    options = {
        f"rpn_{when}_nms_top_n_{part}": cfg.MODEL.RPN[f"{when}_nms_topk_{part}".upper()]
        for when in ("pre", "post")
        for part in ("train", "test")
    } | {
        "num_classes": 1 + max(number for number, _ in cfg.DATASETS.OWN.CATEGORIES),
        "min_size": cfg.INPUT.MIN_SIZE_TRAIN,
        "max_size": cfg.INPUT.MAX_SIZE_TRAIN,
        "rpn_anchor_generator": AnchorGenerator(sizes, [tuple(ratios[0])] * len(sizes)),
        "rpn_batch_size_per_image": cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE,
        "box_batch_size_per_image": cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE,
        "box_positive_fraction": cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION,
        "box_roi_pool": MultiScaleRoIAlign(names, 7, 2),
    }
    backbone = TimmFPN(name, levels, width)
    if not cfg.MODEL.MASK_ON:
        return FasterRCNN(backbone, **options)
    head = MaskRCNNHeads(width, [width] * 4, 1, nn.BatchNorm2d)
    options |= {"mask_head": head, "mask_roi_pool": MultiScaleRoIAlign(names, 14, 2)}
    model = MaskRCNN(backbone, **options)
    # torchvision's own takes 256 channels, whatever the head has.
    model.roi_heads.mask_predictor = MaskRCNNPredictor(width, width, options["num_classes"])
    return model


def coco_images(file: str, images: str, *flip: v2.Transform, masks: bool) -> Dataset:
    """Return the images of a COCO json that have objects, as torchvision's detectors take them."""
    steps = [v2.ToImage(), *flip, v2.ToDtype(torch.float32, scale=True), v2.SanitizeBoundingBoxes()]
    found = CocoDetection(images, file, transforms=v2.Compose(steps))
    keys = ["boxes", "labels", *["masks"] * masks]
    used = [index for index, key in enumerate(found.ids) if found.coco.getAnnIds(key)]
    return Subset(wrap_dataset_for_transforms_v2(found, target_keys=keys), used)


def detector_loss(model: nn.Module, batch: list) -> torch.Tensor:
    """Return the sum of the losses of a batch of images and targets."""
    return sum(model(*map(list, zip(*batch, strict=True))).values())


def train_detector(args: argparse.Namespace, cfg: CfgNode) -> dict[str, object]:
    """Train a detector, and return what was measured."""
    own, solver, masks = cfg.DATASETS.OWN, cfg.SOLVER, cfg.MODEL.MASK_ON
    steps, warmup = solver.MAX_ITER, solver.WARMUP_ITERS
    torch.manual_seed(cfg.SEED)
    model = build_detector(args.backbone, cfg)
    images = coco_images(own.TRAIN_JSON, own.TRAIN_IMAGES, v2.RandomHorizontalFlip(), masks=masks)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / (warmup + 1)) * (1 + math.cos(math.pi * step / steps)) / 2

    batches = DataLoader(images, solver.IMS_PER_BATCH, shuffle=True, collate_fn=list)
    optimizer = AdamW(model.parameters(), solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)
    seconds = fit(batches, partial(detector_loss, model), optimizer, rate, steps)
    model.transform.min_size = (cfg.INPUT.MIN_SIZE_TEST,)
    model.transform.max_size = cfg.INPUT.MAX_SIZE_TEST
    tested = coco_images(*(args.val or (own.VAL_JSON, own.VAL_IMAGES)), masks=masks)
    measured = {"percent": average_precision(model.eval(), tested), "seed": cfg.SEED}
    measured |= {"train_cpu_seconds": seconds, "images_seen": steps * solver.IMS_PER_BATCH}
    return measured | {"multiply_adds": multiply_adds(model.backbone.body)}


@torch.inference_mode()
def average_precision(
    model: nn.Module, images: Dataset, **thresholds: list[float]
) -> dict[str, float]:
    """Return COCO's AP and AP50 of boxes, and of a Mask R-CNN those of masks, in percent.

    Thresholds other than torchmetrics' own, which are float32, are passed to it.
    """
    masks = isinstance(model, MaskRCNN)
    metric = MeanAveragePrecision(iou_type=("bbox", "segm") if masks else "bbox", **thresholds)
    for image, target in (images[index] for index in range(len(images))):
        (found,) = model([image])
        if masks:
            found["masks"], target["masks"] = found["masks"][:, 0] > 0.5, target["masks"].bool()
        metric.update([found], [target])
    found = metric.compute()
    named = [name for name in found if name.endswith(("map", "map_50"))]
    return {name: round(100 * found[name].item(), 2) for name in named}


class ImagesAndMasks(Dataset):
    """Images, and PNG masks of the same names whose values are classes, one of them ignored."""

    def __init__(self, data: CfgNode, split: str, transform: v2.Transform):
        root, self.void, self.transform = Path(data.root or ""), data.ignore_label, transform
        self.images = sorted(Path(root, data[f"{split}_images"]).iterdir())
        self.masks = Path(root, data[f"{split}_masks"])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = v2.functional.to_image(Image.open(self.images[index]).convert("RGB"))
        with Image.open(self.masks / f"{self.images[index].stem}.png") as labels:
            mask = tv_tensors.Mask(v2.functional.pil_to_tensor(labels)[0])
        mask[mask == self.void] = VOID
        image, mask = self.transform(image, mask)
        return image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor).long()


def train_segmenter(args: argparse.Namespace, cfg: CfgNode) -> dict[str, object]:
    """Train a segmenter, and return what was measured."""
    data, given, steps = cfg.data, cfg.model, cfg.trainer.max_steps
    torch.manual_seed(cfg.seed_everything)
    options = {"classes": data.num_classes, **(given.decoder_options or {})}
    model = smp.create_model(given.decoder, args.backbone, None, **options)
    plain = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.mean, data.std)]
    fill = {tv_tensors.Image: [255 * each for each in data.mean], tv_tensors.Mask: VOID}
    crop = v2.RandomCrop(data.crop_size, pad_if_needed=True, fill=fill)
    low, high = (round(data.short_side * factor) for factor in data.scale_range)
    flip = v2.RandomHorizontalFlip(data.flip)
    drawn = v2.Compose([v2.RandomResize(low, high + 1), crop, flip, *plain])
    images = ImagesAndMasks(data, "train", drawn)

    def rate(step: int) -> float:
        return (1 - step / steps) ** given.power

    def loss(batch: Sequence[torch.Tensor]) -> torch.Tensor:
        logits = model(batch[0])
        return sum(LOSSES[name](logits, batch[1]) for name in given.loss.split("+"))

    batches = DataLoader(images, data.batch_size, shuffle=True, drop_last=True)
    optimizer = AdamW(model.parameters(), given.lr, weight_decay=given.weight_decay)
    seconds = fit(batches, loss, optimizer, rate, steps)
    tested = DataLoader(ImagesAndMasks(data, "val", v2.Compose(plain)))
    percent = {"mIoU": mean_iou(model.eval(), tested, data.num_classes, data.short_side)}
    measured = {"percent": percent, "seed": cfg.seed_everything, "train_cpu_seconds": seconds}
    counts = {"images_seen": steps * data.batch_size, "multiply_adds": multiply_adds(model.encoder)}
    return measured | counts


@torch.inference_mode()
def mean_iou(model: Callable, pairs: Iterable, num_classes: int, short_side: int) -> float:
    """Return the mean IoU at the size of the masks, of logits at a shorter side, in percent."""
    metric = MulticlassJaccardIndex(num_classes, ignore_index=VOID)
    for image, mask in pairs:
        resized = v2.functional.resize(image, [short_side])
        height, width = resized.shape[-2:]
        padded = functional.pad(resized, (0, -width % 32, 0, -height % 32))
        logits = model(padded)[..., :height, :width]
        metric.update(functional.interpolate(logits, mask.shape[1:], mode="bilinear"), mask)
    return round(100 * metric.compute().item(), 2)


def fit(data: Iterable, loss: Callable, optimizer: Optimizer, rate: Callable, steps: int) -> float:
    """Train by the loss of a batch and the factor of the rate; return the CPU seconds it took."""
    schedule, start = LambdaLR(optimizer, rate), time.process_time()
    for step, batch in enumerate(islice(chain.from_iterable(repeat(data)), steps), start=1):
        value = loss(batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}  loss {value.item():.3f}", file=sys.stderr, flush=True)
    return round(time.process_time() - start, 1)


def peers_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=("detector", "segmenter"))
    parser.add_argument("config", type=Path, help="config.yaml of the run to compare with")
    parser.add_argument("--backbone", required=True, help="a name of timm; of SMP for a segmenter")
    parser.add_argument("--val", nargs=2, metavar=("JSON", "IMAGES"), help="other data to test on")
    parser.add_argument("--output", type=Path, metavar="PATH", help="write this json")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Train one network, print what was measured; return 0."""
    args = peers_parser().parse_args(argv)
    cfg = CfgNode.load_cfg(args.config.read_text())
    measured = {"detector": train_detector, "segmenter": train_segmenter}[args.kind](args, cfg)
    print(json.dumps(measured, indent=1))
    if args.output:
        about = {"kind": args.kind, "backbone": args.backbone, **conditions("cpu")}
        write_json(args.output, about | measured)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
