"""Segmenters run by onnxruntime and OpenVINO: exported, evaluated, predicted, quantised."""

import hashlib
import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from load_tool import load_tool
from PIL import Image
from small_segmenter import train_segmenter

from regnet_backbones import shapes
from regnet_backbones.export import ExportError, load_exported
from regnet_backbones.export.running import read_metadata
from regnet_backbones.optimize.options import Optimization
from regnet_backbones.semseg.checkpoints import load_segmenter
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.dataset import val_transform
from regnet_backbones.semseg.evaluation import evaluate
from regnet_backbones.semseg.exported import calibration_inputs
from regnet_backbones.semseg.inference import Inference
from regnet_backbones.semseg.prediction import SegmenterPredictor

SMALL = {"w_0": 8, "w_a": 13.0, "w_m": 2.0, "depth": 4, "group_width": 8}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def main(tool, *arguments):
    return load_tool(tool).main([str(each) for each in arguments])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=6, num_val=3, image_size=72)
    return shapes.write(tmp_path_factory.mktemp("data") / "shapes", spec)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """Return the folder that a training of a segmenter leaves."""
    data = SegmentationData(
        "ade20k", str(dataset.root / "semantic"), crop_size=64, batch_size=4, num_workers=0,
        mean=MEAN, std=STD,
    )  # fmt: skip
    options = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}
    trainer = train_segmenter(data, encoder=SMALL, decoder_options=options, mean=MEAN, std=STD)
    folder = tmp_path_factory.mktemp("runs") / "my run"
    trainer.save_checkpoint(folder / "checkpoints" / "best.ckpt")
    return folder


@pytest.fixture(scope="module")
def checkpoint(run):
    return run / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """Return an ONNX file of it that takes pixels."""
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    assert main("export", run, "--output", path, "--normalize", "--image-size", 64, 96) == 0
    return path


@pytest.fixture(scope="module")
def by_torch(checkpoint):
    return evaluate(checkpoint, accelerator="cpu")


def test_an_exported_segmenter_says_what_it_is(exported, checkpoint, run):
    found = read_metadata(exported)
    assert json.loads(found["class_names"]) == list(load_segmenter(checkpoint).class_names)
    assert (json.loads(found["mean"]), json.loads(found["std"])) == (list(MEAN), list(STD))
    assert (found["channel_order"], found["normalizes"]) == ("RGB", "true")
    assert (found["task"], found["run"]) == ("semantic segmentation", "my run")
    assert found["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert not any(str(run.parent) in value for value in found.values())


def assert_same(found, expected):
    """Check results; a pixel in a thousand may be a tie."""
    assert found["images"] == expected["images"]
    for key in ("miou", "accuracy"):
        assert found[key] == pytest.approx(expected[key], abs=1e-3)


def test_an_engine_finds_what_torch_finds(run, checkpoint, exported, by_torch, tmp_path):
    given = ["--engine", "openvino", "--exported", exported, "--output", tmp_path]
    assert main("evaluate", run, *given) == 0
    content = json.loads((tmp_path / "results.json").read_text())
    assert_same(content["results"], by_torch)
    assert content["settings"]["engine"] == "openvino"
    assert content["settings"]["exported"] == str(exported)
    images = json.loads((tmp_path / "images.json").read_text())
    parameters = sum(p.numel() for p in load_segmenter(checkpoint).network.parameters())
    assert images["parameters"] == parameters


def test_a_file_is_exported_for_the_time_with_windows_scales_and_mirrored_images(checkpoint):
    inference = Inference(window=40, flip=True, scales=(0.75, 1.0))
    expected = evaluate(checkpoint, accelerator="cpu", inference=inference)
    found = evaluate(checkpoint, engine="onnxruntime", inference=inference)
    assert_same(found, expected)
    assert (found["settings"]["engine"], found["settings"]["exported"]) == ("onnxruntime", None)


def test_labels_are_those_of_torch(run, exported, dataset, tmp_path):
    images = dataset.semantic_images("val")
    assert main("predict", run, images, "--output", tmp_path / "torch", "--device", "cpu") == 0
    given = ["--engine", "onnxruntime", "--exported", exported, "--output", tmp_path / "engine"]
    assert main("predict", run, images, *given) == 0
    names = sorted(path.name for path in (tmp_path / "torch" / "labels").iterdir())
    assert len(names) == 3
    for name in names:
        found, expected = (
            np.asarray(Image.open(tmp_path / folder / "labels" / name))
            for folder in ("engine", "torch")
        )
        assert (found == expected).mean() > 0.999


def test_a_file_of_another_checkpoint_is_refused(checkpoint, exported, tmp_path):
    other = tmp_path / "best.ckpt"
    content = torch.load(checkpoint, weights_only=False)
    torch.save(content | {"epoch": 99}, other)
    with pytest.raises(ValueError, match="net.onnx.* was not exported from"):
        evaluate(other, engine="onnxruntime", exported=exported)
    plain = tmp_path / "plain.onnx"
    model = onnx.load(exported)
    del model.metadata_props[:]
    onnx.save(model, plain)
    with pytest.raises(ValueError, match="plain.onnx.* was not exported from"):
        SegmenterPredictor(checkpoint, engine="onnxruntime", exported=plain)


def test_an_engine_that_computes_otherwise_is_an_error(checkpoint, exported, tmp_path):
    model = onnx.load(exported)
    weights = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    values = onnx.numpy_helper.to_array(weights) * np.float32(1.01)
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ExportError, match="onnxruntime"):
        evaluate(checkpoint, engine="onnxruntime", exported=tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--exported net.onnx", "--engine"),
        ("--engine onnxruntime --exported gone.onnx", "'gone.onnx'"),
        ("--engine onnxruntime --exported net.ts", "'net.ts'"),
        ("--engine onnxruntime --optimize", "--optimize"),
        ("--engine openvino --dtype bfloat16", "--dtype"),
        ("--engine openvino --compile", "--compile"),
        ("--engine openvino --device cuda", "--device"),
        ("--engine openvino --devices 2", "--devices"),
    ],
)
def test_options_that_an_engine_would_ignore_are_refused(run, options, named, tmp_path, capsys):
    commands = {"evaluate": [run], "predict": [run, run.parent / "any.png"]}
    (run.parent / "any.png").touch()
    if "--devices" in options:
        del commands["predict"]
    for command, arguments in commands.items():
        assert main(command, *arguments, "--output", tmp_path, *options.split()) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert named in error
        assert not list(tmp_path.iterdir())


def test_processes_of_torchrun_are_refused(checkpoint, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(ValueError, match="torchrun"):
        evaluate(checkpoint, engine="onnxruntime")


def test_other_precision_and_unknown_engines_are_refused(checkpoint):
    with pytest.raises(ValueError, match="16-mixed"):
        evaluate(checkpoint, engine="openvino", precision="16-mixed")
    with pytest.raises(ValueError, match="'tensorrt'"):
        evaluate(checkpoint, engine="tensorrt")
    with pytest.raises(ValueError, match="--optimize"):
        SegmenterPredictor(checkpoint, engine="openvino", optimization=Optimization())


# 8 bits


@pytest.mark.parametrize("normalize", [False, True])
def test_calibration_sees_what_an_evaluation_sees(checkpoint, dataset, normalize):
    segmenter = load_segmenter(checkpoint, inference=Inference(window=48, window_stride=24)).eval()
    path = sorted(dataset.semantic_images("val").iterdir())[0]
    found = list(calibration_inputs(segmenter, [path], normalize=normalize))
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None]
    expected = pixels.float() if normalize else val_transform(mean=MEAN, std=STD)(pixels)
    assert [tuple(each.shape) for each in found] == [(1, 3, 48, 48)] * 4
    corners = [expected[..., t : t + 48, x : x + 48] for t in (0, 24) for x in (0, 24)]
    for each, corner in zip(found, corners, strict=True):
        assert (each - corner).abs().max() <= 1e-5 * expected.abs().max()


def test_a_segmenter_in_8_bits(run, dataset, tmp_path, capsys):
    output = tmp_path / "int8.onnx"
    given = ["--int8", "--calibration", dataset.semantic_images("train"), "--max-loss", 100]
    size = ["--image-size", 64, 96]
    assert main("export", run, "--output", output, *size, *given) == 0
    printed = capsys.readouterr().out
    assert "mIoU" in printed
    assert read_metadata(output)["quantization"] == "int8"
    found = evaluate(run / "checkpoints" / "best.ckpt", engine="openvino", exported=output)
    (line,) = (line for line in printed.splitlines() if line.startswith("mIoU"))
    _, after = (float(word.rstrip("%")) for word in line.split() if word[0].isdigit())
    assert 100 * found["miou"] == pytest.approx(after, abs=2)


def test_images_to_calibrate_with_are_not_those_of_the_evaluation(run, dataset, tmp_path, capsys):
    folder = tmp_path / "images"
    shutil.copytree(dataset.semantic_images("train"), folder)
    same = sorted(dataset.semantic_images("val").iterdir())[1]
    shutil.copy(same, folder / "under another name.png")
    given = ["--int8", "--calibration", folder]
    assert main("export", run, "--output", tmp_path / "net.onnx", *given) == 2
    error = capsys.readouterr().err
    assert "'" + str(folder / "under another name.png") + "'" in error
    assert same.name in error
    assert [each.name for each in tmp_path.iterdir()] == ["images"]


def test_a_name_of_the_zoo_in_8_bits(dataset, tmp_path, capsys):
    output = tmp_path / "net.onnx"
    given = ["--int8", "--calibration", f"{dataset.semantic_images('train')}/*.png"]
    size = ["--image-size", 64, 96]
    assert main("export", "regnetx_002", "--output", output, "--normalize", *size, *given) == 0
    line = next(s for s in capsys.readouterr().out.splitlines() if s.startswith("int8"))
    assert all(f"c{level} " in line for level in (2, 3, 4, 5))
    found = read_metadata(output)
    assert (found["normalizes"], found["quantization"]) == ("true", "int8")
    assert load_exported(output)(torch.full((1, 3, 64, 64), 128.0))["c5"].shape[-2:] == (2, 2)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("net.onnx --int8", "--calibration"),
        ("net.ts --int8 --calibration images", "--output"),
        ("net.onnx --calibration images", "--int8"),
        ("net.onnx --ranges minmax", "--int8"),
        ("net.onnx --int8 --calibration images --max-loss -1", "--max-loss"),
        ("net.onnx --int8 --calibration images --max-loss 1", "--max-loss"),
        ("net.onnx --int8 --calibration gone", "'gone'"),
    ],
)
def test_wrong_options_of_8_bits_are_refused(options, named, tmp_path, capsys):
    name, *options = options.split()
    assert main("export", "regnetx_002", "--output", tmp_path / name, *options) == 2
    assert named in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
