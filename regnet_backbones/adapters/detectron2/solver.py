"""More optimizers and schedules than detectron2's, in every trainer that builds from the config.

Detectron2's `build_optimizer` (`detectron2/solver/build.py`) knows SGD alone, and networks trained
from random weights want AdamW; all weights have one learning rate, and its gradient clipping clips
each weight separately. Its `build_lr_scheduler` does not know the poly schedule of its own DeepLab
project, and in 0.6 no learning rate at the end of a cosine. The keys and values are named as other
detectron2 projects name them. For the defaults, detectron2's functions are called.
"""

import logging
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

from regnet_backbones.adapters.detectron2.compat.hook import replaces
from regnet_backbones.errors import UserError

if TYPE_CHECKING:
    import torch
    from detectron2.config import CfgNode

OPTIMIZERS = ("SGD", "ADAMW", "ADAM")

# Clips the norm of all gradients together.
FULL_MODEL = "full_model"

# The key of a parameter group: what its learning rate was multiplied by.
LR_FACTOR = "lr_factor"

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
                "SOLVER.OPTIMIZER '%s' is not one of %s; using detectron2's own build_optimizer",
                *(name, ", ".join(OPTIMIZERS)),
            )
        build = _build_adam if name in ("ADAM", "ADAMW") else stock
        clipping = cfg.SOLVER.CLIP_GRADIENTS
        clips_all = clipping.ENABLED and clipping.CLIP_TYPE == FULL_MODEL
        if clips_all:
            cfg = cfg.clone()
            cfg.defrost()
            cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
        optimizer = build(cfg, model)
        _scale_backbone_rates(cfg, model, optimizer)
        if clips_all:
            hook = partial(_clip_all, max_norm=clipping.CLIP_VALUE, norm_type=clipping.NORM_TYPE)
            optimizer.register_step_pre_hook(hook)
        return optimizer

    @replaces(module)
    def build_lr_scheduler(stock, cfg: "CfgNode", optimizer: "torch.optim.Optimizer"):
        solver = cfg.SOLVER
        if solver.LR_SCHEDULER_NAME == "WarmupPolyLR":
            from regnet_backbones.adapters.detectron2.deeplab import build_poly_lr

            return build_poly_lr(cfg, optimizer)
        is_cosine = solver.LR_SCHEDULER_NAME == "WarmupCosineLR"
        # Detectron2's main, which has RESCALE_INTERVAL, follows BASE_LR_END itself.
        if is_cosine and solver.get("BASE_LR_END", 0) and "RESCALE_INTERVAL" not in solver:
            return _build_cosine(cfg, optimizer)
        return stock(cfg, optimizer)

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


def _build_cosine(cfg: "CfgNode", optimizer: "torch.optim.Optimizer"):
    """Build detectron2's cosine schedule, which ends at `SOLVER.BASE_LR_END` instead of 0."""
    from detectron2.solver.lr_scheduler import LRMultiplier, WarmupParamScheduler
    from fvcore.common.param_scheduler import CosineParamScheduler

    solver = cfg.SOLVER
    multiplier = WarmupParamScheduler(
        CosineParamScheduler(1, solver.BASE_LR_END / solver.BASE_LR),
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
    )
    return LRMultiplier(optimizer, multiplier=multiplier, max_iter=solver.MAX_ITER)


def _scale_backbone_rates(
    cfg: "CfgNode", model: "torch.nn.Module", optimizer: "torch.optim.Optimizer"
) -> None:
    """Multiply the learning rates of RegNets by `BACKBONE_LR_FACTOR` and powers of `LAYER_DECAY`.

    The last stage has the first power and the stem the fifth. An FPN and heads keep `BASE_LR`.
    """
    solver = cfg.SOLVER
    factor, decay = solver.get("BACKBONE_LR_FACTOR", 1.0), solver.get("LAYER_DECAY", 1.0)
    if factor == decay == 1.0:
        return
    factors: dict[torch.nn.Parameter, float] = {}
    for module in model.modules():
        parts = vars(module).get("level_parts", {})
        if "stage_of" in vars(module):  # the last stage, which a C4 head has
            parts = {5: ("s4",)}
        for level, names in parts.items():
            starts = tuple(f"{name}." for name in names)
            for name, weight in module.named_parameters():
                if name.startswith(starts):
                    factors[weight] = factor * decay ** (6 - level)
    if not factors:
        raise UserError(
            "SOLVER.BACKBONE_LR_FACTOR and SOLVER.LAYER_DECAY must be 1.0 for a model without a "
            f"RegNet of regnet_backbones, got {factor} and {decay}"
        )
    groups = []
    for group in optimizer.param_groups:
        by_factor: dict[float, list[torch.nn.Parameter]] = {}
        for weight in group["params"]:
            by_factor.setdefault(factors.get(weight, 1.0), []).append(weight)
        groups += [
            {**group, "params": weights, "lr": group["lr"] * each, LR_FACTOR: each}
            for each, weights in by_factor.items()
        ]
    optimizer.param_groups[:] = groups
    rates = ", ".join(f"{each:.4g}" for each in sorted({group[LR_FACTOR] for group in groups}))
    logger.info("learning rates are SOLVER.BASE_LR times %s", rates)


def _clip_all(optimizer: "torch.optim.Optimizer", args, kwargs, *, max_norm, norm_type) -> None:
    """Clip the norm of all gradients of an optimizer together, before its step."""
    from torch.nn.utils import clip_grad_norm_

    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    clip_grad_norm_(weights, max_norm, norm_type)
