"""A config for a run that has none: chosen from the training data and the device.

On a GPU it is a recipe of the package, fitted to the data. On a CPU it is a small network, on
images as small as its objects allow, for as many iterations as fit into the minutes of the run.
"""

import argparse
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from regnet_backbones import config_path
from regnet_backbones.detection import processes
from regnet_backbones.detection.config import read_config
from regnet_backbones.detection.data_checks.coco import CocoSplit
from regnet_backbones.detection.training.trainer import Trainer
from regnet_backbones.errors import UserError
from regnet_backbones.measure.timing import interleaved_times
from regnet_backbones.runs import first_run
from regnet_backbones.runs.resume import seeded
from regnet_backbones.runs.trained import CONFIG_NAME

OUTPUT = "output/detector"
BASES = {"cpu": "quick/mask_rcnn_regnetx_002_fpn", "cuda": "mask_rcnn_regnety_032_fpn_1x"}

# Pixels: of a side of the smallest objects as the network sees them, and of images on a CPU.
SMALLEST = SMALLEST_ON_P3 = 16
SIDES = (192, 320)
CPU_BATCH = 4
GIB_OF_IMAGE = 4  # of a GPU, for an image of 800x1333 in training
IMAGES_PER_GPU = 8


@dataclass(frozen=True)
class Data:
    """What a choice depends on.

    Attributes:
        images: number of training images.
        size: median of their shorter and of their longer sides, in pixels.
        small: side of an object, the root of its box's area, as a part of the image's shorter side:
            2 of 100 objects are smaller.
        large: the same, 2 of 100 are larger.
        objects: in an image; 2 of 100 images have more.
        masks: "polygon" or "bitmask", what `INPUT.MASK_FORMAT` must be; "" if an object has none.
    """

    images: int
    size: tuple[int, int]
    small: float
    large: float
    objects: int
    masks: str

    def __str__(self) -> str:
        short, long = self.size
        small, large = (f"{short * part:.0f}" for part in (self.small, self.large))
        return (
            f"{self.images:,} training images of about {long}x{short} pixels, with objects of "
            f"{small} to {large} pixels, {self.objects} at most in nearly all images, "
            f"{'with' if self.masks else 'not all with'} masks"
        )


def is_needed(args: argparse.Namespace) -> bool:
    """Return whether a command line has data and no config; of a run to be resumed, take its own.

    Raises:
        UserError: `--minutes` with a config, or a choice that several machines may make otherwise.
    """
    first_run.check_minutes(args.minutes)
    given = dict(zip(args.opts[::2], args.opts[1::2], strict=False))
    config = Path(given.get("OUTPUT_DIR", OUTPUT), CONFIG_NAME)
    has_data = args.train is not None or args.train_json is not None
    if has_data and not args.config_file and not args.eval_only:
        if not (args.resume and config.is_file()):
            if processes.started_by_torchrun() or args.num_machines > 1:
                raise UserError(
                    "a config is chosen on one machine, and not by torchrun; pass --config-file, "
                    f"such as the {CONFIG_NAME} of a run on one machine"
                )
            return True
        args.config_file = str(config)
    elif args.minutes is not None:
        raise UserError("--minutes is for a run without --config-file; set SOLVER.MAX_ITER")
    return False


class FirstRun:
    """The choice of a config for the data of a command line, whose own keys win.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace):
        self.args, self.opts = args, list(args.opts)
        self._chosen: dict[str, object] = {}

    def base(self) -> CfgNode:
        """Return the config that is fitted to the data later."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        opts = ["MODEL.DEVICE", device, "OUTPUT_DIR", OUTPUT, *self.opts]
        cfg = read_config(_path_of(BASES[device]), opts)
        self.recipe = BASES["cpu" if cfg.MODEL.DEVICE == "cpu" else "cuda"]
        return read_config(_path_of(self.recipe), opts)

    def fit(self, cfg: CfgNode, read: Mapping[str, CocoSplit]) -> None:
        """Set all but the length of the run in a config of `base`, for data of `use_own_data`."""
        self.data, device, weights = look_at(*read.values()), "cpu", cfg.MODEL.WEIGHTS
        if "MODEL.WEIGHTS" not in self.opts[::2]:
            name = cfg.MODEL.REGNET.NAME
            weights = name and first_run.published_weights(name, key="MODEL.WEIGHTS")
        options: dict[str, object] = {"weights": weights}
        if "SOLVER.IMS_PER_BATCH" in self.opts[::2]:
            options["batch"] = cfg.SOLVER.IMS_PER_BATCH
        if "INPUT.MIN_SIZE_TEST" in self.opts[::2]:
            options["side"] = cfg.INPUT.MIN_SIZE_TEST
        if cfg.MODEL.DEVICE != "cpu":
            memory = torch.cuda.get_device_properties(torch.device(cfg.MODEL.DEVICE)).total_memory
            device = "cuda"
            options |= {"gpus": self.args.num_gpus, "gpu_memory": memory / 2**30}
        self._set(cfg, choose(self.data, device=device, **options))

    def fit_length(self, cfg: CfgNode) -> CfgNode:
        """Return a config of `fit` with the length of its run, and print all that was chosen.

        Some iterations are timed on a CPU, and with `--minutes`.
        """
        cfg, minutes, on_cpu = cfg.clone(), self.args.minutes, cfg.MODEL.DEVICE == "cpu"
        cfg.defrost()
        minutes = first_run.MINUTES if minutes is None and on_cpu else minutes
        iterations, seconds = cfg.SOLVER.MAX_ITER, None
        batch, images = cfg.SOLVER.IMS_PER_BATCH, self.data.images
        if "SOLVER.MAX_ITER" not in self.opts[::2]:
            seconds = None if minutes is None else seconds_per_iteration(cfg, self.args.num_gpus)
            iterations = first_run.steps_of(images, batch, seconds=seconds, minutes=minutes)
        self._set(cfg, schedule(iterations))
        cfg.freeze()
        place = f"{os.cpu_count()} CPU cores" if on_cpu else f"{self.args.num_gpus} GPUs"
        timed = "" if seconds is None else f", {seconds:.2f} s an iteration"
        length = f"{iterations:,} iterations of {batch} images{timed}"
        facts = f"{self.data}, on {place}; {length}, {iterations * batch / images:.3g} epochs"
        given = self.opts[::2]
        options = [f"{key} {value!r}" for key, value in self._chosen.items() if key not in given]
        config = str(Path(cfg.OUTPUT_DIR, CONFIG_NAME))
        command = ["regnet-backbones", "train-detector", "--config-file", config]
        recipe = f"--config-file {self.recipe}"
        print(first_run.describe(facts, [recipe, *options], command), flush=True)
        return cfg

    def _set(self, cfg: CfgNode, chosen: Mapping[str, object]) -> None:
        """Set what is chosen, then what the command line has."""
        self._chosen |= chosen
        cfg.merge_from_list([each for pair in chosen.items() for each in pair])
        cfg.merge_from_list(self.opts)


def look_at(train: CocoSplit, val: CocoSplit) -> Data:
    """Return what a choice depends on."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in train.content["images"]}
    objects = [entry for entry in train.content["annotations"] if not entry["iscrowd"]]
    sides = [
        math.sqrt(entry["bbox"][2] * entry["bbox"][3]) / min(sizes[entry["image_id"]])
        for entry in objects
    ]
    counts = list(Counter(entry["image_id"] for entry in objects).values())
    both = [*objects, *(a for a in val.content["annotations"] if not a["iscrowd"])]
    masks = [entry.get("segmentation") for entry in both]
    form = "bitmask" if any(isinstance(mask, dict) for mask in masks) else "polygon"
    small, large = np.quantile(sides or [0.1, 0.5], (0.02, 0.98))
    return Data(
        images=len(sizes),
        size=(
            round(median(map(min, sizes.values()))),
            round(median(map(max, sizes.values()))),
        ),
        small=max(float(small), 0.001),
        large=float(large),
        objects=math.ceil(np.quantile(counts or [1], 0.98)),
        masks=form if masks and all(masks) else "",
    )


def choose(
    data: Data,
    *,
    device: str,
    weights: str,
    gpus: int = 1,
    gpu_memory: float = 16.0,
    batch: int | None = None,
    side: int | None = None,
) -> dict[str, object]:
    """Return keys of a config and their values, all but the length of the run.

    Args:
        data: what to train on.
        device: "cpu" or "cuda".
        weights: what `MODEL.WEIGHTS` is to be; "" for random ones.
        gpus: number of GPUs.
        gpu_memory: of each, GiB.
        batch: images of an iteration, if they are given.
        side: pixels of the shorter side of images, if they are given.
    """
    chosen: dict[str, object] = {"MODEL.WEIGHTS": weights, "MODEL.MASK_ON": bool(data.masks)}
    if data.masks:
        chosen["INPUT.MASK_FORMAT"] = data.masks
    if device == "cpu":
        batch = batch or min(CPU_BATCH, data.images)
        chosen |= _fit_to_cpu(data, side)
    else:
        each = 2 ** int(math.log2(min(max(gpu_memory / GIB_OF_IMAGE, 1), IMAGES_PER_GPU)))
        batch = batch or gpus * min(each, max(data.images // gpus, 1))
        chosen |= _fit_to_gpu(data, side)
    chosen["SOLVER.IMS_PER_BATCH"] = batch
    if weights:
        chosen |= {"MODEL.REGNET.NORM": "FrozenBN", "MODEL.BACKBONE.FREEZE_AT": 2}
    else:
        chosen |= {"MODEL.REGNET.NORM": "BN", "MODEL.BACKBONE.FREEZE_AT": 0, "MODEL.FPN.NORM": "BN"}
    if weights and device != "cpu":
        chosen["SOLVER.BASE_LR"] = 0.02 * batch / 16  # the recipe's, in proportion
    else:
        rate = 0.0005 if weights else 0.0015  # of 8 images
        chosen |= {"SOLVER.OPTIMIZER": "ADAMW", "SOLVER.WEIGHT_DECAY": 0.01}
        chosen["SOLVER.BASE_LR"] = round(rate * math.sqrt(batch / 8), 6)
    return chosen | {"SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR", "SEED": 0}


def schedule(iterations: int) -> dict[str, object]:
    """Return the keys of a run's length, with their values."""
    return {
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.WARMUP_ITERS": min(iterations // 10, 500),
        "SOLVER.STEPS": (),
        "SOLVER.CHECKPOINT_PERIOD": max(iterations // 10, 1),
        "TEST.EVAL_PERIOD": max(-(-iterations // 2), 1),
    }


def seconds_per_iteration(cfg: CfgNode, gpus: int) -> float:
    """Return the median time of some iterations of a config's training, data loading included."""
    cfg = cfg.clone()
    if cfg.MODEL.DEVICE != "cpu":
        cfg.SOLVER.IMS_PER_BATCH //= gpus
    with seeded(0), EventStorage(0):
        model = Trainer.build_model(cfg).train()
        optimizer = Trainer.build_optimizer(cfg, model)
        batches = iter(Trainer.build_train_loader(cfg))

        def iterate() -> None:
            losses = sum(model(next(batches)).values())
            optimizer.zero_grad()
            losses.backward()
            optimizer.step()

        times = interleaved_times(
            {"": iterate}, runs=20, warmup=3, limit=15, device=cfg.MODEL.DEVICE
        )
    if cfg.MODEL.DEVICE != "cpu":
        torch.cuda.empty_cache()
    return median(times[""])


def _fit_to_cpu(data: Data, side: int | None) -> dict[str, object]:
    """Return the keys of sizes for a small network on a CPU."""
    fitting = min(max(SMALLEST / data.small, SIDES[0]), SIDES[1], data.size[0])
    side = side or math.ceil(fitting / 32) * 32
    small, large = (max(part * side, 4.0) for part in (data.small, data.large))
    levels = range(3 if small >= SMALLEST_ON_P3 else 2, 7)
    steps = np.linspace(0, 1, len(levels))
    sizes = [[round(small * (large / small) ** step)] for step in steps.tolist()]
    maps = [f"p{level}" for level in levels]
    proposals = min(max(4 * data.objects, 50), 1000)
    return {
        "INPUT.MIN_SIZE_TRAIN": (side,),
        "INPUT.MAX_SIZE_TRAIN": 2 * side,
        "INPUT.MIN_SIZE_TEST": side,
        "INPUT.MAX_SIZE_TEST": 2 * side,
        "MODEL.FPN.IN_FEATURES": [f"res{level}" for level in levels[:-1]],
        "MODEL.ROI_HEADS.IN_FEATURES": maps[:-1],
        "MODEL.RPN.IN_FEATURES": maps,
        "MODEL.ANCHOR_GENERATOR.SIZES": sizes,
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2 * proposals,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": proposals,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 4 * proposals,
        "MODEL.RPN.POST_NMS_TOPK_TEST": proposals,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": min(max(2 * data.objects, 16), 128),
        "TEST.DETECTIONS_PER_IMAGE": max(100, 2 * data.objects),
    }


def _fit_to_gpu(data: Data, side: int | None) -> dict[str, object]:
    """Return the keys of sizes for a published recipe."""
    side = side or min(800, math.ceil(2 * data.size[0] / 32) * 32)
    smallest = round(min(max(data.small * side, 8.0), 32.0))
    return {
        "INPUT.MIN_SIZE_TRAIN": (*range(side * 4 // 5 // 32 * 32 or side, side, 32), side),
        "INPUT.MIN_SIZE_TEST": side,
        "MODEL.ANCHOR_GENERATOR.SIZES": [[smallest * 2**level] for level in range(5)],
        "TEST.DETECTIONS_PER_IMAGE": max(100, 2 * data.objects),
    }


def _path_of(recipe: str) -> Path:
    return config_path(f"detectron2/{recipe}.yaml")
