"""Whole detectors as ONNX and TorchScript: what a file sees is what detectron2 sees."""

import hashlib
import json

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.layers import paste_masks_in_image
from detectron2.modeling import build_model
from PIL import Image

from regnet_backbones import config_path
from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.detection.config import default_config
from regnet_backbones.detection.engines import ExportedDetector
from regnet_backbones.detection.exporting import export_detector, images_for
from regnet_backbones.detection.trained import model_input
from regnet_backbones.export import ExportError, load_exported
from regnet_backbones.export.resampling import resize, shortest_edge_size
from regnet_backbones.export.running import read_metadata

SIDE = 64
# Random weights are sure of nothing.
ANY_SCORE = {
    **{"MODEL.ROI_HEADS.SCORE_THRESH_TEST": "0.0", "MODEL.RETINANET.SCORE_THRESH_TEST": "0.0"},
    **{"MODEL.FCOS.INFERENCE_TH_TEST": "0.0", "TEST.DETECTIONS_PER_IMAGE": "10"},
}
INSTANCES = {"pred_boxes", "pred_classes", "scores"}
KEYPOINTS = {"pred_keypoints", "pred_keypoint_heatmaps"}


def config(name, *overrides):
    cfg = default_config()
    cfg.merge_from_file(str(config_path(f"detectron2/quick/{name}.yaml")))
    settings = ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", str(SIDE)]
    cfg.merge_from_list([*settings, *(word for each in ANY_SCORE.items() for word in each)])
    cfg.merge_from_list(list(overrides))
    import_projects(cfg)
    return cfg


def assert_same_instances(found, expected):
    """Compare detectron2's `Instances` that are both in the order of the scores."""
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(
        found.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-3, rtol=0
    )
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=0)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    if expected.has("pred_masks"):
        assert (found.pred_masks != expected.pred_masks).float().mean() < 1e-3
    if expected.has("pred_keypoints"):
        near = (found.pred_keypoints - expected.pred_keypoints).abs() < 1e-2
        assert near.float().mean() > 0.99  # of two equal maxima of a heatmap either may be taken


ROWS = [
    ("mask_rcnn_regnet_small_c4", INSTANCES | {"pred_masks"}),
    ("mask_rcnn_regnet_small_dc5", INSTANCES | {"pred_masks"}),
    ("cascade_mask_rcnn_regnet_small_fpn", INSTANCES | {"pred_masks"}),
    ("point_rend_regnet_small_fpn", INSTANCES | {"pred_masks"}),
    ("keypoint_rcnn_regnet_small_fpn", INSTANCES | KEYPOINTS),
    ("retinanet_regnet_small_fpn", INSTANCES),
    ("fcos_regnet_small_fpn", INSTANCES),
]


@pytest.mark.parametrize(("name", "outputs"), ROWS, ids=[row[0] for row in ROWS])
@torch.no_grad()
def test_onnxruntime_sees_what_the_detector_sees(name, outputs, tmp_path):
    cfg = config(name)
    model = build_model(cfg).train()
    path = tmp_path / "net.onnx"
    checked = export_detector(cfg, model, path, images=images_for(cfg), fold=False)
    assert model.training
    # 1.25 and 0.8 of the height, 0.9 and 1.1 of the width, and the first one in the end.
    shapes = [size.shape for size in checked.sizes]
    assert (*shapes[:2], shapes[-1]) == ((3, 80, 58), (3, 51, 70), (3, 64, 64))
    assert all(size.detections for size in (*checked.sizes[:2], checked.sizes[-1]))
    assert set(checked.sizes[0].errors) == outputs

    # An image of 90x75 that was 180x120 before it was resized.
    image = torch.randint(0, 255, (3, 90, 75), dtype=torch.uint8)
    inputs = [{"image": image, "height": 180, "width": 120}]
    (found,), (expected,) = ExportedDetector(path)(inputs), model.eval()(inputs)
    assert found.keys() == expected.keys() == {"instances"}
    assert_same_instances(found["instances"], expected["instances"])


@torch.no_grad()
def test_a_trace_sees_what_the_detector_sees(tmp_path):
    cfg = config("mask_rcnn_regnet_small_fpn")
    model = build_model(cfg).eval()
    checked = export_detector(cfg, model, tmp_path / "a.ts", images=images_for(cfg), fold=False)
    assert {error for size in checked.sizes for error in size.errors.values()} == {0}
    image = torch.randint(0, 255, (3, 90, 75), dtype=torch.uint8)
    found = torch.jit.load(tmp_path / "a.ts")(image)
    expected = model([{"image": image}])[0]["instances"]
    assert torch.equal(found["pred_boxes"], expected.pred_boxes.tensor)
    masks = paste_masks_in_image(found["pred_masks"][:, 0], found["pred_boxes"], (90, 75))
    assert torch.equal(masks, expected.pred_masks)


def scores_of(model, image):
    return model([{"image": image}])[0]["instances"].scores


@torch.no_grad()
def test_a_file_is_checked_without_detections(tmp_path):
    """With a score threshold between those of a drawn image and those of a plain one."""
    cfg = config("mask_rcnn_regnet_small_fpn")
    model = build_model(cfg).eval()
    plain = [
        scores_of(model, torch.full((3, 64, 64), value)).max() for value in (0.0, 127.5, 255.0)
    ]
    drawn = [scores_of(model, image).max() for image in images_for(cfg)]
    threshold = float(min(plain) + max(drawn)) / 2
    assert min(plain) < threshold < max(drawn)
    model.roi_heads.box_predictor.test_score_thresh = threshold
    noise = [torch.rand(3, 64, 64) * 255 for _ in range(20)]
    images = [*images_for(cfg), *noise]
    checked = export_detector(cfg, model, tmp_path / "net.onnx", images=images)
    counts = [size.detections for size in checked.sizes]
    assert counts[2] == 0 < min(counts[0], counts[1], counts[3])
    assert "0 detections" in str(checked)


SEMANTIC = ["semantic_fpn", "deeplab_v3", "deeplab_v3_plus", "point_rend_semantic"]


@pytest.mark.parametrize("name", SEMANTIC)
@torch.no_grad()
def test_a_semantic_model_with_folded_batch_norm(name, tmp_path, randomize):
    cfg = config(f"{name}_regnet_small_shapes")
    model = randomize(build_model(cfg)).eval()
    path = tmp_path / "net.onnx"
    checked = export_detector(cfg, model, path, images=images_for(cfg))
    assert set(checked.sizes[0].errors) == {"sem_seg"}
    inputs = [{"image": torch.randint(0, 255, (3, 90, 75)), "height": 180, "width": 120}]
    found, expected = ExportedDetector(path)(inputs)[0], model(inputs)[0]
    assert found["sem_seg"].shape == (6, 180, 120)
    assert (found["sem_seg"] - expected["sem_seg"]).abs().max() <= 1e-4 * expected[
        "sem_seg"
    ].abs().max()
    assert json.loads(read_metadata(path)["class_names"])


# Resizing


SIZES = [(70, 333), (333, 70), (64, 64), (200, 150), (9, 11), (97, 411)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_resize_is_pillows(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    new = ResizeShortestEdge.get_output_shape(height, width, 64, 100)
    sides = torch.tensor(height), torch.tensor(width)
    assert tuple(map(int, shortest_edge_size(*sides, min_size=64, max_size=100))) == new
    expected = np.asarray(Image.fromarray(pixels).resize(new[::-1], Image.BILINEAR), np.float32)
    image = torch.from_numpy(pixels).permute(2, 0, 1).float()
    found = resize(image, *map(torch.tensor, new)).permute(1, 2, 0).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1


def test_sizes_are_detectron2s():
    random = np.random.default_rng(0)
    for _ in range(2000):
        height, width, largest = (int(each) for each in random.integers(2, 2000, 3))
        shortest = int(random.integers(1, largest))
        sides = torch.tensor(height), torch.tensor(width)
        found = shortest_edge_size(*sides, min_size=shortest, max_size=largest)
        expected = ResizeShortestEdge.get_output_shape(height, width, shortest, largest)
        assert tuple(map(int, found)) == expected


@pytest.mark.parametrize(
    "name",
    ["mask_rcnn_regnet_small_fpn", "keypoint_rcnn_regnet_small_fpn", "retinanet_regnet_small_fpn"],
)
@torch.no_grad()
def test_a_file_that_resizes_gives_boxes_of_the_given_image(name, tmp_path):
    cfg = config(name, "INPUT.MAX_SIZE_TEST", "90")
    model, path = build_model(cfg).eval(), tmp_path / "net.onnx"
    images = images_for(cfg, resize=True)
    assert images[0].shape == (3, 128, 128)
    export_detector(cfg, model, path, images=images, resize=True)
    for height, width in ((120, 96), (61, 200)):  # the longer side becomes 80, and 90
        pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
        sizes = {"height": height, "width": width}
        resized = model_input(cfg, Image.fromarray(pixels))
        (expected,) = model([{"image": resized, **sizes}])
        assert cfg.INPUT.FORMAT == "RGB"
        given = torch.from_numpy(pixels).permute(2, 0, 1)
        (found,) = ExportedDetector(path)([{"image": given, **sizes}])
        near = torch.isclose(
            found["instances"].pred_boxes.tensor, expected["instances"].pred_boxes.tensor, atol=0.5
        )
        assert near.float().mean() > 0.8  # a grey level may swap instances of random weights
        boxes = load_exported(path)(given.float())["pred_boxes"]
        assert boxes[:, 2].max() <= width + 1e-3
        assert boxes[:, 3].max() <= height + 1e-3
        assert boxes.max() > SIDE


def test_a_config_that_does_not_resize(tmp_path):
    cfg = config("mask_rcnn_regnet_small_fpn", "INPUT.MIN_SIZE_TEST", "0")
    with pytest.raises(ValueError, match="MIN_SIZE_TEST"):
        export_detector(
            cfg, build_model(cfg), tmp_path / "a.onnx", images=images_for(cfg), resize=True
        )


# What a file says of itself


def test_metadata(tmp_path):
    checkpoint = tmp_path / "my run" / "model_final.pth"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"weights")
    cfg = config("faster_rcnn_regnet_small_fpn", "MODEL.WEIGHTS", str(checkpoint))
    path = tmp_path / "net.onnx"
    export_detector(cfg, build_model(cfg), path, images=images_for(cfg))
    metadata = read_metadata(path)
    settings = json.loads(metadata.pop("config"))
    assert settings["INPUT.MIN_SIZE_TEST"] == SIDE
    assert not {"MODEL.WEIGHTS", "MODEL.DEVICE"} & settings.keys()
    assert str(tmp_path) not in str(metadata)
    assert json.loads(metadata.pop("class_names"))[:2] == ["circle", "square"]
    assert json.loads(metadata.pop("pixel_mean")) == pytest.approx(cfg.MODEL.PIXEL_MEAN)
    assert json.loads(metadata.pop("pixel_std")) == pytest.approx(cfg.MODEL.PIXEL_STD)
    assert metadata == {
        "task": "detection",
        "channel_order": cfg.INPUT.FORMAT,
        "min_size_test": str(SIDE),
        "max_size_test": str(cfg.INPUT.MAX_SIZE_TEST),
        "resizes": "false",
        "run": "my run",
        "checkpoint_sha256": hashlib.sha256(b"weights").hexdigest(),
    }


# What is not exported


def test_a_detector_that_sees_nothing_is_not_exported(tmp_path):
    cfg = config("mask_rcnn_regnet_small_fpn", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.0")
    model = build_model(cfg)
    with pytest.raises(ExportError, match="64x64.*--images"):
        export_detector(cfg, model, tmp_path / "net.ts", images=images_for(cfg))
    with pytest.raises(ValueError, match="at least one image"):
        export_detector(cfg, model, tmp_path / "net.onnx", images=())
    with pytest.raises(ValueError, match=".onnx"):
        export_detector(cfg, model, tmp_path / "net.pt2", images=images_for(cfg))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["panoptic_fpn_regnet_small", "panoptic_deeplab_regnet_small_shapes"]
)
def test_a_panoptic_model_is_refused(name, tmp_path):
    cfg = config(name)
    with pytest.raises(ValueError, match="--backbone"):
        export_detector(cfg, build_model(cfg), tmp_path / "net.onnx", images=images_for(cfg))
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_is_not_kept(tmp_path, monkeypatch):
    """A constant in the place of a size, as a trace takes it, moves boxes at other sizes."""
    from regnet_backbones.detection import exporting

    def fixed(*_, **__):
        return torch.tensor(64), torch.tensor(64)

    cfg = config("retinanet_regnet_small_fpn")
    right = exporting.shortest_edge_size

    def size(*sides, **options):
        return fixed() if torch.jit.is_tracing() else right(*sides, **options)

    monkeypatch.setattr(exporting, "shortest_edge_size", size)
    images = images_for(cfg, resize=True)
    with pytest.raises(ExportError, match="pred_boxes"):
        export_detector(cfg, build_model(cfg), tmp_path / "a.ts", images=images, resize=True)
    assert not list(tmp_path.iterdir())


def test_images_are_resized_and_in_the_order_of_the_config(tmp_path):
    Image.new("RGB", (200, 100), (255, 128, 0)).save(tmp_path / "orange.png")
    for order, color in (("RGB", [255, 128, 0]), ("BGR", [0, 128, 255])):
        cfg = config("mask_rcnn_regnet_small_fpn", "INPUT.FORMAT", order)
        (image,) = images_for(cfg, [tmp_path / "orange.png"])
        assert image.shape == (3, 64, 128)
        assert image[:, 30, 30].tolist() == color
        (image,) = images_for(cfg, [tmp_path / "orange.png"], resize=True)
        assert image.shape == (3, 100, 200)
    rgb = images_for(config("mask_rcnn_regnet_small_fpn", "INPUT.FORMAT", "RGB"))
    bgr = images_for(config("mask_rcnn_regnet_small_fpn", "INPUT.FORMAT", "BGR"))
    assert len(rgb) == 4
    assert all(torch.equal(one, other.flip(0)) for one, other in zip(rgb, bgr, strict=True))
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(ValueError, match="broken.png"):
        images_for(cfg, [tmp_path / "broken.png"])
