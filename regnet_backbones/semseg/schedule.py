"""Learning rates of a segmenter: of encoder and decoder, and of each step.

Over the steps it is DeepLab's "poly" decay (arXiv 1606.00915, section 4.1) after a linear warm-up,
which starts at `1 / (warmup_steps + 1)` of the rate, so that the first step moves the weights.
"""

import logging

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from regnet_backbones.errors import UserError

logger = logging.getLogger(__name__)


def poly_with_warmup(
    optimizer: Optimizer, *, total_steps: int, warmup_steps: int = 0, power: float = 0.9
) -> LambdaLR:
    """Return the schedule of a run, to be stepped after every step of the optimizer.

    Every parameter group keeps its own rate as the peak. The state of the schedule is the step it
    is at; length and power are those of the run that goes on.

    Args:
        optimizer: the optimizer, with the peak rates.
        total_steps: steps of the optimizer in the whole run, warm-up included.
        warmup_steps: steps below the peak; step `warmup_steps` (from 0) is the first at the peak.
        power: exponent of the decay, 1 is linear.

    Raises:
        ValueError: a number is out of range.
    """
    if total_steps < 1:
        raise UserError(
            f"total_steps must be at least 1, got {total_steps}; let max_steps or max_epochs of "
            "the trainer be more"
        )
    if warmup_steps < 0:
        raise UserError(f"warmup_steps must be 0 or more, got {warmup_steps}")
    if power <= 0:
        raise UserError(f"power must be above 0, got {power}")
    if warmup_steps >= total_steps:
        logger.warning(
            "warmup_steps=%d is the whole run of %d steps: the learning rate never gets to its "
            "peak; take fewer warm-up steps or a longer run",
            warmup_steps,
            total_steps,
        )
    return LambdaLR(
        optimizer,
        lambda step: poly_factor(
            step, total_steps=total_steps, warmup_steps=warmup_steps, power=power
        ),
    )


def poly_factor(step: int, *, total_steps: int, warmup_steps: int, power: float) -> float:
    """Return the learning rate of a step (from 0) as a part of the peak.

    It is 1 at `warmup_steps` and 0 from `total_steps` on.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if step >= total_steps:
        return 0.0
    return (1 - (step - warmup_steps) / (total_steps - warmup_steps)) ** power


def parameter_groups(
    network: nn.Module, *, lr: float, encoder_lr_factor: float, weight_decay: float
) -> list[dict[str, object]]:
    """Return the trained parameters of a model of SMP as an optimizer takes them.

    Args:
        network: its encoder is `network.encoder`, the rest is the decoder.
        lr: learning rate of the decoder.
        encoder_lr_factor: the encoder's rate as a part of `lr`.
        weight_decay: for weights of more than one dimension; none for norms and biases.

    Returns:
        Up to four groups, each with a `name`; the last one is of the decoder.
    """
    groups = {}
    for part, factor in (("encoder", encoder_lr_factor), ("decoder", 1.0)):
        groups[part, False] = {"name": f"{part}/no_decay", "lr": factor * lr, "weight_decay": 0.0}
        groups[part, True] = {"name": part, "lr": factor * lr, "weight_decay": weight_decay}
    for group in groups.values():
        group["params"] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            part = "encoder" if name.startswith("encoder.") else "decoder"
            groups[part, parameter.ndim > 1]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]
