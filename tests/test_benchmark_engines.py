"""The benchmark's rows in other engines: the same maps and instances, from exported files."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from benchmarks import engines, whole_models
from benchmarks.cases import Case
from benchmarks.entries import entries_of
from benchmarks.runner import measure
from regnet_backbones import config_path
from regnet_backbones.detection.config import default_config
from regnet_backbones.optimize.passes import maps_of, relative_error

CASE = Case("features", False, "regnetx_002", (32, 64), 2)

needs_int8 = pytest.mark.skipif(
    find_spec("regnet_backbones.export.int8") is None, reason="needs regnet_backbones.export.int8"
)
needs_detectors = pytest.mark.skipif(
    find_spec("regnet_backbones.detection.exporting") is None,
    reason="needs regnet_backbones.detection.exporting",
)


def row_of(case, name):
    (entry,) = (e for e in entries_of(case.part, training=case.training) if e.name == name)
    return entry


@pytest.mark.parametrize("name", ["onnxruntime", "OpenVINO"])
def test_engines_give_our_maps_and_their_memory_is_not_seen(name):
    (row,) = measure(CASE, [row_of(CASE, name)], reference="timm", runs=1, warmup=0).rows
    assert row.status == "measured", row.note
    assert row.error < 1e-5
    assert row.peak_bytes is None


def test_the_row_of_onnxruntime_counts_convolutions_in_its_blocked_layout():
    """A RegNetX-200MF has 13 blocks of three, four shortcuts and a stem.

    The grouped ones, of 8 channels, are in it where its blocks are of 8: with AVX2, not AVX-512.
    """
    (row,) = measure(CASE, [row_of(CASE, "onnxruntime")], reference="timm", runs=1, warmup=0).rows
    blocked, total = (int(word) for word in row.note.split() if word.isdigit())
    assert total == 13 * 3 + 4 + 1
    assert blocked in (0, total - 13, total)  # there is none on an ARM


def test_one_file_takes_images_of_any_size_and_outputs_are_bound_to_them():
    assert engines.exported("features", "regnetx_002") == engines.exported(
        "features", "regnetx_002"
    )
    model = row_of(CASE, "onnxruntime").build(CASE)
    for size in ((32, 64), (96, 64)):
        images = replace(CASE, size=size).images()
        first, second = model(images), model(images)
        assert [m.data_ptr() for m in first] == [m.data_ptr() for m in second]
        with torch.no_grad():
            for _ in range(2):
                expected = engines.our_network("regnetx_002").eval()(images)
                for found, right in zip(model(images), expected, strict=True):
                    assert relative_error(found, right) < 1e-5
                images.mul_(0.5)  # what is bound is read again


@pytest.mark.parametrize("part", ["segmenter", "deeplabv3plus"])
def test_segmenters_give_their_logits_in_every_engine(part):
    case = Case(part, False, "regnetx_002", (64, 96), 1)
    engines.exported.cache_clear()
    torch.manual_seed(0)
    rows = [row_of(case, name) for name in ("onnxruntime", "OpenVINO")]
    found = [maps_of(row.build(case)(case.images())) for row in rows]
    torch.manual_seed(0)
    with torch.no_grad():
        expected = whole_models.our_segmenter(case).eval()(case.images())
    for (logits,) in found:
        assert relative_error(logits, expected) < 1e-4


@needs_int8
def test_int8_gives_nearly_our_maps():
    rows = [row_of(CASE, "onnxruntime, int8")]
    (row,) = measure(CASE, rows, reference="timm", runs=1, warmup=0).rows
    assert row.status == "measured", row.note
    assert row.precision == "int8"
    assert 1e-4 < row.error < 0.5


@needs_detectors
def test_a_detector_in_onnxruntime_gives_the_instances_of_detectron2(monkeypatch):
    cfg = default_config()
    cfg.merge_from_file(str(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml")))
    cfg.MODEL.DEVICE = "cpu"
    monkeypatch.setattr(whole_models, "detector_config", lambda case: cfg)
    case = Case("detector", False, "regnetx_002", (128, 160), 1)
    engines.exported.cache_clear()
    torch.manual_seed(0)
    row = row_of(case, "onnxruntime")
    assert row.reason_to_leave_out(case) is None
    inputs = whole_models.detector_inputs(case)
    with torch.inference_mode():
        found = row.build(case)(inputs)[0]["instances"]
        torch.manual_seed(0)
        expected = whole_models.our_detector(case).eval()(inputs)[0]["instances"]
    assert len(found) == len(expected) > 0
    assert found.pred_masks.shape == expected.pred_masks.shape
    # Of random weights many scores are nearly equal, so that the order of boxes is not.
    boxes = (each.pred_boxes.tensor[:, None] for each in (found, expected))
    distances = (next(boxes) - next(boxes).transpose(0, 1)).abs().amax(dim=2)
    assert distances.min(dim=1).values.max() < 0.05
    assert (found.scores - expected.scores).abs().max() < 1e-4


def test_rows_of_engines_are_for_inference_on_devices_that_they_have(monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    on_cuda = replace(CASE, device="cuda")
    entry = row_of(CASE, "onnxruntime")
    assert entry.reason_to_leave_out(CASE) is None
    assert "CUDAExecutionProvider" in entry.reason_to_leave_out(on_cuda)
    assert "cuda" in row_of(CASE, "OpenVINO").reason_to_leave_out(on_cuda)
    families = {engine.family for engine in engines.ENGINES}
    assert not families & {e.family for e in entries_of("features", training=True)}
    assert "OpenVINO" not in {e.family for e in entries_of("detector", training=False)}
