"""`torch.compile` for images of any size, with what inductor does only when asked.

On a CPU inductor can take weights for constants ("freezing"), pack them for its convolutions, and
let these do the activation and the sum of a residual block. That is a switch of the whole process
(`torch._inductor.config.freezing`; the option of that name of `torch.compile` does not reach all
that reads it), so it is set around the calls of a compiled network, and only there.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import nn

# One for single images and one for batches, or for small and large images: torch picks another
# kernel for a convolution of a single image where the map has few values (20,480).
MAX_COMPILATIONS = 2


def compile_network(
    network: nn.Module, *, inference: bool, dynamic: bool = True, cuda_graphs: bool = False
) -> nn.Module:
    """Compile a network in place, at its first call; state dict and attributes stay.

    With `dynamic` height and width are symbols from the first call on; what would be the third
    compilation is not done, such images take the network as it is. Otherwise every size compiles,
    for itself. `cuda_graphs` replay recorded kernels for each size; outputs are overwritten by the
    next call. For `inference` weights are constants on a CPU, while gradients are disabled.
    """
    if cuda_graphs:
        network.compile(dynamic=False, options={"triton.cudagraphs": True})
    else:
        on_cpu = next(network.parameters()).device.type == "cpu"
        # What `Module.compile` sets: not a part of state dicts, copies and pickles.
        network._compiled_call_impl = CompiledCalls(
            network._call_impl, dynamic=dynamic, freezing=inference and on_cpu
        )
    return network


class CompiledCalls:
    """Calls of a network that compile, for dynamic sizes at most `MAX_COMPILATIONS` times."""

    def __init__(self, call: Callable, *, dynamic: bool, freezing: bool):
        self.compilations = 0
        self._dynamic = dynamic
        self._freezing = freezing
        self._compiles = False
        self._call = torch.compile(call, backend=self._compile, dynamic=dynamic)

    def __call__(self, *args: object, **options: object) -> object:
        """Do what the network does."""
        from torch._inductor import config

        with ExitStack() as stack:
            if self._dynamic and self.compilations == MAX_COMPILATIONS:
                stack.enter_context(torch.compiler.set_stance("eager_on_recompile"))
            if self._freezing:
                stack.enter_context(config.patch(freezing=True))
            self._compiles = False
            output = self._call(*args, **options)
            self.compilations += self._compiles
        return output

    def _compile(self, graph: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Callable:
        """Compile with inductor, and remember it."""
        from torch._inductor.compile_fx import compile_fx

        self._compiles = True
        return compile_fx(graph, inputs)
