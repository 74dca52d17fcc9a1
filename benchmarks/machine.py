"""The machine and the software that numbers belong to, without its name or paths."""

import os
import platform
from importlib import import_module
from importlib.util import find_spec

import torch

from regnet_backbones.runs.device import cpu_model

PACKAGES = (
    "regnet_backbones",
    "torch",
    "timm",
    "torchvision",
    "detectron2",
    "segmentation_models_pytorch",
    "onnxruntime",
    "openvino",
    "torchmetrics",
)


def conditions(device: str) -> dict[str, object]:
    """Describe what numbers that are measured now on a device belong to, in values of JSON."""
    threads = torch.get_num_threads()
    return {"machine": machine(device), "threads": threads, "versions": versions()}


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


def versions() -> dict[str, str | None]:
    """Return the version of Python and of each package, None for what is not installed."""
    found = {name: import_module(name).__version__ for name in filter(find_spec, PACKAGES)}
    return {"python": platform.python_version(), **dict.fromkeys(PACKAGES), **found}
