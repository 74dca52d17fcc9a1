"""One RegNet in four frameworks: the same weights give the same maps."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torchvision.models import regnet_y_400mf
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from regnet_backbones import RegNetDesign, RegNetFeatures, weights
from regnet_backbones.adapters.detectron2.builders import RegNetBackbone
from regnet_backbones.adapters.smp import RegNetEncoder
from regnet_backbones.adapters.torchvision import RegNetFPN, RegNetMaps
from regnet_backbones.adapters.transformers import RegNetFeaturesBackbone, RegNetFeaturesConfig

LEVELS = (2, 3, 4, 5)
NAMES = (
    *("regnetx_002", "regnetx_008", "regnetx_004_tv"),
    *("regnety_002", "regnety_006", "regnety_008_tv", "regnety_040_sgn"),
    *("regnetv_040", "regnetz_005"),
    *("regnetz_b16", "regnetz_d8", "regnetz_c16_evos"),
)
DESIGN = RegNetDesign(w_0=24, w_a=24.0, w_m=2.0, depth=8, group_width=8, se_ratio=0.25)


def of_detectron2(network, **options):
    backbone = RegNetBackbone(network, **options)
    return backbone, lambda x: list(backbone(x).values())


def of_torchvision(network, **options):
    maps = RegNetMaps(network, {level: f"c{level}" for level in LEVELS}, **options)
    return maps, lambda x: list(maps(x).values())


def of_transformers(network, **options):
    key = "design" if isinstance(network, RegNetDesign) else "name"
    config = RegNetFeaturesConfig(**{key: network}, out_indices=(1, 2, 3, 4), **options)
    backbone = RegNetFeaturesBackbone(config)
    return backbone, lambda x: backbone(x).feature_maps


def of_smp(network, norm, freeze_at, output_stride=32):
    assert (norm, freeze_at) == ("BN", 0)  # it has nothing else
    encoder = RegNetEncoder(network, output_stride=output_stride)
    return encoder, lambda x: encoder(x)[2:]


def relative_error(ours, theirs):
    assert [m.shape for m in ours] == [m.shape for m in theirs]
    pairs = zip(ours, theirs, strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def assert_same_everywhere(network, randomize, frameworks, modes=(True,), **options):
    """Compare the maps of all frameworks; training moves the statistics, and must come last."""
    reference = randomize(RegNetFeatures(network, **options))
    state = {name: value.clone() for name, value in reference.state_dict().items()}
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = [reference.train(mode)(x) for mode in modes]
        for build in frameworks:
            model, maps = build(network, **options)
            weights.load(model, state)
            for mode, theirs in zip(modes, expected, strict=True):
                assert relative_error(maps_of(model, maps, x, mode), theirs) <= 1e-5, build.__name__


def maps_of(model, maps, x, mode):
    model.train(mode)
    return maps(x)


@pytest.mark.parametrize("name", NAMES)
def test_the_maps_are_the_same_in_all_four(name, randomize):
    options = {"norm": "BN", "freeze_at": 0}
    frameworks = (of_detectron2, of_torchvision, of_transformers, of_smp)
    assert_same_everywhere(name, randomize, frameworks, (False, True), **options)


@pytest.mark.parametrize("options", [{"norm": "FrozenBN", "freeze_at": 2}, {"freeze_at": 3}])
@pytest.mark.parametrize("network", ["regnety_002", "regnetv_040", "regnetz_d8", DESIGN])
def test_the_maps_of_frozen_networks_are_the_same(network, options, randomize):
    options = {"norm": "BN", **options}
    frameworks = (of_detectron2, of_torchvision, of_transformers)
    assert_same_everywhere(network, randomize, frameworks, **options)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("network", ["regnety_002", "regnetz_b16", DESIGN])
def test_the_maps_of_dilated_networks_are_the_same(network, output_stride, randomize):
    options = {"norm": "BN", "freeze_at": 0, "output_stride": output_stride}
    frameworks = (of_detectron2, of_torchvision, of_transformers, of_smp)
    assert_same_everywhere(network, randomize, frameworks, (False,), **options)


def test_the_maps_are_those_of_torchvisions_own_network_under_its_own_fpn(randomize):
    network = regnet_y_400mf()
    blocks = {f"block{i}": str(i - 1) for i in (1, 2, 3, 4)}
    trunk = nn.Sequential()
    trunk.add_module("stem", network.stem)
    for name, block in network.trunk_output.named_children():
        trunk.add_module(name, block)
    theirs = randomize(BackboneWithFPN(trunk, blocks, [48, 104, 208, 440], 64)).eval()
    ours = RegNetFPN("regnety_004", out_channels=64).eval()
    weights.load(ours.body, network.state_dict())
    ours.fpn.load_state_dict(theirs.fpn.state_dict())
    image = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        got, expected = ours(image), theirs(image)
    assert list(got) == list(expected) == ["0", "1", "2", "3", "pool"]
    assert relative_error(list(got.values()), list(expected.values())) <= 1e-5


def test_the_maps_are_those_of_transformers_own_network(randomize):
    from transformers import RegNetConfig, RegNetModel

    design = RegNetFeatures("regnety_002").design
    config = RegNetConfig(
        embedding_size=design.stem_width,
        hidden_sizes=[stage.width for stage in design.stages],
        depths=[stage.depth for stage in design.stages],
        groups_width=design.group_width,
    )
    theirs = randomize(RegNetModel(config)).eval()
    ours, maps = of_transformers("regnety_002")
    weights.load(ours, theirs.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs(image, output_hidden_states=True).hidden_states[1:]
        assert relative_error(maps_of(ours, maps, image, False), expected) <= 1e-5


def test_frameworks_without_a_regnet_import_nothing_of_ours():
    code = """
import sys, regnet_backbones, torchvision.models, transformers
from transformers import AutoBackbone, ResNetConfig
AutoBackbone.from_config(ResNetConfig())
torchvision.models.get_model("resnet18")
print(*sorted(n for n in sys.modules if n.startswith(("timm", "regnet_backbones.backbone"))))
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not [name for name in result.stdout.split() if name.startswith("regnet_backbones")]
