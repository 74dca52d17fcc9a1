"""`tools/convert_weights.py`: any form to any other, and from one kind of model to another."""

import itertools
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_backbone, build_model
from other_regnets import MmdetRegNet, TransformersClassifier, TransformersModel
from safetensors.torch import load_file
from troubleshooting import assert_documented

from regnet_backbones import RegNetFeatures, config_path, weights, zoo
from regnet_backbones.adapters.torchvision import RegNetFPN
from regnet_backbones.adapters.transformers import RegNetFeaturesBackbone, RegNetFeaturesConfig
from regnet_backbones.cli.weights import DESCRIPTION
from regnet_backbones.detection.config import default_config
from regnet_backbones.weights.conversion import LAYOUTS, convert_file

TOOL = Path(__file__).parent.parent / "tools" / "convert_weights.py"

FORMATS = (".pth", ".safetensors", ".pyth", ".pkl")


def run(*arguments):
    """Run the tool as a user does."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", TOOL, *map(str, arguments)], capture_output=True, text=True
    )


def main(*arguments):
    """Run the tool in this process, which is faster, and return its exit status."""
    try:
        return runpy.run_path(str(TOOL))["main"]([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


def assert_same_maps(ours, theirs):
    for our, their in zip(ours, theirs, strict=True):
        assert (our - their).abs().max() <= 1e-5 * their.abs().max()


@pytest.fixture
def classifier(randomize):
    """Return the state dict of a classifier, in timm's names."""
    return dict(randomize(timm.create_model("regnety_002", num_classes=7)).state_dict())


def without_head(state):
    return {k: v for k, v in state.items() if not k.startswith("head.")}


def assert_same_state(state, other):
    assert state.keys() == other.keys()
    for key, value in state.items():
        assert value.dtype == other[key].dtype
        assert torch.equal(value, other[key]), key


def detector():
    cfg = default_config()
    cfg.merge_from_file(str(config_path("detectron2/Base-RegNet-FPN.yaml")))
    cfg.MODEL.REGNET.NAME, cfg.MODEL.DEVICE = "regnety_002", "cpu"
    cfg.MODEL.REGNET.NORM = "BN"
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    return build_model(cfg).eval()


# Dialects and formats


@pytest.mark.parametrize(
    ("form", "suffix"),
    zip(
        [d for d in weights.DIALECTS if d not in ("timm_features", "mmdet")],
        itertools.cycle(FORMATS),
        strict=False,
    ),
)
def test_there_and_back_through_every_dialect_and_format(form, suffix, classifier, tmp_path):
    source, there, back = (tmp_path / name for name in ("a.pth", f"b{suffix}", f"c{suffix}"))
    torch.save(classifier, source)
    convert_file(source, there, to=form)
    assert weights.detect(weights.read_checkpoint(there).state) == form
    convert_file(there, back, to="timm")
    expected = classifier if form != "classyvision" else without_head(classifier)
    assert_same_state(weights.read_checkpoint(back).state, expected)


def test_classyvisions_file_is_nested_as_classyvision_nests_it(classifier, tmp_path):
    torch.save(classifier, tmp_path / "a.pth")
    convert_file(tmp_path / "a.pth", tmp_path / "seer.torch", to="vissl")
    content = torch.load(tmp_path / "seer.torch", weights_only=True)
    model = content["classy_state_dict"]["base_model"]["model"]
    assert model["heads"].keys() == {"0.clf.0.weight", "0.clf.0.bias"}
    assert "_feature_blocks.conv1.stem.0.weight" in model["trunk"]


def test_the_file_for_pycls_loads_into_detectron2s_own_regnet(
    classifier, tmp_path, detectron2s_own_regnet
):
    """With detectron2's stock checkpointer, for BGR images."""
    torch.save(classifier, tmp_path / "a.pth")
    convert_file(tmp_path / "a.pth", tmp_path / "a.pyth", to="pycls")
    network = detectron2s_own_regnet(zoo.get("regnety_002").design).eval()
    DetectionCheckpointer(network).load(str(tmp_path / "a.pyth"))
    features = RegNetFeatures("regnety_002", pretrained=tmp_path / "a.pth").eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        theirs, ours = network(image.flip(1))["s4"], features(image)[-1]
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("host", [TransformersModel, TransformersClassifier])
def test_a_network_takes_the_names_that_the_checkpoint_has_for_it(host, randomize, tmp_path):
    """The classifier of transformers has its network under `regnet.`, and stays as it is."""
    design = zoo.get("regnetx_002").design
    new = randomize(MmdetRegNet(design)).state_dict()
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in new.items()}}, tmp_path / "a.pth")
    network = randomize(host(design))
    torch.save(network.state_dict(), tmp_path / "b.bin")
    if host is TransformersClassifier:  # whose file is of a classifier: one is needed
        with pytest.raises(ValueError, match=r"missing: classifier\.1\.weight"):
            convert_file(tmp_path / "a.pth", tmp_path / "c.bin", into=tmp_path / "b.bin")
        new["fc.weight"], new["fc.bias"] = torch.rand(7, 368), torch.rand(7)
        torch.save(new, tmp_path / "a.pth")
    convert_file(tmp_path / "a.pth", tmp_path / "c.bin", into=tmp_path / "b.bin")
    written = torch.load(tmp_path / "c.bin", weights_only=True)
    network.load_state_dict(written)
    stem = next(value for name, value in written.items() if "embedder.embedder.conv" in name)
    assert torch.equal(stem, new["conv1.weight"].flip(1))


# The tool


def test_the_tool_converts_and_says_what_it_did(classifier, tmp_path):
    torch.save({"model": weights.convert(classifier, "timm", "pycls")}, tmp_path / "a.pth")
    result = run(tmp_path / "a.pth", tmp_path / "b.safetensors", "--to", "timm")
    assert result.returncode == 0, result.stderr
    assert "(pycls's names under 'model')" in result.stdout
    assert f"network: {len(classifier)} entries converted; channel order RGB, flipped from BGR" in (
        result.stdout
    )
    assert "licence: unknown" in result.stdout
    assert_same_state(weights.read_checkpoint(tmp_path / "b.safetensors").state, classifier)


def test_a_dry_run_prints_the_mapping_and_writes_nothing(classifier, tmp_path, capsys):
    torch.save(classifier, tmp_path / "a.pth")
    assert main(tmp_path / "a.pth", tmp_path / "b.pth", "--to", "smp", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.split()
        == ["stem.conv.weight", "->", "encoder.stem.conv.weight", "(32,", "3,", "3,", "3)"]
        for line in lines
    )
    assert any(line.split() == ["head.fc.weight", "dropped"] for line in lines)
    assert lines[-1] == "nothing written"
    assert not (tmp_path / "b.pth").exists()


def test_the_licence_of_published_weights_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = timm.create_model("regnety_002").state_dict()
    file = tmp_path / "hub" / "checkpoints" / "RegNetY-200MF_dds_8gpu.pyth"
    weights.write_checkpoint(file, weights.convert(state, "timm", "pycls"))
    assert main("pycls://RegNetY-200MF", tmp_path / "a.pth", "--to", "timm") == 0
    assert "licence: mit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.pth", "b.pth", "--to", "timm"], "error: nowhere.pth does not exist"),
        (["a.pth", "b.zip", "--to", "timm"], "must end in one of .safetensors, .pkl, .pth"),
        (["a.pth", "b.pth"], "one of the arguments --to --into is required"),
        (["a.pth", "b.pth", "--to", "caffe"], "--to must be one of timm, "),
        (["timm://regnety_2", "b.pth", "--to", "timm"], "error: unknown RegNet 'regnety_2'"),
    ],
)
def test_mistakes_are_answered_in_one_line(arguments, message, tmp_path, classifier, capsys):
    torch.save(classifier, tmp_path / "a.pth")
    paths = [str(tmp_path / a) if a in ("a.pth", "b.pth", "b.zip") else a for a in arguments]
    assert main(*paths) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "b.pth").exists()


# From one kind of model to another


def maps(network, image):
    """Return C2 to C5 of an encoder or a backbone."""
    with torch.no_grad():
        found = network(image)
    return list(found.values()) if isinstance(found, dict) else found[-4:]


def test_a_backbone_goes_from_a_detector_into_a_segmenter_and_back(randomize, tmp_path):
    image = torch.randn(2, 3, 64, 96)
    trained = randomize(detector())
    expected = maps(trained.backbone.bottom_up, image)
    torch.save({"model": trained.state_dict(), "iteration": 99}, tmp_path / "model_final.pth")

    # Out of the detector, as a checkpoint that holds an encoder and no more.
    convert_file(tmp_path / "model_final.pth", tmp_path / "encoder.pth", to="smp")
    encoder = torch.load(tmp_path / "encoder.pth", weights_only=True)
    assert all(key.startswith("encoder.") for key in encoder)
    unet = smp.Unet("regnety_002", encoder_weights=None).eval()
    missing, unexpected = unet.load_state_dict(encoder, strict=False)
    assert not unexpected
    assert {name.split(".")[0] for name in missing} == {"decoder", "segmentation_head"}
    assert_same_maps(maps(unet.encoder, image), expected)

    # Into the checkpoint of a segmenter, whose decoder stays as it is.
    other = randomize(smp.Unet("regnety_002", encoder_weights=None)).eval()
    torch.save(other.state_dict(), tmp_path / "unet.pth")
    convert_file(tmp_path / "model_final.pth", tmp_path / "new.pth", into=tmp_path / "unet.pth")
    new = torch.load(tmp_path / "new.pth", weights_only=True)
    assert list(new) == list(other.state_dict())
    unet.load_state_dict(new)
    assert_same_maps(maps(unet.encoder, image), expected)
    for key, value in other.state_dict().items():
        assert torch.equal(new[key], value) == (not key.startswith("encoder.")) or value.ndim == 0

    # And back into a detector that was trained otherwise.
    torch.save({"model": randomize(detector()).state_dict()}, tmp_path / "other.pth")
    convert_file(tmp_path / "new.pth", tmp_path / "back.pth", into=tmp_path / "other.pth")
    again = detector()
    DetectionCheckpointer(again).load(str(tmp_path / "back.pth"))
    assert_same_maps(maps(again.backbone.bottom_up, image), expected)


def test_a_backbone_goes_into_smps_own_encoder(randomize, tmp_path):
    trained = randomize(detector())
    torch.save({"model": trained.state_dict()}, tmp_path / "model_final.pth")
    convert_file(tmp_path / "model_final.pth", tmp_path / "a.pth", to="smp_tu")
    unet = smp.Unet("tu-regnety_002", encoder_weights=None).eval()
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    assert not unet.load_state_dict(state, strict=False).unexpected_keys
    image = torch.randn(1, 3, 64, 64)
    assert_same_maps(maps(unet.encoder, image), maps(trained.backbone.bottom_up, image))


def test_a_whole_model_stays_whole_within_its_kind(randomize, tmp_path):
    trained = randomize(detector()).state_dict()
    torch.save({"model": trained}, tmp_path / "ours.pth")
    convert_file(tmp_path / "ours.pth", tmp_path / "zoo.pkl", to="detector_pycls")
    there = weights.read_checkpoint(tmp_path / "zoo.pkl").state
    assert "backbone.bottom_up.s1.b1.f.a_bn.running_mean" in there
    assert torch.equal(
        there["backbone.fpn_lateral2.weight"], trained["backbone.fpn_lateral2.weight"]
    )
    convert_file(tmp_path / "zoo.pkl", tmp_path / "back.pth", to="detector")
    assert_same_state(torch.load(tmp_path / "back.pth", weights_only=True)["model"], trained)


def test_a_segmenter_on_smps_own_encoder_becomes_one_on_ours(randomize, tmp_path):
    theirs = randomize(smp.Unet("tu-regnetz_b16", encoder_weights=None)).eval()
    torch.save(theirs.state_dict(), tmp_path / "tu.pth")
    convert_file(tmp_path / "tu.pth", tmp_path / "ours.pth", to="smp")
    ours = smp.Unet("regnetz_b16", encoder_weights=None).eval()
    ours.load_state_dict(torch.load(tmp_path / "ours.pth", weights_only=True))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-5, atol=1e-5)


def test_a_frozen_norm_takes_weights_without_their_batch_counters(classifier, tmp_path, capsys):
    frozen = RegNetFeatures("regnety_002", norm="FrozenBN").state_dict()
    host = {f"backbone.bottom_up.{k}": v for k, v in frozen.items()}
    torch.save({"model": host}, tmp_path / "model_final.pth")
    torch.save(without_head(classifier), tmp_path / "a.pth")
    paths = [tmp_path / name for name in ("a.pth", "b.pth")]
    assert main(*paths, "--into", tmp_path / "model_final.pth", "--dry-run") == 0
    assert "num_batches_tracked" not in capsys.readouterr().out
    assert main(*paths, "--into", tmp_path / "model_final.pth") == 0
    new = torch.load(tmp_path / "b.pth", weights_only=True)["model"]
    assert list(new) == list(host)
    for key, value in new.items():
        assert torch.equal(value, classifier[key.removeprefix("backbone.bottom_up.")])


def test_a_network_goes_only_where_the_same_network_was(tmp_path, classifier):
    torch.save(classifier, tmp_path / "a.pth")
    other = smp.Unet("regnetx_002", encoder_weights=None).state_dict()
    torch.save(other, tmp_path / "unet.pth")
    with pytest.raises(
        ValueError, match=r"does not fit into .*unet\.pth': 52 unknown: encoder\.s1"
    ):
        convert_file(tmp_path / "a.pth", tmp_path / "b.pth", into=tmp_path / "unet.pth")
    assert not (tmp_path / "b.pth").exists()


def test_what_lies_beside_the_weights_is_listed(classifier, tmp_path, capsys):
    torch.save(classifier, tmp_path / "a.pth")
    host = {f"backbone.bottom_up.{k}": v + 1 for k, v in without_head(classifier).items()}
    training = {"model": host, "optimizer": {"state": {}}, "iteration": 9}
    torch.save(training, tmp_path / "model_final.pth")
    assert main(tmp_path / "a.pth", tmp_path / "b.pth", "--into", tmp_path / "model_final.pth") == 0
    assert "left out: optimizer, iteration" in capsys.readouterr().out.splitlines()
    assert list(torch.load(tmp_path / "b.pth", weights_only=True)) == ["model"]
    assert main(tmp_path / "model_final.pth", tmp_path / "c.pth", "--to", "timm") == 0
    assert "left out: optimizer, iteration" in capsys.readouterr().out.splitlines()
    assert main(tmp_path / "a.pth", tmp_path / "c.pth", "--to", "timm") == 0
    assert "left out" not in capsys.readouterr().out


def test_the_teacher_of_two_is_taken(classifier, tmp_path, capsys):
    """As DINO saves them."""
    student, teacher = ({k: v + i for k, v in classifier.items()} for i in (1, 2))
    torch.save({"student": student, "teacher": teacher, "epoch": 3}, tmp_path / "dino.pth")
    arguments = [tmp_path / "dino.pth", tmp_path / "b.pth", "--to", "timm"]
    assert main(*arguments) == 2
    said = assert_documented(capsys.readouterr().err)
    assert "'student', 'teacher'" in said
    assert "--prefix" in said
    assert main(*arguments, "--prefix", "somebody") == 2
    assert "'student', 'teacher'" in assert_documented(capsys.readouterr().err)
    assert main(*arguments, "--prefix", "teacher") == 0
    assert "under 'teacher'" in capsys.readouterr().out
    assert_same_state(torch.load(tmp_path / "b.pth", weights_only=True), teacher)


@pytest.mark.parametrize("arguments", [{}, {"to": "timm", "into": "x.pth"}])
def test_one_way_must_be_chosen(arguments):
    with pytest.raises(ValueError, match="either --to.* or --into"):
        convert_file("a.pth", "b.pth", **arguments)


def test_the_tool_describes_every_form():
    assert all(form in DESCRIPTION for form in LAYOUTS)


# Between detectors of Detectron2 and of torchvision

# Builder, levels, and what torchvision's FPN needs to have the same structure.
PYRAMIDS = {
    "build_regnet_fpn_backbone": ((2, 3, 4, 5), "pool"),
    "build_retinanet_regnet_fpn_backbone": ((3, 4, 5), "p6p7_of_c5"),
    "build_fcos_regnet_fpn_backbone": ((3, 4, 5), "p6p7"),
}


def pyramid(builder, levels, name="regnety_002", norm=""):
    cfg = default_config()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.REGNET.NAME = builder, name
    cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.REGNET.NORM = 0, "BN"
    cfg.MODEL.FPN.IN_FEATURES = [f"res{level}" for level in levels]
    cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM = 32, norm
    return build_backbone(cfg).eval()


def as_detector(backbone, **heads):
    return {f"backbone.{name}": v for name, v in backbone.state_dict().items()} | heads


def without_counters(state):
    return {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}


@pytest.mark.parametrize("norm", ["", "GN"])
@pytest.mark.parametrize("name", ["regnety_002", "regnetz_b16"])
@pytest.mark.parametrize("builder", PYRAMIDS)
def test_backbone_and_fpn_go_to_torchvision_and_back(builder, name, norm, randomize, tmp_path):
    levels, top = PYRAMIDS[builder]
    theirs = randomize(pyramid(builder, levels, name, norm))
    state, head = as_detector(theirs), {"roi_heads.box_head.fc1.weight": torch.ones(3)}
    torch.save({"model": state | head}, tmp_path / "detectron2.pth")
    there, back = tmp_path / "torchvision.pth", tmp_path / "back.pth"
    _, summary = convert_file(tmp_path / "detectron2.pth", there, to="torchvision-detection")
    assert "1 dropped (roi_heads.box_head.fc1.weight)" in summary

    norm_layer = (lambda channels: torch.nn.GroupNorm(32, channels)) if norm else None
    options = {"levels": levels, "top": top, "norm": "BN", "norm_layer": norm_layer}
    ours = RegNetFPN(name, out_channels=32, **options).eval()
    weights.load(ours, there)
    image = torch.randn(1, 3, 128, 160)
    with torch.no_grad():
        assert_same_maps(ours(image).values(), theirs(image).values())

    torch.save({"model": as_detector(ours, **{"rpn.head.conv.weight": torch.ones(3)})}, there)
    convert_file(there, back, to="detector")
    assert_same_state(without_counters(torch.load(back)["model"]), without_counters(state))


def test_an_fpn_of_another_structure_is_refused(randomize, tmp_path):
    """P6 of Detectron2's RetinaNet is a convolution of C5, in torchvision's FCOS one of P5."""
    builder = "build_retinanet_regnet_fpn_backbone"
    torch.save({"model": as_detector(pyramid(builder, (3, 4, 5)))}, tmp_path / "retinanet.pth")
    file = tmp_path / "torchvision.pth"
    convert_file(tmp_path / "retinanet.pth", file, to="torchvision-detection")
    fpn = RegNetFPN("regnety_002", out_channels=32, levels=(3, 4, 5), top="p6p7")
    before = {name: value.clone() for name, value in fpn.state_dict().items()}
    with pytest.raises(ValueError, match=r"extra_blocks\.p6\.weight"):
        weights.load(fpn, file)
    assert_same_state(fpn.state_dict(), before)


def test_what_is_of_no_fpn_is_refused(tmp_path):
    backbone = pyramid("build_regnet_fpn_backbone", (2, 3, 4, 5))
    other = {"backbone.bifpn.conv.weight": torch.ones(3)}
    torch.save({"model": as_detector(backbone, **other)}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"backbone\.bifpn\.conv\.weight.*--to timm"):
        convert_file(tmp_path / "model.pth", tmp_path / "new.pth", to="torchvision-detection")
    assert not (tmp_path / "new.pth").exists()


def test_a_classifier_becomes_the_backbone_of_each_framework(classifier, tmp_path):
    torch.save(classifier, tmp_path / "timm.pth")
    features = RegNetFeatures("regnety_002", pretrained=tmp_path / "timm.pth").eval()
    image = torch.randn(1, 3, 64, 96)
    file = tmp_path / "torchvision.pth"
    convert_file(tmp_path / "timm.pth", file, to="torchvision-detection")
    body = RegNetFPN("regnety_002", out_channels=16).body.eval()
    names = torch.load(file)["model"]
    body.load_state_dict({name.removeprefix("backbone.body."): v for name, v in names.items()})
    file = tmp_path / "transformers.safetensors"
    convert_file(tmp_path / "timm.pth", file, to="transformers-backbone")
    config = RegNetFeaturesConfig("regnety_002", out_indices=(1, 2, 3, 4))
    backbone = RegNetFeaturesBackbone(config).eval()
    backbone.load_state_dict(load_file(file), strict=False)
    assert set(backbone.state_dict()) <= set(load_file(file))
    with torch.no_grad():
        expected = features(image)
        assert_same_maps(body(image).values(), expected)
        assert_same_maps(backbone(image).feature_maps, expected)
