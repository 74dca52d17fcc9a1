"""TorchScript by tracing, without what torch says of it each time."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

TORCHSCRIPT_SUFFIXES = (".ts", ".pt")


def trace(network: nn.Module, example: torch.Tensor, path: Path, *, checked: bool) -> None:
    """Trace a network and write what it did.

    Args:
        network: in evaluation mode; returns a dictionary whose keys are always the same.
        example: what it is traced with.
        path: of the file.
        checked: the file is compared with the network at other sizes. Then torch's warnings, of
            each place where a trace might keep what belongs to the example, are left out.
    """
    with _without_deprecation(), torch.no_grad():
        if checked:
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
        # Not strict: strict means that no dictionary may be returned.
        traced = torch.jit.trace(network, example, strict=False, check_trace=False)
        # Where the disk is full, torch's own writer of a path aborts the process.
        with Path(path).open("wb") as file:
            torch.jit.save(traced, file)


def load_torchscript(path: str | Path) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """Load a TorchScript file on the device it was traced on."""
    with _without_deprecation():
        return torch.no_grad()(torch.jit.load(path))


@contextmanager
def _without_deprecation() -> Iterator[None]:
    """Leave out that torch recommends torch.export instead: both are offered here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", category=FutureWarning)
        yield
