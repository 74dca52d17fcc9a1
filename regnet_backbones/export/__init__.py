"""RegNet networks as files for other runtimes, each checked against the network it came from.

    from regnet_backbones.export import export_onnx, export_program, export_torchscript

    print(export_onnx(RegNetFeatures("regnety_032", pretrained=True), "regnety_032.onnx"))

- `network.py`: the part of a model that is exported, the names of its maps, sizes it takes.
- `formats.py`: ONNX, `torch.export`, TorchScript (`torchscript.py`: tracing and loading).
- `running.py`: `load_exported`, an exported file as a function of images.
- `checking.py`: `Checked`, the comparison with the network.
- `files.py`: a file that gets its name when it is checked.

Whole detectors are traced by `regnet_backbones.detection.tracing`.
"""

from regnet_backbones.export.checking import Checked, CheckedSize, ExportError
from regnet_backbones.export.formats import export_onnx, export_program, export_torchscript
from regnet_backbones.export.running import load_exported

__all__ = [
    "Checked",
    "CheckedSize",
    "ExportError",
    "export_onnx",
    "export_program",
    "export_torchscript",
    "load_exported",
]
