"""`tools/export.py`: names of the zoo, detectors, segmenters, and what cannot be exported so."""

import lightning
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from load_tool import load_tool
from small_detector import FOUR_BLOCKS

from regnet_backbones import config_path, shapes
from regnet_backbones.detection.config import default_config
from regnet_backbones.export import load_exported
from regnet_backbones.export.running import read_metadata
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.module import Segmenter


def main(*args):
    return load_tool("export").main([str(arg) for arg in args])


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    cfg = default_config()
    cfg.merge_from_file(str(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml")))
    settings = ["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    cfg.merge_from_list([*settings, *FOUR_BLOCKS, "INPUT.MIN_SIZE_TEST", "64"])
    DetectionCheckpointer(build_model(cfg), save_dir=str(folder)).save("model_final")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmenter")
    spec = shapes.ShapesSpec(num_train=2, num_val=1, image_size=64)
    root = shapes.write(folder / "shapes", spec).root / "semantic"
    data = SegmentationData("ade20k", str(root), crop_size=64, batch_size=2, num_workers=0)
    options = {"decoder": "DeepLabV3Plus", "encoder": "regnetx_002", "encoder_weights": None}
    model = Segmenter(data.num_classes, class_names=data.class_names, **options)
    trainer = lightning.Trainer(
        accelerator="cpu", fast_dev_run=1, limit_val_batches=0, enable_progress_bar=False
    )
    trainer.fit(model, data)
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    return folder


def test_a_name_of_the_zoo(tmp_path, capsys):
    output = tmp_path / "net.onnx"
    assert main("RegNetX-200MF", "--output", output, "--image-size", 64, 96, "--opset", 18) == 0
    first, *sizes, last = capsys.readouterr().out.splitlines()
    assert "--pretrained" in first
    assert [size.split(":")[0] for size in sizes] == ["images 1x3x97x97", "images 3x3x65x145"]
    assert "largest relative error c2 " in sizes[0]
    assert ", c5 " in sizes[0]
    assert last == f"written: {output}"
    assert output.is_file()


def test_the_backbone_of_a_detector(detector, tmp_path, capsys):
    output = tmp_path / "net.pt2"
    assert main(detector, "--output", output, "--image-size", 128, 192) == 0
    assert "p2" in capsys.readouterr().out
    maps = torch.export.load(output).module()(torch.randn(1, 3, 128, 128))
    widths = {name: each.shape[-1] for name, each in maps.items()}
    assert widths == {"p2": 32, "p3": 16, "p4": 8, "p5": 4, "p6": 2}
    output = tmp_path / "net.onnx"
    assert main(detector, "--output", output, "--backbone", "--image-size", 128, 192) == 0
    maps = load_exported(output)(torch.randn(1, 3, 128, 128))
    assert {name: each.shape[-1] for name, each in maps.items()} == widths


@pytest.mark.parametrize("name", ["net.ts", "net.onnx"])
def test_a_whole_detector(name, detector, tmp_path, capsys):
    output = tmp_path / name
    assert main(detector, "--output", output, "--opts", "TEST.DETECTIONS_PER_IMAGE", "7") == 0
    first, second, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("image 3x80x58, 7 detections: ")
    assert second.startswith("image 3x51x70, 7 detections: ")
    assert last == f"written: {output}"
    found = load_exported(output)(torch.rand(3, 64, 80) * 255)
    assert found["pred_masks"].shape == (7, 1, 28, 28)


def test_a_whole_detector_that_resizes(detector, tmp_path, capsys):
    output = tmp_path / "net.onnx"
    assert main(detector, "--output", output, "--resize") == 0
    assert capsys.readouterr().out.startswith("image 3x160x115, ")  # of 128x128
    metadata = read_metadata(output)
    assert (metadata["resizes"], metadata["run"]) == ("true", detector.name)
    boxes = load_exported(output)(torch.rand(3, 256, 256) * 255)["pred_boxes"]
    assert 64 < boxes.max() <= 256 + 1e-3


def test_a_segmenter(segmenter, tmp_path, capsys):
    output = tmp_path / "net.ts"
    assert main(segmenter, "--output", output, "--image-size", 64, 96) == 0
    assert "largest relative error logits " in capsys.readouterr().out
    logits = torch.jit.load(output)(torch.randn(1, 3, 96, 64))["logits"]
    assert logits.shape == (1, 6, 96, 64)
    assert main(segmenter, "--output", output, "--image-size", 60, 64) == 2
    assert "multiples of 16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "options", "named"),
    [
        ("detector", "net.pt2 --images a.png", "--images"),
        ("detector", "net.ts --image-size 64 64", "--image-size"),
        ("detector", "net.ts --pretrained", "--pretrained"),
        ("detector", "net.ts --images gone.png", "'gone.png'"),
        ("detector", "net.onnx --opts A.B 1", "A.B"),
        ("detector", "net.onnx --opset 20", "--opset"),
        ("detector", "net.pt2 --resize", "--resize"),
        ("detector", "net.onnx --backbone --images a.png", "--images"),
        ("segmenter", "net.onnx --backbone", "--backbone"),
        ("regnetx_002", "net.onnx --resize", "--resize"),
        ("segmenter", "net.onnx --opts A.B 1", "--opts"),
        ("regnetx_002", "net.pth", "--output"),
        ("regnetx_002", "net.ts --opset 18", "--opset"),
        ("regnetx_002", "net.ts --config-file a.yaml", "--config-file"),
        ("regnetx_002", "net.ts --pretrained gone", "'gone'"),
        ("regnetx_003", "net.ts", "'regnetx_002'"),
    ],
)
def test_what_cannot_be_exported_is_named(model, options, named, request, tmp_path, capsys):
    name, *options = options.split()
    model = request.getfixturevalue(model) if model in ("detector", "segmenter") else model
    assert main(model, "--output", tmp_path / name, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert named in error
    assert not list(tmp_path.iterdir())
