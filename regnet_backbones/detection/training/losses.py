"""What stops a training whose loss is not finite, before it spoils the weights."""

from collections.abc import Mapping
from signal import Signals

import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import LRScheduler
from detectron2.utils import comm
from torch import nn

from regnet_backbones.runs.stopping import StopSignals


class StopAtBadLosses(HookBase):
    """Raise FloatingPointError in all processes where the loss of one is not finite.

    It is raised before the backward pass. Detectron2 looks after it, in its first process alone,
    and leaves the others waiting.

    Args:
        signals: that this process received; the processes agree on them in passing.

    Attributes:
        signal: which a process had received before the last forward pass.
    """

    def __init__(self, signals: StopSignals):
        self._signals = signals
        self.signal: Signals | None = None

    def before_train(self) -> None:
        """Look at all that the model returns from here on."""
        self._raised: FloatingPointError | None = None
        model = self.trainer.model
        self._handles = [
            model.register_forward_pre_hook(self._note),
            model.register_forward_hook(self._check),
        ]

    def after_train(self) -> None:
        """Let the model alone."""
        for handle in self._handles:
            handle.remove()

    def stop(self, error: FloatingPointError) -> None:
        """Raise what the model raised as what is raised here, in the other processes too.

        Args:
            error: of the forward pass, in place of losses; one of ours is raised as it is.
        """
        if error is self._raised:
            raise error
        device = next(self.trainer.model.parameters()).device
        self._agree(torch.ones((), device=device), f"  {error}")

    def _note(self, model: nn.Module, arguments: tuple) -> None:
        """Note the files of a batch."""
        if model.training:
            names = [str(record.get("file_name", "(no name)")) for record in arguments[0]]
            self._files = ", ".join(names)

    def _check(self, model: nn.Module, arguments: tuple, output: object) -> None:
        """Check the losses that a forward pass in training returns."""
        if not model.training:
            return
        losses = output if isinstance(output, Mapping) else {"total_loss": output}
        values = torch.stack([loss.detach().float().sum() for loss in losses.values()])
        self._agree((~values.isfinite()).any().float(), dict(zip(losses, values, strict=True)))

    def _agree(self, is_bad: torch.Tensor, found: str | Mapping[str, torch.Tensor]) -> None:
        """Raise FloatingPointError if it is bad, 0 or 1, in any process; say what each found."""
        received = torch.full_like(is_bad, self._signals.received or 0)
        here = torch.stack([is_bad, received])
        anywhere = here.clone()
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(anywhere, op=torch.distributed.ReduceOp.MAX)
        is_bad_anywhere, number = anywhere.tolist()
        self.signal = Signals(int(number)) if number else None
        if not is_bad_anywhere:
            return
        if not isinstance(found, str):
            found = "  " + ", ".join(f"{name} {value:.6g}" for name, value in found.items())
        text = f"{found}\n  of {self._files}" if is_bad else ""
        self._raised = FloatingPointError(self._report(comm.all_gather(text)))
        raise self._raised

    def _report(self, found: list[str]) -> str:
        """Say what happened in which process, and what to do."""
        trainer = self.trainer
        group = LRScheduler.get_best_param_group_id(trainer.optimizer)
        rate = trainer.optimizer.param_groups[group]["lr"]
        precision = "SOLVER.AMP.ENABLED False, " if trainer.cfg.SOLVER.AMP.ENABLED else ""
        lines = [f"the loss of iteration {trainer.iter} is not finite:"]
        lines += [f"process {i}:\n{text}" for i, text in enumerate(found) if text]
        lines += [
            f"learning rate: {rate:.6g}",
            f"last good checkpoint: {trainer.checkpointer.get_checkpoint_file() or 'none yet'}",
            "what to try: a lower SOLVER.BASE_LR or a longer SOLVER.WARMUP_ITERS, "
            f"SOLVER.CLIP_GRADIENTS.ENABLED True, {precision}a look at these images and their "
            "annotations; then --resume",
        ]
        return "\n".join(lines)
