"""Reduced precision: weights cast for inference, autocast for training.

A cast network holds its weights once, in the reduced type, and converts nothing between layers.
Training keeps float32 weights, and autocast converts what gains from it.
"""

from collections.abc import Callable

import torch
from torch import nn

from regnet_backbones.errors import UserError

DTYPES = (torch.bfloat16, torch.float16)


def check_dtype(dtype: torch.dtype | None) -> None:
    """Raise ValueError for a type that is no reduced precision."""
    if dtype is not None and dtype not in DTYPES:
        raise UserError(
            f"dtype must be torch.bfloat16, torch.float16 or None (float32), got {dtype}"
        )


def has_native(dtype: torch.dtype) -> bool:
    """Whether this CPU has instructions for the type; True where torch does not know."""
    cpu = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if cpu.get("architecture") != "x86_64":
        return True
    needed = {
        torch.bfloat16: ("avx512_bf16", "amx_bf16"),
        torch.float16: ("avx512_fp16", "amx_fp16"),
    }
    return any(cpu.get(name, False) for name in needed[dtype])


def cast(network: nn.Module, dtype: torch.dtype, *, outputs: torch.dtype | None) -> nn.Module:
    """Cast weights, and let images of any floating type in.

    Args:
        network: changed in place.
        dtype: of weights and computation.
        outputs: what the maps are converted to, None to leave them in `dtype`.

    Returns:
        The network.
    """
    network.to(dtype)
    network.register_forward_pre_hook(Convert(dtype))
    if outputs is not None:
        network.register_forward_hook(Convert(outputs))
    return network


class Convert:
    """A hook that converts floating tensors of a network's inputs, or of its output."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def __call__(self, module: nn.Module, inputs: tuple, output: object = None) -> object:
        """Return what the network shall get (a pre-hook), or give (a hook)."""
        return self._convert(inputs if output is None else output)

    def _convert(self, value: object) -> object:
        """Convert tensors in sequences and mappings."""
        if isinstance(value, torch.Tensor):
            return value.to(self.dtype) if value.is_floating_point() else value
        if isinstance(value, dict):
            return {name: self._convert(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._convert(item) for item in value)
        return value


class Autocast:
    """A `forward` under autocast, for a model in training."""

    def __init__(self, forward: Callable, device_type: str, dtype: torch.dtype):
        self.forward, self.device_type, self.dtype = forward, device_type, dtype

    def __call__(self, *args: object, **options: object) -> object:
        """Do what `forward` does."""
        with torch.autocast(self.device_type, dtype=self.dtype):
            return self.forward(*args, **options)


def autocast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Let the model's `forward` run under autocast, in place."""
    device_type = next(model.parameters()).device.type
    model.forward = Autocast(model.forward, device_type, dtype)
    return model
