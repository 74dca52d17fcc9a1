"""Bytes of calls, counted by hand, and what counts as too many."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from benchmarks.steps import saved_bytes
from regnet_backbones.measure.memory import is_out_of_memory, peak_bytes


def test_peak_memory_of_a_hand_made_call():
    """1000 floats, their copy twice as long beside them, then only that one."""
    x = torch.zeros(1000)

    def call():
        once = x.exp()  # 4000 bytes
        twice = torch.cat([once, once])  # 8000 more: the peak
        del once
        return torch.cat([twice, twice[:1]])[:1]  # 8004, without the 4000

    assert peak_bytes(call) == 16004
    assert peak_bytes(lambda: x.exp()) == 4000
    assert peak_bytes(lambda: x.exp_()) == 0


def test_what_was_there_before_and_is_released_is_no_peak():
    held = [torch.zeros(1000)]
    assert peak_bytes(held.clear) == 0


def test_saved_bytes_of_a_hand_made_network():
    """A 1x1 convolution keeps its input, a ReLU its output, a product both its factors."""
    conv, x = nn.Conv2d(2, 3, 1), torch.randn(1, 2, 8, 8)
    besides = list(conv.parameters())

    def forward():
        y = conv(x).relu()
        return (y * y).sum()

    # 2 and 3 channels of 64 floats; y is kept three times, and its storage counted once.
    assert saved_bytes(forward, besides=besides) == (2 + 3) * 64 * 4
    assert saved_bytes(forward, besides=()) == (2 + 3) * 64 * 4 + 2 * 3 * 4
    assert saved_bytes(lambda: conv(x).sum(), besides=[*besides, x]) == 0


def test_measuring_is_silent():
    """In a process of its own: torch's profiler asks once whether it shall tell what it does."""
    code = (
        "import torch; from regnet_backbones.measure.memory import peak_bytes; "
        "peak_bytes(torch.Tensor)"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout + result.stderr == ""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ..."), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("a note on being out of memory"), False),
    ],
)
def test_errors_that_say_there_is_no_memory(error, expected):
    assert is_out_of_memory(error) is expected
