"""Quantisation of ONNX files to 8 bits: error, size, metadata, and what is refused."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from regnet_backbones import RegNetDesign, RegNetFeatures
from regnet_backbones.export import ExportError, export_onnx, int8, load_exported
from regnet_backbones.export.formats import Checked
from regnet_backbones.export.running import read_metadata

# Four stages of one block, wide enough that the weights are most of the file.
DESIGN = {"w_0": 32, "w_a": 52.0, "w_m": 2.0, "depth": 4, "group_width": 16, "se_ratio": 0.25}


def images(count=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for number in range(count):
        size = (64, 96) if number % 2 else (96, 64)
        yield torch.randn((1, 3, *size), generator=generator)


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    """Return the ONNX file of an extractor whose batch norms have seen the images."""
    torch.manual_seed(0)
    network = RegNetFeatures(RegNetDesign(**DESIGN)).train()
    with torch.no_grad():
        for _ in range(20):
            network(torch.randn(4, 3, 64, 96))
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export_onnx(network, path, image_size=(64, 96), metadata={"task": "features"})
    return path


def deviation(found, expected):
    """Return the root mean square of the error as a part of the standard deviation."""
    return ((found - expected).square().mean().sqrt() / expected.std()).item()


@pytest.mark.parametrize("ranges", ["percentile", "minmax", "entropy"])
def test_8_bits_give_nearly_the_same_in_both_engines(extractor, ranges, tmp_path):
    path = int8.quantize(extractor, tmp_path / "int8.onnx", images(), ranges=ranges)
    assert path.stat().st_size < 0.6 * extractor.stat().st_size
    assert [each.name for each in tmp_path.iterdir()] == ["int8.onnx"]
    other = torch.randn(2, 3, 128, 80)  # of another size and number than those it has seen
    expected = load_exported(extractor)(other)
    for engine in ("onnxruntime", "openvino"):
        found = load_exported(path, engine=engine)(other)
        assert found.keys() == expected.keys()
        for name, maps in expected.items():
            assert 0 < deviation(found[name], maps) < 0.15


def test_convolutions_have_int8_weights_by_channel_and_uint8_inputs(extractor, tmp_path):
    path = int8.quantize(extractor, tmp_path / "int8.onnx", images(2))
    graph = onnx.load(path).graph
    made_by = {name: node for node in graph.node for name in node.output}
    stored = {each.name: each for each in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 15
    for node in convolutions:
        inputs, weights = (made_by[name] for name in node.input[:2])
        assert {inputs.op_type, weights.op_type} == {"DequantizeLinear"}
        assert stored[inputs.input[2]].data_type == onnx.TensorProto.UINT8
        assert stored[weights.input[0]].data_type == onnx.TensorProto.INT8
        assert list(stored[weights.input[1]].dims) == [stored[weights.input[0]].dims[0]]
    (taken,) = graph.input
    sides = [side.dim_param or side.dim_value for side in taken.type.tensor_type.shape.dim]
    assert sides == ["batch", 3, "height", "width"]


def test_metadata_are_kept_and_name_the_quantisation(extractor, tmp_path):
    path = int8.quantize(extractor, tmp_path / "int8.onnx", images(1), reduce_range=True)
    before, after = read_metadata(extractor), read_metadata(path)
    assert before["task"] == "features"
    assert before.items() <= after.items()
    assert after["quantization"] == "int8"
    assert "quantization" not in before


def test_at_most_so_many_images_are_taken(extractor, tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "MAX_IMAGES", 3)
    given = images(8)
    int8.quantize(extractor, tmp_path / "int8.onnx", given, ranges="minmax")
    assert len(list(given)) == 5


class OneImage(nn.Module):
    """A network of one image without batch, as a whole detector, with a head on two maps."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 4, 3)

    def forward(self, image):
        maps = self.stem(image[None]).relu()
        return self.head(maps), self.head(nn.functional.avg_pool2d(10 * maps, 2))


def test_a_file_that_takes_one_image(tmp_path):
    path, sizes = tmp_path / "net.onnx", {1: "height", 2: "width"}
    example = (torch.rand(3, 32, 40),)
    torch.onnx.export(
        OneImage().eval(), example, path, dynamo=False, opset_version=17,
        input_names=["image"], dynamic_axes={"image": sizes},
    )  # fmt: skip
    given = [torch.rand(3, 32, 40), torch.rand(3, 48, 32)]
    output = int8.quantize(path, tmp_path / "int8.onnx", given)
    image = torch.rand(3, 40, 56)
    expected, found = load_exported(path)(image), load_exported(output)(image)
    assert len(expected) == 2
    for name, maps in expected.items():
        assert 0 < deviation(found[name], maps) < 0.1


def test_convolutions_with_equal_biases_run_in_8_bits(tmp_path):
    """An exporter by tracing stores such biases once."""
    network = nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(3))).eval()
    for conv in network:
        nn.init.constant_(conv.bias, 0.1)
    path, example = tmp_path / "net.onnx", torch.randn(1, 3, 16, 16)
    torch.onnx.export(network, (example,), path, dynamo=False, opset_version=18)
    assert "Identity" in {node.op_type for node in onnx.load(path).graph.node}
    output = int8.quantize(path, tmp_path / "int8.onnx", [example])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(output), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    kinds = [node.op_type for node in graph.node if node.op_type.endswith("Conv")]
    assert kinds == 3 * ["QLinearConv"]
    (expected,), (found,) = (load_exported(file)(example).values() for file in (path, output))
    assert 0 < deviation(found, expected) < 0.1


def test_what_cannot_be_quantised_is_refused(extractor, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    output = tmp_path / "int8.onnx"
    with pytest.raises(ValueError, match="ranges .* 'most'"):
        int8.quantize(extractor, output, images(1), ranges="most")
    with pytest.raises(ValueError, match=r"\.onnx"):
        int8.quantize(extractor, tmp_path / "int8.pt", images(1))
    with pytest.raises(ValueError, match="no calibration images"):
        int8.quantize(extractor, output, [])
    with pytest.raises(ExportError, match="net.onnx"):  # of another number of channels
        int8.quantize(extractor, output, [torch.rand(1, 4, 32, 32)])
    with pytest.raises(ExportError, match="bad.onnx"):
        int8.quantize(tmp_path / "bad.onnx", output, images(1))
    assert [each.name for each in tmp_path.iterdir()] == ["bad.onnx"]


@pytest.mark.parametrize(("after", "kept"), [(49.5, True), (51.0, True), (48.9, False)])
def test_a_file_that_loses_too_much_is_not_kept(extractor, after, kept, tmp_path):
    scores = {"float32.onnx": 50.0, "int8.onnx": after}

    def export(path):
        path.write_bytes(extractor.read_bytes())
        return Checked(path, ())

    def run():
        return int8.export_quantized(
            tmp_path / "int8.onnx",
            export,
            lambda: images(1),
            ranges="minmax",
            evaluate=lambda path: {"box AP": 30.0, "mask AP": scores[path.name]},
        )

    if kept:
        assert f"50.00% in float32, {after:.2f}% in int8" in run()
    else:
        with pytest.raises(ExportError, match="mask AP 50.00% in float32, 48.90% in int8"):
            run()
    assert [each.name for each in tmp_path.iterdir()] == ["int8.onnx"] * kept
