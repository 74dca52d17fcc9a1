"""Networks are measured under the conditions of a meter."""

import weakref

import pytest
import torch
from detectron2.modeling import build_backbone

from regnet_backbones import RegNetDesign
from regnet_backbones.detection.config import default_config
from regnet_backbones.measure import meter as meter_module
from regnet_backbones.measure.meter import LatencyMeter, build

# One block a stage, of 16, 24, 40 and 64 channels.
TINY = RegNetDesign(w_0=16, w_a=14.0, w_m=1.6, depth=4, group_width=8, stem_width=16)
SMALL = {"image_size": (64, 64), "runs": 1}


@pytest.fixture
def clock(monkeypatch):
    """Let the calls that are timed take as many seconds as are given here, in their order."""

    def let_calls_take(*rounds):
        times = iter(rounds)

        def interleaved_times(calls, *, runs, device):
            assert (runs, device) == (2, "cpu")
            return dict(zip(calls, next(times), strict=True))

        monkeypatch.setattr(meter_module, "interleaved_times", interleaved_times)

    return let_calls_take


@pytest.fixture
def passes(monkeypatch):
    """Note what `optimize` is told, and what it returns."""
    noted = []

    def optimize(model, **options):
        optimized = optimize_as_it_is(model, **options)
        noted.append((options, *optimized))
        return optimized

    optimize_as_it_is = meter_module.optimize
    monkeypatch.setattr(meter_module, "optimize", optimize)
    return noted


def test_latency_is_the_median_and_memory_the_peak_of_a_forward_pass(clock):
    clock([(0.003, 0.001)])
    meter = LatencyMeter(image_size=(64, 96), batch_size=2, runs=2)
    measured = meter.measure("regnetx_002")
    assert measured.latency_ms == pytest.approx(2.0)
    # At the first block's first convolution: C1, 32 channels, and 24 more of the same size; all
    # other maps are smaller, a copy beside them at most.
    least = 2 * (32 + 24) * 32 * 48 * 4
    assert least <= measured.memory_mib * 2**20 <= 2 * least


def test_with_a_reference_a_slow_minute_does_not_count(clock):
    clock(
        # The reference with itself, then others on a slow machine, and on a fast one.
        [(2.0, 2.0), (2.0, 2.0)],
        [(4.0, 4.0), (8.0, 8.0)],
        [(2.0, 6.0), (1.0, 3.0)],
    )
    meter = LatencyMeter(image_size=(64, 64), runs=2, reference="regnetx_002")
    assert meter.measure("regnetx_002").latency_ms == 2000
    assert meter.measure(TINY).latency_ms == 1000  # half of the reference's 2 s
    assert meter.measure(TINY).latency_ms == 4000


def test_networks_are_optimized_as_asked_in_the_memory_format_of_the_first(passes):
    meter = LatencyMeter(dtype=torch.bfloat16, **SMALL)
    assert meter.memory_format == "auto"
    meter.measure(TINY)
    ((options, model, report),) = passes
    assert options == {
        "dtype": torch.bfloat16,
        "memory_format": "auto",
        "image_size": (64, 64),
        "batch_size": 1,
    }
    assert report.batch_norms_left == 0
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}
    meter.measure(TINY)
    assert passes[1][0]["memory_format"] == meter.memory_format == report.memory_format


def test_a_network_is_gone_when_memory_is_given_back(monkeypatch, passes):
    gone = []

    def collect():
        gone.append(reference() is None)

    def peak(call, *, device):
        nonlocal reference
        reference = weakref.ref(passes.pop()[1])
        return 0

    reference = None
    monkeypatch.setattr(meter_module, "peak_bytes", peak)
    monkeypatch.setattr(meter_module.gc, "collect", collect)
    LatencyMeter(**SMALL).measure(TINY)
    assert gone == [True]


@torch.no_grad()
def test_the_feature_pyramid_is_detectron2s():
    ours = build("regnetx_002", fpn=True).eval()
    cfg = default_config()
    cfg.MODEL.BACKBONE.NAME = "build_regnet_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.REGNET.NAME, cfg.MODEL.REGNET.NORM = "regnetx_002", "BN"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    theirs = build_backbone(cfg).eval()
    theirs.bottom_up.load_state_dict(ours.bottom_up.state_dict())
    for level in (2, 3, 4, 5):
        lateral, output = (getattr(theirs, f"fpn_{each}{level}") for each in ("lateral", "output"))
        lateral.load_state_dict(ours.pyramid.inner_blocks[level - 2][0].state_dict())
        output.load_state_dict(ours.pyramid.layer_blocks[level - 2][0].state_dict())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    images = torch.randn(1, 3, 64, 96)
    found, expected = ours(images), theirs(images)
    assert {name: tuple(each.shape) for name, each in found.items()} == {
        "p2": (1, 256, 16, 24),
        "p3": (1, 256, 8, 12),
        "p4": (1, 256, 4, 6),
        "p5": (1, 256, 2, 3),
    }
    for name, each in found.items():
        torch.testing.assert_close(each, expected[name])


def test_a_feature_pyramid_is_optimized_and_measured_whole(passes):
    LatencyMeter(fpn=True, dtype=torch.bfloat16, **SMALL).measure(TINY)
    ((_, model, report),) = passes
    assert report.batch_norms_left == 0
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}
    images = torch.randn(1, 3, 64, 64)
    assert {each.dtype for each in model(images).values()} == {torch.float32}


@torch.no_grad()
@pytest.mark.parametrize("name", ["regnety_004", "regnetz_005", "regnetv_040", "regnetz_b16"])
def test_weights_are_not_zero_and_maps_finite(name):
    """timm's are zero in the last norm of a block; float16 ends at 65504."""
    network = build(name, fpn=False).eval()
    assert all(p.any() for n, p in network.named_parameters() if n.endswith("weight"))
    assert all(each.abs().max() < 1000 for each in network(torch.randn(1, 3, 64, 64)))


def test_the_gpu_must_exist(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device 'cuda' .* use device='cpu'"):
        LatencyMeter(device="cuda")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_ends_is_a_memory_error(monkeypatch, error):
    def fail(call, *, device):
        raise error

    monkeypatch.setattr(meter_module, "peak_bytes", fail)
    with pytest.raises(MemoryError, match="out of memory on 'cpu' at batch size 1, 64x64; use"):
        LatencyMeter(**SMALL).measure(TINY)
