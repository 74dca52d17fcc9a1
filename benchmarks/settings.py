"""What is done to a model before it is measured: ours by `optimize`, peers by what torch offers.

A peer at its best gets what our package uses, too: one cast of the weights, constant weights
("freezing") on a CPU; and it may be compiled for one size, on a GPU with CUDA graphs.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from benchmarks.cases import DTYPES, Case, Precision
from regnet_backbones.backbone import RegNetFeatures
from regnet_backbones.optimize import optimize
from regnet_backbones.optimize.passes import autocast, cast, compile_network, trunk_of


@dataclass(frozen=True)
class Setting:
    """What is done to a model; nothing is how it comes: eager, float32, NCHW.

    Attributes:
        optimized: by `regnet_backbones.optimize`, which chooses the memory format.
        precision: "bf16" casts weights for inference, and is autocast in training; "int8" is that
            of an engine.
        channels_last: memory format, where `optimized` does not choose it.
        checkpointing: blocks of ours are computed again in the backward pass.
        compiled: `torch.compile`, for this one size.
        any_size: with `optimized` and `compiled`, for all sizes at once, as `optimize` does for
            those that are not typical.
        freezing: with `compiled`, make weights constants in inference on a CPU.
        autotuned: with `compiled`, time several kernels of each kind and use CUDA graphs.
    """

    optimized: bool = False
    precision: Precision = "fp32"
    channels_last: bool = False
    checkpointing: bool = False
    compiled: bool = False
    any_size: bool = False
    freezing: bool = True
    autotuned: bool = False

    def row_name(self, family: str) -> str:
        """Name a row: "timm", or "timm, bf16, channels_last, compiled"."""
        parts = {
            "optimized": self.optimized,
            self.precision: self.precision != "fp32",
            "channels_last": self.channels_last,
            "checkpointing": self.checkpointing,
            "compiled": self.compiled,
            "any size": self.any_size,
            "no freezing": not self.freezing,
            "max-autotune": self.autotuned,
        }
        return ", ".join([family, *(name for name, done in parts.items() if done)])

    def apply(self, model: nn.Module, case: Case) -> nn.Module:
        """Return the model with this done to it.

        Args:
            model: on the device of the case, in training mode or not as the case says.
        """
        dtype = torch.bfloat16 if self.precision == "bf16" else None
        if self.checkpointing:
            for module in model.modules():
                if isinstance(module, RegNetFeatures):
                    module.set_grad_checkpointing()
        if self.optimized:
            by_optimize = self.freezing and not (self.any_size or self.autotuned)
            model, _ = optimize(
                model,
                mode="training" if case.training else "inference",
                dtype=dtype,
                compile=self.compiled and by_optimize,
                dynamic=False,
                image_size=case.size,
                batch_size=case.batch,
            )
            if self.compiled and not by_optimize:
                self._compile(trunk_of(model), case)
            return model
        trunk = trunk_of(model)
        if dtype is not None and case.training:
            autocast(model, dtype)
        elif dtype is not None:
            cast(trunk, dtype, outputs=None if case.part == "features" else torch.float32)
        if self.channels_last:
            trunk.to(memory_format=torch.channels_last)
        if self.compiled:
            self._compile(trunk, case)
        return model

    def _compile(self, trunk: nn.Module, case: Case) -> None:
        """Compile a network in place, for one size or for all."""
        if self.autotuned:
            trunk.compile(mode="max-autotune", dynamic=False)
        else:
            inference = self.freezing and not case.training
            compile_network(trunk, inference=inference, dynamic=self.any_size)


def _both_precisions(*settings: Setting) -> tuple[Setting, ...]:
    """Return the settings in float32, then in bfloat16."""
    return tuple(
        replace(setting, precision=precision) for precision in DTYPES for setting in settings
    )


# By whether the model is trained.
OURS: dict[bool, tuple[Setting, ...]] = {
    False: _both_precisions(
        Setting(),
        Setting(optimized=True),
        Setting(optimized=True, compiled=True),
        Setting(optimized=True, compiled=True, any_size=True),
        Setting(optimized=True, compiled=True, freezing=False),
        Setting(optimized=True, compiled=True, autotuned=True),
    ),
    True: _both_precisions(
        Setting(),
        Setting(optimized=True),
        Setting(optimized=True, compiled=True),
        Setting(optimized=True, compiled=True, any_size=True),
        Setting(optimized=True, checkpointing=True),
    ),
}
PEERS: dict[bool, tuple[Setting, ...]] = {
    False: _both_precisions(
        Setting(),
        Setting(channels_last=True),
        Setting(compiled=True),
        Setting(channels_last=True, compiled=True),
        Setting(channels_last=True, compiled=True, freezing=False),
        Setting(channels_last=True, compiled=True, autotuned=True),
    ),
    True: _both_precisions(
        Setting(),
        Setting(channels_last=True),
        Setting(compiled=True),
        Setting(channels_last=True, compiled=True),
    ),
}
