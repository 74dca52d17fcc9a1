"""What a resumed run needs to go on exactly, beside weights, optimizer and schedule.

Batches and random numbers are functions of the seed and the iteration (see `loader`), so the seed
is all that a checkpoint keeps of them. The rest is what models hold outside their state dict.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn
from torch.optim import Optimizer

from regnet_backbones.errors import UserError
from regnet_backbones.runs.randomness import seed_everything, seed_of

# Where random numbers are for: see `randomness.seed_of`.
STEPS = 1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataOrder:
    """What the order of the training data follows from.

    Attributes:
        seed: of order and augmentation.
        ims_per_batch: images of a batch of all processes.
        processes: how many share a batch.
    """

    seed: int
    ims_per_batch: int
    processes: int


def go_on_after(
    saved: Mapping[str, int] | None, order: DataOrder, *, seed_was_drawn: bool
) -> DataOrder:
    """Return the order that a resumed run goes on with, and warn of what is not exact.

    A seed of the config is followed, one that was drawn (`SEED` -1) gives way to the checkpoint's.

    Args:
        saved: the order of the checkpoint, by attributes; None where it has none.
        order: of the run that is resumed.
        seed_was_drawn: the seed of `order` is not of the config.
    """
    if saved is None:
        _warn(
            "the checkpoint does not say which data it has seen (another trainer wrote it): the "
            f"data goes on as if the seed had been {order.seed}"
        )
        return order
    if seed_was_drawn:
        order = replace(order, seed=saved["seed"])
    if order.seed != saved["seed"]:
        _warn(
            f"SEED is {order.seed} and was {saved['seed']}: order and augmentation of the data are "
            f"those of the new seed from here on; SEED {saved['seed']} or -1 goes on exactly"
        )
    now, before = (
        f"{ims_per_batch} images in {processes} processes"
        for ims_per_batch, processes in (
            (order.ims_per_batch, order.processes),
            (saved["ims_per_batch"], saved["processes"]),
        )
    )
    if now != before:
        _warn(
            f"a batch has {now} and had {before}: the data goes on with the same iteration of the "
            "other batches, and losses are not those of an unbroken run"
        )
    return order


def check_optimizer(saved: Mapping[str, object], optimizer: Optimizer) -> None:
    """Check that the state of a checkpoint's optimizer is one of this optimizer.

    Torch takes that of another kind, and fails or is wrong in the first step.

    Args:
        saved: its `state_dict`.
        optimizer: of the run that is resumed.

    Raises:
        ValueError: it is of another kind, or of other parameters.
    """
    groups, current = saved["param_groups"], optimizer.state_dict()["param_groups"]
    remedy = "; resume with the config of the run, or start anew in another OUTPUT_DIR"
    if ("betas" in groups[0]) != ("betas" in current[0]):
        raise UserError(
            "the checkpoint to resume from was written with another SOLVER.OPTIMIZER than "
            f"{type(optimizer).__name__}{remedy}"
        )
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in current]:
        raise UserError(
            "the checkpoint to resume from was written while other weights were trained (another "
            f"MODEL.BACKBONE.FREEZE_AT, norm or head){remedy}"
        )


def check_iteration(done: int, max_iter: int) -> None:
    """Check that a run does not go on from behind its end.

    Raises:
        ValueError: more iterations are done than there shall be.
    """
    if done > max_iter:
        raise UserError(
            f"the checkpoint to resume from has done {done} iterations, more than SOLVER.MAX_ITER "
            f"{max_iter}; raise it, or start anew in another OUTPUT_DIR"
        )


class SeedEveryStep(HookBase):
    """Seed what the model draws, proposals or dropout for example, anew in every iteration."""

    def before_step(self) -> None:
        """Seed all that may be drawn from."""
        seed = self.trainer.order.seed
        seed_everything(seed_of(seed, STEPS, comm.get_rank(), self.trainer.iter))


class KeepLossNormalizer(HookBase):
    """Save the running mean that RetinaNet and FCOS divide losses by; no state dict has it.

    Every process has its own (`detectron2/modeling/meta_arch/dense_detector.py`), and only the
    first one writes checkpoints.

    Args:
        model: the model in training, not in DDP; one without a `loss_normalizer` is left alone.
    """

    def __init__(self, model: nn.Module):
        self._model = model

    def state_dict(self) -> dict[str, list[float]]:
        """Return the values by process, in every process; nothing for other models."""
        if not hasattr(self._model, "loss_normalizer"):
            return {}
        return {"values": comm.all_gather(float(self._model.loss_normalizer))}

    def load_state_dict(self, state_dict: dict[str, list[float]]) -> None:
        """Go on with the value of this process."""
        values = state_dict["values"]
        self._model.loss_normalizer = values[comm.get_rank() % len(values)]


def _warn(text: str) -> None:
    """Warn once, not in every process."""
    if comm.is_main_process():
        logger.warning(text)
