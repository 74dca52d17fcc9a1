"""Devices of this machine, present or not and by name, and the type of numbers on them."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from regnet_backbones.errors import UserError


def check_device(name: str) -> None:
    """Raise UserError for a device that this machine does not have, such as "cuda:1"."""
    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"device '{name}' is not available: {error}") from error


@contextmanager
def float32_default() -> Iterator[None]:
    """Let networks be built in float32, whatever the caller's default is: images are float32."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def device_name(device: torch.device | str) -> str:
    """Return what a time depends on: the GPU, or the processor and the number of threads."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{cpu_model()}, {threads} thread{'s' if threads > 1 else ''}"


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of the processor, its architecture if the system does not report one."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
