"""A convolution with scaled weights, which the backward pass scales again instead of keeping them.

Autograd would keep the scaled weights of every layer from forward to backward, a second copy of the
network's. Scaling takes next to no time, so only what a frozen norm keeps is kept: map and scale.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional


def scaled_conv(x: Tensor, conv: nn.Conv2d, scale: Tensor, bias: Tensor) -> Tensor:
    """Return what `conv` gives of a map with `conv.weight * scale` and `bias`, both (C',).

    Its own bias is left out. Gradients go to `x` and `conv.weight`. Autocast is followed.
    """
    device_type = x.device.type
    if torch.is_autocast_enabled(device_type):
        x = x.to(torch.get_autocast_dtype(device_type))
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        weight = (conv.weight * scale.reshape(-1, 1, 1, 1)).to(x.dtype)
        return conv._conv_forward(x, weight, bias.to(x.dtype))
    place = (conv.stride, conv.padding, conv.dilation, conv.groups)
    return _ScaledConv.apply(x, conv.weight, scale, bias, place)


class _ScaledConv(torch.autograd.Function):
    """The convolution, and its derivative by map and unscaled weight."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, place: tuple
    ) -> Tensor:
        ctx.save_for_backward(x, weight, scale)
        ctx.place = place
        scaled = (weight * scale.reshape(-1, 1, 1, 1)).to(x.dtype)
        return functional.conv2d(x, scaled, bias.to(x.dtype), *place)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.place
        needed = [*ctx.needs_input_grad[:2], False]
        factors = scale.reshape(-1, 1, 1, 1)
        # The order of `forward` would be the same expression to a compiler, which would keep it.
        scaled = (factors * weight).to(x.dtype)
        by_map, by_weight, _ = torch.ops.aten.convolution_backward(
            *(gradient, x, scaled, None, stride, padding, dilation, False, [0, 0], groups, needed)
        )
        if by_weight is not None:
            by_weight = by_weight.to(weight.dtype) * factors
        return by_map, by_weight, None, None, None
