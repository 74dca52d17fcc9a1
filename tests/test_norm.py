"""Batch-norm surgery on timm networks: what is computed stays, activations stay."""

import logging

import pytest
import timm
import torch
from torch import nn

from regnet_backbones.norm import FrozenBatchNorm, convert_norm, freeze


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
