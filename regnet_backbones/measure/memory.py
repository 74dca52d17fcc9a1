"""Bytes that a call needs at its peak, and bytes that a forward pass keeps for the backward pass.

What is not seen: on a CPU, memory that torch does not allocate itself (scratch memory and packed
weights inside oneDNN, everything of onnxruntime); on CUDA, what cuDNN or recorded graphs of kernels
have set aside before the call.
"""

import os
from collections.abc import Callable, Iterable

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.autograd.profiler import profile

# How torch says that there is no memory left, beside `torch.OutOfMemoryError` and `MemoryError`.
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
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it tells of each start and stop on stderr
    with profile(profile_memory=True, use_kineto=True) as recorded:
        call()
    events = [e for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def saved_bytes(forward: Callable[[], object], *, besides: Iterable[torch.Tensor]) -> int:
    """Return the bytes that a forward pass keeps for its backward pass.

    `forward` returns something that holds the graph, such as a loss. Storages count once and whole,
    those of `besides` (parameters and buffers) not at all.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in besides}
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would keep its own graph alive

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result  # held until here: a storage that is freed may give its address to the next
    return sum(storages.values())


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that a call needed more memory than there is."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    )
