"""What `optimize` did to a model."""

from dataclasses import dataclass, field
from typing import Literal

import torch

Mode = Literal["inference", "training"]


@dataclass(frozen=True)
class Report:
    """What was done to a model, and what was measured on the way.

    Attributes:
        mode: "inference" or "training".
        folded: names of the batch norms that convolutions do now.
        batch_norms_left: how many still run as a pass of their own.
        memory_format: "contiguous" or "channels_last".
        layout_seconds: median seconds of a forward pass (in training of forward and backward) by
            memory format; empty where the format was given.
        dtype: of the weights in inference, of autocast in training; None for what they were.
        compiled: "all sizes" of images if the network is compiled once at its first call, "each
            size" if at the first call with each; None if it is not.
        checkpointed: whether blocks are computed again in the backward pass.
        error: largest difference of a map before and after, relative to the largest value of the
            map; None in training, where nothing is compared.
        notes: what the user might have expected and was not done, and why.
    """

    mode: Mode
    folded: tuple[str, ...]
    batch_norms_left: int
    memory_format: str
    layout_seconds: dict[str, float] = field(default_factory=dict)
    dtype: torch.dtype | None = None
    compiled: Literal["all sizes", "each size"] | None = None
    checkpointed: bool = False
    error: float | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return a few lines for people."""
        how = "into convolutions" if self.mode == "inference" else "on the fly"
        lines = [
            f"optimized for {self.mode}",
            f"  batch norm     {len(self.folded)} folded {how}, {self.batch_norms_left} left",
            f"  memory format  {self.memory_format}{self._measured()}",
        ]
        if self.dtype is not None:
            kind = "weights" if self.mode == "inference" else "autocast"
            lines.append(f"  precision      {str(self.dtype).removeprefix('torch.')} ({kind})")
        if self.checkpointed:
            lines.append("  checkpointing  blocks are computed again in the backward pass")
        if self.compiled is not None:
            lines.append(f"  compilation    at the first call, for {self.compiled} of images")
        if self.error is not None:
            lines.append(f"  largest error  {self.error:.1e} of the largest value of a map")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def _measured(self) -> str:
        """Tell the measurements behind the memory format."""
        if not self.layout_seconds:
            return ""
        times = ", ".join(
            f"{name} {seconds * 1000:.1f} ms" for name, seconds in self.layout_seconds.items()
        )
        return f" (measured: {times})"
