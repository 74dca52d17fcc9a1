"""Where a network normalises what a convolution gives: the pairs that can be folded.

Order of definition is no proof of order of execution, so only layers whose `forward` is known are
read: timm's `ConvNormAct`, `SEModule` and pre-activation bottleneck, `nn.Sequential`, and
detectron2's `Conv2d`, which holds its norm.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard, TypeVar

from timm.layers import ConvNormAct, SqueezeExcite
from timm.models.regnet import PreBottleneck
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

M = TypeVar("M", bound=nn.Module)

# What timm, torchvision and detectron2 call theirs; the last is not imported for it.
FROZEN_NORMS = ("FrozenBatchNormAct2d", "FrozenBatchNorm2d")
DETECTRON2_CONVS = "detectron2.layers.wrappers"

# Names of convolution and norm in modules that run one right after the other.
PAIRS: tuple[tuple[type[nn.Module], str, str], ...] = (
    (ConvNormAct, "conv", "bn"),
    (SqueezeExcite, "fc1", "bn"),
    (PreBottleneck, "conv1", "norm2"),
)


@dataclass(frozen=True)
class ConvNorm:
    """A convolution, the batch norm behind it, and where that batch norm is."""

    name: str
    conv: nn.Conv2d
    norm: nn.Module
    norm_owner: nn.Module
    norm_name: str


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

    A convolution or a norm that also stands elsewhere in the model, alone or in another module, is
    left out: it cannot be changed for one place. A module that holds both may stand anywhere.
    """
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for name, module in model.named_modules():
        for pair in _pairs_of(name, module):
            here = places[id(module)]
            shared = places[id(pair.conv)] > here or places[id(pair.norm)] > here
            if is_batch_norm(pair.norm) and not shared:
                yield pair


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


def _runs_as(module: nn.Module, kind: type[M]) -> TypeGuard[M]:
    """Whether a module is of this kind and its `forward` is the kind's."""
    return isinstance(module, kind) and type(module).forward is kind.forward


def _last_layer(module: nn.Module) -> nn.Module:
    """Return the layer that gives the output of a module, as far as nested sequences tell."""
    while _runs_as(module, nn.Sequential) and len(module):
        module = module[-1]
    return module
