"""The check of exported files, and what no export takes."""

import sys

import pytest
import torch
from torch import nn

from regnet_backbones import RegNetDesign, RegNetFeatures
from regnet_backbones.cli.run import describe
from regnet_backbones.export import (
    ExportError,
    export_onnx,
    export_program,
    export_torchscript,
    load_exported,
)
from regnet_backbones.optimize.passes import relative_error

SMALL = RegNetDesign(w_0=8, w_a=8.0, w_m=2.0, depth=7, group_width=8)


def extractor():
    return RegNetFeatures("regnetx_002", out_levels=(2,))


class DividesByWidth(nn.Module):
    """Does what a trace does not follow: a float of a size is a constant to it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return self.conv(x) / float(x.shape[-1])


class Branches(DividesByWidth):
    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else x


def test_a_file_that_is_wrong_at_other_sizes_is_not_kept(tmp_path):
    path = tmp_path / "net.ts"
    path.write_text("of an earlier export")
    # It is checked first with a width of 65, which the trace takes for the example's 64: what it
    # gives is 65 / 64 of what it should be.
    message = "'net.ts' differs .*1x1x97x65: .* output 1.6e-02; allow"
    with pytest.raises(ExportError, match=message):
        export_torchscript(DividesByWidth(), path, image_size=(64, 64))
    assert path.read_text() == "of an earlier export"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_exported_says_why(tmp_path):
    with pytest.raises(ExportError, match="Branches cannot be exported to .pt2: (?s:.+)"):
        export_program(Branches(), tmp_path / "net.pt2", image_size=(32, 32))
    assert not list(tmp_path.iterdir())


def test_errors_are_parts_of_the_largest_value():
    expected = torch.tensor([[1.0, -4.0], [2.0, 0.0]])
    assert relative_error(expected + 0.5, expected) == 0.125
    assert relative_error(torch.tensor([0.5]), torch.tensor([0.0])) == 0.5
    assert relative_error(expected[:1], expected) == float("inf")
    assert relative_error(torch.empty(0, 4), torch.empty(0, 4)) == 0
    unknown = relative_error(torch.tensor([float("nan")]), torch.tensor([1.0]))
    assert unknown != unknown


def test_what_is_no_number_is_wrong(tmp_path):
    network = extractor()
    network.s1.b1.conv3.bn.bias.data[0] = float("nan")
    with pytest.raises(ExportError, match="differs .* c2 nan"):
        export_torchscript(network, tmp_path / "net.ts", image_size=(32, 32))


# Arguments


@pytest.mark.parametrize(
    ("export", "name", "options", "error", "message"),
    [
        (export_onnx, "net.pt", {}, ValueError, "must end in .onnx, got '.*net.pt'"),
        (export_program, "net.onnx", {}, ValueError, "must end in .pt2, got"),
        (export_torchscript, "net", {}, ValueError, "must end in .ts or .pt, got"),
        (export_onnx, "gone/net.onnx", {}, FileNotFoundError, "no folder '.*gone' for 'net."),
        (export_onnx, "net.onnx", {"opset": 17}, ValueError, "opset must be 18 to 25, got 17"),
        (export_onnx, "net.onnx", {"image_size": (0, 9)}, ValueError, "multiples of 1 .*got .0, 9"),
    ],
)
def test_arguments_out_of_range(export, name, options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        export(extractor(), tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_reduced_precision_and_networks_without_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be torch.float32, got torch.bfloat16"):
        export_onnx(extractor().bfloat16(), tmp_path / "net.onnx")
    with pytest.raises(ValueError, match="Linear has no convolution"):
        export_onnx(nn.Linear(2, 2), tmp_path / "net.onnx")


@pytest.mark.parametrize("absent", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(absent, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(ModuleNotFoundError) as raised:
        export_onnx(extractor(), tmp_path / "net.onnx")
    assert "pip install 'regnet-backbones[export]'" in describe(raised.value)[0]


def test_onnxruntime_is_imported_when_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    export_torchscript(extractor(), tmp_path / "net.ts", image_size=(64, 64))
    with pytest.raises(ImportError):
        load_exported(tmp_path / "net.onnx")


def test_another_file_is_no_export():
    with pytest.raises(ValueError, match="end in .onnx, .pt2, .ts or .pt, got 'net.pth'"):
        load_exported("net.pth")
