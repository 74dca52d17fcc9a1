"""A running average of a segmenter's weights, which is validated and saved in place of them."""

from collections.abc import Mapping

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging

from regnet_backbones.errors import UserError


class AveragedWeights(WeightAveraging):
    """Lightning's average of the weights, exponential and with a warm-up; resumes exactly.

    A checkpoint has the average as `state_dict`, the trained weights as `current_model_state`.
    Statistics of batch norms are averaged, too. After `n` steps `decay` is at most
    `(1 + n) / (10 + n)`, so that the random weights of the start are soon forgotten.
    """

    def __init__(self, decay: float):
        def update(
            averages: list[torch.Tensor], weights: list[torch.Tensor], n: torch.Tensor
        ) -> None:
            if averages[0].is_floating_point():
                steps = int(n)
                torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + steps) / (10 + steps)))
            else:  # numbers of batches that norms have seen
                torch._foreach_copy_(averages, weights)

        super().__init__(multi_avg_fn=update)
        self._swapped = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin the average where the model will train; Lightning moves that later."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise UserError if the setup has made another network of the model."""
        models = (self._average_model.module, pl_module)
        names = [[name for name, _ in (*m.named_parameters(), *m.named_buffers())] for m in models]
        if names[0] != names[1]:
            raise UserError("--model.ema_decay needs norms that are not folded: --model.fold off")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exchange the weights for their average."""
        super().on_validation_epoch_start(trainer, pl_module)
        self._swapped = self._average_model is not None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exchange the average for the weights."""
        super().on_validation_epoch_end(trainer, pl_module)
        self._swapped = False

    def on_train_end(self, *_: object) -> None:
        """Leave the weights, which a last checkpoint after this one still needs."""

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Mapping]
    ) -> None:
        """Put both into a checkpoint; in a validation that a signal stops, they are exchanged."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._swapped:
            names = ("state_dict", "current_model_state")
            checkpoint.update(
                zip(names, [checkpoint[name] for name in reversed(names)], strict=True)
            )
