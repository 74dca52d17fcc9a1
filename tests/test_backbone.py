"""RegNetFeatures against timm's and detectron2's own networks, and its options."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from regnet_backbones import RegNetDesign, RegNetFeatures, weights, zoo

# Small enough to run; the others are compared on the meta device, by names and shapes.
RUN = (
    "regnetx_002",
    "regnety_004",
    "regnety_040_sgn",
    "regnetv_064",
    "regnetz_005",
    "regnetz_b16",
    "regnetz_d8",
    "regnetz_c16_evos",
)
# A design of our own, small: widths 24, 48, 96, 192 in groups of 8.
DESIGN = RegNetDesign(w_0=24, w_a=24.0, w_m=2.0, depth=8, group_width=8, se_ratio=0.25)


def assert_same_maps(ours, theirs, rtol=1e-5):
    """Compare maps by the largest difference relative to the largest value."""
    assert len(ours) == len(theirs)
    for our_map, their_map in zip(ours, theirs, strict=True):
        assert our_map.shape == their_map.shape
        assert (our_map - their_map).abs().max() <= rtol * their_map.abs().max()


# Against timm


@pytest.mark.parametrize("name", RUN)
def test_maps_are_those_of_timm_with_the_same_weights(name, randomize):
    theirs = randomize(timm.create_model(name, features_only=True)).eval()
    ours = RegNetFeatures(name, out_levels=(1, 2, 3, 4, 5)).eval()
    # features_only renames stages.0 to stages_0 in byobnet's networks.
    state = {re.sub(r"^(stem|stages)_", r"\1.", k): v for k, v in theirs.state_dict().items()}
    ours.load_state_dict(state)
    image = torch.randn(1, 3, 75, 98)
    with torch.no_grad():
        maps = ours(image)
        assert_same_maps(maps, theirs(image))
    for level, feature_map in zip(ours.out_levels, maps, strict=True):
        stride = ours.strides[level]
        expected = (1, ours.channels[level], -(-75 // stride), -(-98 // stride))
        assert feature_map.shape == expected


@pytest.mark.parametrize("name", zoo.names())
def test_every_row_has_the_names_channels_and_strides_of_timm(name):
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=0)
        ours = RegNetFeatures(name, out_levels=(1, 2, 3, 4, 5))
    shapes = {k: v.shape for k, v in theirs.state_dict().items()}
    if not name.startswith(("regnetz_b", "regnetz_c", "regnetz_d", "regnetz_e")):
        # timm's RegNet applies final_conv after the last map.
        shapes = {k: v for k, v in shapes.items() if not k.startswith("final_conv.")}
    assert {k: v.shape for k, v in ours.state_dict().items()} == shapes
    assert list(ours.channels.values()) == [i["num_chs"] for i in theirs.feature_info]
    assert list(ours.strides.values()) == [2, 4, 8, 16, 32]
    assert tuple(ours.channels.values()) == zoo.get(name).channels


@pytest.mark.parametrize("name", ["regnetv_040", "regnetz_040"])
def test_maps_of_preactivation_and_linear_networks_come_before_the_activation(name, randomize):
    network = randomize(timm.create_model(name, num_classes=0)).eval()
    ours = RegNetFeatures(name, out_levels=(5,)).eval()
    ours.load_state_dict(network.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        (c5,) = ours(image)
        assert_same_maps([nn.functional.silu(c5)], [network.forward_features(image)])
        assert c5.min() < -0.3  # silu never goes below -0.28


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [("regnetx_002", 8), ("regnetx_002", 16), ("regnetz_b16", 8), ("regnetv_064", 16)],
)
def test_dilated_maps_are_those_of_timm(name, output_stride, randomize):
    theirs = timm.create_model(name, features_only=True, output_stride=output_stride)
    randomize(theirs).eval()
    ours = RegNetFeatures(name, output_stride=output_stride, out_levels=(1, 2, 3, 4, 5)).eval()
    ours.load_state_dict(
        {re.sub(r"^(stem|stages)_", r"\1.", k): v for k, v in theirs.state_dict().items()}
    )
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert_same_maps(ours(image), theirs(image))
    assert list(ours.strides.values()) == [min(s, output_stride) for s in (2, 4, 8, 16, 32)]


# Against detectron2; tests/test_weights_dialects.py has all variants, and torchvision's


@pytest.mark.parametrize(
    "design",
    [
        RegNetDesign(w_0=24, w_a=36.44, w_m=2.49, depth=13, group_width=8),  # X-200MF
        RegNetDesign(w_0=80, w_a=42.63, w_m=2.66, depth=21, group_width=24, se_ratio=0.25),
        DESIGN,
    ],
)
def test_maps_are_those_of_detectron2s_own_regnet_with_the_same_weights(
    design, randomize, detectron2s_own_regnet
):
    network = randomize(detectron2s_own_regnet(design)).eval()
    features = RegNetFeatures(design).eval()
    weights.load(features, network.state_dict(), channel_order="RGB")
    image = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        assert_same_maps(features(image), list(network(image).values()))


# Designs


def test_a_design_is_built_as_it_says():
    features = RegNetFeatures(DESIGN)
    assert list(features.channels.values()) == [s.width for s in DESIGN.stages]
    for i, stage in enumerate(DESIGN.stages, 1):
        built = features.get_submodule(f"s{i}")
        conv = built.b1.conv2.conv
        assert len(list(built.children())) == stage.depth
        assert conv.in_channels // conv.groups == stage.group_width


def test_the_torchvision_rounding_of_a_design_is_built():
    """X-400MF: the last stage is 384 wide in the paper and 400 in torchvision."""
    numbers = {"w_0": 24, "w_a": 24.48, "w_m": 2.54, "depth": 22, "group_width": 16}
    assert RegNetFeatures(RegNetDesign(**numbers)).channels[5] == 384
    assert RegNetFeatures(RegNetDesign(**numbers, rounding="torchvision")).channels[5] == 400


@pytest.mark.parametrize(
    "name", ["regnety_040_sgn", "regnetv_064", "regnetz_005", "regnetz_040_h", "regnetx_008"]
)
def test_the_design_of_a_row_builds_the_network_of_its_name(name):
    with torch.device("meta"):
        by_name = RegNetFeatures(name)
        by_design = RegNetFeatures(zoo.get(name).design)
    assert str(by_design.s4) == str(by_name.s4)
    shapes = {k: v.shape for k, v in by_name.state_dict().items()}
    assert {k: v.shape for k, v in by_design.state_dict().items()} == shapes


def test_a_design_that_timm_would_build_otherwise_is_refused(monkeypatch):
    import regnet_backbones.backbone as module

    other = RegNetDesign(w_0=24, w_a=24.0, w_m=2.0, depth=9, group_width=8)
    arguments = module.timm_arguments(other)
    monkeypatch.setattr(module, "timm_arguments", lambda design: arguments)
    with pytest.raises(ValueError, match="timm builds other stages"):
        RegNetFeatures(DESIGN)


# Freezing


@pytest.mark.parametrize(
    ("name", "freeze_at"),
    [("regnety_002", 0), ("regnety_002", 2), ("regnety_002", 5), ("regnetz_b16", 1)],
)
def test_frozen_levels_stay_frozen_through_every_mode(name, freeze_at):
    features = RegNetFeatures(name, freeze_at=freeze_at, drop_path_rate=0.2)
    parts = [features.level_parts[level] for level in range(1, freeze_at + 1)]
    frozen = tuple(f"{part}." for level_parts in parts for part in level_parts)
    before = {k: v.clone() for k, v in features.state_dict().items() if k.startswith(frozen)}
    image = torch.randn(2, 3, 64, 64)
    nn.Sequential(features).train().eval().train()  # as a part of a model whose mode changes
    optimizer = torch.optim.SGD(
        [p for p in features.parameters() if p.requires_grad] or [nn.Parameter(torch.zeros(1))],
        lr=0.1,
    )
    loss = sum(feature_map.square().mean() for feature_map in features(image))
    if loss.requires_grad:
        loss.backward()
        optimizer.step()
    for name_, parameter in features.named_parameters():
        assert parameter.requires_grad != name_.startswith(frozen or ("nothing",))
    for module_name, module in features.named_modules():
        if module_name and f"{module_name}.".startswith(frozen or ("nothing",)):
            assert not module.training
    for key, value in before.items():
        torch.testing.assert_close(features.state_dict()[key], value, rtol=0, atol=0)
    if freeze_at < 5:
        assert features.training
        assert features.get_submodule(features.level_parts[5][0]).training


def test_frozen_equals_unfrozen_in_evaluation(randomize):
    plain = randomize(RegNetFeatures("regnety_002")).eval()
    image = torch.randn(1, 3, 64, 64)
    for options in ({"norm": "FrozenBN"}, {"freeze_at": 5}, {"freeze_at": 2, "norm": "SyncBN"}):
        other = RegNetFeatures("regnety_002", **options).eval()
        other.load_state_dict(plain.state_dict(), strict=False)
        with torch.no_grad():
            assert_same_maps(other(image), plain(image))


def test_state_of_a_frozen_network_loads_into_one_that_is_not():
    frozen, plain = RegNetFeatures("regnetx_002", norm="FrozenBN"), RegNetFeatures("regnetx_002")
    plain.load_state_dict(frozen.state_dict())
    frozen.load_state_dict(plain.state_dict())


# Options


def test_only_the_levels_asked_for_are_returned_and_built():
    features = RegNetFeatures("regnetx_002", out_levels=(2, 4))
    maps = features(torch.randn(1, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [(1, 24, 16, 16), (1, 152, 4, 4)]
    assert features.channels == {2: 24, 4: 152}
    assert features.strides == {2: 4, 4: 16}
    assert not hasattr(features, "s4")


@pytest.mark.parametrize("name", ["regnetx_002", "regnetv_040", "regnetz_b16", "regnetz_d8"])
def test_the_stem_alone_is_built_and_run(name):
    (c1,) = RegNetFeatures(name, out_levels=(1,))(torch.randn(1, 3, 64, 64))
    assert c1.shape == (1, zoo.get(name).channels[0], 32, 32)


@pytest.mark.parametrize("name", ["regnetx_002", "regnetz_b16"])
@pytest.mark.parametrize("in_channels", [1, 4])
def test_other_input_channels(name, in_channels):
    features = RegNetFeatures(name, in_channels=in_channels)
    maps = features(torch.randn(2, in_channels, 64, 64))
    assert maps[-1].shape == (2, features.channels[5], 2, 2)


@pytest.mark.parametrize("name", ["regnety_002", "regnetz_b16"])
def test_checkpointing_gives_the_same_maps_and_gradients(name, randomize):
    plain = randomize(RegNetFeatures(name, norm="FrozenBN"))
    saving = RegNetFeatures(name, norm="FrozenBN", grad_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 64)
    kept = {}
    for features in (plain, saving):
        kept[features] = 0

        def count(tensor, features=features):
            kept[features] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = sum(m.square().mean() for m in features(image))
        loss.backward()
    for (key, ours), theirs in zip(saving.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=key)
    assert kept[saving] < 0.7 * kept[plain]


def test_drop_path_rises_to_its_rate_in_the_last_block():
    features = RegNetFeatures("regnetx_002", drop_path_rate=0.2)
    assert features.s4.b7.drop_path.drop_prob == pytest.approx(0.2)
    assert isinstance(features.s1.b1.drop_path, nn.Identity)


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "FrozenBN", "GN"])
def test_every_norm_trains(norm):
    features = RegNetFeatures("regnety_002", norm=norm).train()
    sum(m.square().mean() for m in features(torch.randn(2, 3, 64, 64))).backward()
    gradients = [p.grad for p in features.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
        ({"freeze_at": 6}, r"freeze_at must be 0 \(nothing\) to 5"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\), got 1.0"),
        ({"out_levels": (3, 2)}, "out_levels must be some of 1 to 5"),
        ({"out_levels": (0, 2)}, "out_levels must be some of 1 to 5"),
        ({"out_levels": ()}, "out_levels must be some of 1 to 5"),
        ({"norm": "LN"}, "norm must be one of"),
        ({"norm": "GN", "pretrained": True}, "norm=.* got 'GN'"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RegNetFeatures("regnetx_002", **options)


def test_the_network_compiles_to_an_exported_program(randomize):
    features = randomize(RegNetFeatures(DESIGN)).eval()
    program = torch.export.export(features, (torch.randn(1, 3, 64, 64),))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_same_maps(program.module()(image), features(image))


# Weights


@pytest.fixture
def checkpoint(randomize):
    return randomize(timm.create_model("regnetx_002", num_classes=10)).state_dict()


@pytest.mark.parametrize("form", ["bare.pth", "model.pth", "state_dict.pth", "bare.safetensors"])
def test_a_file_of_timm_weights_is_loaded(form, checkpoint, tmp_path):
    path = tmp_path / form
    if path.suffix == ".safetensors":
        save_file(checkpoint, path)
    else:
        torch.save(checkpoint if path.stem == "bare" else {path.stem: checkpoint}, path)
    features = RegNetFeatures("regnetx_002", pretrained=path, norm="FrozenBN", freeze_at=2)
    for key, value in features.state_dict().items():
        torch.testing.assert_close(value, checkpoint[key], rtol=0, atol=0)


def test_a_three_channel_stem_is_summed_for_one_channel(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / "weights.pth")
    features = RegNetFeatures("regnetx_002", pretrained=tmp_path / "weights.pth", in_channels=1)
    expected = checkpoint["stem.conv.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(features.stem.conv.weight.data, expected)


def test_weights_of_stages_that_are_not_built_are_dropped(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / "weights.pth")
    features = RegNetFeatures("regnetx_002", pretrained=tmp_path / "weights.pth", out_levels=(2, 3))
    torch.testing.assert_close(
        features.s2.b1.conv1.conv.weight, checkpoint["s2.b1.conv1.conv.weight"]
    )


def test_a_tag_that_does_not_exist_is_answered_with_those_that_do():
    with pytest.raises(FileNotFoundError, match=r"a tag of regnety_032 \(ra_in1k, .*pycls"):
        RegNetFeatures("regnety_032", pretrained="ra2_in1k")


@pytest.mark.parametrize("network", ["regnetx_002", RegNetDesign(8, 8.0, 1.5, 6, 8)])
def test_no_name_at_all_is_no_way_to_say_random_weights(network):
    with pytest.raises(FileNotFoundError, match="pretrained must be a tag .* got ''"):
        RegNetFeatures(network, pretrained="")


def test_a_variant_without_weights_says_so():
    with pytest.raises(ValueError, match="no pretrained weights for regnetz_005"):
        RegNetFeatures("regnetz_005", pretrained=True)


# In the place of timm's features_only


@pytest.mark.parametrize("name", ["regnety_002", "regnetv_040", "regnetz_b16", "regnetz_d8"])
@pytest.mark.parametrize("levels", [(2, 3, 4, 5), (1, 3), (4,)])
def test_its_feature_info_is_timms(name, levels):
    indices = tuple(level - 1 for level in levels)
    theirs = timm.create_model(name, features_only=True, out_indices=indices).feature_info
    ours = RegNetFeatures(name, out_levels=levels).feature_info
    assert type(ours) is type(theirs)
    assert (ours.channels(), ours.reduction()) == (theirs.channels(), theirs.reduction())
    assert ours.module_name() == theirs.module_name()
    assert ours.out_indices == theirs.out_indices == indices


@pytest.mark.parametrize("name", RUN)
def test_it_scripts_and_is_traced_by_fx(name, randomize):
    features = randomize(RegNetFeatures(name, out_levels=(2, 5))).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = features(image)
        assert_same_maps(torch.jit.script(features)(image), expected)
        assert_same_maps(torch.fx.symbolic_trace(features)(image), expected)


def test_features_between_are_extracted_by_fx(randomize):
    features = randomize(RegNetFeatures("regnety_002")).eval()
    nodes = {"s1": "c2", "s3.b2.se": "excited"}
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found = create_feature_extractor(features, nodes)(image)
        assert_same_maps([found["c2"]], [features(image)[0]])
    assert found["excited"].shape[1] == features.channels[4]


@pytest.mark.parametrize("name", ["regnety_002", "regnetz_b16"])
def test_checkpointing_is_switched_as_in_timm(name, randomize):
    features = randomize(RegNetFeatures(name)).train()
    momenta = [m.momentum for m in features.modules() if isinstance(m, nn.BatchNorm2d)]
    image = torch.randn(2, 3, 64, 64)

    def gradients():
        features.zero_grad()
        sum(feature_map.square().mean() for feature_map in features(image)).backward()
        return [p.grad.clone() for p in features.parameters()]

    plain = gradients()
    features.set_grad_checkpointing()
    with pytest.warns(FutureWarning, match="set_grad_checkpointing"):
        features.checkpoint_blocks()  # of version 0.1; twice is as once
    for ours, theirs in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    features.set_grad_checkpointing(False)
    assert [m.momentum for m in features.modules() if isinstance(m, nn.BatchNorm2d)] == (
        pytest.approx(momenta)
    )
    assert not any(getattr(m, "grad_checkpointing", False) for m in features.modules())


def test_frozen_levels_stay_frozen_when_parameters_are_replaced():
    """As transformers' `from_pretrained` does."""
    features = RegNetFeatures("regnety_002", freeze_at=2)
    for parameter in features.parameters():
        parameter.requires_grad_(True)
    features.train()
    trained = {name.split(".")[0] for name, p in features.named_parameters() if p.requires_grad}
    assert trained == {"s2", "s3", "s4"}
