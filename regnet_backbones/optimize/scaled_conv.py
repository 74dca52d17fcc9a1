"""A convolution with scaled weights, which the backward pass scales again instead of keeping them.

Autograd would keep the scaled weights of every layer from forward to backward, a second copy of the
network's. Scaling takes next to no time, so only what a frozen norm keeps is kept: map and scale.
Where nothing is trained, scaled weights are computed once (`Kept`).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional


def scaled_conv(x: Tensor, conv: nn.Conv2d, scale: Tensor, bias: Tensor) -> Tensor:
    """Return what `conv` gives of a map with `conv.weight * scale` and `bias`, both (C',).

    Its own bias is left out. Gradients go to `x` and `conv.weight`. Autocast is followed.
    """
    x = to_autocast(x)
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        weight = (conv.weight * scale.reshape(-1, 1, 1, 1)).to(x.dtype)
        return conv._conv_forward(x, weight, bias.to(x.dtype))
    place = (conv.stride, conv.padding, conv.dilation, conv.groups)
    return _ScaledConv.apply(x, conv.weight, scale, bias, place)


def to_autocast(x: Tensor) -> Tensor:
    """Return a tensor in the type that autocast has for convolutions, if it is enabled."""
    device_type = x.device.type
    if torch.is_autocast_enabled(device_type):
        return x.to(torch.get_autocast_dtype(device_type))
    return x


class Kept:
    """Tensors computed from others, computed again when one of those has changed.

    In-place changes and new tensors are seen, writes to `tensor.data` and by collectives are not. A
    copy and a pickle are empty.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._dtype: torch.dtype | None = None
        self._sources: list[tuple[Tensor | None, int]] = []
        self._values: tuple[Tensor, ...] = ()

    def get(
        self,
        sources: Sequence[Tensor | None],
        dtype: torch.dtype,
        compute: Callable[[], tuple[Tensor, ...]],
    ) -> tuple[Tensor, ...]:
        """Return what `compute` gives, in `dtype`, for sources as they are now."""
        if any(tensor is not None and tensor.is_inference() for tensor in sources):
            with torch.no_grad():  # such tensors do not count their changes
                return compute()
        if dtype != self._dtype or not self._are_current(sources):
            # What is computed in inference mode could not be used in a training.
            with torch.inference_mode(False), torch.no_grad():
                self._values = compute()
                # Aliases: while they live, no other tensor gets their memory.
                self._sources = [(t, 0) if t is None else (t.detach(), t._version) for t in sources]
            self._dtype = dtype
        return self._values

    def _are_current(self, sources: Sequence[Tensor | None]) -> bool:
        return len(sources) == len(self._sources) and all(
            old is new
            if old is None or new is None
            else (old.data_ptr(), version) == (new.data_ptr(), new._version)
            for new, (old, version) in zip(sources, self._sources, strict=True)
        )

    def __reduce__(self) -> tuple[type["Kept"], tuple[()]]:
        return Kept, ()


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
