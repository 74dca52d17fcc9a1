"""The SMP adapter: registration in either order, encoders against SMP's own, every decoder."""

import copy
import inspect
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from torch import nn

from regnet_backbones import RegNetDesign, RegNetFeatures, zoo
from regnet_backbones.adapters.smp import encoder as adapter
from regnet_backbones.adapters.smp.encoder import RegNetEncoder, register_encoder, register_encoders

# A design of our own, small: widths 24, 48, 96, 192 in groups of 8.
DESIGN = RegNetDesign(w_0=24, w_a=24.0, w_m=2.0, depth=8, group_width=8, se_ratio=0.25)

# Found by looking, so that a decoder of a later SMP is tested too; with ours among them.
DECODERS = {
    name: value
    for name, value in vars(smp).items()
    if inspect.isclass(value) and issubclass(value, SegmentationModel)
}


def encoder_of(name, **options):
    return smp.encoders.get_encoder(name, **{"weights": None, **options})


def assert_same_maps(ours, theirs, rtol=1e-5):
    """Compare maps by the largest difference relative to the largest value."""
    assert len(ours) == len(theirs)
    for our_map, their_map in zip(ours, theirs, strict=True):
        assert our_map.shape == their_map.shape
        assert (our_map - their_map).abs().max() <= rtol * their_map.abs().max()


@pytest.fixture
def registry(monkeypatch):
    """Return SMP's registry; what a test does to it is undone."""
    monkeypatch.setattr(smp.encoders, "encoders", dict(smp.encoders.encoders))
    return smp.encoders.encoders


# Against SMP's own encoder of timm's networks


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("regnety_002", {"depth": depth, "in_channels": channels, "output_stride": stride})
        for depth, channels, stride in ((3, 1, 8), (4, 4, 16), (5, 1, 8), (5, 4, 16), (5, 4, 32))
    ]
    + [
        ("regnetx_002", {"depth": 5, "in_channels": 4, "output_stride": 8}),
        ("regnetx_002", {"depth": 4, "in_channels": 1, "output_stride": 32}),
        ("regnetz_005", {"depth": 5, "in_channels": 1, "output_stride": 16}),
        ("regnetz_005", {"depth": 3, "in_channels": 3, "output_stride": 32}),
        ("regnetz_b16", {"depth": 5, "in_channels": 4, "output_stride": 16}),
        ("regnetz_b16", {"depth": 4, "in_channels": 1, "output_stride": 32}),
        ("regnetv_040", {"depth": 5, "in_channels": 3, "output_stride": 8}),
    ],
)
def test_maps_are_those_of_smps_own_encoder_with_the_same_weights(name, options, randomize):
    theirs = randomize(encoder_of(f"tu-{name}", **options)).eval()
    ours = encoder_of(name, **options).eval()
    # Theirs has a prefix, and renames stages.0 to stages_0 in byobnet's networks.
    state = {
        re.sub(r"^(stem|stages)_", r"\1.", key.removeprefix("model.")): value
        for key, value in theirs.state_dict().items()
    }
    ours.load_state_dict(state)
    image = torch.randn(1, options["in_channels"], 75, 98)
    with torch.no_grad():
        assert_same_maps(ours(image), theirs(image))
    assert ours.out_channels == theirs.out_channels
    assert ours.output_stride == theirs.output_stride


def test_every_name_of_the_zoo_is_an_encoder():
    for name in zoo.names():
        assert name in smp.encoders.get_encoder_names()
        with torch.device("meta"):
            encoder = encoder_of(name)
        assert type(encoder) is RegNetEncoder
        assert encoder.out_channels == [3, *zoo.get(name).channels]
        parts = {key.split(".")[0] for key in encoder.state_dict()}
        byobnet = re.match("regnetz_[a-e]", name)
        expected = {"stem", "stages", "final_conv"} if byobnet else {"stem", "s1", "s2", "s3", "s4"}
        assert parts == expected


# Every decoder


# By decoder, how it refuses encoders that are convolutional, in SMP's words: DPT takes names that
# start with tu- only, and builds them itself.
REFUSALS = {"DPT": "must start with 'tu-', got regnetx_002"}


def blocks_of_brightness(side):
    """Return two images, and masks of three classes that their brightness gives away."""
    mask = torch.randint(0, 3, (2, 1, 4, 4)).float()
    mask = nn.functional.interpolate(mask, (side, side)).long()
    return mask - 1.0 + 0.1 * torch.randn(2, 3, side, side), mask[:, 0]


@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_every_decoder_learns_on_it_or_refuses_it(decoder):
    """Twenty steps on two images."""
    architecture, options = DECODERS[decoder], {"encoder_weights": None, "classes": 3}
    if decoder in REFUSALS:
        with pytest.raises(ValueError, match=REFUSALS[decoder]):
            architecture("regnetx_002", **options)
        return
    width = inspect.signature(architecture).parameters.get("decoder_channels")
    if width is not None and isinstance(width.default, int):
        options["decoder_channels"] = 32
    model = architecture("regnetx_002", **options).train()
    assert type(model.encoder) is RegNetEncoder
    # PAN halves its map of stride 16 three times.
    images, masks = blocks_of_brightness(128 if decoder == "PAN" else 64)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=3e-3), []
    for _ in range(20):
        outputs = model(images)
        logits = outputs[0] if isinstance(outputs, list) else outputs
        assert logits.shape == images.shape
        loss = nn.functional.cross_entropy(logits, masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    # The last map that this decoder reads comes from all weights before it.
    gradients = {k: p.grad for k, p in model.encoder.named_parameters() if p.grad is not None}
    assert "stem.conv.weight" in gradients
    assert any(key.startswith(f"s{model.encoder._depth - 1}.") for key in gradients)
    assert all(torch.isfinite(g).all() for g in gradients.values())


def test_there_are_decoders():
    assert {"Unet", "FPN", "DeepLabV3Plus", "UPerNet", "Segformer", "PAN"} <= set(DECODERS)
    assert set(REFUSALS) < set(DECODERS)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("decoder", ["DeepLabV3", "DeepLabV3Plus"])
def test_a_dilated_model_gives_the_masks_of_smps_own(decoder, stride, randomize):
    options = {"encoder_weights": None, "encoder_output_stride": stride, "in_channels": 4}
    theirs = randomize(DECODERS[decoder]("tu-regnetx_002", **options)).eval()
    ours = DECODERS[decoder]("regnetx_002", **options).eval()
    ours.load_state_dict(
        {k.replace("encoder.model.", "encoder."): v for k, v in theirs.state_dict().items()}
    )
    image = torch.randn(1, 4, 64, 96)
    with torch.no_grad():
        assert_same_maps([ours(image)], [theirs(image)])


def test_an_image_must_be_divisible_by_the_stride_of_the_last_map_only():
    model = smp.Linknet("regnetx_002", encoder_weights=None, encoder_depth=3).eval()
    assert model(torch.randn(1, 3, 72, 40)).shape == (1, 1, 72, 40)
    with pytest.raises(RuntimeError, match="divisible by 8"):
        model(torch.randn(1, 3, 76, 40))


def test_the_freezing_of_smp_fixes_weights_and_statistics():
    model = smp.Unet("regnety_002", encoder_weights=None)
    model.freeze_encoder()
    model.train()
    before = copy.deepcopy(model.encoder.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(2, 3, 64, 64)).mean().backward()
    optimizer.step()
    for key, value in model.encoder.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    model.unfreeze_encoder()
    model(torch.randn(2, 3, 64, 64))
    assert not model.encoder.stem.bn.running_mean.equal(before["stem.bn.running_mean"])


# The encoder


def test_maps_start_with_the_image_and_stages_behind_the_depth_are_not_built():
    encoder = RegNetEncoder("regnetx_002", depth=3, in_channels=4)
    image = torch.randn(1, 4, 64, 64)
    maps = encoder(image)
    assert maps[0] is image
    assert [tuple(m.shape[1:]) for m in maps[1:]] == [(32, 32, 32), (24, 16, 16), (56, 8, 8)]
    assert not hasattr(encoder, "s3")


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_other_depths_are_refused(depth):
    with pytest.raises(ValueError, match=f"must be 3, 4 or 5, got {depth}"):
        encoder_of("regnetx_002", depth=depth)


def test_get_encoder_takes_what_smps_takes_and_warns_of_what_it_ignores(recwarn):
    """SMP's tests of encoders pass `encoder_weights=None`, which no encoder reads."""
    encoder = smp.encoders.get_encoder("regnetx_002", encoder_weights=None)
    assert isinstance(encoder, RegNetEncoder)
    assert not [each for each in recwarn if "ignores" in str(each.message)]
    ours, stocks = adapter._get_encoder, smp.encoders.get_encoder.__wrapped__
    names = [list(inspect.signature(each).parameters.values()) for each in (ours, stocks)]
    assert [p.replace(annotation=p.empty) for p in names[0]] == names[1]
    with pytest.warns(UserWarning, match="'regnetx_002' ignores drop_rate"):
        smp.Unet("regnetx_002", encoder_weights=None, drop_rate=0.1)


@pytest.mark.parametrize("name", ["regnety_002", "regnetv_040", "regnetz_b16", "regnetz_d8"])
def test_it_is_scriptable(name, randomize):
    encoder = randomize(RegNetEncoder(name)).eval()
    assert encoder._is_torch_scriptable
    scripted = torch.jit.script(encoder)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_same_maps(scripted(image), encoder(image))


@pytest.mark.parametrize(("network", "form"), [(DESIGN, "compiled"), ("regnetz_b16", "exported")])
def test_it_compiles_and_exports_as_one_graph(network, form, randomize):
    encoder = randomize(RegNetEncoder(network, depth=4)).eval()
    assert encoder._is_torch_exportable
    assert encoder._is_torch_compilable
    image, other_image = torch.randn(2, 1, 3, 64, 64)
    with torch.no_grad():
        if form == "exported":
            program = torch.export.export(encoder, (image,)).module()
        else:
            program = torch.compile(encoder, fullgraph=True, backend="eager")
        assert_same_maps(program(other_image), encoder(other_image))


# Registration


IMPORTS = {
    "ours first": """
import regnet_backbones
import segmentation_models_pytorch as smp
from segmentation_models_pytorch.encoders import get_encoder, get_preprocessing_params
""",
    "theirs first": """
import segmentation_models_pytorch as smp
from segmentation_models_pytorch.encoders import get_encoder, get_preprocessing_params
import regnet_backbones
""",
    "the adapter first": """
from regnet_backbones.adapters.smp.encoder import register_encoder
register_encoder("mine", "regnetx_002")
import segmentation_models_pytorch as smp
from segmentation_models_pytorch.encoders import get_encoder, get_preprocessing_params
assert get_encoder("mine", weights=None, in_channels=1).name == "regnetx_002"
""",
}

# Four input channels are built only by our own function, and a tag is known only to it.
IS_REGISTERED = """
for model in (smp.Unet, smp.DeepLabV3Plus):
    model("regnetx_002", encoder_weights=None, in_channels=4)
get_encoder("regnetx_002", weights=None, in_channels=4)
assert get_preprocessing_params("regnety_032", "tv2_in1k")["mean"][0] == 0.485
smp.encoders.get_preprocessing_fn("regnety_032", "tv2_in1k")
"""

# What takes long is imported once; then each order has a process of its own.
IN_CHILDREN = """
import os, sys
import timm, torch
for name, code in eval(sys.argv[1]).items():
    assert not {"regnet_backbones", "segmentation_models_pytorch"} & set(sys.modules)
    child = os.fork()
    if child == 0:
        exec(code)
        print("passed:", name, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_the_order_of_imports_does_not_matter():
    orders = {name: imports + IS_REGISTERED for name, imports in IMPORTS.items()}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_CHILDREN, repr(orders)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.splitlines() == [f"passed: {name}" for name in IMPORTS], result.stderr


def test_registering_twice_changes_nothing(registry):
    before = dict(registry)
    functions = smp.encoders.get_encoder, smp.encoders.get_preprocessing_params
    register_encoders()
    assert registry == before
    assert (smp.encoders.get_encoder, smp.encoders.get_preprocessing_params) == functions
    assert not hasattr(smp.encoders.get_encoder.__wrapped__, "__wrapped__")


def test_an_encoder_of_somebody_else_is_neither_overwritten_nor_taken(registry):
    theirs = registry["regnetx_002"] = registry["resnet18"]
    with pytest.raises(ValueError, match=r"has an encoder 'regnetx_002' \(ResNetEncoder"):
        register_encoders()
    assert registry["regnetx_002"] is theirs
    assert type(encoder_of("regnetx_002")) is ResNetEncoder


def test_other_encoders_are_built_by_smp_as_before(tmp_path, monkeypatch):
    stock = smp.encoders.get_encoder.__wrapped__
    for name in ("resnet18", "tu-regnetx_002"):
        options = {"in_channels": 2, "depth": 4, "weights": None, "output_stride": 16}
        torch.manual_seed(0)
        theirs = stock(name, **options)
        torch.manual_seed(0)
        routed = smp.encoders.get_encoder(name=name, **options)
        assert type(routed) is type(theirs)
        assert str(routed) == str(theirs)
        for key, value in theirs.state_dict().items():
            torch.testing.assert_close(routed.state_dict()[key], value, rtol=0, atol=0)
    with pytest.raises(KeyError, match="Wrong encoder name `regnety_33`"):
        smp.Unet("regnety_33")
    with pytest.raises(KeyError, match="Wrong pretrained weights `ra_in1k` for encoder `resnet18`"):
        smp.Unet("resnet18", encoder_weights="ra_in1k")
    (tmp_path / "config.json").write_text('{"mean": [1, 2, 3], "std": [4, 5, 6]}')
    monkeypatch.setattr(
        smp.encoders, "hf_hub_download", lambda *args, **kwargs: tmp_path / "config.json"
    )
    assert smp.encoders.get_preprocessing_params("resnet18")["std"] == [4, 5, 6]


# Designs


def test_a_design_of_ones_own_is_an_encoder(registry):
    register_encoder("mine", DESIGN)
    register_encoder("mine", DESIGN)
    model = smp.Unet("mine", encoder_weights=None)
    assert model.encoder.design == DESIGN
    assert model.encoder.out_channels == [3, 32, 24, 48, 96, 192]
    register_encoder("small", "RegNetX-200MF")
    assert encoder_of("small").name == "regnetx_002"
    assert registry["small"] == registry["regnetx_002"]


@pytest.mark.parametrize(
    ("name", "network", "message"),
    [
        ("resnet18", DESIGN, r"SMP already has an encoder 'resnet18' \(ResNetEncoder"),
        ("regnety_032", DESIGN, "SMP already has an encoder 'regnety_032'.*choose another name"),
        ("tu-mine", DESIGN, "must not start with .* got 'tu-mine'"),
        ("vgg_mine", DESIGN, "must not start with .* got 'vgg_mine'"),
        ("mine", "regnety_33", "did you mean 'regnety_032'"),
    ],
)
def test_names_that_cannot_be_registered_say_why(name, network, message, registry):
    before = dict(registry)
    with pytest.raises(ValueError, match=message):
        register_encoder(name, network)
    assert registry == before


# Weights


@pytest.fixture
def checkpoint(randomize, tmp_path):
    """Return a timm network and a file of its weights."""
    network = randomize(timm.create_model("regnetx_002", num_classes=10)).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    return network, str(tmp_path / "weights.pth")


def test_weights_of_a_file_give_the_maps_of_timm(checkpoint):
    network, path = checkpoint
    model = smp.Unet("regnetx_002", encoder_weights=path).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        c5 = network.forward_features(image)
        assert_same_maps([nn.functional.relu(model.encoder(image)[-1])], [c5])
        summed = encoder_of("regnetx_002", weights=path, in_channels=1, depth=3).eval()
        gray = torch.randn(1, 1, 64, 96)
        expected = network.s2(network.s1(network.stem(gray.expand(1, 3, 64, 96))))
        assert_same_maps([summed(gray)[-1]], [expected])


@pytest.mark.parametrize("channels", [1, 2, 4, 7, 12])
def test_pretrained_stems_are_adapted_to_other_channels_as_timm_does(channels, checkpoint):
    _, path = checkpoint
    ours = encoder_of("regnetx_002", weights=path, in_channels=channels).eval()
    theirs = timm.create_model(
        "regnetx_002",
        features_only=True,
        in_chans=channels,
        pretrained=True,
        pretrained_cfg_overlay={"file": path, "num_classes": 10},
    ).eval()
    image = torch.randn(1, channels, 64, 64)
    with torch.no_grad():
        assert_same_maps(ours(image)[1:], theirs(image))


@pytest.mark.parametrize(
    ("weights", "pretrained"),
    [
        (None, False),
        ("imagenet", True),
        ("tv2_in1k", "tv2_in1k"),
        (
            "torchvision://regnet_y_3_2gf.IMAGENET1K_V2",
            "torchvision://regnet_y_3_2gf.IMAGENET1K_V2",
        ),
    ],
)
def test_the_weights_asked_for_are_those_of_the_extractor(weights, pretrained, monkeypatch):
    build = RegNetFeatures.__init__
    asked = []

    def build_without_weights(self, *args, pretrained, **options):
        asked.append(pretrained)
        build(self, *args, pretrained=False, **options)

    monkeypatch.setattr(RegNetFeatures, "__init__", build_without_weights)
    with torch.device("meta"):
        smp.encoders.get_encoder("regnety_032", weights=weights)
    assert asked == [pretrained]


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("regnety_032", "ra2_in1k", "'imagenet', 'ra_in1k', .*a path as text, got 'ra2_in1k'"),
        ("regnety_032", True, "encoder_weights of 'regnety_032' must be None .* got True"),
        ("regnety_032", False, "encoder_weights of 'regnety_032' must be None .* got False"),
        (
            "regnety_032",
            "nowhere.pth",
            "got 'nowhere.pth'.*=None to from_pretrained",
        ),
        ("regnetz_005", "imagenet", "encoder_weights of 'regnetz_005'"),
    ],
)
def test_weights_that_do_not_exist_are_answered_with_those_that_do(name, weights, message):
    with pytest.raises(ValueError, match=message):
        smp.Unet(name, encoder_weights=weights)


def test_a_path_must_be_text(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="or a path as text, got PosixPath"):
        smp.Unet("regnetx_002", encoder_weights=tmp_path / "weights.pth")


# Preprocessing


@pytest.mark.parametrize("name", [name for name in zoo.names() if zoo.get(name).weights])
def test_preprocessing_is_that_of_smps_own_encoder(name):
    for tag in zoo.get(name).weights:
        ours = smp.encoders.get_preprocessing_params(name, pretrained=tag)
        assert ours == smp.encoders.get_preprocessing_params(f"tu-{name}.{tag}")
        if tag == zoo.get(name).default_tag:
            assert smp.encoders.get_preprocessing_params(encoder_name=name) == ours


def test_the_preprocessing_function_scales_an_image():
    preprocess = smp.encoders.get_preprocessing_fn("regnety_032", pretrained="tv2_in1k")
    image = np.full((2, 2, 3), 255, dtype=np.uint8)
    # (1 - mean) / std of ImageNet.
    np.testing.assert_allclose(preprocess(image)[0, 0], [2.2489, 2.4286, 2.64], atol=1e-4)


def test_preprocessing_of_weights_that_do_not_exist_is_refused(registry):
    with pytest.raises(ValueError, match="'imagenet', 'ra_in1k', .*got 'tv1_in1k'"):
        smp.encoders.get_preprocessing_params("regnety_032", pretrained="tv1_in1k")
    with pytest.raises(ValueError, match="weights of 'regnetz_005'.* got"):
        smp.encoders.get_preprocessing_params("regnetz_005")
    register_encoder("mine", DESIGN)
    with pytest.raises(ValueError, match="weights of 'mine'"):
        smp.encoders.get_preprocessing_fn("mine")


def test_what_a_caller_does_to_preprocessing_stays_with_the_caller():
    smp.encoders.get_preprocessing_params("regnety_032")["mean"][0] = 0
    assert smp.encoders.get_preprocessing_params("regnety_032")["mean"][0] != 0


# Whole models


@pytest.mark.parametrize("name", ["regnety_002", "regnetz_b16", "mine"])
def test_a_saved_model_loads_and_gives_the_same_masks(name, randomize, registry, tmp_path):
    register_encoder("mine", DESIGN)
    options = {"encoder_weights": None, "in_channels": 4, "classes": 2}
    model = randomize(smp.DeepLabV3Plus(name, encoder_output_stride=8, **options)).eval()
    model.save_pretrained(tmp_path)
    loaded = smp.from_pretrained(tmp_path, strict=True).eval()
    assert type(loaded.encoder) is adapter.RegNetEncoder
    assert loaded.encoder.output_stride == 8
    image = torch.randn(1, 4, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), model(image), rtol=0, atol=0)


def test_a_saved_model_loads_without_the_file_it_started_from(checkpoint, tmp_path):
    _, path = checkpoint
    model = smp.Unet("regnetx_002", encoder_weights=path).eval()
    model.save_pretrained(tmp_path / "model")
    os.remove(path)
    with pytest.raises(ValueError, match="pass encoder_weights=None to from_pretrained"):
        smp.from_pretrained(tmp_path / "model")
    loaded = smp.from_pretrained(tmp_path / "model", encoder_weights=None).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), model(image), rtol=0, atol=0)
