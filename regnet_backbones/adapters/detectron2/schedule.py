"""The poly schedule of detectron2's DeepLab project, that resumes with a longer training."""

import torch
from detectron2.config import CfgNode
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR

from regnet_backbones.adapters.detectron2.projects import POLY_DEFAULTS


class PolyLR(WarmupPolyLR):
    """DeepLab's schedule, with nothing but the iteration as its state.

    DeepLab's own keeps the number of iterations too: resumed with a larger `SOLVER.MAX_ITER`, it
    would run beyond its end, where the power of a negative number is an error.
    """

    def state_dict(self) -> dict[str, object]:
        """Return what `detectron2.solver.LRMultiplier` returns."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}


def build_poly_lr(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> PolyLR:
    """Build the schedule of `SOLVER`: warm-up, then (1 - iteration / MAX_ITER) ** POLY_LR_POWER."""
    solver = POLY_DEFAULTS | cfg.SOLVER
    return PolyLR(
        optimizer,
        cfg.SOLVER.MAX_ITER,
        warmup_factor=cfg.SOLVER.WARMUP_FACTOR,
        warmup_iters=cfg.SOLVER.WARMUP_ITERS,
        warmup_method=cfg.SOLVER.WARMUP_METHOD,
        power=solver["POLY_LR_POWER"],
        constant_ending=solver["POLY_LR_CONSTANT_ENDING"],
    )
