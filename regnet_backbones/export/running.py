"""An exported file as a function of images, in the runtime it was made for; and tracing."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from regnet_backbones.errors import UserError

Runner = Callable[[torch.Tensor], dict[str, torch.Tensor]]

ONNX_SUFFIXES = (".onnx",)
PROGRAM_SUFFIXES = (".pt2",)
TORCHSCRIPT_SUFFIXES = (".ts", ".pt")


def load_exported(path: str | Path) -> Runner:
    """Load an exported file on the CPU.

    Args:
        path: `.onnx`, for onnxruntime; `.pt2`, for torch.export; `.ts` or `.pt`, TorchScript.

    Returns:
        A function of float32 images (N, C, H, W) that returns the maps by name.

    Raises:
        ValueError: a file of another kind.
        ModuleNotFoundError: onnxruntime is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix in ONNX_SUFFIXES:
        return _load_onnx(path)
    if suffix in PROGRAM_SUFFIXES:
        return torch.no_grad()(torch.export.load(path).module())
    if suffix in TORCHSCRIPT_SUFFIXES:
        return load_torchscript(path)
    raise UserError(f"an exported file ends in .onnx, .pt2, .ts or .pt, got '{path}'")


def _load_onnx(path: str | Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    (images_name,) = (each.name for each in session.get_inputs())

    def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = session.run(names, {images_name: images.numpy()})
        return {name: torch.from_numpy(each) for name, each in zip(names, maps, strict=True)}

    return run


def trace(network: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Trace a network in evaluation mode; it does not warn, as the file is checked later."""
    with _without_deprecation(), torch.no_grad():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        # Not strict: a dictionary may be returned.
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
