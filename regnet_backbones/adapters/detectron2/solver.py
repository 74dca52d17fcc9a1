"""More optimizers and a schedule than detectron2's, in every trainer that builds from the config.

Detectron2's `build_optimizer` (`detectron2/solver/build.py`) knows SGD alone, and networks trained
from random weights want AdamW; its `build_lr_scheduler` does not know the poly schedule of its own
DeepLab project, and its gradient clipping clips each weight separately. `SOLVER.OPTIMIZER`, and
"full_model" as `SOLVER.CLIP_GRADIENTS.CLIP_TYPE`, are named as other detectron2 projects name them.
For the defaults, detectron2's functions are called as they are.
"""

import functools
import logging
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from detectron2.config import CfgNode

OPTIMIZERS = ("SGD", "ADAMW", "ADAM")

# Clips the norm of all gradients together.
FULL_MODEL = "full_model"

logger = logging.getLogger(__name__)


def choose_by_config(module: ModuleType) -> None:
    """Let `build_optimizer` and `build_lr_scheduler` of `module` follow the config."""
    for name, extend in (
        ("build_optimizer", _with_adam_and_full_clipping),
        ("build_lr_scheduler", _with_poly_schedule),
    ):
        stock = getattr(module, name)
        if not hasattr(stock, "follows_config"):
            extended = functools.wraps(stock)(extend(stock))
            extended.follows_config = True
            setattr(module, name, extended)


def _build_adam(cfg: "CfgNode", model: "torch.nn.Module") -> "torch.optim.Optimizer":
    """Build Adam or AdamW with the learning rate, weight decay and clipping of `SOLVER`."""
    import torch
    from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping

    solver = cfg.SOLVER
    parameters = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    optimizer = torch.optim.AdamW if solver.OPTIMIZER == "ADAMW" else torch.optim.Adam
    return maybe_add_gradient_clipping(cfg, optimizer)(
        parameters, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY
    )


def _with_adam_and_full_clipping(stock):
    """Return `build_optimizer` that also knows Adam, AdamW, and clipping all gradients together."""

    def build_optimizer(cfg: "CfgNode", model: "torch.nn.Module") -> "torch.optim.Optimizer":
        name = cfg.SOLVER.get("OPTIMIZER", "SGD")
        if name not in OPTIMIZERS:
            logger.warning(
                "SOLVER.OPTIMIZER '%s' is not one of %s: it is left to detectron2's own "
                "build_optimizer",
                *(name, ", ".join(OPTIMIZERS)),
            )
        build = _build_adam if name in ("ADAM", "ADAMW") else stock
        clipping = cfg.SOLVER.CLIP_GRADIENTS
        if not clipping.ENABLED or clipping.CLIP_TYPE != FULL_MODEL:
            return build(cfg, model)
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
        optimizer = build(cfg, model)
        optimizer.register_step_pre_hook(_clip_all(clipping.CLIP_VALUE, clipping.NORM_TYPE))
        return optimizer

    return build_optimizer


def _clip_all(max_norm: float, norm_type: float):
    """Return a hook that clips the norm of all gradients of an optimizer before its step."""
    from torch.nn.utils import clip_grad_norm_

    def clip(optimizer: "torch.optim.Optimizer", args: tuple, kwargs: dict) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        clip_grad_norm_(weights, max_norm, norm_type)

    return clip


def _with_poly_schedule(stock):
    """Return `build_lr_scheduler` that also knows "WarmupPolyLR"."""

    def build_lr_scheduler(
        cfg: "CfgNode", optimizer: "torch.optim.Optimizer"
    ) -> "torch.optim.lr_scheduler.LRScheduler":
        if cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupPolyLR":
            return stock(cfg, optimizer)
        from regnet_backbones.adapters.detectron2.deeplab import build_poly_lr

        return build_poly_lr(cfg, optimizer)

    return build_lr_scheduler
