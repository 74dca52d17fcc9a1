"""The memory format that a network is fastest in, which only a measurement tells.

Channels last was faster for RegNet on some CPUs and several times slower in training on some GPUs.
"""

from collections.abc import Callable
from copy import deepcopy
from statistics import median

import torch
from torch import nn

from regnet_backbones.measure.timing import interleaved_times
from regnet_backbones.optimize.trunk import maps_of

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

RUNS = 10


def measure_layouts(
    trunk: nn.Module, images: torch.Tensor, *, training: bool, dtype: torch.dtype | None = None
) -> dict[str, float]:
    """Time a network in both memory formats. The network itself is not changed.

    Args:
        trunk: what takes `images` and returns maps.
        images: (N, C, H, W), on the network's device.
        training: forward and backward instead of forward.
        dtype: of autocast, None for none.

    Returns:
        Median seconds by memory format.
    """
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # dropout would move the caller's random numbers on
        calls = {
            name: _call(
                deepcopy(trunk).to(memory_format=memory_format),
                images.to(memory_format=memory_format),
                training=training,
                dtype=dtype,
            )
            for name, memory_format in FORMATS.items()
        }
        times = interleaved_times(calls, runs=RUNS, device=images.device)
    return {name: median(seconds) for name, seconds in times.items()}


def _call(
    trunk: nn.Module, images: torch.Tensor, *, training: bool, dtype: torch.dtype | None
) -> Callable[[], None]:
    """Return one step of a network."""

    def forward() -> list[torch.Tensor]:
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
            return maps_of(trunk(images))

    def inference() -> None:
        with torch.no_grad():
            forward()

    def step() -> None:
        loss = sum(features.float().mean() for features in forward())
        if loss.requires_grad:
            loss.backward()

    return step if training else inference
