"""What the tools ask of `regnet_backbones.optimize`, for detectors and segmenters alike."""

import logging
import os
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import nn

from regnet_backbones.errors import UserError
from regnet_backbones.optimize import MemoryFormat, Report, optimize

Dtype = Literal["float32", "bfloat16", "float16"]
Fold = Literal["auto", "on", "off"]

FOLDING: dict[Fold, Literal["auto"] | bool] = {"auto": "auto", "on": True, "off": False}

Model = TypeVar("Model", bound=nn.Module)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How a model is made fast; `dtype` is for trained models, training has its own setting."""

    dtype: Dtype = "float32"
    compile: bool = False
    fold: Fold = "auto"
    memory_format: MemoryFormat = "auto"


def optimize_trained(
    model: Model, optimization: Optimization, *, image_size: tuple[int, int]
) -> tuple[Model, Report]:
    """Return a fast copy of a trained model, and what was done; `image_size` is a typical one."""
    if optimization.compile:
        check_compiler(next(model.parameters()).device)
    return optimize(
        model,
        dtype=None if optimization.dtype == "float32" else getattr(torch, optimization.dtype),
        compile=optimization.compile,
        fold=FOLDING[optimization.fold],
        memory_format=optimization.memory_format,
        image_size=image_size,
    )


def optimize_training(
    model: nn.Module,
    optimization: Optimization,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    autocast: torch.dtype | None = None,
    from_first: Callable[[str], str] = str,
) -> Report:
    """Make the training of a model fast, the same in all processes, and return what was done.

    All processes must call this at the same time. `from_first` returns in all of them what the
    first one calls it with. `autocast` remains the trainer's. Nothing is measured if folding and
    memory format are given; only then a resumed run is exact to the last bit.
    """
    device = next(model.parameters()).device
    if optimization.compile:
        check_compiler(device)
    if device.type == "cpu":  # one after the other, more images only take longer
        batch_size = min(batch_size, 2)
    sizes = {"image_size": image_size, "batch_size": batch_size}
    choice = {"fold": FOLDING[optimization.fold], "memory_format": optimization.memory_format}
    measured = None
    if "auto" in choice.values():
        trial = deepcopy(model)
        _, measured = optimize(trial, mode="training", dtype=autocast, **choice, **sizes)
        choice["fold"] = from_first("on" if measured.folded else "off") == "on"
        choice["memory_format"] = from_first(measured.memory_format)
    _, done = optimize(model, mode="training", compile=optimization.compile, **choice, **sizes)
    if measured is None:
        return done
    not_applied = () if choice["fold"] else measured.not_applied
    return replace(done, seconds=measured.seconds, not_applied=not_applied)


def check_compiler(device: torch.device | str) -> None:
    """Check that `torch.compile` finds the compiler that it needs on a device."""
    from torch._inductor import config

    if torch.device(device).type == "cpu":
        variable, compiler, names = "CXX", "g++", [config.cpp.cxx[-1]]
    else:
        variable, compiler, names = "CC", "gcc", [os.environ.get("CC", "gcc"), "clang"]
    if not any(map(shutil.which, names)):
        text = f"compiling for '{device}' needs '{names[0]}', which was not found"
        raise UserError(f"{text}; install {compiler}, set ${variable}, or do not compile")


def log_report(report: Report) -> None:
    """Log what was done."""
    logger.info("%s", report)


def show_reports() -> None:
    """Let a tool print what `log_report` logs, where no handler does yet."""
    logger.setLevel(logging.INFO)
    package = logging.getLogger("regnet_backbones")
    if not package.hasHandlers():
        package.addHandler(logging.StreamHandler())
