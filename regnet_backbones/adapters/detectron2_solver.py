"""`SOLVER.OPTIMIZER`: AdamW beside detectron2's SGD, in every trainer that builds from the config.

Detectron2's `build_optimizer` (`detectron2/solver/build.py`) knows SGD alone, and networks trained
from random weights want AdamW. The key is named as other detectron2 projects name it. Its default,
SGD, calls detectron2's function as it is.
"""

import functools
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from detectron2.config import CfgNode

OPTIMIZERS = ("SGD", "ADAMW")


def choose_by_config(module: ModuleType) -> None:
    """Let `build_optimizer`, where `module` has it, follow `SOLVER.OPTIMIZER`."""
    stock = module.build_optimizer
    if getattr(stock, "follows_config", False):
        return

    @functools.wraps(stock)
    def build_optimizer(cfg: "CfgNode", model: "torch.nn.Module") -> "torch.optim.Optimizer":
        name = cfg.SOLVER.get("OPTIMIZER", "SGD")
        if name not in OPTIMIZERS:
            raise ValueError(
                f"SOLVER.OPTIMIZER must be one of {', '.join(OPTIMIZERS)}, got '{name}'"
            )
        return stock(cfg, model) if name == "SGD" else build_adamw(cfg, model)

    build_optimizer.follows_config = True
    module.build_optimizer = build_optimizer


def build_adamw(cfg: "CfgNode", model: "torch.nn.Module") -> "torch.optim.Optimizer":
    """Build AdamW with the learning rate, weight decay and clipping of `SOLVER`."""
    import torch
    from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping

    parameters = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    return maybe_add_gradient_clipping(cfg, torch.optim.AdamW)(
        parameters, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY
    )
