"""Exported networks in other engines: onnxruntime, also in int8, and OpenVINO.

Files are made as `regnet_backbones.export` makes them: any size of images, batch norm folded, and
checked. An engine has as many threads as torch. What torch does to a file afterwards is timed, too:
masks of a detector are put in their places.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

from benchmarks import whole_models
from benchmarks.cases import Case, Part, Precision
from benchmarks.extractors import our_network
from regnet_backbones.export import export_onnx
from regnet_backbones.export.running import compile_openvino

# By kind of device as torch names it.
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

# Of convolutions in onnxruntime's graphs, by their domain and type: in its blocked layout, or not.
BLOCKED = {("com.microsoft.nchwc", "Conv")}
UNBLOCKED = {("", "Conv"), ("com.microsoft", "FusedConv"), ("", "QLinearConv")}
UNBLOCKED |= {("com.microsoft", "QLinearConv"), ("com.microsoft", "NhwcFusedConv")}

EXPORT_SIZE = (128, 160)  # of the images a network is exported with; others work, too

MAPS: tuple[Part, ...] = ("features", "segmenter", "deeplabv3plus")  # their files return maps


@dataclass(frozen=True)
class Engine:
    """What runs an exported file.

    Attributes:
        family: its name in rows.
        parts: what it runs.
        load: returns a file as a module, for a case.
        needs: modules that must be installed.
        precision: "int8" quantizes the file first.
        devices: what it runs on.
    """

    family: str
    parts: tuple[Part, ...]
    load: Callable[[Path, Case], nn.Module]
    needs: tuple[str, ...]
    precision: Precision = "fp32"
    devices: tuple[str, ...] = ("cpu",)

    def build(self, case: Case) -> nn.Module:
        """Return the model of a case, exported and loaded, as a module without parameters."""
        path = exported(case.part, case.variant)
        return self.load(quantized(path, case) if self.precision == "int8" else path, case)

    def needs_for(self, part: Part) -> tuple[str, ...]:
        """Return the modules that must be installed to run a part."""
        frameworks = {
            "features": (),
            "detector": ("detectron2", "regnet_backbones.detection.exporting"),
        }
        return (*self.needs, *frameworks.get(part, ("segmentation_models_pytorch",)))

    def why_not(self, case: Case) -> str | None:
        """Return why a case has no such row, None if it has one."""
        if case.device not in self.devices:
            return f"{self.family} in {self.precision} is not measured on {case.device}"
        if self.family == "onnxruntime":
            import onnxruntime

            if PROVIDERS[case.device] not in onnxruntime.get_available_providers():
                return f"this onnxruntime has no {PROVIDERS[case.device]}"
        return None


class Onnxruntime(nn.Module):
    """A file in onnxruntime, whose outputs stay on the device of the images.

    Attributes:
        note: how many convolutions run in onnxruntime's blocked layout, on a CPU.
    """

    def __init__(self, path: Path, case: Case):
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        # Its threads would keep the cores busy when the next row has its turn.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            if case.device == "cpu":
                options.optimized_model_filepath = str(optimized)
            providers = [PROVIDERS[case.device]]
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
            self.note = _layout_note(optimized) if case.device == "cpu" else ""
        self.input_name = self.session.get_inputs()[0].name
        self.names = [output.name for output in self.session.get_outputs()]
        self._bound: tuple[torch.Tensor, object, list[torch.Tensor]] | None = None

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps of images (N, C, H, W); the next call writes to the same memory."""
        if self._bound is None or self._bound[0] is not images:
            self._bound = (images, *self._bind(images))
        _, binding, outputs = self._bound
        self.session.run_with_iobinding(binding)
        return outputs

    def run(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return outputs whose sizes depend on what is in the image, by name."""
        outputs = self.session.run(self.names, {self.input_name: image.numpy()})
        return {n: torch.from_numpy(each) for n, each in zip(self.names, outputs, strict=True)}

    def _bind(self, images: torch.Tensor) -> tuple[object, list[torch.Tensor]]:
        """Bind the memory of images and of outputs, whose shapes a first call shows."""
        first, binding = self.session.io_binding(), self.session.io_binding()
        device = images.device.type
        for each in (first, binding):
            _bind(each.bind_input, self.input_name, images)
        for name in self.names:
            first.bind_output(name, device)
        self.session.run_with_iobinding(first)
        outputs = [images.new_empty(value.shape()) for value in first.get_outputs()]
        for name, output in zip(self.names, outputs, strict=True):
            _bind(binding.bind_output, name, output)
        return binding, outputs


class Openvino(nn.Module):
    """A file in OpenVINO."""

    def __init__(self, path: Path, case: Case):
        super().__init__()
        self.compiled = compile_openvino(path)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps of images (N, C, H, W); the next call writes to the same memory."""
        maps = self.compiled(images.numpy(), share_inputs=True, share_outputs=True)
        return [torch.from_numpy(maps[port]) for port in self.compiled.outputs]


class Detector(nn.Module):
    """A whole detector in onnxruntime, in the place of detectron2's model."""

    def __init__(self, path: Path, case: Case):
        super().__init__()
        self.engine = Onnxruntime(path, case)
        self.note = self.engine.note

    def forward(self, inputs: list[Mapping[str, torch.Tensor]]) -> list[dict[str, object]]:
        """Return the instances of each image, with masks in its size."""
        from detectron2.modeling.postprocessing import detector_postprocess
        from detectron2.structures import Boxes, Instances

        results = []
        for each in inputs:
            size = tuple(each["image"].shape[-2:])
            found = Instances(size)
            for name, output in self.engine.run(each["image"]).items():
                found.set(name, Boxes(output) if name == "pred_boxes" else output)
            results.append({"instances": detector_postprocess(found, *size)})
        return results


def onnxruntime_module(path: Path, case: Case) -> nn.Module:
    """Return a file in onnxruntime as a module that takes what the model of the case takes."""
    return (Detector if case.part == "detector" else Onnxruntime)(path, case)


@cache
def exported(part: Part, variant: str) -> Path:
    """Export the model of a part; the file is there until the process ends."""
    case = Case(part, False, variant, EXPORT_SIZE, 1)
    path = Path(_folder().name, f"{part}_{variant}.onnx")
    if part == "features":
        export_onnx(our_network(variant), path, image_size=EXPORT_SIZE)
    elif part == "detector":
        from regnet_backbones.detection.exporting import export_detector

        images = [inputs["image"] for inputs in whole_models.detector_inputs(case)]
        cfg = whole_models.detector_config(case)
        export_detector(cfg, whole_models.our_detector(case), path, images=images)
    else:
        export_onnx(whole_models.our_segmenter(case), path, image_size=EXPORT_SIZE)
    return path


def quantized(path: Path, case: Case) -> Path:
    """Quantize a file, calibrated on the images of a case."""
    from regnet_backbones.export.int8 import quantize

    output = path.with_name(f"{path.stem}_int8.onnx")
    if not output.exists():
        images = [case.images()]
        if case.part == "detector":
            images = [inputs["image"] for inputs in whole_models.detector_inputs(case)]
        quantize(path, output, images, ranges="minmax")
    return output


@cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()  # gone when the process ends


def _bind(bind: Callable[..., object], name: str, tensor: torch.Tensor) -> None:
    """Bind a float32 tensor to an input or an output."""
    import numpy as np

    assert tensor.is_contiguous()
    assert tensor.dtype == torch.float32
    device = tensor.device
    bind(name, device.type, device.index or 0, np.float32, tuple(tensor.shape), tensor.data_ptr())


def _layout_note(path: Path) -> str:
    """Say how many convolutions of an optimized graph are in onnxruntime's blocked layout."""
    import onnx

    kinds = [(node.domain, node.op_type) for node in onnx.load(path).graph.node]
    blocked = sum(kind in BLOCKED for kind in kinds)
    count = blocked + sum(kind in UNBLOCKED for kind in kinds)
    return f"{blocked} of {count} convolutions in the blocked layout (NCHWc)"


_EXPORT = ("onnx", "onnxscript", "onnxruntime")  # which checks files
ENGINES = (
    Engine(
        "onnxruntime",
        (*MAPS, "detector"),
        onnxruntime_module,
        _EXPORT,
        devices=("cpu", "cuda"),
    ),
    Engine(
        "onnxruntime",
        (*MAPS, "detector"),
        onnxruntime_module,
        (*_EXPORT, "regnet_backbones.export.int8"),
        "int8",
    ),
    Engine("OpenVINO", MAPS, Openvino, (*_EXPORT, "openvino")),
)
