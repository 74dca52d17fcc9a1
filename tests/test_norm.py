"""Batch-norm surgery on timm networks: what is computed stays, activations stay."""

import logging

import pytest
import timm
import torch
from torch import nn

from regnet_backbones import RegNetFeatures, weights
from regnet_backbones.norm import (
    BatchNormAct,
    FrozenBatchNorm,
    activated_norms,
    convert_norm,
    freeze,
    hide_batch_norms,
    lost_activations,
    restore_activations,
    update_twice,
)
from regnet_backbones.optimize import optimize


@pytest.fixture
def network(randomize):
    return randomize(timm.create_model("regnety_002", num_classes=0)).eval()


@pytest.fixture
def image():
    return torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize("norm", ["SyncBN", "FrozenBN"])
def test_a_converted_network_computes_the_same_in_evaluation(network, image, norm):
    before = network.forward_features(image)
    after = convert_norm(network, norm).eval().forward_features(image)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    assert before.min() == 0  # the last activation is a ReLU, and it is still there


def test_frozen_batch_norm_has_no_parameters_and_ignores_training_mode(network, image):
    convert_norm(network, "FrozenBN")
    before = network.eval().forward_features(image)
    statistics = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
    torch.testing.assert_close(network.train().forward_features(image), before)
    for key, value in statistics.items():
        torch.testing.assert_close(network.state_dict()[key], value, rtol=0, atol=0)
    assert not any(".bn." in name for name, _ in network.named_parameters())


@pytest.mark.parametrize(("kind", "dimensions"), [("1d", 2), ("1d", 3), ("2d", 4), ("3d", 5)])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("freezes", [lambda m: convert_norm(m, "FrozenBN"), freeze])
def test_a_batch_norm_of_any_dimensions_is_frozen(freezes, affine, kind, dimensions, randomize):
    norm = getattr(nn, f"BatchNorm{kind}")(4, eps=0.1, affine=affine)
    network = randomize(nn.Sequential(norm)).eval()
    x = torch.randn(3, 4, *(5, 6, 7)[: dimensions - 2])
    before, state = network(x), {k: v.clone() for k, v in network.state_dict().items()}
    network = freezes(network).train()
    torch.testing.assert_close(network(x), before)
    assert not list(network.parameters())
    network.load_state_dict(state, strict=affine)  # with the batch counter of a live norm
    torch.testing.assert_close(network(x), before)


def test_a_network_that_normalises_tokens_is_frozen(randomize):
    """LeViT has 48 batch norms of one dimension beside the 4 of its stem."""
    network = randomize(timm.create_model("levit_128s", num_classes=0)).eval()
    live = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        before = network(image)
        convert_norm(network, "FrozenBN")
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
        assert sum(isinstance(m, FrozenBatchNorm) for m in network.modules()) == live - 4
        torch.testing.assert_close(network.eval()(image), before, rtol=1e-4, atol=1e-5)


def test_group_norm_normalises_each_group_and_keeps_the_activation(image):
    """Against torch's own group norm, on the stem: 32 channels in 32 groups."""
    network = timm.create_model("regnety_002", num_classes=0)
    nn.init.uniform_(network.stem.bn.weight)
    weight = network.stem.bn.weight.clone()
    convert_norm(network, "GN")
    expected = nn.functional.group_norm(network.stem.conv(image), 32, weight, eps=1e-5).relu()
    torch.testing.assert_close(network.stem(image), expected)


def test_group_norm_takes_widths_that_32_does_not_divide():
    """regnetx_002 is 24, 56, 152, 368 wide: 8, 8, 8 and 16 groups."""
    network = convert_norm(timm.create_model("regnetx_002", num_classes=0), "GN")
    groups = [network.get_submodule(f"s{i}.b1.conv3.bn").num_groups for i in (1, 2, 3, 4)]
    assert groups == [8, 8, 8, 16]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())


def test_bn_changes_nothing(network):
    assert convert_norm(network, "BN") is network
    assert isinstance(network.stem.bn, nn.BatchNorm2d)


def test_an_unknown_norm_is_refused(network):
    with pytest.raises(ValueError, match=r"BN, SyncBN, FrozenBN, GN, got 'LN'"):
        convert_norm(network, "LN")


def test_a_network_without_batch_norm_is_left_with_a_warning(caplog):
    network = timm.create_model("regnety_040_sgn", num_classes=0)
    with caplog.at_level(logging.WARNING):
        convert_norm(network, "FrozenBN")
    assert "has no batch norm" in caplog.text


def test_freeze_fixes_parameters_and_statistics(network, image):
    stem = network.stem
    freeze(stem)
    network.train()
    before = stem(image)
    assert not any(p.requires_grad for p in stem.parameters())
    assert before.grad_fn is None
    torch.testing.assert_close(stem(image), before, rtol=0, atol=0)


# Activations that converters of others delete


def exchange_batch_norms(model):
    """Do what transformers' DETR family does to a backbone (`replace_batch_norm`)."""
    for name, module in model.named_children():
        if isinstance(module, nn.BatchNorm2d):
            frozen = FrozenBatchNorm(module.num_features)
            frozen.load_state_dict(module.state_dict(), strict=False)
            setattr(model, name, frozen)
        else:
            exchange_batch_norms(module)
    return model


CONVERTERS = (nn.SyncBatchNorm.convert_sync_batchnorm, exchange_batch_norms)
NETWORKS = {
    "regnety_002": {},
    "regnetz_b16": {"features_only": True},
    "efficientnet_b0": {"features_only": True, "out_indices": (2, 3)},
}


@pytest.mark.parametrize("convert", CONVERTERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_lost_activations_are_found_in_any_network_of_timm(name, convert):
    network = timm.create_model(name, **NETWORKS[name])
    count = len(activated_norms(network))
    model = nn.ModuleDict({"model": nn.Sequential(network)})
    assert count > 10
    assert not lost_activations(model)
    found = lost_activations(convert(model))
    assert len(found) == count
    kept = [norm for norm in model.modules() if getattr(norm, "running_var", None) is not None]
    assert all(any(each is norm for norm in kept) for each in found)


@pytest.mark.parametrize("convert", [lambda m: convert_norm(m, "FrozenBN"), freeze])
def test_what_keeps_activations_is_not_accused(convert, network):
    assert not lost_activations(convert(network))
    assert not lost_activations(exchange_batch_norms(timm.create_model("resnet18")))
    for kind in ("SyncBN", "FrozenBN", "GN"):
        assert not lost_activations(RegNetFeatures("regnety_002", norm=kind))


def test_a_folded_network_has_lost_nothing():
    features, _ = optimize(RegNetFeatures("regnety_002").eval(), memory_format="contiguous")
    assert not lost_activations(features)


def test_the_activations_that_torchs_converter_leaves_are_restored(network, image):
    before = network.forward_features(image)
    nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert (network.forward_features(image) - before).abs().max() > 1
    restore_activations(network)
    torch.testing.assert_close(network.forward_features(image), before)


@pytest.mark.parametrize(
    "use",
    [
        lambda features: features.train(),
        lambda features: features.eval(),
        lambda features: weights.load(features, RegNetFeatures("regnety_002").state_dict()),
        lambda features: optimize(features),
    ],
)
def test_a_network_whose_activations_are_lost_is_refused(use):
    features = exchange_batch_norms(RegNetFeatures("regnety_002", freeze_at=1))
    with pytest.raises(ValueError, match="26 activations of the network are lost.*FrozenBN"):
        use(features)


def test_a_stock_network_whose_activations_are_lost_is_not_optimized(network):
    with pytest.raises(ValueError, match="27 activations of the network are lost"):
        optimize(exchange_batch_norms(network))


SYNCHRONISES = (
    nn.SyncBatchNorm.convert_sync_batchnorm,
    timm.layers.convert_sync_batchnorm,
    lambda network: convert_norm(network, "SyncBN"),
)


@pytest.mark.parametrize("first", SYNCHRONISES)
@pytest.mark.parametrize(
    "then",
    [*(lambda m, norm=norm: convert_norm(m, norm) for norm in ("SyncBN", "FrozenBN")), freeze],
)
def test_synchronised_norms_are_converted_with_their_activations(first, then, network, image):
    before = network.forward_features(image)
    network = then(first(convert_norm(network, "SyncBN"))).eval()
    torch.testing.assert_close(network.forward_features(image), before, rtol=1e-5, atol=1e-5)
    assert len(activated_norms(network)) == 27


# Mixed precision


def test_frozen_norms_keep_the_type_of_mixed_precision(randomize, image):
    networks = {norm: RegNetFeatures("regnety_002", norm=norm) for norm in ("BN", "FrozenBN")}
    state = randomize(networks["BN"]).state_dict()
    kept = {}
    for norm, network in networks.items():
        network.load_state_dict(state)
        kept[norm] = []
        hooks = torch.autograd.graph.saved_tensors_hooks(kept[norm].append, lambda saved: saved)
        with hooks, torch.autocast("cpu", dtype=torch.bfloat16):
            maps = network.train()(image)
        assert {each.dtype for each in maps} == {torch.bfloat16}
    assert {saved.dtype for saved in kept["FrozenBN"] if saved.shape[2:] > (1, 1)} == {
        torch.bfloat16
    }


# Batch norms that converters do not find


def test_hidden_batch_norms_compute_the_same_and_survive(network, image):
    before = network.forward_features(image)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    exchange_batch_norms(hide_batch_norms(network))
    torch.testing.assert_close(network.forward_features(image), before)
    assert state.keys() == network.state_dict().keys()
    assert any(isinstance(module, BatchNormAct) for module in network.modules())
    assert not lost_activations(network)


@pytest.mark.parametrize("convert", [lambda m: convert_norm(m, "FrozenBN"), freeze])
def test_hidden_batch_norms_are_converted_like_others(network, image, convert):
    before = network.forward_features(image)
    network = convert(hide_batch_norms(network))
    torch.testing.assert_close(network.forward_features(image), before)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())


def test_updating_twice_is_taken_back():
    norm = nn.BatchNorm2d(3, momentum=0.3)
    update_twice(update_twice(norm), enable=False)
    assert norm.momentum == pytest.approx(0.3)
