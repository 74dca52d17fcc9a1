"""A RegNet, or a whole model on one, made fast with the same result.

from regnet_backbones.optimize import optimize

model, report = optimize(model)                                   # inference, float32
model, report = optimize(model, dtype=torch.bfloat16, compile=True)
model, report = optimize(model, mode="training")                  # frozen batch norm folded
"""

import logging
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

import torch
from torch import nn

import regnet_backbones.optimize.passes as passes
from regnet_backbones.backbone import RegNetFeatures
from regnet_backbones.errors import UserError
from regnet_backbones.norm import restore_activations
from regnet_backbones.optimize.folding import (
    fold_batch_norm,
    fold_frozen_norm,
    remaining_batch_norms,
)

__all__ = ["Report", "optimize"]

Mode = Literal["inference", "training"]
MemoryFormat = Literal["auto", "contiguous", "channels_last"]

Model = TypeVar("Model", bound=nn.Module)

PLAIN, FOLDED = "plain", "folded"

# What a pass must gain to be applied, as a part of the time without it: less is noise.
GAIN = 0.03

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What was done to a model, and what was measured.

    Attributes:
        mode: "inference" or "training".
        folded: names of the batch norms that were folded.
        batch_norms_left: how many still run as a pass of their own.
        memory_format: "contiguous" or "channels_last".
        seconds: median seconds of a forward pass (in training of forward and backward) by what was
            tried, such as "folded, channels_last"; empty if nothing was left to choose.
        not_applied: passes that were measured and did not gain.
        dtype: of the weights in inference, of autocast in training; None if unchanged.
        compiled: "all sizes" for a compilation for the typical size and one for all others, "each
            size" for one each, at the first call with such images; None for none.
        error: largest difference of a map relative to its largest value; None in training.
    """

    mode: Mode
    folded: tuple[str, ...]
    batch_norms_left: int
    memory_format: str
    seconds: dict[str, float] = field(default_factory=dict)
    not_applied: tuple[str, ...] = ()
    dtype: torch.dtype | None = None
    compiled: Literal["all sizes", "each size"] | None = None
    error: float | None = None

    def __str__(self) -> str:
        """Return a few lines for people."""
        how = "into convolutions" if self.mode == "inference" else "on the fly"
        lines = [
            f"optimized for {self.mode}",
            f"  batch norm     {len(self.folded)} folded {how}, {self.batch_norms_left} left",
            f"  memory format  {self.memory_format}",
        ]
        if self.seconds:
            times = "; ".join(f"{n} {s * 1000:.1f} ms" for n, s in self.seconds.items())
            lines.append(f"  measured       {times}")
        if self.not_applied:
            passes_left_out = ", ".join(self.not_applied)
            lines.append(f"  not applied    {passes_left_out}: gains less than {GAIN:.0%} here")
        if self.dtype is not None:
            kind = "weights" if self.mode == "inference" else "autocast"
            lines.append(f"  precision      {str(self.dtype).removeprefix('torch.')} ({kind})")
        if self.compiled is not None:
            own = "the typical size by itself, then " if self.compiled == "all sizes" else ""
            lines.append(f"  compilation    at the first call, for {own}{self.compiled} of images")
        if self.error is not None:
            lines.append(f"  largest error  {self.error:.1e} of the largest value of a map")
        return "\n".join(lines)


def optimize(
    model: Model,
    *,
    mode: Mode = "inference",
    dtype: torch.dtype | None = None,
    compile: bool = False,
    dynamic: bool = True,
    fold: Literal["auto"] | bool = "auto",
    memory_format: MemoryFormat = "auto",
    image_size: tuple[int, int] = (512, 512),
    batch_size: int = 1,
) -> tuple[Model, Report]:
    """Make a model faster.

    For inference a copy is changed: batch norm is folded into convolutions, the memory format
    measured, weights cast, the network compiled, in evaluation mode and without gradients. For
    training the model itself is changed, before or after its optimizer is built: convolutions do
    the work of frozen batch norms where that is faster; state dict, parameters and gradients stay.

    Args:
        model: a `RegNetFeatures`, a detectron2 model, whose `backbone` is what is measured, cast
            and compiled, or any network of images (N, C, H, W), on the device where it runs.
        mode: "inference" or "training".
        dtype: torch.bfloat16, torch.float16 or None for that of the model. In inference weights are
            cast; a `RegNetFeatures` then gives maps of this type, other models what they gave
            before. In training `forward` runs under autocast (float16 needs a
            `torch.amp.GradScaler`).
        compile: use `torch.compile`. On a CPU it needs a C++ compiler, and is fastest under
            `torch.no_grad` or `torch.inference_mode`.
        dynamic: compile for `image_size` and once for all other sizes, rather than for each size.
        fold: fold batch norms, or do not. "auto" folds for inference, and in training if it is
            measured to gain more than 3%.
        memory_format: "auto" measures, together with `fold`, on random images of `image_size` and
            `batch_size` (at least two in training).
        image_size: typical height and width.
        batch_size: typical number of images.

    Returns:
        The model, and the report of what was done; print it.

    Raises:
        ValueError: an option is unknown, the model takes no images, or a converter has deleted
            activations of it (see `norm.lost_activations`). The given model is not changed then.
    """
    for name, value, kind in (("mode", mode, Mode), ("memory_format", memory_format, MemoryFormat)):
        if value not in get_args(kind):
            raise UserError(f"{name} must be one of {', '.join(get_args(kind))}, got {value!r}")
    if fold not in ("auto", True, False):
        raise UserError(f"fold must be 'auto', True or False, got {fold!r}")
    if dtype not in (torch.bfloat16, torch.float16, None):
        raise UserError(f"dtype must be torch.bfloat16, torch.float16 or None, got {dtype}")
    training = mode == "training"
    formats = tuple(passes.FORMATS) if memory_format == "auto" else (memory_format,)
    if not training:
        model = deepcopy(model).eval().requires_grad_(False)
    restore_activations(model)
    trunk = passes.trunk_of(model)
    batch_size = max(2 if training else 1, batch_size)
    images = passes.example_images(trunk, image_size=image_size, batch_size=batch_size)
    error = None
    if training:
        # First, and on copies: where it fails, the model is as it was.
        networks = _to_compare(trunk, fold)
        choice = _choose(networks, formats, images, training=True, dtype=dtype)
        folded = fold_frozen_norm(model) if choice[0] == FOLDED else []
    else:
        before = _maps(trunk, images)
        folded = fold_batch_norm(model) if fold else []
        if dtype is not None:
            # Heads and losses expect what they got before.
            whole = isinstance(model, RegNetFeatures)
            passes.cast(trunk, dtype, outputs=None if whole else next(model.parameters()).dtype)
        networks = {FOLDED if folded else PLAIN: trunk}
        choice = _choose(networks, formats, images, training=False)
    network, layout, seconds = choice
    trunk.to(memory_format=passes.FORMATS[layout])
    if not training:
        pairs = zip(_maps(trunk, images), before, strict=True)
        error = max(passes.relative_error(found, expected) for found, expected in pairs)
    elif dtype is not None:
        passes.autocast(model, dtype)
    if dtype is not None and images.device.type == "cpu" and not passes.has_native(dtype):
        logger.warning("this CPU has no instructions for %s and emulates it slowly", dtype)
    if compile:
        options = {"dynamic": dynamic, "typical": tuple(image_size)}
        passes.compile_network(trunk, inference=not training, **options)
    return model, Report(
        mode=mode,
        folded=tuple(folded),
        batch_norms_left=remaining_batch_norms(model),
        memory_format=layout,
        seconds=seconds,
        not_applied=("folding",) if FOLDED in networks and network == PLAIN else (),
        dtype=dtype,
        compiled=("all sizes" if dynamic else "each size") if compile else None,
        error=error,
    )


def _to_compare(trunk: nn.Module, fold: Literal["auto"] | bool) -> dict[str, nn.Module]:
    """Return the trunk of a training, plain or folded, or both for a measurement."""
    folded = deepcopy(trunk) if fold else None
    if folded is None or not fold_frozen_norm(folded):
        return {PLAIN: trunk}
    return {PLAIN: trunk, FOLDED: folded} if fold == "auto" else {FOLDED: folded}


def _choose(
    networks: dict[str, nn.Module],
    formats: tuple[str, ...],
    images: torch.Tensor,
    *,
    training: bool,
    dtype: torch.dtype | None = None,
) -> tuple[str, str, dict[str, float]]:
    """Choose a memory format, and the second network only if it gains more than noise.

    Return both names, and the seconds of all that were compared.
    """
    if len(networks) * len(formats) == 1:
        return next(iter(networks)), formats[0], {}
    times = passes.measure_steps(networks, formats, images, training=training, dtype=dtype)
    best = {name: min(formats, key=lambda form: times[name, form]) for name in networks}
    chosen, *others = networks
    for name in others:
        if times[name, best[name]] < (1 - GAIN) * times[chosen, best[chosen]]:
            chosen = name
    return chosen, best[chosen], {", ".join(key): value for key, value in times.items()}


def _maps(trunk: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Return the maps of a trunk, without gradients."""
    with torch.no_grad():
        return [features.clone() for features in passes.maps_of(trunk(images))]
