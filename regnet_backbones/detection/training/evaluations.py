"""What evaluations in a training are for: best weights, early stopping, losses of val images.

Detectron2's `BestCheckpointer` forgets its best value in a run that is resumed, and its file is
then the one to resume from.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from regnet_backbones.runs.resume import LOSSES, seed_everything, seed_of, seeded

# The ends of the names of metrics that "auto" stands for, in the order of preference.
CHIEF = ("PQ", "keypoints/AP", "segm/AP", "bbox/AP", "mIoU", "IoU", "AR@1000")

logger = logging.getLogger(__name__)


@dataclass
class MetricHistory:
    """A metric at each evaluation of a training."""

    metric: str  # `TEST.BEST_METRIC`; "auto" until the first evaluation
    values: dict[int, float] = field(default_factory=dict)  # by the number of iterations done

    def add(self, done: int, results: Mapping[str, float]) -> float:
        """Keep and return the metric after `done` iterations; NaN, with a warning, if missing."""
        if self.metric == "auto":
            chief = (n for end in CHIEF for n in results if f"/{n}".endswith(f"/{end}"))
            self.metric = next(chief, self.metric)
        if self.metric not in results:
            names = ", ".join(name for name in results if "-" not in name)
            logger.warning("no TEST.BEST_METRIC '%s'; the metrics are %s", self.metric, names)
            return math.nan
        self.values[done] = float(results[self.metric])
        return self.values[done]

    def is_better(self, value: float, than: float | None, by: float = 0.0) -> bool:
        """Whether a value is better than another by more than `by`: lower losses, higher others."""
        if than is None or not math.isfinite(value):
            return math.isfinite(value)
        return than - value > by if "loss" in self.metric else value - than > by

    def without_improvement(self, min_delta: float) -> int:
        """Return how many evaluations came since the last that improved the metric."""
        count, best = 0, None
        for value in self.values.values():
            count += 1
            if self.is_better(value, best, min_delta):
                count, best = 0, value
        return count


def validation_losses(
    model: nn.Module, batches: Iterable[list[dict]], *, seed: int, normalizer: float | None
) -> dict[str, float]:
    """Return the mean losses of images, and their sum `val_total_loss`; all processes must call it.

    The model, not in DDP, stays as it is: layers are as in an evaluation, and the random numbers of
    an image are the same every time. RetinaNet and FCOS divide losses by `normalizer` at first.
    """
    sums: dict[str, float] = {}
    count = 0
    # What heads log is not of the training; at iteration 0 they would draw.
    with _giving_losses(model, normalizer), EventStorage(1), torch.no_grad(), seeded(0):
        for number, batch in enumerate(batches):
            seed_everything(seed_of(seed, LOSSES, comm.get_rank(), number))
            for name, loss in model.forward(batch).items():  # without the hooks of a training
                sums[name] = sums.get(name, 0.0) + float(loss) * len(batch)
            count += len(batch)
    parts = comm.all_gather((sums, count))
    images = max(1, sum(count for _, count in parts))
    names = dict.fromkeys(name for part, _ in parts for name in part)
    means = {name: sum(part.get(name, 0.0) for part, _ in parts) / images for name in names}
    found = {f"val_loss/{name}": mean for name, mean in means.items()}
    return {**found, "val_total_loss": sum(means.values())}


@contextmanager
def _giving_losses(model: nn.Module, normalizer: float | None) -> Iterator[None]:
    """Let a model return losses, with its backbone, norms and dropout as in an evaluation."""
    modes = {module: module.training for module in model.modules()}
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    state = {k: v for k, v in vars(model).items() if k == "loss_normalizer"}
    try:
        model.train()
        getattr(model, "backbone", nn.Identity()).eval()
        for module in modes:
            if next(module.children(), None) is None:
                module.eval()
        if normalizer is not None:
            model.loss_normalizer = normalizer
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for buffer, before in buffers.items():
            buffer.copy_(before)
        vars(model).pop("loss_normalizer", None)
        vars(model).update(state)
