"""Torchvision's detectors as ONNX and TorchScript, and the comparison of detections."""

import pytest
import torch
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from regnet_backbones import RegNetDesign, RegNetFeatures
from regnet_backbones.adapters.torchvision import RegNetFPN
from regnet_backbones.export import ExportError, export_detector, load_exported
from regnet_backbones.export.detectors import compare_detections, export_traceable
from regnet_backbones.export.running import read_metadata

SMALL = RegNetDesign(w_0=8, w_a=13.0, w_m=2.0, depth=4, group_width=8)
WIDTH = 64  # of the maps and heads
SIZES = {"min_size": 64, "max_size": 96}
# Random weights are sure of nothing.
ONE_STAGE = {**SIZES, "num_classes": 4, "score_thresh": 0.0, "detections_per_img": 8}
R_CNN = {**SIZES, "box_score_thresh": 0.0, "box_detections_per_img": 8}


def build(kind, **options):
    """Build a detector with heads that are quick."""
    if kind in (RetinaNet, FCOS):
        fpn = RegNetFPN(SMALL, out_channels=WIDTH, levels=(3, 4, 5), top="p6p7")
        model = kind(fpn, **ONE_STAGE)
        model.head.classification_head.cls_logits.weight.data *= 50  # scores that are apart
        return model
    heads = {
        "box_head": TwoMLPHead(WIDTH * 7 * 7, WIDTH),
        "box_predictor": FastRCNNPredictor(WIDTH, 4),
    }
    if kind is MaskRCNN:
        heads["mask_head"] = MaskRCNNHeads(WIDTH, (WIDTH,), 1)
        heads["mask_predictor"] = MaskRCNNPredictor(WIDTH, WIDTH, 4)
    if kind is KeypointRCNN:
        heads["keypoint_head"] = KeypointRCNNHeads(WIDTH, (WIDTH,))
        heads["keypoint_predictor"] = KeypointRCNNPredictor(WIDTH, 3)
    return kind(RegNetFPN(SMALL, out_channels=WIDTH), **heads, **{**R_CNN, **options})


BOXES = {"boxes", "labels", "scores"}
ROWS = [
    (FasterRCNN, BOXES),
    (MaskRCNN, BOXES | {"masks"}),
    (KeypointRCNN, BOXES | {"keypoints", "keypoints_scores"}),
    (RetinaNet, BOXES),
    (FCOS, BOXES),
]


@pytest.mark.parametrize(("kind", "outputs"), ROWS, ids=[row[0].__name__ for row in ROWS])
@torch.no_grad()
def test_onnxruntime_sees_what_the_detector_sees(kind, outputs, tmp_path, randomize):
    model = build(kind).train()
    randomize(model.backbone.body)
    path = tmp_path / "net.onnx"
    checked = export_detector(model, path, images=[torch.rand(3, 70, 90)], metadata={"a": "b"})
    assert model.training
    assert set(checked.sizes[0].errors) == outputs
    assert checked.sizes[0].detections
    assert read_metadata(path) == {"a": "b"}

    image = torch.rand(3, 100, 61)
    found, (expected,) = load_exported(path)(image), model.eval()([image])
    compared = compare_detections((3, 100, 61), found, expected)
    assert compared.detections
    assert compared.is_right
    if "masks" in outputs:
        assert found["masks"].shape[-2:] == (100, 61)


@torch.no_grad()
def test_a_trace_sees_what_the_detector_sees(tmp_path):
    model = build(MaskRCNN)
    export_detector(model, tmp_path / "net.ts", images=[torch.rand(3, 70, 90)], fold=False)
    image = torch.rand(3, 100, 61)
    found, (expected,) = torch.jit.load(tmp_path / "net.ts")(image), model.eval()([image])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_what_is_not_exported(tmp_path):
    with pytest.raises(ValueError, match="RegNetFeatures"):
        export_detector(RegNetFeatures(SMALL), tmp_path / "a.onnx", images=[torch.rand(3, 64, 64)])
    model = build(FasterRCNN, box_score_thresh=1.0)
    with pytest.raises(ExportError, match="64x80"):
        export_detector(model, tmp_path / "a.onnx", images=[torch.rand(3, 64, 80)])
    assert not list(tmp_path.iterdir())


# The comparison


def detections(*rows):
    """Return outputs of rows of a box, a class and a score."""
    boxes, classes, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(classes, dtype=torch.long),
        "scores": torch.tensor(scores),
    }


ONE, OTHER = ((0.0, 0.0, 9.0, 9.0), 1, 0.5), ((20.0, 0.0, 30.0, 9.0), 2, 0.5)
NEAR = ((0.0, 0.25, 9.0, 9.0), 1, 0.25)


@pytest.mark.parametrize(
    ("found", "errors"),
    [
        ([ONE, OTHER], (0, 0, 0)),
        ([OTHER, ONE], (0, 0, 0)),  # of equal scores
        ([NEAR, OTHER], (0.25, 0, 0.25)),
        ([OTHER, NEAR], (0.25, 0, 0.25)),
        ([(*ONE[:1], 3, 0.5), OTHER], (0, 2, 0)),
        ([ONE], (float("inf"),) * 3),
        ([], (float("inf"),) * 3),
    ],
)
def test_detections_are_compared_in_pixels(found, errors):
    compared = compare_detections((3, 64, 64), detections(*found), detections(ONE, OTHER))
    assert tuple(compared.errors.values()) == errors
    assert compared.is_right == (not any(errors))
    assert compared.detections == 2


def test_no_detections_are_equal_to_none():
    compared = compare_detections((3, 64, 64), detections(), detections())
    assert compared.is_right
    assert compared.detections == 0
    assert not compare_detections((3, 64, 64), detections(ONE), detections()).is_right


class BrightPixels(torch.nn.Module):
    """Detect pixels, in a place that is wrong if a trace keeps the width as a number."""

    def __init__(self, keeps_width):
        super().__init__()
        self.keeps_width = keeps_width

    def forward(self, image):
        width = float(image.shape[2]) if self.keeps_width else image.shape[2]
        pixels = image[0].flatten().gt(200).nonzero()[:, 0].float()
        down = torch.div(pixels, width, rounding_mode="floor")
        across = pixels - down * width
        return {
            "boxes": torch.stack([across, down, across + 1, down + 1], dim=1),
            "scores": torch.ones_like(across),
        }


@pytest.mark.parametrize("suffix", [".onnx", ".ts"])
def test_a_file_that_is_wrong_is_not_kept(suffix, tmp_path):
    path = tmp_path / f"net{suffix}"
    images = [torch.randint(0, 256, (3, 20, 30))]
    checked = export_traceable(BrightPixels(keeps_width=False), path, images=images)
    counts = [size.detections for size in checked.sizes]
    assert counts[2] == 0 < min(counts[0], counts[1], counts[3])
    written = path.read_bytes()
    with pytest.raises(ExportError, match=r"25x27, \d+ detections: .*boxes .* px"):
        export_traceable(BrightPixels(keeps_width=True), path, images=images)
    assert path.read_bytes() == written
    assert list(tmp_path.iterdir()) == [path]
