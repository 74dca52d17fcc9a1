"""The machine and the software that numbers belong to, without its name or paths."""

import os
import platform
from collections.abc import Iterable, Mapping
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
