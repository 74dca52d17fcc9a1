"""RegNets in torchvision's detectors and segmenters: registry, weights, freezing, export."""

import io
from inspect import signature
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models import RegNet_Y_3_2GF_Weights, get_model, get_model_weights
from torchvision.models.detection import FasterRCNN

from regnet_backbones import RegNetDesign, weights, zoo
from regnet_backbones.adapters.torchvision import MODELS, RegNetFPN, models, register_models
from regnet_backbones.norm import lost_activations

DETECTORS = ("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet", "fcos")
SIZES = {"min_size": 96, "max_size": 128}
FEW = {"rpn_post_nms_top_n_train": 50, "rpn_post_nms_top_n_test": 30, "box_detections_per_img": 9}
DESIGN = RegNetDesign(w_0=24, w_a=24.0, w_m=2.0, depth=8, group_width=8)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "regnety_002.pth"
    torch.save(timm.create_model("regnety_002").state_dict(), path)
    return str(path)


def targets():
    boxes = torch.tensor([[5.0, 5.0, 60.0, 70.0], [20.0, 30.0, 80.0, 90.0]])
    masks = torch.ones(2, 96, 96, dtype=torch.uint8)
    keypoints = torch.cat([torch.rand(2, 17, 2) * 90, torch.ones(2, 17, 1)], 2)
    labels = torch.tensor([1, 1])
    return {"boxes": boxes, "labels": labels, "masks": masks, "keypoints": keypoints}


def test_every_name_of_the_zoo_is_registered_with_every_model():
    names = {pattern.format(name) for pattern in MODELS for name in zoo.names()}
    assert len(names) == 8 * len(zoo.names())
    assert names <= set(torchvision.models.list_models())
    for name in names:
        assert not list(get_model_weights(name))
    assert not names & set(torchvision.models.list_models(torchvision.models.detection))


def test_without_torchvisions_registry_the_builders_remain():
    register_models(SimpleNamespace(_api=SimpleNamespace()))
    assert isinstance(models.faster_rcnn(DESIGN, num_classes=3, **SIZES), FasterRCNN)


@pytest.mark.parametrize(
    ("kind", "name"),
    [*((kind, "regnety_002") for kind in DETECTORS), ("fcos", "regnetz_b16")],
)
def test_a_detector_trains_predicts_and_scripts_like_torchvisions(kind, name, randomize):
    options = SIZES if kind == "keypointrcnn" else {"num_classes": 4, **SIZES}
    if "rcnn" in kind:
        options = {**options, **FEW, "box_batch_size_per_image": 16}
    model = randomize(get_model(f"{kind}_{name}_fpn", weights=None, **options))
    images = [torch.rand(3, 96, 96), torch.rand(3, 96, 96)]
    losses = model.train()(images, [targets(), targets()])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.backbone.body.parameters())
    model.eval()
    images = [torch.rand(3, 96, 120), torch.rand(3, 96, 110)]  # of the model's size
    scripted = torch.jit.script(model)
    with torch.no_grad():
        predicted, (_, again) = model(images), scripted(images)
        batch = torch.rand(2, 3, 96, 128)
        torch.testing.assert_close(scripted.backbone(batch), dict(model.backbone(batch)))
    for ours, theirs in zip(predicted, again, strict=True):
        assert ours.keys() == theirs.keys()
        torch.testing.assert_close(ours["scores"], theirs["scores"])  # boxes of one score may swap


@pytest.mark.parametrize("kind", ["deeplabv3", "fcn", "lraspp"])
def test_a_segmenter_trains_and_scripts_like_torchvisions(kind):
    auxiliary = kind != "lraspp"
    model = get_model(f"{kind}_regnety_002", num_classes=4, aux_loss=auxiliary)
    image = torch.rand(2, 3, 64, 96)
    output = model(image)
    assert list(output) == (["out", "aux"] if auxiliary else ["out"])
    assert all(each.shape == (2, 4, 64, 96) for each in output.values())
    sum(each.mean() for each in output.values()).backward()
    assert model.backbone.strides[5] == (16 if kind == "lraspp" else 8)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(model)(image), dict(model(image)))


@pytest.mark.parametrize("kind", ["maskrcnn", "retinanet", "fcos"])
def test_a_whole_detector_exports_as_onnx(kind, file):
    import onnxruntime  # not among the oldest versions of docs/compatibility.md

    options = FEW if kind == "maskrcnn" else {"score_thresh": 0.0, "detections_per_img": 9}
    options |= {"weights_backbone": file, "num_classes": 4}
    model = get_model(f"{kind}_regnety_002_fpn", **options, **SIZES).eval()
    image, buffer = torch.rand(3, 96, 120), io.BytesIO()
    torch.onnx.export(
        model,
        ([image],),
        buffer,
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        dynamic_axes={"image": [1, 2]},
    )
    session = onnxruntime.InferenceSession(buffer.getvalue())
    other = torch.rand(3, 96, 112)
    with torch.no_grad():
        (expected,) = model([other])
    got = session.run(None, {"image": other.numpy()})
    for ours, theirs in zip(got, expected.values(), strict=True):
        assert len(ours) == len(theirs) > 0
    scores = got[list(expected).index("scores")]
    torch.testing.assert_close(torch.from_numpy(scores), expected["scores"], rtol=1e-4, atol=1e-5)


def test_a_detector_is_a_backbone_with_the_names_of_torchvision():
    stock = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None
    )
    ours = RegNetFPN("regnety_002")
    fpn = {name for name in stock.state_dict() if name.startswith("fpn.")}
    assert {name for name in ours.state_dict() if not name.startswith("body.")} == fpn
    assert ours.out_channels == stock.out_channels == 256
    assert FasterRCNN(ours, num_classes=3, **SIZES)


@pytest.mark.parametrize("top", ["pool", "p6p7", "p6p7_of_c5", None])
def test_the_top_of_an_fpn(top):
    """The C5 of regnetz_005 is as wide as the FPN, from which torchvision would guess P5."""
    fpn = RegNetFPN("regnetz_005", levels=(3, 4, 5), top=top)
    assert fpn.body.channels[5] == fpn.out_channels == 256
    image = torch.randn(1, 3, 64, 64)
    fpn.eval()
    with torch.no_grad():
        maps, c5 = fpn(image), list(fpn.body(image).values())[-1]
        tops = {"pool": ["pool"], None: []}.get(top, ["p6", "p7"])
        assert list(maps) == ["0", "1", "2", *tops]
        if top in ("p6p7", "p6p7_of_c5"):
            source = maps["2"] if top == "p6p7" else c5
            torch.testing.assert_close(fpn.fpn.extra_blocks.p6(source), maps["p6"])


def test_frozen_stages_stay_frozen(file):
    model = get_model("maskrcnn_regnety_002_fpn", weights_backbone=file, num_classes=3, **SIZES)
    body = model.train().backbone.body
    trained = {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad}
    assert trained == {"s2", "s3", "s4"}
    assert [part.training for part in (body.stem, body.s1, body.s2)] == [False, False, True]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in body.modules())
    everything = {"weights_backbone": file, "trainable_backbone_layers": 5, "norm": "BN"}
    body = get_model("fcos_regnety_002_fpn", **everything).backbone.body
    assert all(p.requires_grad for p in body.parameters())
    assert any(isinstance(m, nn.BatchNorm2d) for m in body.modules())


def test_random_weights_are_not_frozen(caplog):
    options = {"weights_backbone": None, "trainable_backbone_layers": 2}
    model = get_model("fasterrcnn_regnety_002_fpn", **options)
    assert all(p.requires_grad for p in model.backbone.body.parameters())
    assert "trainable_backbone_layers=2" in caplog.text


def test_mean_and_deviation_come_from_the_weights(tmp_path, monkeypatch):
    from regnet_backbones.weights import loading

    row = zoo.get("regnetz_d8").weights["ra3_in1k"]
    assert row.mean == (0.5, 0.5, 0.5)
    path = tmp_path / "regnetz_d8.pth"
    torch.save(timm.create_model("regnetz_d8").state_dict(), path)
    monkeypatch.setattr(loading, "local_file", lambda source: path)
    model = get_model("fasterrcnn_regnetz_d8_fpn", weights_backbone="DEFAULT")
    assert model.transform.image_mean == [0.5, 0.5, 0.5]
    assert model.transform.image_std == [0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match=r"image_mean \[0.5, 0.5, 0.5\].*got \[0.485"):
        get_model(
            "fasterrcnn_regnetz_d8_fpn",
            weights_backbone="ra3_in1k",
            image_mean=[0.485, 0.456, 0.406],
        )


def test_weights_of_bgr_images_get_rgb_images(tmp_path, randomize):
    network = randomize(timm.create_model("regnety_002")).eval()
    state = weights.convert(network.state_dict(), "timm", "pycls")
    torch.save({"model_state": state}, tmp_path / "pycls.pyth")
    file = tmp_path / "pycls.pyth"
    body = models.faster_rcnn("regnety_002", weights_backbone=file).backbone.body
    torch.testing.assert_close(body.stem.conv.weight, network.stem.conv.weight)
    assert (body.loaded.channel_order, body.loaded.flipped) == ("BGR", True)


def test_a_segmenter_says_which_images_its_weights_saw(tmp_path, monkeypatch, caplog, file):
    from regnet_backbones.weights import loading

    path = tmp_path / "regnetz_b16.pth"
    torch.save(timm.create_model("regnetz_b16").state_dict(), path)
    with monkeypatch.context() as patch:
        patch.setattr(loading, "local_file", lambda source: path)
        get_model("lraspp_regnetz_b16", weights_backbone="DEFAULT")
    assert "normalised with mean" in caplog.text
    caplog.clear()
    get_model("lraspp_regnety_002", weights_backbone=file)
    assert "normalise" not in caplog.text


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (RegNet_Y_3_2GF_Weights.IMAGENET1K_V2, "torchvision://regnet_y_3_2gf.IMAGENET1K_V2"),
        ("RegNet_Y_3_2GF_Weights.DEFAULT", "torchvision://regnet_y_3_2gf.DEFAULT"),
        ("DEFAULT", True),
        ("ra_in1k", "ra_in1k"),
        (None, False),
    ],
)
def test_torchvisions_names_of_weights_are_known(given, meant):
    assert models._pretrained("regnety_032", given) == meant


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "fasterrcnn_regnety_004_fpn",
            {"weights_backbone": RegNet_Y_3_2GF_Weights.IMAGENET1K_V2},
            "for another network than regnety_004",
        ),
        ("fcos_regnety_002_fpn", {"weights": "DEFAULT"}, "weights_backbone"),
        ("fcos_regnety_002_fpn", {"trainable_backbone_layers": 6}, "0 .none. to 5 .all., got 6"),
        ("deeplabv3_regnety_002", {"weights": "COCO_V1"}, "weights_backbone"),
        ("lraspp_regnety_002", {"aux_loss": True}, "aux_loss=False"),
        ("maskrcnn_regnety_002_fpn", {"weights_backbone": "nothing"}, "must be a tag"),
    ],
)
def test_mistakes_are_answered(name, arguments, message):
    with pytest.raises((ValueError, OSError), match=message):
        get_model(name, **arguments)


@pytest.mark.parametrize(
    "arguments", [{"levels": (2, 4)}, {"levels": (1, 2)}, {"levels": ()}, {"top": "p6"}]
)
def test_an_fpn_that_cannot_be_is_refused(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}.* must be"):
        RegNetFPN("regnety_002", **arguments)


def test_unknown_arguments_are_refused():
    with pytest.raises(ValueError, match="FasterRCNN has no arguments nothing"):
        get_model("fasterrcnn_regnety_002_fpn", nothing=1)


@pytest.mark.parametrize("name", ["maskrcnn_regnety_002_fpn", "deeplabv3_regnety_002"])
def test_torchs_sync_batch_norm_keeps_the_activations_in_training(name):
    """As `references/segmentation/train.py` does in distributed training."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(get_model(name, num_classes=3))
    assert lost_activations(model)
    parameters = [id(p) for p in model.parameters()]
    model.train()
    assert not lost_activations(model)
    assert [id(p) for p in model.parameters()] == parameters


def test_the_registered_builders_take_keywords_alone():
    builder = torchvision.models.get_model_builder("fcos_regnety_002_fpn")
    kinds = {p.kind.name for p in signature(builder).parameters.values()}
    assert kinds == {"KEYWORD_ONLY", "VAR_KEYWORD"}
