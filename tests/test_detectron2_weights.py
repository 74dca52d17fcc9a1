"""`MODEL.WEIGHTS` of every dialect with detectron2's stock checkpointer, and what it refuses."""

import pickle

import numpy as np
import pytest
import timm
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from other_regnets import MmdetRegNet
from torch import nn

from regnet_backbones import config_path, weights, zoo
from regnet_backbones.detection.config import default_config

RGB_MEAN, RGB_STD = [123.675, 116.280, 103.530], [58.395, 57.120, 57.375]
BGR_MEAN, BGR_STD = RGB_MEAN[::-1], RGB_STD[::-1]
RGB_LINES = (
    '  INPUT.FORMAT: "RGB"\n'
    "  MODEL.PIXEL_MEAN: [123.675, 116.28, 103.53]\n"
    "  MODEL.PIXEL_STD: [58.395, 57.12, 57.375]\n"
)
BGR_LINES = (
    '  INPUT.FORMAT: "BGR"\n'
    "  MODEL.PIXEL_MEAN: [103.53, 116.28, 123.675]\n"
    "  MODEL.PIXEL_STD: [57.375, 57.12, 58.395]\n"
)

# Where published files lie once they were fetched, below the caches of their libraries.
HUB_FILES = {
    "timm": "hub/checkpoints/regnetx_008.pycls_in1k.safetensors",
    "torchvision": "hub/checkpoints/regnet_x_800mf-94a99ebd.pth",
    "pycls": "hub/checkpoints/RegNetX-800MF_dds_8gpu.pyth",
}
NAMES = {
    "timm": "timm://regnetx_008.pycls_in1k",
    "torchvision": "torchvision://regnet_x_800mf.IMAGENET1K_V2",
    "pycls": "pycls://RegNetX-800MF",
}


def config(name="regnetx_008", form="RGB"):
    cfg = default_config()
    cfg.merge_from_file(str(config_path("detectron2/Base-RegNet-FPN.yaml")))
    cfg.MODEL.REGNET.NAME = name
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 32
    cfg.INPUT.FORMAT = form
    cfg.MODEL.PIXEL_MEAN = RGB_MEAN if form == "RGB" else BGR_MEAN
    cfg.MODEL.PIXEL_STD = RGB_STD if form == "RGB" else BGR_STD
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    return cfg


def load(cfg, path):
    """Do what detectron2's trainers and predictors do with `MODEL.WEIGHTS`."""
    model = build_model(cfg)
    DetectionCheckpointer(model).resume_or_load(str(path), resume=False)
    return model.eval()


def assert_backbone(model, state, flipped=False):
    for key, value in model.backbone.bottom_up.state_dict().items():
        expected = state[key].flip(1) if flipped and key == "stem.conv.weight" else state[key]
        assert torch.equal(value, expected), key


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Give the libraries empty caches, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "huggingface"))
    return tmp_path


@pytest.fixture
def classifier(randomize):
    """Return the state dict of a classifier with random statistics, in timm's names."""
    return dict(randomize(timm.create_model("regnetx_008", num_classes=7)).state_dict())


def publish(caches, dialect, state):
    """Put weights where the library of a dialect keeps its downloads."""
    path = caches / HUB_FILES[dialect]
    weights.write_checkpoint(path, weights.convert(state, "timm", dialect))
    return path


# Names of published weights


@pytest.mark.parametrize("dialect", ["timm", "torchvision", "pycls"])
def test_published_weights_are_loaded_by_name(dialect, caches, classifier):
    publish(caches, dialect, classifier)
    cfg = config()
    cfg.MODEL.WEIGHTS = NAMES[dialect]
    assert_backbone(load(cfg, cfg.MODEL.WEIGHTS), classifier)


def test_weights_are_loaded_by_url(caches, classifier):
    url = zoo.get("regnetx_008").weights["pycls_in1k"].url
    file = weights.find_source(url).file  # in one of the caches
    weights.write_checkpoint(file, weights.convert(classifier, "timm", "pycls"))
    assert_backbone(load(config(), url), classifier)


@pytest.mark.parametrize("dialect", ["timm", "torchvision", "pycls"])
def test_without_a_network_the_error_says_how_to_go_on(dialect, caches):
    name, file = {
        "timm": ("timm://regnetx_016.tv2_in1k", "regnetx_016.tv2_in1k.safetensors"),
        "torchvision": (
            "torchvision://regnet_x_1_6gf.IMAGENET1K_V1",
            "regnet_x_1_6gf-e3633e7f.pth",
        ),
        "pycls": ("pycls://RegNetX-1.6GF", "RegNetX-1.6GF_dds_8gpu.pyth"),
    }[dialect]
    with pytest.raises(OSError, match=f"could not fetch the weights {name}: ") as error:
        load(config("regnetx_016"), name)
    said = str(error.value)
    assert "https://" in said
    assert str(caches / "hub" / "checkpoints" / file) in said
    assert "MODEL.WEIGHTS '' with MODEL.REGNET.NORM 'BN' and MODEL.BACKBONE.FREEZE_AT 0" in said


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("timm://regnetx_2", "unknown RegNet 'regnetx_2'"),
        ("timm://regnetx_008.ra_in1k", "there are timm://regnetx_008.tv2_in1k"),
        ("timm://regnetz_005", "no pretrained weights for regnetz_005"),
        ("torchvision://regnetx_002", "torchvision has no regnetx_002"),
        ("torchvision://regnet_x_8gf.V1", "there are torchvision://regnet_x_8gf.IMAGENET1K_V1"),
        ("pycls://regnet_y_800mf", "pycls has no weights of regnety_008_tv"),
    ],
)
def test_weights_that_do_not_exist_are_refused(path, message, caches):
    with pytest.raises(ValueError, match=message):
        load(config(), path)
    cfg = config()
    cfg.MODEL.WEIGHTS = path
    with pytest.raises(ValueError, match=message):
        build_model(cfg)


@pytest.mark.parametrize(
    ("path", "node", "message"),
    [
        ("timm://regnety_040", {"NAME": "regnety_032"}, "MODEL.REGNET.NAME 'regnety_040'"),
        ("timm://regnetx_004_tv", {"NAME": "regnetx_004"}, "need the network regnetx_004_tv, got"),
        (
            "torchvision://regnet_x_400mf",
            {"NAME": "regnetx_004"},
            "need the network regnetx_004_tv",
        ),
        ("pycls://RegNetX-400MF", {"NAME": "regnetx_004_tv"}, "need the network regnetx_004,"),
        ("timm://regnety_032", {"NAME": "regnety_032", "NORM": "GN"}, "got MODEL.REGNET.NORM 'GN'"),
        (
            "timm://regnetx_002",
            {"NAME": "", "W0": 24, "WA": 36.0, "WM": 2.49, "DEPTH": 13, "GROUP_W": 8},
            "need the network regnetx_002, got RegNetDesign",
        ),
        ("", {"WEIGHTS_FORMAT": "rgb"}, "MODEL.REGNET.WEIGHTS_FORMAT must be 'RGB', 'BGR', or ''"),
    ],
)
def test_weights_of_another_network_are_refused_before_they_are_fetched(path, node, message):
    cfg = config()
    cfg.MODEL.WEIGHTS = path
    cfg.MODEL.REGNET.update(node)
    with pytest.raises(ValueError, match=message):
        build_backbone(cfg)


def test_weights_of_a_named_network_are_those_of_its_numbers(caches, classifier):
    publish(caches, "timm", classifier)
    cfg = config(name="")
    numbers = {"W0": 56, "WA": 35.73, "WM": 2.28, "DEPTH": 16, "GROUP_W": 16}
    cfg.MODEL.REGNET.update(numbers)
    cfg.MODEL.WEIGHTS = NAMES["timm"]
    assert_backbone(load(cfg, cfg.MODEL.WEIGHTS), classifier)


# Files


@pytest.mark.parametrize(
    ("dialect", "file"),
    [
        ("timm", "model.safetensors"),
        ("timm", "bare.pth"),
        ("torchvision", "regnet_x_800mf.pth"),
        ("pycls", "RegNetX-800MF.pyth"),
        ("pycls", "RegNetX-800MF.pkl"),
        ("vissl", "seer.torch"),
        ("classyvision", "classy.pkl"),
    ],
)
def test_a_file_of_any_dialect_is_loaded(dialect, file, classifier, tmp_path):
    state = classifier
    if dialect == "classyvision":
        state = {k: v for k, v in state.items() if not k.startswith("head.")}
    nesting = "classy_state_dict" if file == "seer.torch" else None
    theirs = weights.convert(state, "timm", dialect)
    weights.write_checkpoint(tmp_path / file, theirs, nesting=nesting)
    assert_backbone(load(config(), tmp_path / file), classifier)


def test_an_encoder_of_smp_becomes_the_backbone_of_a_detector(classifier, tmp_path):
    unet = {f"encoder.model.{k}": v for k, v in classifier.items() if not k.startswith("head.")}
    unet["decoder.blocks.0.weight"] = torch.ones(2)
    torch.save(unet, tmp_path / "unet.pth")
    assert_backbone(load(config(), tmp_path / "unet.pth"), classifier)


def test_a_question_mark_may_be_part_of_a_name(classifier, tmp_path):
    torch.save(classifier, tmp_path / "what?.pth")
    assert_backbone(load(config(), tmp_path / "what?.pth"), classifier)


def test_the_predictor_loads_it_too(classifier, tmp_path):
    torch.save(classifier, tmp_path / "bare.pth")
    cfg = config()
    cfg.MODEL.WEIGHTS = str(tmp_path / "bare.pth")
    assert_backbone(DefaultPredictor(cfg).model, classifier)


def test_a_network_of_another_norm_or_for_another_input_takes_the_weights(classifier, tmp_path):
    torch.save(classifier, tmp_path / "bare.pth")
    cfg = config()
    cfg.MODEL.REGNET.NORM = "BN"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT = [100.0], [50.0], "L"
    stem = load(cfg, tmp_path / "bare.pth").backbone.bottom_up.stem.conv.weight
    torch.testing.assert_close(stem.data, classifier["stem.conv.weight"].sum(1, keepdim=True))


def test_a_report_is_logged(classifier, tmp_path, caplog):
    weights.write_checkpoint(tmp_path / "a.pyth", weights.convert(classifier, "timm", "pycls"))
    with caplog.at_level("INFO", logger="regnet_backbones"):
        load(config(), tmp_path / "a.pyth")
    assert "pycls's names, 2" in caplog.text
    assert "dropped 2 (head); for BGR images, stem flipped" in caplog.text


# Whole detectors


def detect(model, image):
    """Return the predictions for a (3, H, W) image."""
    with torch.no_grad():
        return model([{"image": image}])[0]["instances"]


def assert_same_predictions(ours, theirs):
    assert len(theirs) == 10
    assert torch.equal(ours.pred_classes, theirs.pred_classes)
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        ours.pred_boxes.tensor, theirs.pred_boxes.tensor, rtol=1e-4, atol=1e-3
    )
    assert (ours.pred_masks != theirs.pred_masks).float().mean() < 1e-4


@pytest.fixture
def their_detector(randomize, detectron2s_own_regnet):
    """Return a Mask R-CNN on detectron2's own RegNetY-4GF, as its zoo has them: for BGR images."""
    cfg = config("regnety_040", "BGR")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    model = build_model(cfg)
    design = zoo.get("regnety_040").design
    features = ["s1", "s2", "s3", "s4"]
    bottom_up = detectron2s_own_regnet(design, norm="FrozenBN", freeze_at=2)
    model.backbone = FPN(bottom_up, features, 32, top_block=LastLevelMaxPool())
    randomize(model).eval()
    # Random heads say nothing about a region: let them tell classes and boxes apart.
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    torch.nn.init.normal_(model.proposal_generator.rpn_head.objectness_logits.weight, std=0.5)
    return model


@pytest.mark.parametrize(("file", "form"), [("zoo.pkl", "BGR"), ("model_final.pth", "RGB")])
def test_a_whole_detector_on_detectron2s_own_regnet_predicts_the_same(
    file, form, their_detector, tmp_path
):
    """In a BGR config with its stem as it is, in an RGB config with the stem flipped."""
    state = their_detector.state_dict()
    if file.endswith(".pkl"):  # the zoo's form
        arrays = {k: v.numpy() for k, v in state.items()}
        with (tmp_path / file).open("wb") as f:
            pickle.dump({"model": arrays, "__author__": "Detectron2 Model Zoo"}, f)
    else:
        torch.save({"model": state, "iteration": 89999}, tmp_path / file)
    cfg = config("regnety_040", form)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    ours = load(cfg, tmp_path / file)
    image = torch.randint(256, (3, 128, 160)).float()
    theirs = detect(their_detector, image)
    assert_same_predictions(detect(ours, image if form == "BGR" else image.flip(0)), theirs)


@pytest.mark.parametrize("form", ["BGR", "RGB"])
def test_a_detector_of_ours_comes_back_as_it_was(form, tmp_path):
    """Whatever its images were: nothing is flipped, checked or dropped."""
    cfg = config(form=form)
    cfg.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]
    model = build_model(cfg)
    checkpointer = DetectionCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000009", iteration=9)
    again = build_model(cfg)
    extra = DetectionCheckpointer(again, str(tmp_path)).resume_or_load("", resume=True)
    assert extra == {"iteration": 9}
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)


class Renamed(nn.Module):
    """A head that was once saved under another name, as Mask2Former's was."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(1, 1)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        if local_metadata.get("version", 1) < 2:
            for name in [name for name in state_dict if name.startswith(prefix)]:
                new = name.replace(prefix, f"{prefix}decoder.")
                state_dict[new] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


@pytest.mark.parametrize("outer", ["", "module."])
def test_versions_of_modules_are_kept(outer, tmp_path):
    model, again = build_model(config()), build_model(config())
    model.head, again.head = Renamed(), Renamed()
    state = model.state_dict(prefix=outer)
    assert state._metadata[f"{outer}head"] == {"version": 2}
    torch.save({"model": state}, tmp_path / "model.pth")
    DetectionCheckpointer(again).load(str(tmp_path / "model.pth"))
    assert torch.equal(again.head.decoder.weight, model.head.decoder.weight)
    old = type(state)((k.replace("head.decoder", "head"), v) for k, v in state.items())
    torch.save({"model": old}, tmp_path / "old.pth")  # without versions
    again.head = Renamed()
    DetectionCheckpointer(again).load(str(tmp_path / "old.pth"))
    assert torch.equal(again.head.decoder.weight, model.head.decoder.weight)


@pytest.mark.parametrize(
    ("part", "compiled"),
    [("backbone", "model"), ("backbone.bottom_up", "file"), ("roi_heads", "file")],
)
def test_a_detector_with_a_compiled_part_comes_back_as_it_was(part, compiled, tmp_path):
    """torch calls the part `PART._orig_mod`; nothing is compiled before it is run."""
    saved, again = build_model(config()), build_model(config())
    saved.head, again.head = Renamed(), torch.compile(Renamed())
    whole = {name: value.clone() for name, value in saved.state_dict().items()}
    model = again if compiled == "model" else saved
    model.set_submodule(part, torch.compile(model.get_submodule(part)))
    torch.save({"model": saved.state_dict()}, tmp_path / "model.pth")
    DetectionCheckpointer(again).load(str(tmp_path / "model.pth"))
    for name, value in again.state_dict().items():
        assert torch.equal(value, whole[name.replace("_orig_mod.", "")]), name


@pytest.mark.parametrize("other", ["model_ema", "teacher"])
def test_a_training_resumes_from_its_own_weights_whatever_else_it_keeps(other, tmp_path):
    model = build_model(config())
    state = model.state_dict()
    others = {k: v + 1 for k, v in state.items()}
    torch.save({"model": state, other: others, "iteration": 9}, tmp_path / "a.pth")
    loaded = load(config(), tmp_path / "a.pth")
    assert torch.equal(
        loaded.backbone.bottom_up.stem.bn.bias, state["backbone.bottom_up.stem.bn.bias"]
    )


def test_heads_of_other_classes_stay_random_with_detectron2s_warning(
    their_detector, tmp_path, caplog
):
    torch.save({"model": their_detector.state_dict()}, tmp_path / "model_final.pth")
    cfg = config("regnety_040", "BGR")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    model = load(cfg, tmp_path / "model_final.pth")
    assert model.roi_heads.box_predictor.cls_score.weight.shape[0] == 4
    lateral = "backbone.fpn_lateral2.weight"
    assert torch.equal(model.state_dict()[lateral], their_detector.state_dict()[lateral])
    assert "Skip loading parameter 'roi_heads.box_predictor.cls_score.weight'" in caplog.text


# Refused


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no weights file at '.*a\.pth'; set MODEL.WEIGHTS"
    ):
        load(config(), tmp_path / "a.pth")


def test_a_backbone_is_never_left_random(tmp_path):
    torch.save({"model": timm.create_model("resnet18").state_dict()}, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match="no RegNet in these"):
        load(config(), tmp_path / "resnet.pth")


def test_a_detector_of_another_network_is_refused_with_both_named(tmp_path):
    torch.save({"model": build_model(config("regnety_004")).state_dict()}, tmp_path / "y.pth")
    model = build_model(config("regnetx_002"))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="nothing was loaded") as error:
        DetectionCheckpointer(model).load(str(tmp_path / "y.pth"))
    assert "unknown: s1.b1.se.fc1.weight" in str(error.value)
    assert "regnety_004), the model" in str(error.value)
    assert "regnetx_002" in str(error.value)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())


def test_a_detector_without_part_of_its_backbone_is_refused(tmp_path):
    state = build_model(config()).state_dict()
    del state["backbone.bottom_up.s4.b1.conv2.bn.running_mean"]
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"1 missing: s4\.b1\.conv2\.bn\.running_mean"):
        load(config(), tmp_path / "a.pth")


def test_a_model_whose_activations_detectron2_deleted_is_refused(classifier, tmp_path):
    cfg = config()
    cfg.MODEL.REGNET.NORM, cfg.MODEL.BACKBONE.FREEZE_AT = "BN", 0
    model = FrozenBatchNorm2d.convert_frozen_batchnorm(build_model(cfg))
    torch.save(classifier, tmp_path / "timm.pth")
    with pytest.raises(ValueError, match="activations of the network are lost.*FrozenBatchNorm2d"):
        DetectionCheckpointer(model).load(str(tmp_path / "timm.pth"))


def test_heads_that_are_not_finite_are_refused_where_they_would_be_loaded(tmp_path):
    state = build_model(config("regnetx_002")).state_dict()
    state["roi_heads.box_predictor.cls_score.bias"][2] = float("nan")
    torch.save({"model": state}, tmp_path / "a.pth")
    model = build_model(config("regnetx_002"))
    before = model.backbone.bottom_up.s1.b1.conv1.conv.weight.clone()
    with pytest.raises(ValueError, match=r"in 1: roi_heads\.box_predictor\.cls_score\.bias\."):
        DetectionCheckpointer(model).load(str(tmp_path / "a.pth"))
    assert torch.equal(model.backbone.bottom_up.s1.b1.conv1.conv.weight, before)
    cfg = config("regnetx_002")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3  # whose head stays random
    model = load(cfg, tmp_path / "a.pth")
    lateral = "backbone.fpn_lateral2.weight"
    assert torch.equal(model.state_dict()[lateral], state[lateral])


def test_a_malicious_pickle_is_not_run(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    with (tmp_path / "model.pkl").open("wb") as file:
        pickle.dump({"model": {"stem.conv.weight": np.ones(1)}, "x": Malicious()}, file)
    with pytest.raises(ValueError, match="no RegNet in"):
        load(config(), tmp_path / "model.pkl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("dialect", "key"),
    [
        ("timm", "INPUT.FORMAT"),
        ("timm", "MODEL.PIXEL_MEAN"),
        ("torchvision", "MODEL.PIXEL_STD"),
    ],
)
def test_a_config_that_contradicts_rgb_weights_is_answered_with_the_right_lines(
    dialect, key, caches, classifier
):
    wrong = {
        "INPUT.FORMAT": "BGR",
        "MODEL.PIXEL_MEAN": BGR_MEAN,
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    }
    path = publish(caches, dialect, classifier)
    cfg = config()
    cfg.merge_from_list([key, wrong[key]])
    with pytest.raises(ValueError, match="INPUT.FORMAT") as error:
        load(cfg, path)
    assert RGB_LINES in str(error.value)
    cfg.MODEL.WEIGHTS = NAMES[dialect]
    with pytest.raises(ValueError, match="INPUT.FORMAT") as error:
        build_model(cfg)  # before anything is fetched or read
    assert RGB_LINES in str(error.value)


def test_bgr_weights_are_right_in_a_bgr_config_as_they_are(classifier, tmp_path):
    """The stem of the file, which is the flipped one of timm's."""
    weights.write_checkpoint(tmp_path / "a.pyth", weights.convert(classifier, "timm", "pycls"))
    assert_backbone(load(config(form="BGR"), tmp_path / "a.pyth"), classifier, flipped=True)
    assert_backbone(load(config(form="RGB"), tmp_path / "a.pyth"), classifier)
    cfg = config(form="BGR")
    cfg.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="INPUT.FORMAT") as error:
        load(cfg, tmp_path / "a.pyth")
    assert BGR_LINES in str(error.value)


def test_stock_detectron2_defaults_with_timm_weights_are_answered_with_the_right_lines():
    cfg = default_config()
    cfg.MODEL.BACKBONE.NAME = "build_regnet_fpn_backbone"
    cfg.MODEL.REGNET.NAME = "regnety_032"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.WEIGHTS = "timm://regnety_032.ra_in1k"
    with pytest.raises(ValueError, match="INPUT.FORMAT") as error:
        build_backbone(cfg)
    assert RGB_LINES in str(error.value)


def test_weights_with_statistics_of_their_own_are_known():
    """Weights of regnetz_c16 saw pixels in [-1, 1]."""
    cfg = config("regnetz_c16")
    cfg.MODEL.WEIGHTS = "timm://regnetz_c16"
    with pytest.raises(ValueError, match=r"PIXEL_MEAN: \[127\.5, 127\.5, 127\.5\]"):
        build_backbone(cfg)
    cfg.MODEL.PIXEL_MEAN = cfg.MODEL.PIXEL_STD = [127.5, 127.5, 127.5]
    build_backbone(cfg)


def test_statistics_that_nobody_knows_are_taken_as_they_are(tmp_path):
    """A classifier of timm's for a design of one's own; its order is known."""
    numbers = {"W0": 24, "WA": 24.0, "WM": 2.0, "DEPTH": 8, "GROUP_W": 8}
    cfg = config(name="")
    cfg.MODEL.REGNET.update(numbers)
    torch.save(build_backbone(cfg).bottom_up.state_dict(), tmp_path / "a.pth")
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [3.0, 2.0, 1.0], [6.0, 5.0, 4.0]
    load(cfg, tmp_path / "a.pth")
    cfg.INPUT.FORMAT = "BGR"
    with pytest.raises(ValueError, match="INPUT.FORMAT") as error:
        load(cfg, tmp_path / "a.pth")
    assert (
        '  INPUT.FORMAT: "RGB"\n  MODEL.PIXEL_MEAN: [1.0, 2.0, 3.0]\n'
        "  MODEL.PIXEL_STD: [4.0, 5.0, 6.0]\n"
    ) in str(error.value)


@pytest.mark.parametrize("builder", ["build_regnet_backbone", "build_regnet_fpn_backbone"])
def test_a_backbone_by_itself_gets_the_images_that_its_weights_saw(builder, classifier, tmp_path):
    torch.save(classifier, tmp_path / "rgb.pth")
    weights.write_checkpoint(tmp_path / "bgr.pyth", weights.convert(classifier, "timm", "pycls"))

    def stem(file, form, told=""):
        cfg = config(form=form)
        cfg.MODEL.BACKBONE.NAME, cfg.MODEL.REGNET.WEIGHTS_FORMAT = builder, told
        backbone = build_backbone(cfg)
        DetectionCheckpointer(backbone).load(str(tmp_path / file))
        return getattr(backbone, "bottom_up", backbone).stem.conv.weight

    rgb = classifier["stem.conv.weight"]
    assert torch.equal(stem("rgb.pth", "RGB"), rgb)
    assert torch.equal(stem("bgr.pyth", "RGB"), rgb)
    assert torch.equal(stem("bgr.pyth", "BGR"), rgb.flip(1))
    with pytest.raises(ValueError, match="rgb.pth' .*INPUT.FORMAT 'BGR'"):
        stem("rgb.pth", "BGR")
    assert torch.equal(stem("rgb.pth", "BGR", told="RGB"), rgb.flip(1))
    assert torch.equal(stem("rgb.pth", "BGR", told="BGR"), rgb)


class Blind(torch.nn.Module):
    """A meta-architecture that shows nothing of how it normalises images, as some projects' do."""

    def __init__(self, cfg):
        super().__init__()
        self.backbone = build_backbone(cfg)
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (RGB_MEAN, RGB_STD))
        self.normalizer = lambda image: (image - mean) / std


@pytest.mark.parametrize(
    ("builder", "key", "wrong"),
    [
        ("build_regnet_backbone", "INPUT.FORMAT", "BGR"),
        ("build_regnet_fpn_backbone", "MODEL.PIXEL_MEAN", BGR_MEAN),
        ("build_regnet_fpn_backbone", "MODEL.PIXEL_STD", [1.0, 1.0, 1.0]),
    ],
)
def test_images_are_checked_in_every_meta_architecture(builder, key, wrong, classifier, tmp_path):
    torch.save(classifier, tmp_path / "a.pth")
    cfg = config()
    cfg.MODEL.BACKBONE.NAME = builder
    model = Blind(cfg)
    DetectionCheckpointer(model).load(str(tmp_path / "a.pth"))
    assert not any("pixel" in name for name in model.state_dict())
    cfg.merge_from_list([key, wrong])
    with pytest.raises(ValueError, match="INPUT.FORMAT") as error:
        DetectionCheckpointer(Blind(cfg)).load(str(tmp_path / "a.pth"))
    assert RGB_LINES in str(error.value)
    cfg.MODEL.REGNET.WEIGHTS_FORMAT = cfg.INPUT.FORMAT
    DetectionCheckpointer(Blind(cfg)).load(str(tmp_path / "a.pth"))


@pytest.mark.parametrize("builder", ["build_regnet_backbone", "build_regnet_fpn_backbone"])
def test_a_detector_of_mmdet_gives_its_backbone_for_bgr_images(builder, randomize, tmp_path):
    network = randomize(MmdetRegNet(zoo.get("regnetx_008").design))
    state = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    state["rpn_head.rpn_conv.weight"] = torch.ones(1)
    torch.save({"meta": {"epoch": 12}, "state_dict": state}, tmp_path / "mask_rcnn.pth")
    for form, stem in (("RGB", network.conv1.weight.flip(1)), ("BGR", network.conv1.weight)):
        cfg = config(form=form)
        cfg.MODEL.BACKBONE.NAME = builder
        model = Blind(cfg)
        DetectionCheckpointer(model).load(str(tmp_path / "mask_rcnn.pth"))
        backbone = getattr(model.backbone, "bottom_up", model.backbone)
        assert torch.equal(backbone.stem.conv.weight, stem)
    # Mean and deviation are known for a classifier alone, not for a detector.
    torch.save(network.state_dict(), tmp_path / "open_mmlab.pth")
    cfg.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="INPUT.FORMAT") as error:
        DetectionCheckpointer(Blind(cfg)).load(str(tmp_path / "open_mmlab.pth"))
    assert BGR_LINES in str(error.value)


def test_the_user_can_say_what_the_weights_saw(classifier, tmp_path):
    torch.save(classifier, tmp_path / "a.pth")
    cfg = config(form="BGR")
    cfg.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]
    cfg.MODEL.REGNET.WEIGHTS_FORMAT = "BGR"
    assert_backbone(load(cfg, tmp_path / "a.pth"), classifier)
    cfg.MODEL.REGNET.WEIGHTS_FORMAT = "RGB"
    assert_backbone(load(cfg, tmp_path / "a.pth"), classifier, flipped=True)


def test_loading_without_the_checkpointer_asks_for_the_order_where_images_are_bgr(classifier):
    model = build_model(config(form="BGR"))
    with pytest.raises(ValueError, match="INPUT.FORMAT 'BGR'.*DetectionCheckpointer"):
        weights.load(model, classifier)
    assert weights.load(model, classifier, channel_order="RGB").flipped
    assert_backbone(model, classifier, flipped=True)


def test_a_checkpointer_with_a_reading_of_its_own_may_give_arrays(classifier):
    arrays = {k: v.numpy() for k, v in weights.convert(classifier, "timm", "pycls").items()}
    model = build_model(config())
    DetectionCheckpointer(model)._load_model({"model": arrays, "matching_heuristics": True})
    assert_backbone(model, classifier)


def test_other_models_are_loaded_as_ever(tmp_path):
    model = torch.nn.Linear(2, 2)
    torch.save({"model": {"weight": torch.ones(2, 2)}}, tmp_path / "a.pth")
    DetectionCheckpointer(model).load(str(tmp_path / "a.pth"))  # the bias is only warned of
    assert torch.equal(model.weight, torch.ones(2, 2))
