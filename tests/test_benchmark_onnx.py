"""The benchmark's row in onnxruntime."""

from dataclasses import replace

from benchmarks.cases import Case
from benchmarks.entries import entries_of
from benchmarks.runner import measure

CASE = Case("features", False, "regnetx_002", (32, 64), 2)


def test_onnxruntime_gives_our_maps_and_its_memory_is_not_seen():
    (entry,) = (e for e in entries_of("features", training=False) if e.name == "onnxruntime")
    (row,) = measure(CASE, [entry], reference="timm", runs=1, warmup=0).rows
    assert (row.status, row.note) == ("measured", "")
    assert row.error < 1e-5
    assert row.peak_bytes is None


def test_it_runs_inference_where_onnxruntime_has_the_device(monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    (entry,) = (e for e in entries_of("features", training=False) if e.name == "onnxruntime")
    assert entry.reason_to_leave_out(CASE) is None
    on_cuda = replace(CASE, device="cuda")
    reason = "this onnxruntime has no CUDAExecutionProvider"
    assert entry.reason_to_leave_out(on_cuda) == reason
    assert "onnxruntime" not in {e.name for e in entries_of("features", training=True)}
