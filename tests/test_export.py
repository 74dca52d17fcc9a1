"""Exported files in the runtimes that users load them with."""

import subprocess
import sys

import onnx
import onnxruntime
import pytest
import segmentation_models_pytorch as smp
import torch
from detectron2.modeling import build_model
from small_detector import FOUR_BLOCKS
from torchvision.models.detection import FasterRCNN

from regnet_backbones import RegNetDesign, RegNetFeatures, config_path
from regnet_backbones.adapters.torchvision import RegNetFPN
from regnet_backbones.adapters.transformers import RegNetFeaturesBackbone, RegNetFeaturesConfig
from regnet_backbones.detection.config import default_config
from regnet_backbones.export import (
    export_onnx,
    export_program,
    export_torchscript,
    load_exported,
)


def extractor():
    design = {"w_0": 8, "w_a": 13.0, "w_m": 2.0, "depth": 4, "group_width": 8, "se_ratio": 0.25}
    return RegNetFeatures(RegNetDesign(**design))


def detector():
    cfg = default_config()
    cfg.merge_from_file(str(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml")))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *FOUR_BLOCKS])
    return build_model(cfg)


def torchvisions_detector():
    design = RegNetDesign(w_0=8, w_a=13.0, w_m=2.0, depth=4, group_width=8)
    backbone = RegNetFPN(design, out_channels=16, norm="BN", freeze_at=0)
    return FasterRCNN(backbone, num_classes=3)


def transformers_backbone():
    design = RegNetDesign(w_0=8, w_a=13.0, w_m=2.0, depth=4, group_width=8, se_ratio=0.25)
    options = {"out_indices": (1, 2, 3, 4), "norm": "BN", "freeze_at": 0}
    return RegNetFeaturesBackbone(RegNetFeaturesConfig(design=design, **options))


def segmenter():
    options = {"encoder_depth": 3, "decoder_channels": (16, 8, 8)}
    return smp.Unet("regnetx_002", encoder_weights=None, classes=3, **options)


def with_onnxruntime(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    maps = session.run(names, {"images": images.numpy()})
    return {name: torch.from_numpy(each) for name, each in zip(names, maps, strict=True)}


def with_torch_export(path, images):
    return torch.export.load(path).module()(images)


def with_torchscript(path, images):
    return torch.jit.load(path)(images)


ONNX = (export_onnx, "net.onnx", with_onnxruntime)
PROGRAM = (export_program, "net.pt2", with_torch_export)
TORCHSCRIPT = (export_torchscript, "net.ts", with_torchscript)

MAPS = {"c2": (8, 4), "c3": (16, 8), "c4": (32, 16), "c5": (64, 32)}
PYRAMID = {f"p{level}": (64, 2**level) for level in (2, 3, 4, 5, 6)}
LOGITS = {"logits": (3, 1)}
TORCHVISIONS = {"0": (16, 4), "1": (16, 8), "2": (16, 16), "3": (16, 32), "pool": (16, 64)}

# What is exported, how, the size of the images it is exported with, and channels and strides of the
# outputs.
ROWS = [
    (extractor, ONNX, (64, 96), MAPS),
    (extractor, PROGRAM, (64, 96), MAPS),
    (extractor, TORCHSCRIPT, (64, 96), MAPS),
    (detector, ONNX, (128, 192), PYRAMID),
    (torchvisions_detector, ONNX, (128, 192), TORCHVISIONS),
    (transformers_backbone, ONNX, (64, 96), {"c1": (32, 2), **MAPS}),
    (segmenter, ONNX, (64, 96), LOGITS),
]


@pytest.mark.parametrize(
    ("build", "way", "image_size", "outputs"),
    ROWS,
    ids=[f"{build.__name__}-{way[1]}" for build, way, *_ in ROWS],
)
@torch.no_grad()
def test_a_file_gives_the_maps_at_other_sizes(build, way, image_size, outputs, tmp_path, randomize):
    export, name, run = way
    model = randomize(build()).train()
    checked = export(model, tmp_path / name, image_size=image_size)
    assert model.training
    assert checked.path == tmp_path / name
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(checked.sizes) == 2
    assert all(size.shape[-2:] != image_size for size in checked.sizes)
    assert {size.shape[0] for size in checked.sizes} == {1, 3}
    errors = [error for size in checked.sizes for error in size.errors.values()]
    assert 0 < max(errors) < 1e-5

    images = torch.randn(4, 3, 128, 160)
    found = run(tmp_path / name, images)
    network = model.eval()
    part = {
        detector: "backbone",
        torchvisions_detector: "backbone",
        transformers_backbone: "features",
    }.get(build, "")
    expected = network.get_submodule(part)(images)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        expected = list(expected.values())
    expected = [expected] if isinstance(expected, torch.Tensor) else expected
    assert list(found) == list(outputs)
    for (name, (channels, stride)), maps in zip(outputs.items(), expected, strict=True):
        assert found[name].shape == (4, channels, -(-128 // stride), -(-160 // stride))
        assert (found[name] - maps).abs().max() <= 1e-5 * maps.abs().max()


def test_onnx_says_what_is_free(tmp_path):
    network = RegNetFeatures("regnetx_002", out_levels=(2,))
    export_onnx(network, tmp_path / "net.onnx", image_size=(32, 48), opset=18)
    model = onnx.load(tmp_path / "net.onnx")
    (images,) = model.graph.input
    sides = [side.dim_param or side.dim_value for side in images.type.tensor_type.shape.dim]
    assert (images.name, sides) == ("images", ["batch", 3, "height", "width"])
    assert model.opset_import[0].version == 18


# One of the stem, and three and a shortcut of the only block of each stage.
@pytest.mark.parametrize(("fold", "batch_norms"), [(True, 0), (False, 1 + 4 + 4)])
def test_batch_norm_is_folded_unless_it_shall_not_be(fold, batch_norms, tmp_path):
    network = RegNetFeatures("regnetx_002", out_levels=(2, 3))
    export_program(network, tmp_path / "net.pt2", image_size=(32, 48), fold=fold)
    nodes = torch.export.load(tmp_path / "net.pt2").graph.nodes
    assert sum("batch_norm" in str(node.target) for node in nodes) == batch_norms


def test_a_backbone_says_which_multiples_it_needs(tmp_path):
    message = "image_size must be multiples of 32 for FPN, got .100, 128."
    with pytest.raises(ValueError, match=message):
        export_torchscript(detector(), tmp_path / "net.ts", image_size=(100, 128))
    # 64 is the stride of P6.
    with pytest.raises(ValueError, match="too small: .*'p6' is 1x2"):
        export_torchscript(detector(), tmp_path / "net.ts", image_size=(64, 128))
    dilated = smp.DeepLabV3Plus("regnetx_002", encoder_weights=None, encoder_output_stride=8)
    with pytest.raises(ValueError, match="multiples of 8 for DeepLabV3Plus, got .60, 64."):
        export_torchscript(dilated, tmp_path / "net.ts", image_size=(60, 64))
    assert not list(tmp_path.iterdir())


def test_two_heads_of_a_segmentation_model_have_names(tmp_path):
    model = smp.Unet(
        "regnetx_002", encoder_weights=None, classes=3, aux_params={"classes": 5, "dropout": 0.5}
    )
    export_torchscript(model, tmp_path / "net.pt", image_size=(64, 64))
    found = load_exported(tmp_path / "net.pt")(torch.randn(1, 3, 96, 64))
    assert {name: tuple(each.shape) for name, each in found.items()} == {
        "logits": (1, 3, 96, 64),
        "labels": (1, 5),
    }


SIGNALLED = """
import faulthandler, gc, signal, sys

faulthandler.enable()  # as pytest does
from regnet_backbones.export import load_exported

signal.signal(signal.SIGTERM, lambda *_: print("handled"))
first, second = (load_exported(sys.argv[1], engine="openvino") for _ in range(2))
del first
gc.collect()
del second
gc.collect()
signal.raise_signal(signal.SIGTERM)
"""


def test_a_process_that_has_run_files_in_openvino_handles_signals(tmp_path):
    """Two of OpenVINO's cores, deleted in this order, leave a freed stack for signal handlers."""
    export_onnx(extractor(), tmp_path / "net.onnx", image_size=(64, 64))
    command = [sys.executable, "-W", "ignore", "-c", SIGNALLED, str(tmp_path / "net.onnx")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert printed.stdout == "handled\n"
