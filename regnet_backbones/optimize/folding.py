"""Batch norm folded into the convolution before it.

For inference once and for all; for training on the fly, by scaling the weights in each step.
Order of definition does not prove order of execution, so only layers whose `forward` is known are
folded: timm's `ConvNormAct`, `SEModule` and pre-activation bottleneck, `nn.Sequential`, and
detectron2's `Conv2d`, which holds its norm.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from timm.layers import ConvNormAct, SqueezeExcite
from timm.models.regnet import PreBottleneck
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from regnet_backbones.optimize.scaled_conv import scaled_conv

# What we, timm, torchvision and detectron2 call theirs; the last is not imported for it.
FROZEN_NORMS = ("FrozenBatchNormAct", "FrozenBatchNormAct2d", "FrozenBatchNorm2d")
DETECTRON2_CONVS = "detectron2.layers.wrappers"

# Names of convolution and norm in modules that run one right after the other.
PAIRS: tuple[tuple[type[nn.Module], str, str], ...] = (
    (ConvNormAct, "conv", "bn"),
    (SqueezeExcite, "fc1", "bn"),
    (PreBottleneck, "conv1", "norm2"),
)


class ConvNorm(NamedTuple):
    """A convolution, and the batch norm behind it: `key` of `owner`."""

    name: str
    conv: nn.Conv2d
    norm: nn.Module
    owner: nn.Module
    key: str


def scale_and_shift(norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a batch norm with fixed statistics multiplies each channel by, and adds."""
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    return scale, shift


@torch.no_grad()
def fold_batch_norm(model: nn.Module) -> list[str]:
    """Fold batch norms into convolutions, for inference and in place, and return their names.

    A folded norm becomes its activation, or nothing. Batch norms that follow no convolution (those
    of a pre-activation network, or behind squeeze-and-excitation) stay.
    """
    folded = []
    for pair in list(conv_norms(model)):
        scale, bias = scale_and_shift(pair.norm)
        if pair.conv.bias is not None:
            bias = bias + pair.conv.bias * scale
        pair.conv.weight = _like(pair.conv.weight, pair.conv.weight * scale.reshape(-1, 1, 1, 1))
        pair.conv.bias = _like(pair.conv.weight, bias)
        setattr(pair.owner, pair.key, _activation(pair.norm))
        folded.append(pair.name)
    return folded


def fold_frozen_norm(model: nn.Module) -> list[str]:
    """Let convolutions of a model in training do the work of the frozen norms behind them.

    In place, in timm's `ConvNormAct`; the names of these norms are returned. State dict, parameters
    and gradients stay.
    """
    folded = []
    for pair in list(conv_norms(model)):
        if not (isinstance(pair.owner, ConvNormAct) and is_frozen_norm(pair.norm)):
            continue
        if pair.conv.bias is not None:  # trained, so it cannot go where no gradient comes from
            continue
        stand_in = FoldedConvNormAct(pair.owner)
        for module in list(model.modules()):
            for name, child in module.named_children():
                if child is pair.owner:
                    setattr(module, name, stand_in)
        folded.append(pair.name)
    return folded


def remaining_batch_norms(model: nn.Module) -> int:
    """Count the batch norms that still run as a pass of their own."""
    done = {id(m.bn) for m in model.modules() if isinstance(m, FoldedConvNormAct)}
    return sum(is_batch_norm(module) and id(module) not in done for module in model.modules())


class FoldedConvNormAct(nn.Module):
    """timm's `ConvNormAct` with a frozen norm, which its convolution does (`conv`, `bn`, `aa`)."""

    def __init__(self, block: ConvNormAct):
        super().__init__()
        self.conv, self.bn, self.aa = block.conv, block.bn, block.aa
        self.training = block.training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the activated map (N, C, H', W')."""
        x = scaled_conv(x, self.conv, *scale_and_shift(self.bn))
        x = self.bn.act(self.bn.drop(x))
        return x if self.aa is None else self.aa(x)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm with statistics, frozen or not, of any of the projects."""
    if isinstance(module, _BatchNorm):
        return module.running_mean is not None
    return is_frozen_norm(module)


def is_frozen_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm that cannot be trained."""
    return type(module).__name__ in FROZEN_NORMS


def conv_norms(model: nn.Module) -> Iterator[ConvNorm]:
    """Find every convolution with a batch norm right behind it, none of them used elsewhere.

    Weights that pruning or weight norm computes before each call stay: they are not parameters.
    """
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for name, module in model.named_modules():
        for pair in _pairs_of(name, module):
            here = places[id(module)]
            shared = places[id(pair.conv)] > here or places[id(pair.norm)] > here
            is_plain = "weight" in pair.conv._parameters
            if is_batch_norm(pair.norm) and is_plain and not shared:
                yield pair


def _activation(norm: nn.Module) -> nn.Module:
    """Return what a norm does after normalising: timm's have dropout and activation in them."""
    parts = [getattr(norm, name, None) for name in ("drop", "act")]
    kept = [part for part in parts if part is not None and not isinstance(part, nn.Identity)]
    return kept[0] if len(kept) == 1 else nn.Sequential(*kept)


def _like(old: nn.Parameter, value: torch.Tensor) -> nn.Parameter:
    """Make a parameter for inference that needs a gradient where the old one did."""
    return nn.Parameter(value.to(old.dtype), requires_grad=old.requires_grad)


def _pairs_of(name: str, module: nn.Module) -> Iterator[ConvNorm]:
    """Find the pairs that a module itself runs one after the other."""
    if isinstance(module, nn.Conv2d):
        if type(module).__module__ == DETECTRON2_CONVS and module.norm is not None:
            yield ConvNorm(f"{name}.norm", module, module.norm, module, "norm")
        return
    pairs = [(getattr(module, conv), norm) for kind, conv, norm in PAIRS if _runs_as(module, kind)]
    if _runs_as(module, nn.Sequential):
        children = itertools.pairwise(module.named_children())
        pairs += [(_last_layer(before), key) for (_, before), (key, _) in children]
    for conv, key in pairs:
        if type(conv) is nn.Conv2d:
            yield ConvNorm(f"{name}.{key}", conv, getattr(module, key), module, key)


def _runs_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of this kind and its `forward` is the kind's."""
    return isinstance(module, kind) and type(module).forward is kind.forward


def _last_layer(module: nn.Module) -> nn.Module:
    """Return the layer that gives the output of a module, as far as nested sequences show."""
    while _runs_as(module, nn.Sequential) and len(module):
        module = module[-1]
    return module
