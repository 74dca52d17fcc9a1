"""Whole detectors as TorchScript: what the file sees is what detectron2 sees."""

import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.modeling import build_model
from PIL import Image
from regnet_backbones.detection.tracing import images_for, trace_detector

from regnet_backbones import config_path
from regnet_backbones.detection.config import default_config
from regnet_backbones.export import ExportError

SIDE = 64


def config(name, *overrides):
    cfg = default_config()
    cfg.merge_from_file(str(config_path(f"detectron2/quick/{name}.yaml")))
    settings = ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", str(SIDE)]
    # Random weights are sure of nothing.
    settings += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    settings += ["MODEL.RETINANET.SCORE_THRESH_TEST", "0.0", "TEST.DETECTIONS_PER_IMAGE", "10"]
    cfg.merge_from_list([*settings, *overrides])
    return cfg


ROWS = [
    ("mask_rcnn_regnet_small_fpn", {"pred_masks"}),
    ("cascade_mask_rcnn_regnet_small_fpn", {"pred_masks"}),
    ("keypoint_rcnn_regnet_small_fpn", {"pred_keypoints", "pred_keypoint_heatmaps"}),
    ("retinanet_regnet_small_fpn", set()),
]


@pytest.mark.parametrize(("name", "more"), ROWS, ids=[row[0] for row in ROWS])
@torch.no_grad()
def test_a_trace_sees_what_the_detector_sees(name, more, tmp_path):
    cfg = config(name)
    model = build_model(cfg).train()
    checked = trace_detector(model, tmp_path / "net.ts", images=images_for(cfg), fold=False)
    assert model.training
    # 1.25 and 0.8 of the height, 0.9 and 1.1 of the width.
    assert [size.shape for size in checked.sizes] == [(3, 80, 58), (3, 51, 70)]
    assert {error for size in checked.sizes for error in size.errors.values()} == {0}

    image = torch.randint(0, 255, (3, 90, 75), dtype=torch.uint8)
    found = torch.jit.load(tmp_path / "net.ts")(image)
    expected = model.eval()([{"image": image}])[0]["instances"]
    assert found.keys() == {"pred_boxes", "pred_classes", "scores"} | more
    assert len(expected)
    assert torch.equal(found["pred_boxes"], expected.pred_boxes.tensor)
    assert torch.equal(found["pred_classes"], expected.pred_classes)
    assert torch.equal(found["scores"], expected.scores)
    if "pred_masks" in more:
        masks = paste_masks_in_image(found["pred_masks"][:, 0], found["pred_boxes"], (90, 75))
        assert torch.equal(masks, expected.pred_masks)
    if "pred_keypoints" in more:
        assert torch.equal(found["pred_keypoints"], expected.pred_keypoints)


@torch.no_grad()
def test_a_semantic_model_with_folded_batch_norm(tmp_path, randomize):
    cfg = config("semantic_fpn_regnet_small_shapes")
    model = randomize(build_model(cfg)).eval()
    checked = trace_detector(model, tmp_path / "net.pt", images=images_for(cfg))
    assert set(checked.sizes[0].errors) == {"sem_seg"}
    image = torch.randint(0, 255, (3, 90, 75), dtype=torch.uint8)
    found = torch.jit.load(tmp_path / "net.pt")(image)["sem_seg"]
    expected = model([{"image": image}])[0]["sem_seg"]
    assert found.shape == (6, 90, 75)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_detector_that_sees_nothing_is_not_traced(tmp_path):
    cfg = config("mask_rcnn_regnet_small_fpn", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.0")
    model = build_model(cfg)
    with pytest.raises(ExportError, match="64x64.*--images"):
        trace_detector(model, tmp_path / "net.ts", images=images_for(cfg))
    with pytest.raises(ValueError, match="at least one image"):
        trace_detector(model, tmp_path / "net.ts", images=())
    with pytest.raises(ValueError, match=".ts"):
        trace_detector(model, tmp_path / "net.onnx", images=images_for(cfg))
    assert not list(tmp_path.iterdir())


def test_a_panoptic_model_is_refused(tmp_path):
    cfg = config("panoptic_fpn_regnet_small")
    with pytest.raises(ValueError, match="export its backbone"):
        trace_detector(build_model(cfg), tmp_path / "net.ts", images=images_for(cfg))
    assert not list(tmp_path.iterdir())


def test_images_are_resized_and_in_the_order_of_the_config(tmp_path):
    Image.new("RGB", (200, 100), (255, 128, 0)).save(tmp_path / "orange.png")
    for order, color in (("RGB", [255, 128, 0]), ("BGR", [0, 128, 255])):
        cfg = config("mask_rcnn_regnet_small_fpn", "INPUT.FORMAT", order)
        (image,) = images_for(cfg, [tmp_path / "orange.png"])
        assert image.shape == (3, 64, 128)
        assert image[:, 30, 30].tolist() == color
    rgb = images_for(config("mask_rcnn_regnet_small_fpn", "INPUT.FORMAT", "RGB"))
    bgr = images_for(config("mask_rcnn_regnet_small_fpn", "INPUT.FORMAT", "BGR"))
    assert len(rgb) == 4
    assert all(torch.equal(one, other.flip(0)) for one, other in zip(rgb, bgr, strict=True))
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(ValueError, match="broken.png"):
        images_for(cfg, [tmp_path / "broken.png"])
