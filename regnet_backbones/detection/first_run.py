"""A config for a run that has none: chosen from the training data and the device.

On a GPU it is a recipe of the package. On a CPU it is a small network, on images as small as the
objects allow, for as many iterations as fit into the minutes of the run.
"""

import argparse
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from regnet_backbones import config_path
from regnet_backbones.detection import processes
from regnet_backbones.detection.config import changed, read_config
from regnet_backbones.detection.data_checks.coco import CocoSplit
from regnet_backbones.detection.training.trainer import Trainer
from regnet_backbones.errors import UserError
from regnet_backbones.runs import first_run
from regnet_backbones.runs.resume import seeded
from regnet_backbones.runs.trained import CONFIG_NAME

OUTPUT = "output/detector"
BASES = {"cpu": "quick/mask_rcnn_regnetx_002_fpn", "cuda": "mask_rcnn_regnety_032_fpn_1x"}

SMALLEST = 16  # pixels of the smallest objects, as the network on a CPU sees them
SIDES = (192, 320)  # of its images
LEAST_SIDE = 64  # below it, batch norm has a single pixel of C5
LONG, PIXELS = 2.0, 2**20  # sides of longer images as parts of the shorter one, up to such an area
CPU_BATCH = 4
GPU_BATCH, GIB_OF_IMAGE = 8, 4  # at most for each GPU, and what an image of 800x1333 takes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """What a choice depends on; of objects and images 2% are beyond each limit.

    `small` and `large` are sides of objects, the roots of their areas, as parts of the shorter
    side of their images. `masks` is `INPUT.MASK_FORMAT`, or "" if an object has no mask.
    """

    images: int
    short_side: int  # the median, in pixels
    small: float
    large: float
    long: float  # the longer side by the shorter one
    objects: int  # in an image
    masks: str


def is_needed(args: argparse.Namespace) -> bool:
    """Return whether a command line has data and no config; a resumed run takes its own."""
    first_run.check_minutes(args.minutes)
    has_data = args.train is not None or args.train_json is not None
    config = Path(_by_key(args.opts).get("OUTPUT_DIR", OUTPUT), CONFIG_NAME)
    if has_data and args.resume and not args.config_file and config.is_file():
        args.config_file = str(config)
        return False
    if has_data and not args.config_file and not args.eval_only:
        if processes.started_by_torchrun() or args.num_machines > 1:
            raise UserError(
                f"torchrun and several machines need --config-file, such as a run's {CONFIG_NAME}"
            )
        return True
    if args.minutes is not None:
        raise UserError("--minutes needs a run without --config-file; set SOLVER.MAX_ITER instead")
    return False


class FirstRun:
    """The choice for a command line, whose own keys win."""

    def __init__(self, args: argparse.Namespace):
        self._args, self._opts, self._given = args, list(args.opts), _by_key(args.opts)
        self._chosen: dict[str, object] = {}

    def base(self) -> CfgNode:
        """Return the config that is fitted to the data later."""
        default = "cuda" if torch.cuda.is_available() else "cpu"
        device = self._given.get("MODEL.DEVICE") or default
        self._base = BASES["cpu" if device == "cpu" else "cuda"]
        opts = ["MODEL.DEVICE", default, "OUTPUT_DIR", OUTPUT, *self._opts]
        return read_config(config_path(f"detectron2/{self._base}.yaml"), opts)

    def fit(self, cfg: CfgNode, read: Mapping[str, CocoSplit]) -> None:
        """Set all but the length of the run, for data of `use_own_data`."""
        self._data, weights, gpus = look_at(*read.values()), cfg.MODEL.WEIGHTS, 0
        if "MODEL.WEIGHTS" not in self._given:
            name = cfg.MODEL.REGNET.NAME
            weights = name and first_run.published_weights(name, key="MODEL.WEIGHTS")
        memory = 0.0
        if cfg.MODEL.DEVICE != "cpu":
            gpus = self._args.num_gpus
            memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        self._set(cfg, choose(self._data, weights=weights, gpus=gpus, gpu_memory=memory))

    def fit_length(self, cfg: CfgNode) -> CfgNode:
        """Return a config with the length of its run; time steps on a CPU or for `--minutes`."""
        cfg, batch, seconds = changed(cfg), cfg.SOLVER.IMS_PER_BATCH, None
        minutes = self._args.minutes
        if cfg.MODEL.DEVICE == "cpu":
            minutes = minutes or first_run.MINUTES
        iterations = cfg.SOLVER.MAX_ITER
        if "SOLVER.MAX_ITER" not in self._given:
            seconds = minutes and seconds_per_iteration(cfg, self._args.num_gpus)
            times = {"seconds": seconds, "minutes": minutes}
            iterations = first_run.steps_of(self._data.images, batch, **times)
        self._set(cfg, schedule(iterations))
        cfg.freeze()
        facts = (
            f"{self._data.images:,} images with objects of {self._data.small:.0%} to "
            f"{self._data.large:.0%} of their shorter side, on {cfg.MODEL.DEVICE}"
        )
        facts += "" if seconds is None else f" with {seconds:.2f} s for {batch} images"
        options = [f"{key} {v!r}" for key, v in self._chosen.items() if key not in self._given]
        command = ["train-detector", "--config-file", str(Path(cfg.OUTPUT_DIR, CONFIG_NAME))]
        first_run.show(facts, [f"--config-file {self._base}", *options], command)
        return cfg

    def _set(self, cfg: CfgNode, chosen: Mapping[str, object]) -> None:
        self._chosen |= chosen
        cfg.merge_from_list([*(each for pair in chosen.items() for each in pair), *self._opts])


def _by_key(opts: Sequence[str]) -> dict[str, str]:
    """Return the values of overrides by their keys."""
    return dict(zip(opts[::2], opts[1::2], strict=False))


def look_at(train: CocoSplit, val: CocoSplit) -> Data:
    """Return what a choice depends on."""
    images = train.content["images"]
    sides = {i["id"]: min(i["width"], i["height"]) for i in images}
    ratios = [max(i["width"], i["height"]) / sides[i["id"]] for i in images]
    objects, others = (
        [entry for entry in split.content["annotations"] if not entry["iscrowd"]]
        for split in (train, val)
    )
    parts = [math.sqrt(a["bbox"][2] * a["bbox"][3]) / sides[a["image_id"]] for a in objects]
    small, large = np.quantile(parts or [0.5], (0.02, 0.98)).clip(0.001).tolist()
    counts = [*Counter(entry["image_id"] for entry in objects).values()]
    masks = [entry.get("segmentation") for entry in (*objects, *others)]
    if 0 < (bare := masks.count(None) + masks.count([])) < len(masks):
        text = "training boxes only: %d of %d objects have no segmentation"
        logger.warning(text, bare, len(masks))
    form = "bitmask" if any(isinstance(mask, dict) for mask in masks) else "polygon"
    return Data(
        images=len(sides),
        short_side=round(median(sides.values())),
        small=small,
        large=large,
        long=float(np.quantile(ratios, 0.98)),
        objects=math.ceil(np.quantile(counts or [1], 0.98)),
        masks=form if masks and all(masks) else "",
    )


def choose(data: Data, *, weights: str, gpus: int, gpu_memory: float) -> dict[str, object]:
    """Return keys and values for all but the length of a run; `gpu_memory` is in GiB."""
    chosen: dict[str, object] = {"MODEL.WEIGHTS": weights, "MODEL.MASK_ON": bool(data.masks)}
    if data.masks:
        chosen["INPUT.MASK_FORMAT"] = data.masks
    each = 2 ** int(math.log2(min(max(gpu_memory / GIB_OF_IMAGE, 1), GPU_BATCH)))
    batch = gpus * min(each, max(data.images // gpus, 1)) if gpus else min(CPU_BATCH, data.images)
    norm, freeze = ("FrozenBN", 2) if weights else ("BN", 0)
    chosen |= {
        "MODEL.REGNET.NORM": norm,
        "MODEL.BACKBONE.FREEZE_AT": freeze,
        "SOLVER.IMS_PER_BATCH": batch,
        "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
        "TEST.DETECTIONS_PER_IMAGE": max(100, 2 * data.objects),
        "SEED": 0,
    }
    if gpus and weights:
        return chosen | {"SOLVER.BASE_LR": 0.02 * batch / 16}  # the recipe's, in proportion
    rate = (0.0005 if weights else 0.0015) * math.sqrt(batch / 8)
    chosen |= {"SOLVER.OPTIMIZER": "ADAMW", "SOLVER.WEIGHT_DECAY": 0.01, "MODEL.FPN.NORM": "BN"}
    chosen["SOLVER.BASE_LR"] = round(rate, 6)
    return chosen if gpus else chosen | _sizes_on_cpu(data)


def _sizes_on_cpu(data: Data) -> dict[str, object]:
    """Return the keys of what depends on the size and the number of objects."""
    side = min(max(SMALLEST / data.small, SIDES[0]), SIDES[1], data.short_side)
    side = max(math.ceil(side / 32) * 32, LEAST_SIDE)
    # With one size, small datasets are learnt by heart: of 205 images that cost 5 AP.
    sides = (max(side - 32, LEAST_SIDE), side, side + 32, side + 64)
    long = max(min(data.long, PIXELS / side**2), LONG)
    small, large = (max(part * side, 4.0) for part in (data.small, data.large))
    # P2 takes as long as all the other maps, and is for objects below two pixels of P3.
    levels = range(3 if small >= SMALLEST else 2, 7)
    maps = [f"p{level}" for level in levels]
    proposals = min(max(4 * data.objects, 50), 1000)
    return {
        "INPUT.MIN_SIZE_TRAIN": sides,
        "INPUT.MAX_SIZE_TRAIN": math.ceil(long * sides[-1]),
        "INPUT.MIN_SIZE_TEST": side,
        "INPUT.MAX_SIZE_TEST": math.ceil(long * side),
        "MODEL.FPN.IN_FEATURES": [f"res{level}" for level in levels[:-1]],
        "MODEL.RPN.IN_FEATURES": maps,
        "MODEL.ROI_HEADS.IN_FEATURES": maps[:-1],
        "MODEL.ANCHOR_GENERATOR.SIZES": [
            [round(size)] for size in np.geomspace(small, large, len(levels)).tolist()
        ],
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2 * proposals,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": proposals,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 4 * proposals,
        "MODEL.RPN.POST_NMS_TOPK_TEST": proposals,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": min(max(2 * data.objects, 16), 128),
    }


def schedule(iterations: int) -> dict[str, object]:
    """Return the keys of a run's length, with their values."""
    return {
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.WARMUP_ITERS": min(iterations // 10, 500),
        "SOLVER.STEPS": (),
        "SOLVER.CHECKPOINT_PERIOD": max(iterations // 10, 100),
        "TEST.EVAL_PERIOD": -(-iterations // 2),
    }


def seconds_per_iteration(cfg: CfgNode, gpus: int) -> float:
    """Return the time of an iteration of a config's training, data loading included."""
    cfg = cfg.clone()
    if cfg.MODEL.DEVICE != "cpu":
        cfg.SOLVER.IMS_PER_BATCH //= gpus
    with seeded(0), EventStorage(0):
        model = Trainer.build_model(cfg).train()
        optimizer = Trainer.build_optimizer(cfg, model)
        batches = iter(Trainer.build_train_loader(cfg))

        def loss(batch: list[dict]) -> torch.Tensor:
            return sum(model(batch).values())

        return first_run.seconds_per_step(batches, loss, optimizer, cfg.MODEL.DEVICE)
