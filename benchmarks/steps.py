"""One call of a model as it is measured: an inference, or a step of training without optimizer."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import call

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from benchmarks import whole_models
from benchmarks.cases import Case
from regnet_backbones.errors import UserError
from regnet_backbones.optimize.passes import maps_of, relative_error

LEVELS = 4  # C2 to C5


@dataclass(frozen=True)
class Step:
    """A model with its inputs.

    Attributes:
        model: after its setting.
        inputs: what it takes, the same for all rows of a case.
        run: gives the model its inputs.
        loss: of its outputs in training.
        training: forward and backward, rather than forward.
    """

    model: nn.Module
    inputs: object
    run: Callable[[nn.Module, object], object]
    loss: Callable[..., torch.Tensor]
    training: bool

    def __call__(self) -> None:
        """Do what is timed: forward, or forward, backward, and gradients back to none."""
        if self.training:
            self.forward().backward()
            self.model.zero_grad(set_to_none=True)
        else:
            self.outputs()

    def forward(self) -> torch.Tensor:
        """Return the loss, with its graph."""
        return self.loss(self.run(self.model, self.inputs))

    def outputs(self) -> object:
        """Return what the model gives, without a graph."""
        with torch.inference_mode():
            return self.run(self.model, self.inputs)

    def state(self) -> Iterable[torch.Tensor]:
        """Return what is in memory anyway."""
        yield from self.model.parameters()
        yield from self.model.buffers()


def make_step(model: nn.Module, case: Case) -> Step:
    """Return the step of a case with a model that has been treated."""
    inputs, run, loss = {
        "features": (Case.images, call, features_loss),
        "detector": (
            whole_models.detector_inputs,
            whole_models.run_detector,
            whole_models.detector_loss,
        ),
        "segmenter": (Case.images, call, whole_models.segmenter_loss),
        "deeplabv3plus": (Case.images, call, whole_models.segmenter_loss),
    }[case.part]
    return Step(model, inputs(case), run, loss, case.training)


def last_maps(output: object) -> list[torch.Tensor]:
    """Return C2 to C5 of an extractor's output, whatever its form and what comes before them."""
    return maps_of(output)[-LEVELS:]


def features_loss(output: object) -> torch.Tensor:
    """Return the sum of the mean squares of C2 to C5."""
    return sum(features.float().square().mean() for features in last_maps(output))


def largest_error(maps: list[torch.Tensor], reference: list[torch.Tensor]) -> float:
    """Return the largest difference of a map, relative to the largest value of the reference's.

    Raises:
        FloatingPointError: a map has values that are not finite.
        ValueError: maps have other shapes.
    """
    errors = []
    for level, (found, expected) in enumerate(zip(maps, reference, strict=True), start=2):
        if found.shape != expected.shape:
            raise UserError(
                f"C{level} is {tuple(found.shape)}, and {tuple(expected.shape)} in our extractor"
            )
        if not found.isfinite().all():
            raise FloatingPointError(f"C{level} has values that are not finite")
        errors.append(relative_error(found, expected))
    return max(errors)


def saved_bytes(forward: Callable[[], object], *, besides: Iterable[torch.Tensor]) -> int:
    """Return the bytes that a forward pass keeps for its backward pass.

    `forward` returns something that holds the graph, such as a loss. Storages count once and whole,
    those of `besides` (parameters and buffers) not at all.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in besides}
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would keep its own graph alive

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result  # held until here: a storage that is freed may give its address to the next
    return sum(storages.values())
