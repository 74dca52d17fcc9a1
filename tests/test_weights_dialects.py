"""Every dialect against the project that speaks it: same names, same maps, and back again."""

import functools
import re

import pytest
import timm
import torch
from other_regnets import (
    MmdetRegNet,
    TransformersClassifier,
    TransformersModel,
    resnet_names,
)
from timm.models.regnet import _filter_fn
from torchvision.models import regnet as tv_regnet

from regnet_backbones import RegNetFeatures, weights, zoo
from regnet_backbones.design import complexity
from regnet_backbones.weights import dialects

# Up to this many parameters networks are run; above, names and shapes are compared, without data.
RUN_PARAMS = 10_000_000

TORCHVISION = [zoo.get(name) for name in zoo.names() if zoo.get(name).torchvision_name]
PAPER = [zoo.get(name) for name in zoo.names() if zoo.get(name).paper_name]


@functools.cache
def is_small(name):
    design = zoo.get(name).design
    if design is None:  # a network of timm's byobnet: the first has 9.7 million
        return name.startswith("regnetz_b16")
    return complexity(design, num_classes=None).params <= RUN_PARAMS


def assert_same_maps(ours, theirs):
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert our.shape == their.shape
        assert (our - their).abs().max() <= 1e-5 * their.abs().max()


def assert_same_state(state, other):
    assert list(state) == list(other)
    for key, value in state.items():
        assert value.dtype == other[key].dtype
        assert value.is_meta or torch.equal(value, other[key]), key


def torchvision_network(name, device="cpu"):
    """Build a torchvision RegNet, whose widths are not computed on the meta device."""
    if device == "cpu":
        return getattr(tv_regnet, name)()
    variant = zoo.get(name)
    design = variant.design
    parameters = tv_regnet.BlockParams.from_init_params(
        depth=design.depth,
        w_0=design.w_0,
        w_a=design.w_a,
        w_m=design.w_m,
        group_width=design.group_width,
        se_ratio=design.se_ratio or None,
    )
    with torch.device(device):
        return tv_regnet.RegNet(parameters)


# timm


@pytest.mark.parametrize("name", [n for n in zoo.names() if is_small(n)])
def test_timm_weights_give_the_maps_of_timm(name, randomize):
    classifier = randomize(timm.create_model(name, num_classes=7)).eval()
    features = RegNetFeatures(name).eval()
    report = weights.load(features, classifier.state_dict())
    reference = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4)).eval()
    reference.load_state_dict(weights.convert(features.state_dict(), "timm", _flat(name)))
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert_same_maps(features(image), reference(image))
        # The classifier itself, so that not both sides are ours: its last map before the pooling.
        if not hasattr(classifier, "final_conv") or isinstance(
            classifier.final_conv, torch.nn.Identity
        ):
            assert_same_maps(features(image)[-1:], [classifier.forward_features(image)])
    assert report.dialect == "timm"
    assert not report.flipped
    assert {key.split(".")[0] for key in report.dropped} <= {"head", "final_conv"}


def _flat(name):
    """Name the dialect of timm's features_only: it flattens byobnet networks alone."""
    return "timm_features" if zoo.get(name).design is None else "timm"


# torchvision


@pytest.mark.parametrize("variant", TORCHVISION, ids=lambda v: v.torchvision_name)
def test_torchvision_weights_give_the_maps_of_torchvision(variant, randomize):
    run = is_small(variant.name)
    device = "cpu" if run else "meta"
    network = torchvision_network(variant.torchvision_name, device).eval()
    with torch.device(device):
        features = RegNetFeatures(variant.name).eval()
    state = network.state_dict()
    if run:
        randomize(network)
    report = weights.load(features, state)
    assert (report.dialect, report.flipped) == ("torchvision", False)
    assert set(report.dropped) == {"fc.weight", "fc.bias"}
    back = weights.convert(weights.convert(state, "torchvision", "timm"), "timm", "torchvision")
    assert_same_state(back, state)
    if run:
        image = torch.randn(1, 3, 64, 96)
        with torch.no_grad():
            x = network.stem(image)
            assert_same_maps(features(image), [x := stage(x) for stage in network.trunk_output])


# pycls and detectron2


@pytest.mark.parametrize("variant", PAPER, ids=lambda v: v.paper_name)
def test_pycls_weights_give_the_maps_of_detectron2s_own_regnet(
    variant, randomize, detectron2s_own_regnet
):
    """pycls's networks see BGR images, ours RGB."""
    run = is_small(variant.name)
    device = "cpu" if run else "meta"
    with torch.device(device):
        network = detectron2s_own_regnet(variant.design).eval()
        network.head = torch.nn.Module()  # the classifier that pycls gives it
        network.head.fc = torch.nn.Linear(variant.channels[-1], 10)
        features = RegNetFeatures(variant.name).eval()
    state = network.state_dict()
    if run:
        randomize(network)
    report = weights.load(features, state)
    assert (report.dialect, report.channel_order, report.flipped) == ("pycls", "BGR", True)
    assert set(report.dropped) == {"head.fc.weight", "head.fc.bias"}
    back = weights.convert(weights.convert(state, "pycls", "timm"), "timm", "detectron2")
    assert_same_state(back, state)
    if run:
        image = torch.randn(1, 3, 64, 96)
        with torch.no_grad():
            assert_same_maps(features(image), list(network(image.flip(1)).values()))


# ClassyVision and VISSL: their packages need an old torch; timm reads their files


def classy_trunk(root, stem):
    """Write down a trunk of RegNetY-200MF as ClassyVision names it, with random values."""
    state = {}
    with torch.device("meta"):
        names = timm.create_model("regnety_002", num_classes=0).state_dict()
    for name, value in names.items():
        name = re.sub(r"^stem\.conv\b", f"{stem}.0", name)
        name = re.sub(r"^stem\.bn\b", f"{stem}.1", name)
        name = re.sub(
            r"^s(\d)\.b(\d+)",
            lambda m: root.replace("{r}", str(int(m[1]) + 1)) + f"block{m[1]}-{int(m[2]) - 1}",
            name,
        )
        for ours, theirs in (
            ("conv1.conv", "f.a.0"),
            ("conv1.bn", "f.a.1"),
            ("conv2.conv", "f.b.0"),
            ("conv2.bn", "f.b.1"),
            ("conv3.conv", "f.c"),
            ("conv3.bn", "f.final_bn"),
            ("se.fc1", "f.se.excitation.0"),
            ("se.fc2", "f.se.excitation.2"),
            ("downsample.conv", "proj"),
            ("downsample.bn", "bn"),
        ):
            name = name.replace(f".{ours}.", f".{theirs}.")
        block = re.search(r"block(\d)-", name)
        if block:
            name = name.replace("{s}", block[1])
        counter = name.endswith("num_batches_tracked")
        state[name] = torch.tensor(3) if counter else torch.rand(value.shape)
    return state


VISSL = ("_feature_blocks.res{r}.", "_feature_blocks.conv1.stem")


def test_vissl_weights_are_read_as_timm_reads_them():
    trunk = classy_trunk(*VISSL)
    heads = {"0.clf.0.weight": torch.rand(5, 368), "0.clf.0.bias": torch.rand(5)}
    nested = {"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": heads}}}}
    expected = _filter_fn(nested)
    ours = weights.convert(nested, "vissl", "timm")
    assert ours.keys() == expected.keys()
    for key, value in ours.items():
        assert torch.equal(value, expected[key])


def test_seer_weights_load_without_their_projection_head():
    state = classy_trunk(*VISSL) | {
        "heads.0.projection_head.0.weight": torch.rand(8, 368),
        "heads.0.prototypes0.weight": torch.rand(4, 8),
    }
    features = RegNetFeatures("regnety_002")
    report = weights.load(features, state)
    assert set(report.dropped) == {k for k in state if k.startswith("heads.")}
    assert torch.equal(
        features.s4.b7.conv3.bn.running_mean,
        state["_feature_blocks.res5.block4-6.f.final_bn.running_mean"],
    )


def test_trunks_of_sharded_training_group_their_blocks_once_more():
    trunk = classy_trunk(*VISSL)
    sharded = {re.sub(r"(block(\d))-(\d+)", r"\1-part0.\1-\3", k): v for k, v in trunk.items()}
    assert "_feature_blocks.res4.block3-part0.block3-2.f.c.weight" in sharded
    converted = weights.convert(sharded, "vissl", "timm")
    assert_same_state(converted, weights.convert(trunk, "vissl", "timm"))


def test_classyvision_weights_differ_from_torchvisions_in_stem_and_ends():
    state = classy_trunk("trunk_output.block{s}.", "stem.stem")
    assert "trunk_output.block4.block4-6.f.final_bn.weight" in state
    assert weights.detect(state) == "classyvision"
    features = RegNetFeatures("regnety_002")
    assert not weights.load(features, state).flipped
    assert torch.equal(features.stem.bn.running_var, state["stem.stem.1.running_var"])
    assert torch.equal(
        features.s3.b1.downsample.bn.bias, state["trunk_output.block3.block3-0.bn.bias"]
    )
    back = weights.convert(features.state_dict(), "timm", "classyvision")
    assert_same_state(back, state)


# transformers


TRANSFORMERS = ("regnetx_002", "regnety_002", "regnety_008", "regnety_640", "regnety_1280")


def assert_loads_and_comes_back(network, name, dialect, randomize, image, order):
    """Compare the maps of another project's network with ours, and the way there and back."""
    state = randomize(network).eval().state_dict()
    features = RegNetFeatures(name).eval()
    report = weights.load(features, state)
    assert (report.dialect, report.channel_order) == (dialect, order)
    back = weights.convert(weights.convert(state, dialect, "timm"), "timm", dialect)
    assert_same_state(back, state)
    network.load_state_dict(back)
    with torch.no_grad():
        assert_same_maps(features(image), network(image.flip(1) if order == "BGR" else image))
    return report


@pytest.mark.parametrize("network", [TransformersModel, TransformersClassifier])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_weights_give_the_maps_of_transformers(name, network, randomize):
    design = zoo.get(name).design
    if is_small(name):
        report = assert_loads_and_comes_back(
            network(design), name, "transformers", randomize, torch.randn(1, 3, 64, 96), "RGB"
        )
        has_head = network is TransformersClassifier
        assert set(report.dropped) == (
            {"classifier.1.weight", "classifier.1.bias"} if has_head else set()
        )
        return
    with torch.device("meta"):  # SEER's
        state, features = network(design).state_dict(), RegNetFeatures(name)
    weights.load(features, state)
    back = weights.convert(weights.convert(state, "transformers", "timm"), "timm", "transformers")
    assert_same_state(back, state)


@pytest.mark.parametrize("kind", ["RegNetModel", "RegNetForImageClassification"])
@pytest.mark.parametrize("name", ["regnetx_002", "regnety_002"])
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_files_of_transformers_itself_are_read_and_written(name, kind, safe, randomize, tmp_path):
    import transformers

    design = zoo.get(name).design
    config = transformers.RegNetConfig(
        embedding_size=design.stem_width,
        hidden_sizes=[stage.width for stage in design.stages],
        depths=[stage.depth for stage in design.stages],
        groups_width=design.group_width,
        layer_type="y" if design.se_ratio else "x",
        num_labels=7,
    )
    network = randomize(getattr(transformers, kind)(config)).eval()
    network.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    if not safe:  # what versions before 5 wrote
        file = tmp_path / "pytorch_model.bin"
        torch.save(network.state_dict(), file)
    features = RegNetFeatures(name, pretrained=file).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = getattr(network, "regnet", network)(image, output_hidden_states=True).hidden_states
        assert_same_maps(features(image), maps[1:])
    there = weights.convert(features.state_dict(), "timm", "transformers")
    getattr(network, "regnet", network).load_state_dict(there)


def test_two_spellings_of_one_weight_are_not_one(randomize):
    """A block with squeeze-and-excitation has its last convolution in another place."""
    state = TransformersModel(zoo.get("regnetx_002").design).state_dict()
    name = "encoder.stages.0.layers.0.layer.2.convolution.weight"
    state[name.replace("layer.2.", "layer.3.")] = state[name] + 1
    with pytest.raises(ValueError, match=r"1 unknown: .*layer\.3\.convolution"):
        weights.load(RegNetFeatures("regnetx_002"), state)
    with pytest.raises(ValueError, match="timm has no name for 1 of"):
        weights.convert(state, "transformers", "timm")


# mmdet and mmpretrain


@pytest.mark.parametrize("name", ["regnetx_002", "regnetx_004", "regnetx_008", "regnetx_016"])
def test_mmdet_weights_give_the_maps_of_mmdet(name, randomize):
    """Its networks see BGR images, as pycls' do."""
    network = MmdetRegNet(zoo.get(name).design)
    image = torch.randn(1, 3, 64, 96)
    assert_loads_and_comes_back(network, name, "mmdet", randomize, image, "BGR")


@pytest.mark.parametrize(
    ("home", "head"), [("", "fc"), ("backbone.", "head.fc"), ("backbone.", "neck.lateral_convs.0")]
)
def test_files_of_mmdet_and_mmpretrain_are_read(home, head):
    """What open-mmlab:// fetches, a classifier of mmpretrain, a detector of mmdet."""
    network = MmdetRegNet(zoo.get("regnetx_002").design)
    state = {f"{home}{name}": value for name, value in network.state_dict().items()}
    state[f"{head}.weight"] = torch.ones(2, 2)
    features = RegNetFeatures("regnetx_002")
    report = weights.load(features, {"meta": {"epoch": 100}, "state_dict": state})
    assert report.dropped == (f"{head}.weight",)
    assert torch.equal(features.stem.conv.weight, network.conv1.weight.flip(1))


@pytest.mark.parametrize(
    "shapes",
    [
        {"dialect": "mmdet"},
        {"dialect": "mmdet", "ratio": 1},  # ResNeXt-101 64x4d
        {"dialect": "mmdet", "stem": 3},  # for small images
        {"dialect": "mmdet", "stem": 3, "ratio": 1, "deep": True},
        {"dialect": "transformers"},
        {"dialect": "transformers", "stem": 3},
    ],
    ids=str,
)
def test_a_resnet_of_the_same_names_is_told_by_its_shapes(shapes):
    state = resnet_names(**shapes)
    with pytest.raises(ValueError, match="no RegNet in these"):
        weights.detect(state)
    with pytest.raises(ValueError, match="no RegNet in these"):
        weights.load(RegNetFeatures("regnetx_002"), {"model": state})
    assert weights.detect(RegNetFeatures("regnetx_002").state_dict() | state) == "timm"


# Prefixes


@pytest.mark.parametrize("dialect", [d for d in weights.DIALECTS if d != "timm_features"])
def test_a_network_is_found_under_any_prefix(dialect, randomize):
    name = "regnetx_002" if dialect == "mmdet" else "regnety_002"
    state = randomize(RegNetFeatures(name)).state_dict()
    converted = weights.convert(state, "timm", dialect)
    for prefix in ("module.", "model.", "module.backbone.bottom_up.", "encoder."):
        theirs = {prefix + k: v for k, v in converted.items()}
        theirs["fpn_lateral2.weight"] = torch.zeros(1)
        assert weights.detect(theirs) == dialect
        features = RegNetFeatures(name)
        report = weights.load(features, theirs)
        assert_same_state(features.state_dict(), state)
        assert report.dropped == ("fpn_lateral2.weight",)


@pytest.mark.parametrize("nesting", ["model", "state_dict", "model_state", "state_dict_ema"])
def test_a_network_is_found_in_a_checkpoint(nesting):
    own = RegNetFeatures("regnety_002").state_dict()
    theirs = weights.convert(own, "timm", "pycls")
    checkpoint = {"epoch": 3, nesting: theirs, "optimizer": {"lr": 0.1}}
    assert weights.detect(checkpoint) == "pycls"
    assert_same_state(weights.convert(checkpoint, "pycls", "timm"), own)
    features = RegNetFeatures("regnety_002")
    weights.load(features, checkpoint)
    assert_same_state(features.state_dict(), own)


def test_what_is_beside_a_network_stays_when_it_is_renamed(randomize):
    state = {
        f"backbone.bottom_up.{k}": v
        for k, v in randomize(RegNetFeatures("regnetx_002")).state_dict().items()
    }
    state = {"pixel_mean": torch.ones(3), "roi_heads.fc.weight": torch.ones(2, 2)} | state
    there = weights.convert(state, "timm", "pycls")
    assert "backbone.bottom_up.s1.b1.f.a_bn.running_var" in there
    assert_same_state(weights.convert(there, "pycls", "timm"), state)


def test_of_several_networks_one_must_be_chosen():
    own = RegNetFeatures("regnetx_002").state_dict()
    state = {f"student.{k}": v for k, v in own.items()}
    state |= {f"teacher.{k}": v + 1 for k, v in own.items()}
    features = RegNetFeatures("regnetx_002")
    with pytest.raises(ValueError, match=r"more than one RegNet, under 'student\.', 'teacher\.'"):
        weights.load(features, state)
    weights.load(features, state, prefix="teacher.")
    assert torch.equal(features.stem.bn.bias, own["stem.bn.bias"] + 1)


# The table


def test_no_two_parts_of_a_dialect_have_one_name():
    for dialect in dialects.Names._fields:
        for rows in (dialects.BLOCK_PARTS, dialects.OTHER_PARTS):
            names = [getattr(row, dialect) for row in rows if getattr(row, dialect)]
            assert len(set(names)) == len(names)


def test_a_final_convolution_is_a_head_of_pycls():
    """pycls's RegNetZ, `AnyHead` with a width."""
    with torch.device("meta"):
        state = timm.create_model("regnetz_005").state_dict()
    there = weights.convert(state, "timm", "pycls")
    assert {"head.conv.weight", "head.bn.running_var", "head.fc.bias"} <= there.keys()
    assert_same_state(weights.convert(there, "pycls", "timm"), state)


def test_a_network_that_only_timm_has_cannot_be_converted():
    with torch.device("meta"):
        state = timm.create_model("regnetv_040").state_dict()
    with pytest.raises(ValueError, match="torchvision has no name for 401 of 491 .*stem.weight"):
        weights.convert(state, "timm", "torchvision")


def test_byobnet_networks_are_flattened_by_features_only():
    with torch.device("meta"):
        theirs = timm.create_model("regnetz_d8", features_only=True).state_dict()
        features = RegNetFeatures("regnetz_d8")
    assert weights.detect(theirs) == "timm_features"
    assert_same_state(
        weights.convert(features.state_dict(), "timm", "timm_features"),
        {k: theirs[k] for k in theirs},
    )
    assert not weights.load(features, theirs).dropped


# Errors


def test_names_of_no_regnet_are_refused():
    with torch.device("meta"):
        state = timm.create_model("resnet18").state_dict()
    with pytest.raises(ValueError, match="no RegNet in these .* names: conv1.weight, bn1.weight"):
        weights.detect(state)


def test_a_wrong_or_unknown_dialect_is_said():
    state = RegNetFeatures("regnetx_002").state_dict()
    with pytest.raises(ValueError, match="the names are timm's, got .*pycls.* pass source='timm'"):
        weights.convert(state, "detectron2", "timm")
    with pytest.raises(ValueError, match=r"dialect must be one of timm, .*vissl.* got 'caffe'"):
        weights.convert(state, "timm", "caffe")


def test_unknown_names_are_listed():
    state = weights.convert(RegNetFeatures("regnetx_002").state_dict(), "timm", "pycls")
    state["s1.b1.f.d.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"timm has no name for 1 of .*s1\.b1\.f\.d"):
        weights.convert(state, "pycls", "timm")


def test_a_channel_order_of_the_users_is_taken():
    """VISSL has classifiers trained on BGR images."""
    state = classy_trunk(*VISSL)
    features = RegNetFeatures("regnety_002")
    assert weights.load(features, state, channel_order="BGR").flipped
    stem = state["_feature_blocks.conv1.stem.0.weight"]
    assert torch.equal(features.stem.conv.weight, stem.flip(1))
    converted = weights.convert(state, "vissl", "timm", channel_order="BGR")
    assert torch.equal(converted["stem.conv.weight"], stem.flip(1))
