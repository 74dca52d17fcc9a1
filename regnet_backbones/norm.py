"""Normalisation layers of a timm network: convert them, freeze a part of it.

timm's `BatchNormAct2d` is a `BatchNorm2d` that also applies the activation: the converters of torch
and detectron2 silently delete the ReLU. timm's own keep it, and so does the group norm here. timm
freezes the batch norms of images only; others, such as LeViT's, become `FrozenBatchNorm`.
"""

import logging
import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from timm.layers import GroupNormAct, convert_sync_batchnorm, freeze_batch_norm_2d
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from regnet_backbones.errors import UserError

Norm = Literal["BN", "SyncBN", "FrozenBN", "GN"]

NORMS: tuple[str, ...] = get_args(Norm)

logger = logging.getLogger(__name__)


class FrozenBatchNorm(FrozenBatchNorm2d):
    """torchvision's frozen batch norm, for inputs (N, C, ...) of any number of dimensions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise by the fixed statistics."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def convert_norm(network: nn.Module, norm: Norm) -> nn.Module:
    """Give every batch norm of `network` the form `norm`; weights, statistics and activation stay.

    Args:
        network: a timm network, changed in place.
        norm: "BN" leaves it as it is; "SyncBN" shares batch statistics between processes (GPU
            only, as torch's); "FrozenBN" fixes statistics and affine parameters, which become
            buffers; "GN" is group norm with 32 groups, or the largest power of two that divides
            the channels (RegNet widths are multiples of 8, not of 32).

    Returns:
        The network (the converted layer where `network` is itself a batch norm).

    Raises:
        ValueError: `norm` is not one of these.
    """
    if norm not in NORMS:
        raise UserError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    if norm == "BN":
        return network
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        logger.warning("norm=%r changes nothing: the network has no batch norm", norm)
        return network
    convert = {
        "SyncBN": convert_sync_batchnorm,
        "FrozenBN": _freeze_batch_norms,
        "GN": lambda module: _exchange(module, _group_norm_like),
    }[norm]
    return convert(network)


def freeze(module: nn.Module) -> nn.Module:
    """Fix `module` for good: no gradients, batch norms frozen, evaluation mode.

    Its batch norms become frozen ones, which `train()` cannot thaw. Layers that are random in
    training (drop path) stay off only while the module is in evaluation mode: the owner calls
    `eval()` on it again after every `train()`, as `RegNetFeatures.train` does.

    Args:
        module: a part of a timm network, changed in place.

    Returns:
        The module (the converted layer where `module` is itself a batch norm).
    """
    return _freeze_batch_norms(module).requires_grad_(False).eval()


def update_twice(module: nn.Module) -> nn.Module:
    """Let two updates by the same batch move running statistics as one update does.

    For what is recomputed in the backward pass (gradient checkpointing), where each forward pass
    updates them: `(1 - m') ** 2 = 1 - m` for the momentum m.

    Args:
        module: a part of a timm network, changed in place.

    Returns:
        The module.
    """
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and norm.momentum is not None:
            norm.momentum = 1 - math.sqrt(1 - norm.momentum)
    return module


def _freeze_batch_norms(module: nn.Module) -> nn.Module:
    """Exchange each batch norm for a frozen one."""
    return _exchange(freeze_batch_norm_2d(module), _frozen_norm_like)


def _exchange(module: nn.Module, stand_in: Callable[[_BatchNorm], nn.Module]) -> nn.Module:
    """Exchange each batch norm for its stand-in."""
    if isinstance(module, _BatchNorm):
        return stand_in(module)
    for name, child in module.named_children():
        module.add_module(name, _exchange(child, stand_in))
    return module


def _frozen_norm_like(norm: _BatchNorm) -> FrozenBatchNorm:
    """Build the frozen norm that stands in for `norm`, a batch norm without an activation."""
    frozen = FrozenBatchNorm(norm.num_features, eps=norm.eps).to(norm.running_mean)
    frozen.load_state_dict(norm.state_dict(), strict=False)  # it may have no affine parameters
    return frozen.train(norm.training)


def _group_norm_like(norm: _BatchNorm) -> GroupNormAct:
    """Build the group norm (32 groups, arXiv 1803.08494) that stands in for `norm`."""
    group_norm = GroupNormAct(
        norm.num_features,
        num_groups=math.gcd(norm.num_features, 32),
        eps=norm.eps,
        apply_act=False,
    ).to(norm.weight)
    group_norm.load_state_dict({"weight": norm.weight, "bias": norm.bias})
    group_norm.drop = getattr(norm, "drop", group_norm.drop)
    group_norm.act = getattr(norm, "act", group_norm.act)
    return group_norm.train(norm.training)
