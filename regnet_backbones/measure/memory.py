"""Bytes that a call needs at its peak.

What torch does not allocate itself is not seen (oneDNN's scratch memory, all of onnxruntime).
"""

import os
from collections.abc import Callable

import torch
from torch.autograd.profiler import profile

# Texts of torch's errors of no memory that are not `torch.OutOfMemoryError` or `MemoryError`.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def peak_bytes(call: Callable[[], object], *, device: torch.device | str = "cpu") -> int:
    """Return the bytes that a call has allocated at its peak, above what was there before.

    On CUDA torch's allocator counts. On a CPU each allocation and release is recorded by torch's
    profiler, and their running sum has the peak.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it logs each start and stop on stderr
    with profile(profile_memory=True, use_kineto=True) as recorded:
        call()
    events = [e for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that a call needed more memory than there is."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    )
