"""Batch norm folded into the convolution before it.

For inference once and for all; for training on the fly, where each step computes scaled weights, so
that the gradient is that of the unscaled ones.

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

from regnet_backbones.errors import UserError
from regnet_backbones.optimize.scaled_conv import scaled_conv

# What timm, torchvision and detectron2 call theirs; the last is not imported for it.
FROZEN_NORMS = ("FrozenBatchNormAct2d", "FrozenBatchNorm2d")
DETECTRON2_CONVS = "detectron2.layers.wrappers"

# Names of convolution and norm in modules that run one right after the other.
PAIRS: tuple[tuple[type[nn.Module], str, str], ...] = (
    (ConvNormAct, "conv", "bn"),
    (SqueezeExcite, "fc1", "bn"),
    (PreBottleneck, "conv1", "norm2"),
)


class ConvNorm(NamedTuple):
    """A convolution, the batch norm behind it, and where that batch norm is."""

    name: str
    conv: nn.Conv2d
    norm: nn.Module
    norm_owner: nn.Module
    norm_name: str


def scale_and_shift(norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a batch norm with fixed statistics multiplies each channel by, and adds."""
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    return scale, shift


def folded_conv(x: torch.Tensor, conv: nn.Conv2d, norm: nn.Module) -> torch.Tensor:
    """Return what a frozen norm gives after a convolution, as autograd needs it for training."""
    scale, bias = scale_and_shift(norm)
    if conv.bias is None:
        return scaled_conv(x, conv, scale, bias)
    # The convolution's own bias is trained, so it cannot go where no gradient comes from.
    bias = (bias + conv.bias * scale).reshape(1, -1, 1, 1)
    x = scaled_conv(x, conv, scale, torch.zeros_like(scale))
    return x + bias.to(x.dtype)


@torch.no_grad()
def fold_batch_norm(model: nn.Module) -> list[str]:
    """Fold batch norms into their convolutions for inference, in place, and return their names.

    A folded norm becomes its activation, or nothing. Batch norms that follow no convolution (those
    of a pre-activation network, or behind squeeze-and-excitation) stay.
    """
    folded = []
    for pair in list(conv_norms(model)):
        if pair.norm.training and not is_frozen_norm(pair.norm):
            raise UserError(
                f"batch norm '{pair.name}' is in training mode; call model.eval() before folding"
            )
        scale, bias = scale_and_shift(pair.norm)
        if pair.conv.bias is not None:
            bias = bias + pair.conv.bias * scale
        pair.conv.weight = _like(pair.conv.weight, pair.conv.weight * scale.reshape(-1, 1, 1, 1))
        pair.conv.bias = _like(pair.conv.weight, bias)
        setattr(pair.norm_owner, pair.norm_name, _activation(pair.norm))
        folded.append(pair.name)
    return folded


def fold_frozen_norm(model: nn.Module) -> list[str]:
    """Let convolutions of a model in training do the work of the frozen norms behind them.

    In place; the names of these norms are returned. State dict, parameters and gradients stay.
    """
    folded = []
    for pair in list(conv_norms(model)):
        if not is_frozen_norm(pair.norm):
            continue
        owner: nn.Module = pair.norm_owner
        if isinstance(owner, ConvNormAct) and type(pair.conv) is nn.Conv2d:
            stand_in: nn.Module = FoldedConvNormAct(owner)
        elif owner is pair.conv:
            stand_in = FoldedConv2d(pair.conv)
        else:
            continue
        for module in list(model.modules()):
            for name, child in module.named_children():
                if child is owner:
                    setattr(module, name, stand_in)
        folded.append(pair.name)
    return folded


def remaining_batch_norms(model: nn.Module) -> int:
    """Count the batch norms that still run as a pass of their own."""
    done = {id(m.bn) for m in model.modules() if isinstance(m, FoldedConvNormAct)}
    done |= {id(m.norm) for m in model.modules() if isinstance(m, FoldedConv2d)}
    return sum(is_batch_norm(module) and id(module) not in done for module in model.modules())


class FoldedConvNormAct(nn.Module):
    """timm's `ConvNormAct` with a frozen norm, which its convolution does (`conv`, `bn`, `aa`)."""

    def __init__(self, block: ConvNormAct):
        super().__init__()
        self.conv, self.bn, self.aa = block.conv, block.bn, block.aa
        self.training = block.training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the activated map (N, C, H', W')."""
        x = folded_conv(x, self.conv, self.bn)
        x = self.bn.act(self.bn.drop(x))
        return x if self.aa is None else self.aa(x)


class FoldedConv2d(nn.Conv2d):
    """detectron2's `Conv2d` with a frozen norm, which the convolution does (`norm`)."""

    def __init__(self, conv: nn.Conv2d):
        nn.Module.__init__(self)
        self.__dict__.update(conv.__dict__)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the activated map (N, C, H', W')."""
        x = folded_conv(x, self, self.norm)
        return x if self.activation is None else self.activation(x)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm with statistics, frozen or not, of any of the projects."""
    if isinstance(module, _BatchNorm):
        return module.running_mean is not None
    return is_frozen_norm(module)


def is_frozen_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm that cannot be trained."""
    return type(module).__name__ in FROZEN_NORMS


def conv_norms(model: nn.Module) -> Iterator[ConvNorm]:
    """Find every convolution with a batch norm of its own right behind it.

    One that is also elsewhere in the model is left out: it cannot be changed for one place.
    """
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for name, module in model.named_modules():
        for pair in _pairs_of(name, module):
            here = places[id(module)]
            shared = places[id(pair.conv)] > here or places[id(pair.norm)] > here
            if is_batch_norm(pair.norm) and not shared:
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
    if _runs_as(module, nn.Sequential):
        children = list(module.named_children())
        for (_, before), (key, norm) in itertools.pairwise(children):
            conv = _last_layer(before)
            if type(conv) is nn.Conv2d:
                yield ConvNorm(f"{name}.{key}", conv, norm, module, key)
    for kind, conv_name, norm_name in PAIRS:
        if _runs_as(module, kind):
            conv, norm = getattr(module, conv_name), getattr(module, norm_name)
            if type(conv) is nn.Conv2d:
                yield ConvNorm(f"{name}.{norm_name}", conv, norm, module, norm_name)


def _runs_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of this kind and its `forward` is the kind's."""
    return isinstance(module, kind) and type(module).forward is kind.forward


def _last_layer(module: nn.Module) -> nn.Module:
    """Return the layer that gives the output of a module, as far as nested sequences show."""
    while _runs_as(module, nn.Sequential) and len(module):
        module = module[-1]
    return module
