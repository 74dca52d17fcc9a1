"""`MODEL.EMA`: a running average of the weights, which is often better than the last of them.

The average is timm's `ModelEmaV3` (Polyak and Juditsky, 1992, with exponential weights). Buffers,
as the statistics of batch norms, are copied.
"""

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from timm.utils import ModelEmaV3
from torch import nn

from regnet_backbones.errors import UserError


def build_average(cfg: CfgNode, model: nn.Module) -> ModelEmaV3 | None:
    """Build the average that `MODEL.EMA` asks for; None where it asks for none.

    Args:
        cfg: `MODEL.EMA.DECAY` is the weight of the past in each step; with `WARMUP` it rises from
            0 with the number of steps, so that random first weights are soon forgotten.
        model: the model in training, not in DDP.

    Raises:
        ValueError: the decay is out of range.
    """
    ema = cfg.MODEL.EMA
    if not ema.ENABLED:
        return None
    if not 0 < ema.DECAY < 1:
        raise UserError(f"MODEL.EMA.DECAY must be between 0 and 1, got {ema.DECAY}")
    average = ModelEmaV3(model, decay=ema.DECAY, use_warmup=ema.WARMUP, exclude_buffers=True)
    average.module.train()  # precise batch norm is for layers in training; evaluation sets its own
    return average


class AverageWeights(HookBase):
    """Update an average after every step."""

    def __init__(self, average: ModelEmaV3, model: nn.Module):
        self._average, self._model = average, model

    def after_step(self) -> None:
        """Update it."""
        # The decay follows from the number of steps: there is no state but the average.
        self._average.update(self._model, step=self.trainer.iter + 1)
