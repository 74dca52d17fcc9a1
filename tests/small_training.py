"""A small training for tests: images of two orientations, a detector, and what it computes."""

import contextlib
import itertools
import json
import os
import random
import signal
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase
from PIL import Image

from regnet_backbones import config_path
from regnet_backbones.detection.config import default_config
from regnet_backbones.detection.training.trainer import Trainer
from regnet_backbones.runs.stopping import StoppedError, StopSignals
from regnet_backbones.runs.trained import METRICS_NAME

# What differs from run to run.
TIMES = ("time", "data_time", "eta_seconds", "rank_data_time")

NAME = "boxes_of_two_orientations"
COUNT = 10


def register(folder):
    """Register the images of a folder, wide ones and tall ones in turn, with a box in each."""

    def records():
        for number in range(COUNT):
            width, height = (80, 48) if number % 2 else (48, 80)
            box = {"bbox": [8.0, 8.0, 24.0 + number, 20.0], "bbox_mode": 1, "category_id": 0}
            yield {
                "file_name": str(folder / f"{number}.png"),
                "image_id": number,
                "width": width,
                "height": height,
                "annotations": [box],
            }

    if NAME in DatasetCatalog.list():
        DatasetCatalog.remove(NAME)
    DatasetCatalog.register(NAME, lambda: list(records()))


def draw_images(folder):
    """Draw and register the images."""
    noise = np.random.default_rng(0)
    for number in range(COUNT):
        shape = (48, 80, 3) if number % 2 else (80, 48, 3)
        Image.fromarray(noise.integers(0, 255, shape, dtype=np.uint8)).save(
            folder / f"{number}.png"
        )
    register(folder)


def small_config(output, *overrides):
    """Return the config of a small Mask R-CNN without masks, that has random numbers of its own."""
    cfg = default_config()
    cfg.merge_from_file(str(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml")))
    settings = {
        "MODEL.MASK_ON": False,
        "MODEL.DEVICE": "cpu",
        "MODEL.REGNET.DROP_PATH_RATE": 0.2,
        "MODEL.REGNET.WA": 60.0,
        "MODEL.REGNET.DEPTH": 4,
        "MODEL.ROI_HEADS.NUM_CLASSES": 1,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
        "DATASETS.TRAIN": (NAME,),
        "DATASETS.TEST": (),
        "INPUT.MIN_SIZE_TRAIN": (32, 40, 48),
        "INPUT.RANDOM_FLIP": "horizontal",
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 5,
        "SOLVER.CHECKPOINT_PERIOD": 2,
        "TEST.EVAL_PERIOD": 0,
        "OUTPUT_DIR": str(output),
    }
    cfg.merge_from_list([*itertools.chain(*settings.items()), *overrides])
    Path(output).mkdir(exist_ok=True)
    return cfg


class Record(HookBase):
    """Note the losses of every iteration, bit by bit; send the run a signal in one."""

    def __init__(self, losses, signal_in=None):
        self.losses, self.signal_in = losses, signal_in

    def before_step(self):
        if self.trainer.iter == self.signal_in:
            os.kill(os.getpid(), signal.SIGTERM)

    def after_step(self):
        latest = self.trainer.storage.latest()
        self.losses[self.trainer.iter] = {k: v for k, (v, _) in latest.items() if "loss" in k}


class StopAfter(HookBase):
    """End a run after some iterations."""

    def __init__(self, iterations):
        self.iterations = iterations

    def after_step(self):
        if self.trainer.iter + 1 == self.iterations:
            raise KeyboardInterrupt


def train(cfg, *, resume=False, stop_after=None, signal_in=None):
    """Train, and return the losses by iteration and the weights.

    Args:
        stop_after: iterations after which the run ends as a killed one.
        signal_in: iteration in which SIGTERM comes.
    """
    torch.manual_seed(0 if not resume else 123)  # what a process has drawn before plays no part
    np.random.seed(0 if not resume else 123)
    random.seed(0 if not resume else 123)
    losses = {}
    with StopSignals() as signals:
        trainer = Trainer(cfg, signals)
        trainer.resume_or_load(resume=resume)
        trainer.register_hooks([StopAfter(stop_after), Record(losses, signal_in)])
        trainer._hooks.insert(0, trainer._hooks.pop())  # a signal ends a step before its last hook
        with contextlib.suppress(KeyboardInterrupt, StoppedError):
            trainer.train()
    return losses, trainer.checkpointer.model.state_dict()


def rows(output):
    """Return the rows of a run's metrics without times."""
    lines = (Path(output) / METRICS_NAME).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
