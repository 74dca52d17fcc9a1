"""Normalisation layers of a timm network: convert them, freeze a part of it, find lost activations.

timm's `BatchNormAct2d` is a `BatchNorm2d` that also applies the activation: the converters of
torch, detectron2 and transformers' DETR family silently delete the ReLU. timm's own keep it, and so
does the group norm here. Batch norms that timm does not freeze become `FrozenBatchNorm`.
"""

import logging
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, get_args

import timm
import torch
from timm.layers import (
    BatchNormAct2d,
    FrozenBatchNormAct2d,
    GroupNormAct,
    SyncBatchNormAct,
    convert_sync_batchnorm,
    freeze_batch_norm_2d,
)
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from regnet_backbones.errors import UserError

Norm = Literal["BN", "SyncBN", "FrozenBN", "GN"]

NORMS: tuple[str, ...] = get_args(Norm)

LOST_HINT = (
    "converters of torch, detectron2 and transformers delete the activation of timm's batch norms. "
    "Build the network with norm='FrozenBN' or 'SyncBN', or convert it first with regnet_backbones."
    "norm.convert_norm (TimmBackboneConfig: freeze_batch_norm_2d=True)"
)

logger = logging.getLogger(__name__)


class FrozenBatchNorm(FrozenBatchNorm2d):
    """torchvision's frozen batch norm, for inputs (N, C, ...) of any number of dimensions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise by the fixed statistics."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


class FrozenBatchNormAct(FrozenBatchNormAct2d):
    """timm's `FrozenBatchNormAct2d`, whose maps would be float32 under autocast, and kept so."""

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise by the fixed statistics, and activate, in the type of the map."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        normalised = x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)
        return self.act(self.drop(normalised.to(x.dtype)))


class BatchNormAct(_BatchNorm):
    """timm's `BatchNormAct2d`, but not an `nn.BatchNorm2d`, which is what converters look for."""

    forward = BatchNormAct2d.forward


# The norms that apply an activation.
NORM_ACTS = (BatchNormAct2d, SyncBatchNormAct, FrozenBatchNormAct2d, BatchNormAct)


def convert_norm(network: nn.Module, norm: Norm) -> nn.Module:
    """Give every batch norm of `network` the form `norm`; weights, statistics and activation stay.

    Args:
        network: a timm network, changed in place.
        norm: "BN" changes nothing; "SyncBN" shares batch statistics between processes (GPU only);
            "FrozenBN" fixes statistics and affine parameters, which become buffers; "GN" is group
            norm with 32 groups, or the largest power of two that divides the channels.

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
    hide_batch_norms(network, False)  # timm's converters look for its own classes
    convert = {
        "SyncBN": convert_sync_batchnorm,
        "FrozenBN": _freeze_batch_norms,
        "GN": lambda module: _exchange(module, _group_norm_like),
    }[norm]
    network = convert(network)
    restore_activations(network)  # timm's converter deletes those of what is synchronised already
    return network


def freeze(module: nn.Module) -> nn.Module:
    """Return `module` fixed for good: no gradients, batch norms frozen, evaluation mode.

    Its batch norms become frozen ones, which `train()` cannot thaw. Drop path stays off only in
    evaluation mode: call `eval()` again after every `train()`, as `RegNetFeatures.train` does.

    Args:
        module: a part of a timm network, changed in place; a batch norm itself is exchanged.
    """
    return _freeze_batch_norms(module).requires_grad_(False).eval()


def update_twice(module: nn.Module, enable: bool = True) -> nn.Module:
    """Return `module`, where two updates by the same batch move running statistics as one does.

    Gradient checkpointing updates them twice: `(1 - m') ** 2 = 1 - m` for the momentum m.

    Args:
        module: a part of a timm network, changed in place.
        enable: False reverses it.
    """
    exponent = 0.5 if enable else 2
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and norm.momentum is not None:
            norm.momentum = 1 - (1 - norm.momentum) ** exponent
    return module


def hide_batch_norms(network: nn.Module, hide: bool = True) -> nn.Module:
    """Return `network`, where each `BatchNormAct2d` is a `BatchNormAct` and does the same.

    Args:
        network: a timm network, changed in place.
        hide: False reverses it.
    """
    kinds = (BatchNormAct2d, BatchNormAct) if hide else (BatchNormAct, BatchNormAct2d)
    for module in network.modules():
        if type(module) is kinds[0]:
            module.__class__ = kinds[1]
    return network


def activated_norms(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the batch norms of a timm network that also apply an activation.

    Args:
        network: a timm network, or a `RegNetFeatures`.
    """
    return tuple(
        name
        for name, module in network.named_modules()
        if isinstance(module, NORM_ACTS) and not isinstance(module.act, nn.Identity)
    )


def lost_activations(model: nn.Module) -> list[nn.Module]:
    """Return the plain norms that a converter put where a norm also applied an activation.

    Known are the norms of each `RegNetFeatures`, and of each timm network whose `pretrained_cfg`
    has its architecture, of which timm builds another, without memory, to compare.

    Args:
        model: a network of timm, or any model that holds one or several, such as a DETR.
    """
    lost: dict[int, nn.Module] = {}
    for network in model.modules():
        found = [network] if _is_unused_act(network) else _plain_for_activated(network)
        lost |= {id(module): module for module in found}
    return list(lost.values())


def restore_activations(model: nn.Module) -> None:
    """Restore the activations that torch's `convert_sync_batchnorm` keeps and does not apply.

    Args:
        model: any model that holds networks of timm, changed in place.

    Raises:
        ValueError: others are lost.
    """
    lost = lost_activations(model)
    unused = [module for module in lost if _is_unused_act(module)]
    for module in unused:
        module.__class__ = SyncBatchNormAct  # in place: DDP and optimizers hold its tensors
    if unused:
        logger.info("convert_sync_batchnorm dropped %d activations, restored", len(unused))
    if len(lost) > len(unused):
        kinds = {type(module).__name__ for module in lost if module not in unused}
        text = f"{len(lost) - len(unused)} activations of the network are lost"
        raise UserError(f"{text} (norms are {', '.join(sorted(kinds))}): {LOST_HINT}")


def _plain_for_activated(network: nn.Module) -> list[nn.Module]:
    """Return the plain norms of a network that were built to apply an activation."""
    names = vars(network).get("activated_norms", ())  # of a `RegNetFeatures`
    architecture = (getattr(network, "pretrained_cfg", None) or {}).get("architecture")
    if architecture and any(map(_is_plain, network.modules())):
        names = _activated_norms_of(architecture)
    if not names:
        return []
    # timm's features_only calls stages.0 stages_0.
    modules = {name.replace(".", "_"): module for name, module in network.named_modules()}
    found = [modules.get(name.replace(".", "_")) for name in names]
    return [module for module in found if module is not None and _is_plain(module)]


@lru_cache
def _activated_norms_of(architecture: str) -> tuple[str, ...]:
    try:
        with torch.device("meta"):
            return activated_norms(timm.create_model(architecture))
    except (NotImplementedError, RuntimeError):  # timm before 1.0.28 computes widths with torch
        return activated_norms(timm.create_model(architecture))


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a batch norm of any project, and applies no activation."""
    has_statistics = getattr(module, "running_var", None) is not None
    return has_statistics and not isinstance(module, NORM_ACTS)


def _is_unused_act(module: nn.Module) -> bool:
    """Whether torch's converter made a norm of one with an activation, now its unused child."""
    act = getattr(module, "act", nn.Identity())
    return type(module) is nn.SyncBatchNorm and not isinstance(act, nn.Identity)


def _freeze_batch_norms(module: nn.Module) -> nn.Module:
    """Exchange each batch norm for a frozen one."""
    restore_activations(module)
    module = freeze_batch_norm_2d(hide_batch_norms(module, False))
    for norm in module.modules():
        if type(norm) is FrozenBatchNormAct2d:
            norm.__class__ = FrozenBatchNormAct
    return _exchange(module, _frozen_norm_like)


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
