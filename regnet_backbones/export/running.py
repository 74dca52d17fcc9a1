"""An exported file as a function of images, in the runtime it was made for; and tracing."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import nn

from regnet_backbones.errors import UserError

if TYPE_CHECKING:
    import openvino

Runner = Callable[[torch.Tensor], dict[str, torch.Tensor]]
Engine = Literal["onnxruntime", "openvino"]  # what runs an ONNX file

ONNX_SUFFIXES = (".onnx",)
PROGRAM_SUFFIXES = (".pt2",)
TORCHSCRIPT_SUFFIXES = (".ts", ".pt")


def load_exported(path: str | Path, *, engine: Engine = "onnxruntime") -> Runner:
    """Return an exported file as a function of images (N, C, H, W) that returns outputs by name.

    It runs on the CPU, with as many threads as torch has.

    Args:
        path: `.onnx`; `.pt2`, for torch.export; `.ts` or `.pt`, TorchScript.
        engine: what runs an `.onnx`, "onnxruntime" or "openvino".

    Raises:
        ValueError: a file of another kind, or an unknown engine.
        ModuleNotFoundError: the engine is not installed.
    """
    if engine not in get_args(Engine):
        raise UserError(f"engine must be one of {', '.join(get_args(Engine))}, got {engine!r}")
    suffix = Path(path).suffix.lower()
    if suffix in ONNX_SUFFIXES:
        return _load_openvino(path) if engine == "openvino" else _load_onnxruntime(path)
    if suffix in PROGRAM_SUFFIXES:
        return torch.no_grad()(torch.export.load(path).module())
    if suffix in TORCHSCRIPT_SUFFIXES:
        return load_torchscript(path)
    raise UserError(f"an exported file must end in .onnx, .pt2, .ts or .pt, got '{path}'")


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of an ONNX file."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


def write_metadata(path: str | Path, values: Mapping[str, str]) -> None:
    """Add metadata to an ONNX file; a key that it has gets the new value."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    merged = {entry.key: entry.value for entry in model.metadata_props} | dict(values)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, merged)
    onnx.save(model, path)


def _load_onnxruntime(path: str | Path) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    names = [output.name for output in session.get_outputs()]
    (images_name,) = (each.name for each in session.get_inputs())

    def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = session.run(names, {images_name: images.numpy()})
        return {name: torch.from_numpy(each) for name, each in zip(names, maps, strict=True)}

    return run


def compile_openvino(path: str | Path) -> "openvino.CompiledModel":
    """Load an ONNX file in OpenVINO, in float32, for single inputs on the CPU."""
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    options["INFERENCE_PRECISION_HINT"] = "f32"
    return _openvino_core().compile_model(str(path), "CPU", options)


@cache
def _openvino_core() -> "openvino.Core":
    """Return OpenVINO's `Core`, the same one for as long as the process runs.

    Each replaces the stack for signal handlers until it is deleted. Two that are deleted in the
    order of their creation leave a freed stack: the next signal with a handler ends the process.
    """
    import openvino

    return openvino.Core()


def _load_openvino(path: str | Path) -> Runner:
    compiled = compile_openvino(path)

    def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = compiled(images.numpy(), share_inputs=True)
        return {port.get_any_name(): torch.from_numpy(each.copy()) for port, each in maps.items()}

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
