"""`optimize` on extractors, segmentation models and detectors: same results, and a true report."""

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from detectron2.modeling import build_model
from torch import nn

from regnet_backbones import config_path
from regnet_backbones.backbone import RegNetFeatures
from regnet_backbones.design import RegNetDesign
from regnet_backbones.detection.config import default_config
from regnet_backbones.optimize import optimize, passes
from regnet_backbones.optimize.passes import has_native, maps_of

SMALL = {"image_size": (64, 64)}
TINY = RegNetDesign(w_0=8, w_a=8.0, w_m=2.0, depth=7, group_width=8)


def small_detector(*overrides):
    cfg = default_config()
    cfg.merge_from_file(str(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml")))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *overrides])
    return build_model(cfg)


def assert_close(found, expected, relative=1e-5):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).abs().max() <= relative * other.abs().max()


@torch.no_grad()
def test_an_extractor_is_copied_folded_and_measured(randomize):
    network = randomize(RegNetFeatures("regnety_002")).train()
    state = copy.deepcopy(network.state_dict())
    fast, report = optimize(network, **SMALL)
    assert network.training
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not fast.training
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    images = torch.randn(2, 3, 96, 64)
    assert_close(fast(images), network.eval()(images))
    assert len(report.folded) == 44
    assert report.batch_norms_left == 0
    assert report.error < 1e-5
    assert set(report.seconds) == {"folded, contiguous", "folded, channels_last"}
    assert min(report.seconds, key=report.seconds.get) == f"folded, {report.memory_format}"
    assert report.not_applied == ()
    assert "44 folded into convolutions, 0 left" in str(report)
    assert "folded, contiguous " in str(report)


@torch.no_grad()
def test_a_segmentation_model_gives_the_same_logits(randomize):
    model = randomize(smp.Unet("regnetx_002", encoder_weights=None, classes=2)).eval()
    fast, report = optimize(model, **SMALL)
    assert report.batch_norms_left == 0
    # 44 of the network, two of each of the decoder's five blocks.
    assert len(report.folded) == 44 + 10
    images = torch.randn(1, 3, 64, 96)
    assert_close([fast(images)], [model(images)])


@torch.no_grad()
def test_a_detector_gives_the_same_instances(randomize):
    model = randomize(small_detector()).eval()
    fast, report = optimize(model, **SMALL)
    assert report.batch_norms_left == 0
    images = [{"image": torch.randint(0, 255, (3, 80, 120)).float()}]
    expected, found = model(images)[0]["instances"], fast(images)[0]["instances"]
    assert len(expected) > 0
    assert torch.equal(found.pred_classes, expected.pred_classes)
    assert (found.pred_boxes.tensor - expected.pred_boxes.tensor).abs().max() < 1e-3
    assert (found.scores - expected.scores).abs().max() < 1e-5


def test_a_memory_format_that_is_given_is_not_measured():
    fast, report = optimize(RegNetFeatures(TINY), memory_format="channels_last", **SMALL)
    assert report.seconds == {}
    assert fast.s1.b1.conv2.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert "measured" not in str(report)


@torch.no_grad()
def test_batch_norms_are_left_where_folding_is_off(randomize):
    network = randomize(RegNetFeatures(TINY)).eval()
    fast, report = optimize(network, fold=False, memory_format="contiguous", **SMALL)
    assert (report.folded, report.batch_norms_left, report.error) == ((), 26, 0)
    assert list(fast.state_dict()) == list(network.state_dict())


@pytest.fixture
def timed(monkeypatch):
    """Give calls the median times that a test sets by name; each call is made once."""
    seconds = {}

    def times(calls, *, runs, device, limit):
        for call in calls.values():
            call()
        return {key: (9.0, 0.1, seconds[", ".join(key)]) for key in calls}

    monkeypatch.setattr(passes, "interleaved_times", times)
    return seconds


@pytest.mark.parametrize("chosen", ["channels_last", "contiguous"])
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_the_faster_memory_format_is_chosen(timed, chosen, mode):
    timed |= {"folded, contiguous": 2.0, "folded, channels_last": 2.0, f"folded, {chosen}": 1.0}
    network = RegNetFeatures(TINY, norm="FrozenBN")
    fast, report = optimize(network, mode=mode, fold=True, **SMALL)
    assert report.memory_format == chosen
    assert report.seconds == timed
    channels_last = fast.s1.b1.conv2.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert channels_last == (chosen == "channels_last")


@pytest.mark.parametrize(
    ("folded", "applied", "memory_format"),
    [
        ((3.0, 1.9), True, "channels_last"),
        ((1.9, 3.0), True, "contiguous"),
        ((2.0, 1.95), False, "contiguous"),  # within the noise of the fastest plain one
        ((9.0, 9.0), False, "contiguous"),
    ],
)
def test_folding_that_does_not_gain_in_training_is_not_applied(
    timed, folded, applied, memory_format
):
    timed |= {"plain, contiguous": 2.0, "plain, channels_last": 2.5}
    timed |= {"folded, contiguous": folded[0], "folded, channels_last": folded[1]}
    network = RegNetFeatures(TINY, norm="FrozenBN")
    _, report = optimize(network, mode="training", **SMALL)
    assert report.seconds == timed
    assert report.memory_format == memory_format
    assert (len(report.folded), report.batch_norms_left) == ((26, 0) if applied else (0, 26))
    assert report.not_applied == (() if applied else ("folding",))
    assert ("not applied" in str(report)) != applied


def test_plain_training_is_not_measured_where_folding_is_given(timed):
    timed |= {"plain, contiguous": 1.0, "folded, contiguous": 9.0}
    for fold, count in ((True, 26), (False, 0)):
        network = RegNetFeatures(TINY, norm="FrozenBN")
        options = {"fold": fold, "memory_format": "contiguous"}
        _, report = optimize(network, mode="training", **options, **SMALL)
        assert (len(report.folded), report.seconds, report.not_applied) == (count, {}, ())


def test_measuring_in_training_leaves_statistics_gradients_and_random_numbers(randomize):
    network = randomize(RegNetFeatures(TINY, drop_path_rate=0.5)).train()
    twin = copy.deepcopy(network)
    random_numbers = torch.get_rng_state()
    fast, report = optimize(network, mode="training", **SMALL)
    assert fast is network
    assert network.training
    assert torch.equal(torch.get_rng_state(), random_numbers)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(
        torch.equal(value, twin.state_dict()[key]) for key, value in network.state_dict().items()
    )
    assert report.error is None
    assert report.batch_norms_left == 26


def test_a_detector_in_training_has_the_same_losses(randomize):
    plain = randomize(small_detector("MODEL.REGNET.NORM", "FrozenBN")).train()
    fast, report = optimize(copy.deepcopy(plain), mode="training", fold=True, **SMALL)
    assert len(report.folded) == 26
    images = torch.randn(2, 3, 64, 64)
    assert_close(maps_of(fast.backbone(images)), maps_of(plain.backbone(images)))


# Precision


@torch.no_grad()
def test_a_cast_extractor_takes_float_images_and_gives_its_type(randomize, caplog):
    network = randomize(RegNetFeatures(TINY)).eval()
    fast, report = optimize(network, dtype=torch.bfloat16, **SMALL)
    assert {parameter.dtype for parameter in fast.parameters()} == {torch.bfloat16}
    maps = fast(torch.randn(1, 3, 64, 64))
    assert {features.dtype for features in maps} == {torch.bfloat16}
    assert 1e-5 < report.error < 0.1
    assert "bfloat16 (weights)" in str(report)
    emulated = "emulates it" in caplog.text
    assert emulated == (not has_native(torch.bfloat16))


@torch.no_grad()
def test_whole_models_give_float_results_from_cast_weights(randomize):
    model = randomize(smp.Unet("regnetx_002", encoder_weights=None)).eval()
    fast, _ = optimize(model, dtype=torch.bfloat16, **SMALL)
    images = torch.randn(1, 3, 64, 64)
    logits, expected = fast(images), model(images)
    assert fast.encoder.stem.conv.weight.dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() < 0.1 * expected.abs().max()

    detector = randomize(small_detector()).eval()
    fast, _ = optimize(detector, dtype=torch.bfloat16, **SMALL)
    features = fast.backbone(images)
    assert {value.dtype for value in features.values()} == {torch.float32}
    assert fast.backbone.bottom_up.stem.conv.weight.dtype == torch.bfloat16
    assert {p.dtype for p in fast.roi_heads.parameters()} == {torch.float32}
    fast([{"image": images[0]}])


def test_training_in_reduced_precision_keeps_float_weights_and_gradients(randomize):
    network = randomize(RegNetFeatures(TINY, norm="FrozenBN"))
    fast, report = optimize(network, mode="training", fold=True, dtype=torch.bfloat16, **SMALL)
    twin = copy.deepcopy(fast)
    maps = fast(torch.randn(1, 3, 64, 64))
    assert {features.dtype for features in maps} == {torch.bfloat16}
    sum(features.float().mean() for features in maps).backward()
    assert {p.grad.dtype for p in fast.parameters() if p.grad is not None} == {torch.float32}
    assert "bfloat16 (autocast)" in str(report)
    with torch.no_grad():
        twin.stem.conv.weight.zero_()
        images = torch.randn(1, 3, 64, 64)
        assert not torch.equal(twin(images)[0], fast(images)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_a_model_of_another_type_keeps_it(dtype, randomize):
    network = randomize(RegNetFeatures(TINY)).to(dtype)
    fast, report = optimize(network, image_size=(33, 33))
    maps = fast(torch.randn(1, 3, 64, 64, dtype=dtype))
    assert {features.dtype for features in maps} == {dtype}
    assert report.batch_norms_left == 0
    assert report.error < 20 * torch.finfo(dtype).eps


# What training keeps


def saved_bytes(network, images):
    """Count the bytes that a forward pass keeps for the backward pass, weights left out."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    return sum(size for size, _ in storages.values())


def test_folding_keeps_no_more_and_checkpointing_less_than_half():
    images = torch.randn(2, 3, 128, 128)
    plain = RegNetFeatures("regnety_002", norm="FrozenBN").train()
    before = saved_bytes(plain, images)
    folded, _ = optimize(plain, mode="training", fold=True, **SMALL)
    assert saved_bytes(folded, images) <= before
    checkpointed = RegNetFeatures("regnety_002", norm="FrozenBN", grad_checkpointing=True).train()
    checkpointed, _ = optimize(checkpointed, mode="training", fold=True, **SMALL)
    assert saved_bytes(checkpointed, images) < before / 2


class Pooling(nn.Module):
    """A frozen network under the layer that a DeepLabV3+ has: batch norm of one pixel an image."""

    def __init__(self):
        super().__init__()
        self.encoder = RegNetFeatures(TINY, norm="FrozenBN")
        width = self.encoder.channels[5]
        self.pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 4, 1), nn.BatchNorm2d(4)
        )

    def forward(self, x):
        return self.pool(self.encoder(x)[-1])


def test_training_is_measured_where_batch_norm_sees_one_pixel_an_image():
    fast, report = optimize(Pooling().train(), mode="training", fold=True, image_size=(32, 32))
    assert len(report.folded) == 26  # of 7 blocks each 3, 4 shortcuts, and the stem
    assert report.seconds.keys() == {"folded, contiguous", "folded, channels_last"}
    assert fast(torch.randn(2, 3, 32, 32)).shape == (2, 4, 1, 1)


class Fails(Pooling):
    def forward(self, x):
        raise RuntimeError("of the model")


def test_a_model_that_fails_in_training_is_left_as_it_was():
    model = Fails().train()
    before = repr(model)
    with pytest.raises(RuntimeError, match="of the model"):
        optimize(model, mode="training", **SMALL)
    assert repr(model) == before


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "train"}, "mode must be one of inference, training, got 'train'"),
        ({"fold": "on"}, "fold must be 'auto', True or False, got 'on'"),
        ({"memory_format": "nhwc"}, "one of auto, contiguous, channels_last, got 'nhwc'"),
        ({"dtype": torch.float64}, "dtype must be torch.bfloat16, torch.float16 or None"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        optimize(RegNetFeatures(TINY), **options)


def test_models_that_cannot_be():
    with pytest.raises(ValueError, match="optimize needs a RegNetFeatures.* got Linear"):
        optimize(nn.Linear(2, 2))
