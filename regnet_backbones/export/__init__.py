"""RegNet networks as files for other runtimes, each checked against the network it came from.

    from regnet_backbones.export import export_onnx, export_program, export_torchscript

    print(export_onnx(RegNetFeatures("regnety_032", pretrained=True), "regnety_032.onnx"))

Whole detectors of torchvision are exported by `export_detector`, those of Detectron2 by
`regnet_backbones.detection.exporting.export_detector`.
"""

from regnet_backbones.export.detectors import export_detector
from regnet_backbones.export.formats import (
    Checked,
    CheckedSize,
    ExportError,
    export_onnx,
    export_program,
    export_torchscript,
)
from regnet_backbones.export.inputs import Normalization
from regnet_backbones.export.running import load_exported

__all__ = [
    "Checked",
    "CheckedSize",
    "ExportError",
    "Normalization",
    "export_detector",
    "export_onnx",
    "export_program",
    "export_torchscript",
    "load_exported",
]
