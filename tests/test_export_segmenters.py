"""Decoders as ONNX, in onnxruntime and OpenVINO; pixels as input; adaptive pooling."""

import json

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from regnet_backbones import RegNetDesign, RegNetFeatures
from regnet_backbones.export import (
    ExportError,
    Normalization,
    export_onnx,
    export_program,
    export_torchscript,
    load_exported,
)
from regnet_backbones.export.pooling import MatrixPool2d, replace_adaptive_pools
from regnet_backbones.export.running import read_metadata
from regnet_backbones.optimize.passes import relative_error
from regnet_backbones.semseg.dataset import val_transform
from regnet_backbones.semseg.network import build_network

# Four stages of one block.
SMALL = {"w_0": 8, "w_a": 13.0, "w_m": 2.0, "depth": 4, "group_width": 8}
# Decoders that recipes train, and PSPNet; narrow.
DECODERS = {
    "Unet": {"encoder_depth": 3, "decoder_channels": [16, 8, 8]},
    "FPN": {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32},
    "PSPNet": {"psp_out_channels": 16},
    "UPerNet": {"encoder_depth": 3, "decoder_channels": 16},
    "DeepLabV3Plus": {"decoder_channels": 16},
    "OCRNet": {"decoder_channels": 16, "key_channels": 8},
    "UNet3Plus": {"encoder_depth": 3, "decoder_channels": 8},
}


def segmenter(decoder):
    torch.manual_seed(0)
    return build_network(decoder, SMALL, 3, options=DECODERS.get(decoder)).eval()


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_decoder_runs_in_both_engines_at_other_sizes(decoder, tmp_path, randomize):
    model = randomize(segmenter(decoder)).eval()
    path = tmp_path / "net.onnx"
    export_onnx(model, path, image_size=(64, 96))
    images = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        expected = model(images)
    for engine in ("onnxruntime", "openvino"):
        found = load_exported(path, engine=engine)(images)["logits"]
        assert 0 < relative_error(found, expected) < 1e-4


@pytest.mark.parametrize("size", [(5, 7), (6, 6), (1, 9), (13, 31)])
@pytest.mark.parametrize("bins", [1, 2, 3, 6, (2, 5)])
def test_pooling_by_matrix_products_is_adaptive_pooling(bins, size):
    maps = torch.randn(2, 3, *size)
    expected = nn.AdaptiveAvgPool2d(bins)(maps)
    pairs = (bins, bins) if isinstance(bins, int) else bins
    assert (MatrixPool2d(pairs)(maps) - expected).abs().max() < 1e-6


def test_poolings_to_several_bins_are_replaced():
    free = nn.AdaptiveAvgPool2d((3, None))
    network = nn.ModuleList([nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((2, 3)), free])
    assert replace_adaptive_pools(network) == 1
    assert [type(m) for m in network] == [nn.AdaptiveAvgPool2d, MatrixPool2d, nn.AdaptiveAvgPool2d]
    assert replace_adaptive_pools(smp.PSPNet("regnetx_002", encoder_weights=None)) == 3


def test_a_size_that_a_decoder_cannot_take_is_an_export_error(tmp_path):
    with pytest.raises(ExportError, match="PAN .*64x64"):
        export_onnx(segmenter("PAN"), tmp_path / "net.onnx", image_size=(64, 64))
    assert not list(tmp_path.iterdir())


# Pixels as input

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.mark.parametrize(
    ("export", "name"),
    [
        (export_onnx, "net.onnx"),
        (export_program, "net.pt2"),
        (export_torchscript, "net.ts"),
    ],
)
def test_a_file_normalises_pixels_itself(export, name, tmp_path):
    network = RegNetFeatures(RegNetDesign(**SMALL), out_levels=(2, 3)).eval()
    export(network, tmp_path / name, image_size=(32, 48), normalize=Normalization(MEAN, STD))
    pixels = torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = network(val_transform(mean=MEAN, std=STD)(pixels))
    found = load_exported(tmp_path / name)(pixels.float())
    for each, maps in zip(found.values(), expected, strict=True):
        assert relative_error(each, maps) < 1e-5
    if name.endswith(".onnx"):
        metadata = read_metadata(tmp_path / name)
        assert (metadata["normalizes"], metadata["channel_order"]) == ("true", "RGB")
        assert json.loads(metadata["mean"]) == list(MEAN)
        assert json.loads(metadata["std"]) == list(STD)


@pytest.mark.parametrize(
    ("mean", "std"),
    [((124.0, 116.0, 104.0), (58.0, 57.0, 57.0)), ((0.5,), STD), (MEAN, (0.0, 0.2, 0.2))],
)
def test_mean_and_std_are_of_pixels_from_0_to_1(mean, std):
    with pytest.raises(ValueError, match="std"):
        Normalization(mean, std)


def test_mean_of_another_number_of_channels_is_refused(tmp_path):
    network = RegNetFeatures(RegNetDesign(**SMALL), in_channels=4)
    with pytest.raises(ValueError, match="mean .*4 numbers"):
        export_torchscript(network, tmp_path / "net.ts", normalize=Normalization(MEAN, STD))
