"""More optimizers and a schedule than detectron2's, in every trainer that builds from the config.

Detectron2's `build_optimizer` (`detectron2/solver/build.py`) knows SGD alone, and networks trained
from random weights want AdamW; its `build_lr_scheduler` does not know the poly schedule of its own
DeepLab project, and its gradient clipping clips each weight separately. The keys and values are
named as other detectron2 projects name them. For the defaults, detectron2's functions are called.
"""

import logging
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

from regnet_backbones.adapters.detectron2.compat.hook import replaces

if TYPE_CHECKING:
    import torch
    from detectron2.config import CfgNode

OPTIMIZERS = ("SGD", "ADAMW", "ADAM")

# Clips the norm of all gradients together.
FULL_MODEL = "full_model"

logger = logging.getLogger(__name__)


def choose_by_config(module: ModuleType) -> None:
    """Let `build_optimizer` and `build_lr_scheduler` of `module` follow the config."""
    if hasattr(module.build_optimizer, "follows_config"):  # it is that of `solver.build`
        return

    @replaces(module)
    def build_optimizer(stock, cfg: "CfgNode", model: "torch.nn.Module"):
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
        hook = partial(_clip_all, max_norm=clipping.CLIP_VALUE, norm_type=clipping.NORM_TYPE)
        optimizer.register_step_pre_hook(hook)
        return optimizer

    @replaces(module)
    def build_lr_scheduler(stock, cfg: "CfgNode", optimizer: "torch.optim.Optimizer"):
        if cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupPolyLR":
            return stock(cfg, optimizer)
        from regnet_backbones.adapters.detectron2.deeplab import build_poly_lr

        return build_poly_lr(cfg, optimizer)

    module.build_optimizer.follows_config = True


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


def _clip_all(optimizer: "torch.optim.Optimizer", args, kwargs, *, max_norm, norm_type) -> None:
    """Clip the norm of all gradients of an optimizer together, before its step."""
    from torch.nn.utils import clip_grad_norm_

    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    clip_grad_norm_(weights, max_norm, norm_type)
