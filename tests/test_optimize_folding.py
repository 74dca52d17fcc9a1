"""Folding leaves what a network computes, its state dict in training, and its gradients."""

import copy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from timm.layers import ConvNormAct, freeze_batch_norm_2d
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune
from torchvision.ops.misc import FrozenBatchNorm2d as TorchvisionFrozen

from regnet_backbones.backbone import RegNetFeatures
from regnet_backbones.optimize.folding import (
    fold_batch_norm,
    fold_frozen_norm,
    remaining_batch_norms,
    scale_and_shift,
)


def assert_close(found, expected, relative=1e-5):
    """Compare maps: differences relative to the largest value of each."""
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= relative * other.abs().max()


# Batch norms that cannot be folded, by network: regnetv_040 has them in front of the first
# convolution of a block, and behind its squeeze-and-excitation.
NETWORKS = {"regnetx_002": 0, "regnety_002": 0, "regnetv_040": 44, "regnetz_b16": 0}


@pytest.mark.parametrize(
    ("name", "norm"),
    [*((name, "BN") for name in NETWORKS), ("regnety_002", "FrozenBN"), ("regnety_002", "SyncBN")],
)
@torch.no_grad()
def test_a_folded_network_gives_the_same_maps(name, norm, randomize):
    network = randomize(RegNetFeatures(name, norm=norm)).eval()
    images = torch.randn(2, 3, 64, 96)
    expected = network(images)
    before = remaining_batch_norms(network)
    folded = fold_batch_norm(network)
    assert_close(network(images), expected)
    assert len(folded) == before - remaining_batch_norms(network) > 0
    if norm == "BN":
        assert remaining_batch_norms(network) == NETWORKS[name]


def test_scale_and_shift_are_those_of_batch_norm():
    norm = nn.BatchNorm2d(2, eps=0.0).eval()
    norm.running_mean[:] = torch.tensor([1.0, -2.0])
    norm.running_var[:] = torch.tensor([4.0, 16.0])
    norm.weight.data[:] = torch.tensor([3.0, 1.0])
    norm.bias.data[:] = torch.tensor([0.5, 0.0])
    scale, shift = scale_and_shift(norm)
    assert scale.tolist() == [1.5, 0.25]
    assert shift.tolist() == [-1.0, 0.5]
    plain = nn.BatchNorm2d(2, eps=0.0, affine=False).eval()
    plain.running_mean[:], plain.running_var[:] = 1.0, 4.0
    scale, shift = scale_and_shift(plain)
    assert scale.tolist() == [0.5, 0.5]
    assert shift.tolist() == [-0.5, -0.5]


class Shortcuts(nn.Module):
    """A network of detectron2's layers, with a convolution that is used twice."""

    def __init__(self, norm):
        super().__init__()
        self.one = Conv2d(3, 8, 3, padding=1, bias=True, norm=norm(8), activation=functional.relu)
        self.shared = nn.Conv2d(8, 8, 1)
        self.two = nn.Sequential(self.shared, nn.BatchNorm2d(8))
        self.three = nn.Sequential(self.shared, nn.BatchNorm2d(8))

    def forward(self, x):
        x = self.one(x)
        return [self.two(x), self.three(x)]


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FrozenBatchNorm2d, TorchvisionFrozen])
@torch.no_grad()
def test_detectron2s_convolutions_are_folded_and_shared_ones_are_not(norm, randomize):
    network = randomize(Shortcuts(norm)).eval()
    images = torch.randn(1, 3, 8, 8)
    expected = network(images)
    assert fold_batch_norm(network) == ["one.norm"]
    assert_close(network(images), expected)


class Towers(nn.Module):
    """Two heads on a tower that both share, and a block that stands at two places as a whole."""

    def __init__(self):
        super().__init__()
        tower = nn.Sequential(nn.Conv2d(3, 8, 1))
        self.one = nn.Sequential(tower, nn.BatchNorm2d(8))
        self.two = nn.Sequential(tower, nn.BatchNorm2d(8))
        block = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.three, self.four = nn.Sequential(block, nn.ReLU()), nn.Sequential(block)

    def forward(self, x):
        return [self.three(self.one(x)), self.four(self.two(x))]


@torch.no_grad()
def test_what_stands_in_a_shared_module_is_folded_only_with_its_norm(randomize):
    network = randomize(Towers()).eval()
    images = torch.randn(1, 3, 8, 8)
    expected = network(images)
    assert fold_batch_norm(network) == ["three.0.1"]
    assert_close(network(images), expected)


@torch.no_grad()
def test_sequences_are_folded_where_a_norm_follows_a_convolution(randomize):
    network = nn.Sequential(
        nn.BatchNorm2d(3),
        nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 4, 1, bias=False)),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.BatchNorm2d(4),
    )
    randomize(network).eval()
    images = torch.randn(1, 3, 8, 8)
    expected = network(images)
    assert fold_batch_norm(network) == [".2"]
    assert isinstance(network[2], nn.Identity) or len(network[2]) == 0
    assert_close([network(images)], [expected])


class Backwards(nn.Sequential):
    """Runs its layers from last to first: their order says nothing."""

    def forward(self, x):
        for layer in reversed(self):
            x = layer(x)
        return x


@torch.no_grad()
def test_weights_that_are_computed_before_each_call_are_not_folded(randomize):
    network = randomize(RegNetFeatures("regnety_002", norm="FrozenBN")).eval()
    images = torch.randn(1, 3, 64, 64)
    prune.l1_unstructured(network.s1.b1.conv1.conv, "weight", 0.5)
    expected = network(images)
    assert "s1.b1.conv1.bn" not in fold_frozen_norm(copy.deepcopy(network))
    assert "s1.b1.conv1.bn" not in fold_batch_norm(network)
    assert_close(network(images), expected)


def test_layers_whose_forward_is_unknown_stay(randomize):
    network = randomize(Backwards(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))).eval()
    assert fold_batch_norm(network) == []


# Training


def assert_close_gradients(found, expected):
    """Compare gradients by name, those that are zero but for rounding in absolute terms."""
    assert found.keys() == expected.keys()
    rounding = 1e-6 * max(gradient.abs().max() for gradient in expected.values())
    for name, other in expected.items():
        error = (found[name] - other).abs().max()
        assert error <= 1e-4 * other.abs().max() + rounding, name


def keep_statistics(network):
    """Let norms that are not frozen use their running statistics: a batch's magnify rounding."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def gradients(network, images):
    """Do one step, and return the maps and the gradients by name."""
    maps = network(images)
    sum(features.square().mean() for features in maps).backward()
    return maps, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("regnety_002", {"norm": "FrozenBN"}),
        ("regnety_002", {"norm": "BN", "freeze_at": 2}),
        ("regnetx_002", {"norm": "FrozenBN", "grad_checkpointing": True}),
        ("regnetz_b16", {"norm": "FrozenBN"}),
        ("regnetv_040", {"norm": "FrozenBN", "out_levels": (2, 3)}),
    ],
)
def test_training_folded_has_the_same_maps_gradients_and_state_dict(name, options, randomize):
    plain = randomize(RegNetFeatures(name, **options)).train()
    keep_statistics(plain)
    folded = copy.deepcopy(plain)
    parameters = list(folded.parameters())
    names = fold_frozen_norm(folded)
    assert names or name == "regnetv_040"
    assert all(one is other for one, other in zip(folded.parameters(), parameters, strict=True))
    images = torch.randn(2, 3, 64, 64)
    expected_maps, expected = gradients(plain, images)
    maps, found = gradients(folded, images)
    assert_close(maps, expected_maps)
    assert_close_gradients(found, expected)
    states = folded.state_dict(), plain.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    folded.load_state_dict(RegNetFeatures(name, **options).state_dict(), strict=True)


def test_a_folded_copy_folds_its_own_weights():
    network = RegNetFeatures("regnetx_002", norm="FrozenBN")
    fold_frozen_norm(network)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        network.stem.conv.weight.zero_()
        network.stem.bn.bias.zero_()
        images = torch.randn(1, 3, 32, 32)
        assert network.stem(images).abs().max() == 0
        assert twin.stem(images).abs().max() > 0


# Frozen parts


def test_frozen_stages_compute_the_same(randomize):
    plain = randomize(RegNetFeatures("regnetx_002", norm="FrozenBN", freeze_at=2)).train()
    folded = copy.deepcopy(plain)
    fold_frozen_norm(folded)
    images = torch.randn(1, 3, 64, 64)
    expected_maps, expected = gradients(plain, images)
    maps, found = gradients(folded, images)
    assert_close(maps, expected_maps)
    assert_close_gradients(found, expected)


def test_weights_that_are_thawed_are_trained(randomize):
    folded = randomize(nn.Sequential(freeze_batch_norm_2d(ConvNormAct(3, 8, 3))))
    folded.requires_grad_(False)
    assert fold_frozen_norm(folded) == ["0.bn"]
    folded.requires_grad_(True)
    folded(torch.randn(2, 3, 8, 8)).square().mean().backward()
    assert folded[0].conv.weight.grad.abs().max() > 0


def test_norms_that_are_trained_stay():
    network = RegNetFeatures("regnetx_002", norm="BN", freeze_at=1).train()
    assert fold_frozen_norm(network) == ["stem.bn"]
    assert remaining_batch_norms(network) == 43


def test_a_random_drop_between_norm_and_activation_stays():
    block = freeze_batch_norm_2d(ConvNormAct(3, 8, 1, drop_layer=lambda: nn.Dropout(1.0)))
    network = nn.Sequential(block).train()
    assert fold_frozen_norm(network) == ["0.bn"]
    assert network(torch.randn(1, 3, 4, 4)).abs().max() == 0
