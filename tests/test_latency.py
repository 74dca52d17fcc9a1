"""Networks are measured under the conditions of a meter, and compared by ratios of paired times."""

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch._dynamo
from detectron2.modeling import build_backbone

from regnet_backbones import RegNetDesign
from regnet_backbones.detection.config import default_config
from regnet_backbones.measure import meter as meter_module
from regnet_backbones.measure import timing
from regnet_backbones.measure.meter import LatencyMeter, RatioBand, build, confirm, ratio_band

# One block a stage, of 16, 24, 40 and 64 channels.
TINY = RegNetDesign(w_0=16, w_a=14.0, w_m=1.6, depth=4, group_width=8, stem_width=16)
SMALL = {"image_size": (64, 64), "runs": 1, "warmup": 0}


@pytest.fixture
def clock(monkeypatch):
    """Let the n-th call that is timed take as many seconds as are given here, in their order."""

    def let_calls_take(*seconds):
        ticks = iter([tick for duration in seconds for tick in (0.0, duration)])
        monkeypatch.setattr(timing.time, "perf_counter", lambda: next(ticks))

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
    clock(0.003, 0.001, 0.002)
    meter = LatencyMeter(passes=False, image_size=(64, 96), batch_size=2, runs=3)
    measured = meter.measure("regnetx_002")
    assert measured.latency_ms == pytest.approx(2.0)
    # At the first block's first convolution: C1, 32 channels, and 24 more of the same size; all
    # other maps are smaller, a copy beside them at most.
    least = 2 * (32 + 24) * 32 * 48 * 4
    assert least <= measured.memory_mib * 2**20 <= 2 * least


def test_beside_a_reference_a_slow_minute_does_not_count(clock):
    clock(
        *(2.0, 2.0),  # the reference alone, twice
        # In turns, the second round in the opposite order; a slow machine, then a fast one.
        *(8.0, 4.0, 4.0, 8.0),
        *(1.0, 2.0, 6.0, 3.0),
    )
    meter = LatencyMeter(
        passes=False, image_size=(64, 64), runs=2, warmup=0, reference="regnetx_002"
    )
    assert meter.measure(TINY).latency_ms == 1000  # half of the reference's 2 s
    assert meter.measure(TINY).latency_ms == 4000
    with pytest.raises(ValueError, match="compiled again for each network; leave it out"):
        LatencyMeter(compile=True, reference="regnetx_002")


def test_networks_are_optimized_as_asked(passes):
    meter = LatencyMeter(dtype=torch.bfloat16, **SMALL)
    meter.measure(TINY)
    ((options, model, report),) = passes
    assert options == {
        "dtype": torch.bfloat16,
        "compile": False,
        "memory_format": "auto",
        "image_size": (64, 64),
        "batch_size": 1,
    }
    assert report.batch_norms_left == 0
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}


def test_the_memory_format_of_the_first_network_is_kept_but_not_in_comparisons(passes):
    meter = LatencyMeter(**SMALL)
    assert meter.chosen_format == "auto"
    meter.measure(TINY)
    chosen = passes[0][2].memory_format
    assert meter.chosen_format == chosen
    meter.measure("regnetx_002")
    meter._compare({"tiny": TINY}, runs=2)
    assert [options["memory_format"] for options, _, _ in passes] == ["auto", chosen, "auto"]


def test_compared_networks_take_turns(clock):
    clock(1.0, 2.0, 8.0, 4.0)  # the second round has the opposite order
    times = LatencyMeter(passes=False, **SMALL)._compare({"a": TINY, "b": "regnetx_002"}, runs=2)
    assert times == {"a": (1.0, 4.0), "b": (2.0, 8.0)}


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


def test_each_network_is_compiled(traced_graphs):
    """torch compiles a class so many times, here once, and then takes networks as they are."""
    meter = LatencyMeter(compile=True, **SMALL)
    with torch._dynamo.config.patch(recompile_limit=1):
        for _ in range(2):
            meter.measure(TINY)
    assert len(traced_graphs) == 2


def test_more_networks_than_are_compiled_are_not_compared():
    with pytest.raises(ValueError, match="compares up to 8 networks, got 9; compare fewer"):
        LatencyMeter(compile=True, **SMALL)._compare({str(i): TINY for i in range(9)}, runs=1)


# Networks


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


def test_building_leaves_random_numbers_alone_and_gives_the_same_network_again():
    before = torch.get_rng_state()
    first, second = (build(TINY, fpn=True).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_what_is_no_regnet_is_refused():
    with pytest.raises(ValueError, match="can be built, a RegNetDesign or a name .* not of an int"):
        LatencyMeter(**SMALL).measure(7)
    with pytest.raises(ValueError, match="did you mean 'regnetx_002'"):
        LatencyMeter(**SMALL).measure("regnetx_0002")


# Conditions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device must be 'cpu' or 'cuda', got 'tpu'"),
        ({"dtype": torch.float64}, "dtype must be torch.bfloat16, torch.float16 or None"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"runs": 0}, "runs must be at least 1, got 0"),
        ({"image_size": (512, 0)}, "image_size must be at least 1, got 0"),
        ({"passes": False, "compile": True}, "dtype and compile are passes"),
    ],
)
def test_conditions_that_cannot_be_met(options, message):
    with pytest.raises(ValueError, match=message):
        LatencyMeter(**options)


def test_a_gpu_must_be_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no GPU here; use device='cpu'"):
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
    with pytest.raises(MemoryError, match="out of memory on 'cpu' at batch size 1 and 64x64; take"):
        LatencyMeter(passes=False, **SMALL).measure(TINY)


# Ratios


def test_a_band_by_hand():
    """The median of 5 draws from 5 ratios is the least if 3 or more draws are: 5.8% of the time.

    So the least is where an interval of 95% ends, and the second least (31.7%) one of 80%.
    """
    times, reference = [2.0, 8.0, 3.0, 8.0, 5.0], [4.0, 10.0, 10.0, 10.0, 10.0]
    band = ratio_band(times, reference)  # 0.5, 0.8, 0.3, 0.8, 0.5
    assert band == RatioBand(0.3, 0.5, 0.8)
    assert band.faster
    distinct = ratio_band([1, 2, 3, 4, 5], [1] * 5, confidence=0.8)
    assert distinct == RatioBand(2, 3, 4)
    assert not distinct.faster


def test_a_band_is_that_of_numpy():
    rng = np.random.default_rng(0)
    times, reference = rng.uniform(0.8, 1.2, (2, 40))
    ratios = times / reference
    medians = np.median(rng.choice(ratios, (20_000, 40)), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    band = ratio_band(times.tolist(), reference.tolist())
    assert band.median == pytest.approx(np.median(ratios))
    assert (band.low, band.high) == pytest.approx((low, high), abs=0.02)
    assert band == ratio_band(times.tolist(), reference.tolist())


@pytest.mark.parametrize("reference", [[1.0, 2.0], []])
def test_bands_need_pairs(reference):
    with pytest.raises(ValueError, match="as many times of both networks"):
        ratio_band([1.0] if reference else [], reference)


def test_candidates_are_measured_beside_the_reference(clock):
    clock(4.0, 1.0, 6.0, 3.0, 1.0, 4.0)  # the second round has the opposite order
    meter = LatencyMeter(passes=False, **SMALL)
    bands = confirm(meter, [TINY, "regnetx_002"], "regnetx_004", runs=2)
    assert bands == (RatioBand(0.25, 0.25, 0.25), RatioBand(0.75, 1.125, 1.5))


def test_the_more_candidates_the_wider_the_bands():
    """80% for all of three are 93.3% for each, beyond the 88.4% between least and greatest of 5."""
    times = {"reference": [1.0] * 5} | {name: [1.0, 2.0, 3.0, 4.0, 5.0] for name in "012"}
    meter = SimpleNamespace(
        _compare=lambda networks, runs: {name: times[name] for name in networks}
    )
    assert confirm(meter, [TINY], TINY, confidence=0.8) == (RatioBand(2, 3, 4),)
    assert confirm(meter, [TINY] * 3, TINY, confidence=0.8) == (RatioBand(1, 3, 5),) * 3
