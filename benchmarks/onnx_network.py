"""Our extractor in onnxruntime."""

import io

import torch
from torch import nn

from benchmarks.cases import Case
from benchmarks.extractors import our_network

# By kind of device as torch names it.
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxNetwork(nn.Module):
    """Our extractor, exported for the images of a case, as a module without parameters.

    onnxruntime folds batch norm itself, and works with as many threads as torch.
    """

    def __init__(self, case: Case):
        super().__init__()
        import onnxruntime

        provider = PROVIDERS[case.device]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        # Its threads would keep the cores busy when the next row has its turn.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(_exported(case), options, providers=[provider])
        self.input_name = self.session.get_inputs()[0].name

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return C2 to C5 on the device of the images; on CUDA they go by way of the CPU."""
        maps = self.session.run(None, {self.input_name: images.cpu().numpy()})
        return [torch.from_numpy(features).to(images.device) for features in maps]


def why_no_onnx(case: Case) -> str | None:
    """Say why onnxruntime cannot do a case."""
    import onnxruntime

    if PROVIDERS[case.device] not in onnxruntime.get_available_providers():
        return f"this onnxruntime has no {PROVIDERS[case.device]}"
    return None


def _exported(case: Case) -> bytes:
    """Return our extractor as an ONNX file."""
    network = our_network(case.variant).eval()
    program = torch.onnx.export(network, (case.images().cpu(),), dynamo=True, verbose=False)
    file = io.BytesIO()
    program.save(file)
    return file.getvalue()
