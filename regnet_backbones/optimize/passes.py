"""Passes of `optimize` other than folding, and the part of a model they work on.

A detector's heads work on regions whose number changes, and on boxes that need float32; its
backbone with FPN, the trunk, is where the time is and takes one tensor. Channels last was faster
for RegNet on some CPUs and several times slower in training on some GPUs: it is measured.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from copy import copy, deepcopy
from functools import partial
from itertools import product
from statistics import median

import torch
from torch import nn

from regnet_backbones.errors import UserError
from regnet_backbones.measure.timing import interleaved_times

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

# One for single images and one for batches, or for small and large images. The typical size has as
# many of its own: with and without gradients.
MAX_COMPILATIONS = 2

# Of measuring steps, after three rounds: large networks take seconds for each, and vary less.
MOST_SECONDS = 20.0


def trunk_of(model: nn.Module) -> nn.Module:
    """Return a detector's or segmenter's `backbone`, for any other model the model itself."""
    backbone = getattr(model, "backbone", None)
    return backbone if isinstance(backbone, nn.Module) else model


def first_conv(trunk: nn.Module) -> nn.Conv2d | None:
    """Return the convolution that takes a trunk's images, None if there is none."""
    # An FPN has convolutions of its own before those of the network that feeds it.
    network = getattr(trunk, "bottom_up", trunk)
    return next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)


def example_images(
    trunk: nn.Module, *, image_size: tuple[int, int], batch_size: int
) -> torch.Tensor:
    """Return random images (N, C, H, W) for a trunk, on its device and in its type."""
    first = first_conv(trunk)
    if first is None:
        allowed = "a RegNetFeatures, a detectron2 model or an SMP model"
        raise UserError(f"optimize needs {allowed}, got {type(trunk).__name__} (no convolution)")
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, first.in_channels, *image_size)
    return torch.randn(shape, generator=generator).to(first.weight)


def maps_of(output: object) -> list[torch.Tensor]:
    """Return the tensors of a trunk's output: one, a sequence, or by name."""
    if isinstance(output, torch.Tensor):
        return [output]
    values = output.values() if isinstance(output, Mapping) else output
    return [tensor for value in values for tensor in maps_of(value)]


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference as a part of the largest value; infinite for other shapes."""
    if found.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    found, expected = found.double(), expected.double()
    largest = expected.abs().max().item() or 1.0
    return (found - expected).abs().max().item() / largest


def measure_steps(
    networks: Mapping[str, nn.Module],
    formats: Iterable[str],
    images: torch.Tensor,
    *,
    training: bool,
    dtype: torch.dtype | None = None,
) -> dict[tuple[str, str], float]:
    """Return the median seconds of a step by network and memory format, measured in turns.

    Networks are copied, and stay as they are.
    """

    def call(network: nn.Module, batch: torch.Tensor) -> None:
        precision = torch.autocast(batch.device.type, dtype=dtype, enabled=dtype is not None)
        with torch.set_grad_enabled(training), precision:
            maps = maps_of(network(batch))
        if training:
            loss = sum(features.float().mean() for features in maps)
            if loss.requires_grad:
                loss.backward()
                network.zero_grad(set_to_none=True)

    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # dropout would advance the caller's random numbers
        calls = {}
        for name, form in product(networks, formats):
            layout = {"memory_format": FORMATS[form]}
            calls[name, form] = partial(
                call, deepcopy(networks[name]).to(**layout), images.to(**layout)
            )
        times = interleaved_times(calls, runs=10, device=images.device, limit=MOST_SECONDS)
    return {key: median(seconds) for key, seconds in times.items()}


def has_native(dtype: torch.dtype) -> bool:
    """Whether this CPU has instructions for the type; True if torch does not report it."""
    cpu = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if cpu.get("architecture") != "x86_64":
        return True
    short = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    return any(cpu.get(f"{unit}_{short}", False) for unit in ("avx512", "amx"))


def cast(network: nn.Module, dtype: torch.dtype, *, outputs: torch.dtype | None) -> nn.Module:
    """Cast weights in place, let images of any floating type in, convert maps to `outputs`."""
    network.to(dtype)
    network.register_forward_pre_hook(partial(_converted, dtype))
    if outputs is not None:
        network.register_forward_hook(partial(_converted, outputs))
    return network


def _converted(
    dtype: torch.dtype, module: nn.Module, inputs: tuple, output: object = None
) -> object:
    """Convert the floating tensors of what a network gets (a pre-hook), or gives (a hook)."""

    def convert(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return value.to(dtype) if value.is_floating_point() else value
        if isinstance(value, dict):
            converted = copy(value)  # of its own class, such as the outputs of transformers
            for name, item in value.items():
                converted[name] = convert(item)
            return converted
        if isinstance(value, (list, tuple)):
            return type(value)(convert(item) for item in value)
        return value

    return convert(inputs if output is None else output)


def autocast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Let the model's `forward` run under autocast, in place."""
    device_type = next(model.parameters()).device.type
    # A partial, not a closure: a copy of the model gets one with its own `forward`.
    model.forward = partial(_under_autocast, model.forward, device_type, dtype)
    return model


def _under_autocast(
    forward: Callable, device_type: str, dtype: torch.dtype, *args: object, **options: object
) -> object:
    with torch.autocast(device_type, dtype=dtype):
        return forward(*args, **options)


def compile_network(
    network: nn.Module,
    *,
    inference: bool,
    dynamic: bool = True,
    typical: tuple[int, int] | None = None,
) -> nn.Module:
    """Compile a network in place, at its first calls; state dict and attributes stay.

    With `dynamic`, images of the `typical` size and of the first number of these have their own
    compilation; for all others height and width are symbols, and what would be the third one runs
    uncompiled. Without it each size has one. Weights are constants for `inference`.
    """
    freezing = inference and next(network.parameters()).device.type == "cpu"
    # What `Module.compile` sets: not a part of state dicts, copies and pickles.
    calls = CompiledCalls(network._call_impl, dynamic, freezing, typical)
    network._compiled_call_impl = calls
    return network


class CompiledCalls:
    """Calls of a network that compile.

    With `freezing` inductor packs weights for its convolutions, and lets these do the activation.
    That is a switch of the whole process (the option of that name of `torch.compile` does not reach
    all that reads it), so it is set around the calls of the network, and only there.
    """

    def __init__(
        self, call: Callable, dynamic: bool, freezing: bool, typical: tuple[int, int] | None = None
    ):
        self._all = _Compiled(call, dynamic, MAX_COMPILATIONS if dynamic else math.inf)
        self._one = _Compiled(call, False, MAX_COMPILATIONS) if dynamic and typical else None
        self._typical = typical
        self._shape: torch.Size | None = None  # of images of the typical size
        self._freezing = freezing

    def __call__(self, *args: object, **options: object) -> object:
        """Do what the network does."""
        from torch._inductor import config

        compiled = self._one if self._one is not None and self._is_typical(*args) else self._all
        with config.patch(freezing=self._freezing or config.freezing):
            return compiled(*args, **options)

    def _is_typical(self, images: object = None, *_: object) -> bool:
        """Whether images are of the typical size, and as many as when they first were."""
        if not isinstance(images, torch.Tensor) or images.shape[-2:] != self._typical:
            return False
        self._shape = self._shape or images.shape
        return images.shape == self._shape


class _Compiled:
    """A call that compiles, and after a number of compilations runs what is new as it is."""

    def __init__(self, call: Callable, dynamic: bool, most: float):
        self._left = most
        # The backend is a method of this object: others of the same call share no compilation.
        self._call = torch.compile(call, backend=self._compile, dynamic=dynamic)

    def __call__(self, *args: object, **options: object) -> object:
        full = torch.compiler.set_stance("eager_on_recompile") if self._left <= 0 else nullcontext()
        with full:
            return self._call(*args, **options)

    def _compile(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        from torch._inductor.compile_fx import compile_fx

        self._left -= 1
        return compile_fx(graph, inputs)
