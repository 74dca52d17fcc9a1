"""The benchmark's rows: every peer is the network it shall be, and every failure is told."""

import json
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from load_tool import load_tool
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks import command, entries, extractors
from benchmarks.cases import Case
from benchmarks.entries import Entry, check_names, entries_of, select
from benchmarks.runner import measure
from benchmarks.settings import Setting
from benchmarks.steps import largest_error, last_maps, make_step
from regnet_backbones import zoo

# The smallest one that torchvision has, too.
CASE = Case("features", False, "regnety_004", (64, 96), 1)
SMALL = Case("features", False, "regnetx_002", (32, 32), 1)
PEERS = {peer.family: peer for peer in extractors.PEERS}
AS_IT_COMES = Setting()


def named(case, *names):
    """Return rows of a case by name."""
    rows = {e.name: e for e in entries_of(case.part, training=case.training, device=case.device)}
    return [rows[name] for name in names]


def status(result):
    return {row.name: (row.status, row.note) for row in result.rows}


# Extractors


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("family", PEERS)
def test_peers_give_c2_to_c5_and_those_of_a_regnet_are_ours(family, training):
    case = replace(CASE, training=training)
    peer = PEERS[family]
    network = peer.build(case).train(training)
    # Twice: norms that are not frozen would move.
    for _ in range(2):
        maps = last_maps(network(case.images()))
    channels = (256, 512, 1024, 2048) if family == "ResNet-50" else (48, 104, 208, 440)
    sizes = ((16, 24), (8, 12), (4, 6), (2, 3))
    assert [tuple(m.shape) for m in maps] == [
        (1, c, *size) for c, size in zip(channels, sizes, strict=True)
    ]
    assert any(isinstance(m, _BatchNorm) for m in network.modules()) != training
    if family != "ResNet-50":
        ours = extractors.ours(case).train(training)(case.images())
        assert largest_error(maps, list(ours)) < 1e-5
        assert min(m.std() for m in ours) > 0.01  # random weights do not hide a difference


def test_a_family_is_left_out_where_it_has_no_such_network():
    torchvision, theirs, always = PEERS["torchvision"], PEERS["detectron2"], PEERS["timm"]
    for name, in_torchvision, in_detectron2 in (
        ("regnety_004", True, True),
        ("regnetx_002", False, True),
        ("regnety_008_tv", True, False),
        ("regnetv_040", False, False),
        ("regnetz_b16", False, False),
    ):
        variant = zoo.get(name)
        assert (torchvision.why_not(variant) is None) == in_torchvision
        assert (theirs.why_not(variant) is None) == in_detectron2
        assert always.why_not(variant) is None


def test_rows_are_measured_and_ours_make_no_error():
    names = ["ours", "ours, optimized", "timm", "timm, bf16, channels_last"]
    result = measure(SMALL, named(SMALL, *names), reference="timm", runs=2, warmup=0)
    assert status(result) == dict.fromkeys(names, ("measured", ""))
    by_name = {row.name: row for row in result.rows}
    assert all(len(row.seconds) == 2 for row in result.rows)
    assert max(by_name[n].error for n in names if "bf16" not in n) < 1e-5
    assert 1e-4 < by_name["timm, bf16, channels_last"].error < 0.1
    # The image is there before; of the maps alone C1 and C2 are 32 and 24 channels of 16x16, 8x8.
    assert by_name["timm"].peak_bytes > (32 * 16 * 16 + 24 * 8 * 8) * 4
    assert by_name["timm"].saved_bytes is None


def test_training_rows_know_what_is_saved_and_leave_no_gradients():
    case = replace(SMALL, training=True)
    names = ["ours", "timm", "ours, optimized, checkpointing"]
    result = measure(case, named(case, *names), reference="timm", runs=1, warmup=0)
    ours, timm, checkpointing = result.rows
    assert ours.saved_bytes == timm.saved_bytes > checkpointing.saved_bytes > 0
    model = extractors.ours(case).train()
    step = make_step(model, case)
    step.forward().backward()
    assert all(p.grad is not None for p in model.parameters())
    step()
    assert all(p.grad is None for p in model.parameters())


# Settings


def test_names_say_the_setting():
    assert AS_IT_COMES.row_name("timm") == "timm"
    full = Setting(precision="bf16", channels_last=True, compiled=True)
    assert full.row_name("SMP") == "SMP, bf16, channels_last, compiled"


def test_names_of_rows_are_unique_and_each_device_has_its_own():
    for part in entries.REFERENCES:
        for training in (False, True):
            names = [e.name for e in entries_of(part, training=training)]
            on_cuda = [e.name for e in entries_of(part, training=training, device="cuda")]
            assert len(set(names)) == len(names)
            only = {name for name in names if name not in on_cuda}
            assert all(name.endswith("no freezing") for name in only)
            assert bool(only) != training
            tuned = {name for name in on_cuda if name.endswith("max-autotune")}
            assert bool(tuned) != training
            assert tuned <= set(on_cuda) - set(names)
            assert entries.REFERENCES[part] in names


# Failures


def refuse(case):
    raise RuntimeError("no such network in /opt/somewhere/weights.pth")


def test_a_row_that_fails_stops_no_other():
    class Breaks(nn.Module):
        """Fails when it is timed, long after it was built."""

        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 3:
                raise RuntimeError("worn out")
            return [x]

    def fill_memory(case):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 EiB")

    rows = [
        Entry("refuses", AS_IT_COMES, refuse),
        Entry("breaks", AS_IT_COMES, lambda case: Breaks()),
        Entry("large", AS_IT_COMES, fill_memory),
        Entry("absent", AS_IT_COMES, refuse, needs=("timm", "no_such_package")),
        Entry("wrong", AS_IT_COMES, PEERS["ResNet-50"].build, our_weights=True),
        *named(SMALL, "ours"),
    ]
    result = measure(SMALL, rows, reference="ours", runs=9, warmup=0)
    found = status(result)
    assert found["refuses"] == ("failed", "RuntimeError: no such network in weights.pth")
    assert found["breaks"] == ("failed", "RuntimeError: worn out")
    assert found["large"] == ("out of memory", "")
    assert found["absent"] == ("left out", "no_such_package not installed")
    assert found["wrong"][0] == "failed"
    assert "C2 is (1, 256, 8, 8), and (1, 24, 8, 8) in our extractor" in found["wrong"][1]
    assert found["ours"] == ("measured", "")
    assert [len(row.seconds) for row in result.rows] == [0, 0, 0, 0, 0, 9]


@pytest.mark.parametrize(
    ("module", "row"), [("detectron2", "detectron2"), ("segmentation_models_pytorch", "SMP")]
)
def test_a_framework_that_is_not_installed_is_named(module, row, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    (entry,) = named(CASE, row)
    assert entry.reason_to_leave_out(CASE) == f"{module} not installed"


# The command line


def test_patterns_choose_rows():
    rows = entries_of("features", training=False)
    chosen = select(rows, precisions=["fp32"], patterns=["ours*", "timm"])
    ours = ["", ", optimized", ", optimized, compiled", ", optimized, compiled, any size"]
    ours += [", optimized, compiled, no freezing"]
    assert [e.name for e in chosen] == [*("ours" + setting for setting in ours), "timm"]
    with pytest.raises(ValueError, match="no row 'tim'; did you mean 'timm'"):
        check_names(["tim"], rows, option="--entries", precisions=["fp32"])
    with pytest.raises(ValueError, match="'ours, bf16' needs another --dtype than fp32"):
        check_names(["*bf16*"], rows, option="--entries", precisions=["fp32"])


def test_the_tool_measures_and_writes_without_paths_of_the_machine(tmp_path, capsys):
    output = tmp_path / "made" / "run.1"
    line = "--variants regnetx_002 --sizes 32 48x32 --runs 2 --warmup 0 --threads 1 --scaling"
    rows = ["--entries", "ours", "timm", "torchvision"]
    before = torch.get_num_threads()
    assert load_tool("benchmark").main([*line.split(), *rows, f"--output={output}"]) == 0
    assert torch.get_num_threads() == before
    printed = capsys.readouterr().out
    assert "features, inference, regnetx_002, 48x32, batch 1, cpu" in printed
    assert "left out: torchvision: torchvision has no regnetx_002" in printed
    assert "ours: time grows with the" in printed
    text = (output.parent / "run.1.json").read_text()
    content = json.loads(text)
    assert content["command"].startswith("python tools/benchmark.py --variants regnetx_002")
    assert content["command"].endswith("--output=run.1")
    assert content["threads"] == 1
    assert [case["size"] for case in content["cases"]] == [[32, 32], [48, 32]]
    assert len(content["growth"]["points"]) == 2
    for private in (str(tmp_path), str(Path.home()), str(Path.cwd()), socket.gethostname()):
        assert private not in text
    assert (output.parent / "run.1.png").is_file()


def test_the_tool_fails_where_a_row_failed(tmp_path, monkeypatch, capsys):
    rows = (Entry("refuses", AS_IT_COMES, refuse), *named(SMALL, "timm"))
    monkeypatch.setattr(command, "entries_of", lambda part, **_: rows)
    line = "--variants regnetx_002 --sizes 32 --runs 1 --warmup 0 --roofline"
    rates = command.Rates(1e9, 1e9)
    monkeypatch.setattr(command, "measure_rates", lambda precision, **_: rates)
    assert (
        command.benchmark_command([*line.split(), "--output", f"{tmp_path}/x"], description="") == 1
    )
    captured = capsys.readouterr()
    assert "failed: refuses: RuntimeError: no such network in weights.pth" in captured.out
    assert "1 G multiply-adds/s in a matrix product, 1.0 GB/s in a copy" in captured.out
    assert "1 rows failed" in captured.err
    refused, timm = json.loads((tmp_path / "x.json").read_text())["cases"][0]["rows"]
    assert (refused["status"], refused["seconds"], refused["ratio"]) == ("failed", [], None)
    assert timm["ratio"] == 1


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ("--variants regnety_32", "regnety_32"),
        ("--entries detectron", "--entries"),
        ("--reference tim", "--reference"),
        ("--sizes 5k", "5k"),
        ("--runs 0", "--runs"),
        ("--batches 1 0", "--batches"),
        ("--warmup -1", "--warmup"),
    ],
)
def test_mistakes_of_the_user_are_told(argv, named, capsys):
    assert command.benchmark_command(argv.split(), description="") == 2
    assert named in capsys.readouterr().err


def test_without_a_gpu_cuda_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.benchmark_command(["--device", "cuda"], description="") == 2
    assert "--device cpu" in capsys.readouterr().err
