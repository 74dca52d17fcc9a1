"""RegNets in transformers: the registry, saved models, and the maps inside of its detectors."""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoBackbone, AutoConfig

from regnet_backbones import RegNetDesign, RegNetFeatures, weights, zoo
from regnet_backbones.adapters.transformers import RegNetFeaturesBackbone, RegNetFeaturesConfig
from regnet_backbones.norm import activated_norms, lost_activations
from regnet_backbones.optimize import optimize

NAME = "regnety_002"
NUMBERS = {"w_0": 24, "w_a": 24.0, "w_m": 2.0, "depth": 8, "group_width": 8}
IMAGE_SIZE = (96, 128)

_DETR = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_queries": 10,
}
_RT_DETR = {
    "encoder_in_channels": list(zoo.get(NAME).channels[2:]),
    "decoder_in_channels": [32, 32, 32],
    "encoder_hidden_dim": 32,
    "d_model": 32,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "num_queries": 10,
}
# Class and config of each model, the indices of the maps it takes, and small sizes.
DETECTORS = {
    "Detr": (4,),
    "ConditionalDetr": (4,),
    "DeformableDetr": (2, 3, 4),
    "RTDetr": (2, 3, 4),
    "RTDetrV2": (2, 3, 4),
    "DFine": (2, 3, 4),
}
SEGMENTERS = {
    "MaskFormer": "ForInstanceSegmentation",
    "Mask2Former": "ForUniversalSegmentation",
    "UperNet": "ForSemanticSegmentation",
}


def build(kind, **options):
    """Build a small model of transformers' with our backbone in it."""
    indices = DETECTORS.get(kind, (1, 2, 3, 4))
    backbone = RegNetFeaturesConfig(NAME, out_indices=indices, **options)
    sizes = {
        **dict.fromkeys(("Detr", "ConditionalDetr", "DeformableDetr"), _DETR),
        **dict.fromkeys(("RTDetr", "RTDetrV2", "DFine"), _RT_DETR),
        "MaskFormer": {
            "fpn_feature_size": 32,
            "mask_feature_size": 32,
            "decoder_config": transformers.DetrConfig(**_DETR),
        },
        "Mask2Former": {
            "feature_size": 32,
            "mask_feature_size": 32,
            "hidden_dim": 32,
            "encoder_feedforward_dim": 32,
            "dim_feedforward": 32,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "num_attention_heads": 4,
            "num_queries": 10,
            "train_num_points": 64,
        },
        "UperNet": {
            "hidden_size": 32,
            "auxiliary_in_channels": zoo.get(NAME).channels[3],
            "auxiliary_channels": 16,
        },
    }[kind]
    config = getattr(transformers, f"{kind}Config")(backbone_config=backbone, num_labels=3, **sizes)
    suffix = SEGMENTERS.get(kind, "ForObjectDetection")
    return getattr(transformers, f"{kind}{suffix}")(config)


def loss_of(kind, model):
    images = torch.randn(2, 3, *IMAGE_SIZE)
    if kind in DETECTORS:
        boxes = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.6, 0.5, 0.3, 0.4]])
        label = {"class_labels": torch.tensor([0, 1]), "boxes": boxes}
        return model(images, labels=[label, label]).loss
    if kind == "UperNet":
        return model(images, labels=torch.randint(0, 3, (2, *IMAGE_SIZE))).loss
    masks = torch.zeros(2, *IMAGE_SIZE)
    masks[0, :40], masks[1, 50:] = 1, 1
    classes = [torch.tensor([0, 1])] * 2
    return model(images, mask_labels=[masks, masks], class_labels=classes).loss


def backbone_of(model):
    (backbone,) = (m for m in model.modules() if isinstance(m, RegNetFeaturesBackbone))
    return backbone


def activations(model, image):
    """Count the ReLUs that run."""
    calls = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda *_: calls.append(1))
    model(image)
    return len(calls)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
@pytest.mark.parametrize("kind", [*DETECTORS, *SEGMENTERS])
def test_the_maps_inside_are_the_extractors(kind, norm, randomize, tmp_path):
    model = build(kind, norm=norm, freeze_at=0)
    reference = randomize(RegNetFeatures(NAME, norm=norm)).train()
    state = {name: value.clone() for name, value in reference.state_dict().items()}
    weights.load(model, state)
    backbone = backbone_of(model.train())
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = [reference(image)[i - 1] for i in backbone.out_indices]
        weights.load(reference, state)  # training has moved the statistics
        got = backbone(image).feature_maps
        for ours, theirs in zip(got, expected, strict=True):
            assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
        assert activations(backbone, image) == 53
    assert not lost_activations(model)
    loss_of(kind, model).backward()
    assert all(p.grad is not None for p in backbone.parameters())

    model.eval().save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    with torch.no_grad():
        for ours, theirs in zip(
            backbone_of(loaded)(image).feature_maps, backbone(image).feature_maps, strict=True
        ):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("network", [{"name": NAME}, NUMBERS, {"design": RegNetDesign(**NUMBERS)}])
def test_a_backbone_is_saved_and_loaded(network, randomize, tmp_path):
    config = RegNetFeaturesConfig(**network, out_features=["stage2", "stage4"])
    backbone = randomize(AutoBackbone.from_config(config)).eval()
    assert backbone.channels == [backbone.features.channels[3], backbone.features.channels[5]]
    backbone.save_pretrained(tmp_path)
    known = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(known, RegNetFeaturesConfig)
    assert (known.name, known.design, known.out_indices) == (config.name, config.design, [2, 4])
    loaded = RegNetFeaturesBackbone.from_pretrained(tmp_path)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(
            loaded(image).feature_maps, backbone(image).feature_maps, strict=True
        ):
            torch.testing.assert_close(ours, theirs)
    frozen = [name for name, p in loaded.named_parameters() if not p.requires_grad]
    assert {name.split(".")[1] for name in frozen} == {"stem", "s1"}
    assert frozen == [name for name, p in backbone.named_parameters() if not p.requires_grad]


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "GN"])
@pytest.mark.parametrize("kind", ["Detr", "Mask2Former"])
def test_a_backbone_that_a_file_lacks_is_initialized(kind, norm, tmp_path):
    """A file of a detector on another backbone, of which the transformer is wanted."""
    model = build(kind, norm=norm)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = {k: v for k, v in load_file(file).items() if ".features.s2" not in k}
    save_file(state, file, metadata={"format": "pt"})
    before = backbone_of(model).features.state_dict()
    for name, value in (
        backbone_of(type(model).from_pretrained(tmp_path)).features.state_dict().items()
    ):
        if not name.startswith("s2"):
            assert torch.equal(value, before[name]), name
        elif value.ndim == 4:
            assert not torch.equal(value, before[name]), name
            assert value.std().item() == pytest.approx(before[name].std().item(), rel=0.2), name
        elif "bn." in name:  # zeros and ones, as in any new network
            assert torch.equal(value, before[name]), name


def test_stages_that_a_file_lacks_are_initialized(tmp_path):
    RegNetFeaturesBackbone(RegNetFeaturesConfig(NAME, out_indices=(2,))).save_pretrained(tmp_path)
    backbone = RegNetFeaturesBackbone.from_pretrained(tmp_path, out_indices=(2, 4))
    assert torch.equal(backbone.features.s4.b1.conv1.bn.running_var, torch.ones(368))
    assert 0.01 < backbone.features.s4.b1.conv1.conv.weight.std() < 1


@torch.no_grad()
def test_a_cast_backbone_gives_outputs_of_transformers(randomize):
    backbone = randomize(RegNetFeaturesBackbone(RegNetFeaturesConfig(NAME))).eval()
    fast, _ = optimize(backbone, dtype=torch.bfloat16, image_size=(64, 96))
    image = torch.randn(1, 3, 64, 96)
    for ours, theirs in zip(fast(image).feature_maps, backbone(image).feature_maps, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().max() <= 0.1 * theirs.abs().max()


def test_indices_1_to_4_are_c2_to_c5():
    config = RegNetFeaturesConfig(NAME, out_indices=(1, 2, 3, 4))
    assert config.out_features == ["stage1", "stage2", "stage3", "stage4"]
    assert config.stage_names == ["stem", "stage1", "stage2", "stage3", "stage4"]
    backbone = RegNetFeaturesBackbone(config)
    assert backbone.channels == list(zoo.get(NAME).channels[1:])
    output = backbone(torch.randn(1, 3, 64, 96), output_hidden_states=True)
    sizes = [tuple(m.shape[2:]) for m in output.hidden_states]
    assert sizes == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    (maps,) = backbone(torch.randn(1, 3, 64, 96), return_dict=False)
    assert [m.shape[1] for m in maps] == backbone.channels
    assert RegNetFeaturesConfig(NAME).out_indices == [2, 3, 4]


def test_stages_behind_the_last_are_not_built():
    backbone = AutoBackbone.from_config(RegNetFeaturesConfig(NAME, out_indices=[2]))
    assert not hasattr(backbone.features, "s3")


@pytest.mark.parametrize("kind", ["Detr", "RTDetr"])
def test_checkpointing_of_a_whole_model_reaches_the_backbone(kind):
    model = build(kind, norm="BN", freeze_at=0)
    model._set_gradient_checkpointing(True)
    assert backbone_of(model).features.grad_checkpointing
    loss_of(kind, model.train()).backward()
    model._set_gradient_checkpointing(False)
    assert not backbone_of(model).features.grad_checkpointing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "regnety_2"}, "unknown RegNet 'regnety_2'"),
        ({"name": NAME, **NUMBERS}, "got several"),
        ({"w_0": 24, "w_a": 24.0, "w_m": 2.0, "depth": 8, "group_width": 0}, "group_width"),
        ({"name": NAME, "out_features": ["res2"]}, "stage1"),
    ],
)
def test_mistakes_in_a_config_are_answered(arguments, message):
    with pytest.raises(ValueError, match=message):
        RegNetFeaturesConfig(**arguments)


def test_a_config_without_a_network_is_refused_when_it_is_built():
    with pytest.raises(ValueError, match="pass name"):
        RegNetFeaturesBackbone(RegNetFeaturesConfig())


def test_what_transformers_deletes_of_timms_own_backbones_is_found():
    """The figures of every family: norms with an activation, of which none is left."""
    for name, lost in {"regnety_002": 27, "regnetx_002": 27, "resnet18": 0}.items():
        config = transformers.TimmBackboneConfig(backbone=name, out_indices=[1, 2, 3, 4])
        model = transformers.DetrModel(transformers.DetrConfig(backbone_config=config, **_DETR))
        assert len(lost_activations(model)) == lost
    options = {"out_indices": [1, 2, 3, 4], "freeze_batch_norm_2d": True}
    config = transformers.TimmBackboneConfig(backbone=NAME, **options)
    model = transformers.DetrModel(transformers.DetrConfig(backbone_config=config, **_DETR))
    assert not lost_activations(model)
    assert len(activated_norms(model)) == 27
