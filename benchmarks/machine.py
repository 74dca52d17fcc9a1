"""The machine and the software that numbers belong to, without its name or paths."""

import os
import platform
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

PACKAGES = (
    "regnet_backbones",
    "torch",
    "timm",
    "torchvision",
    "detectron2",
    "segmentation_models_pytorch",
    "onnxruntime",
)


def machine(device: str) -> dict[str, object]:
    """Describe the machine: processor, cores, what is measured on."""
    description = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": device,
    }
    if device == "cuda":
        description |= {
            "gpu": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        }
    return description


def versions(packages: Iterable[str] = PACKAGES) -> Mapping[str, str | None]:
    """Return the version of Python and of each package, None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        found[name] = None if find_spec(name) is None else import_module(name).__version__
    return found


def cpu_model(cpuinfo: str | Path = "/proc/cpuinfo") -> str:
    """Return the name of the processor, its architecture where the system does not name it."""
    try:
        lines = Path(cpuinfo).read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
