"""Detectors on our builders beside the same ones on detectron2's own RegNet, and parts of them."""

import pytest
import timm
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import (
    SEM_SEG_HEADS_REGISTRY,
    build_backbone,
    build_model,
)
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.projects.deeplab import add_deeplab_config
from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config
from detectron2.projects.point_rend import add_pointrend_config
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from regnet_backbones import RegNetDesign, RegNetFeatures, config_path, weights, zoo
from regnet_backbones.adapters.detectron2.builders import LastLevelP6
from regnet_backbones.adapters.detectron2.heads import RegNetLastStage
from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.detection.config import default_config

NAME = "regnety_002"
STAGES = ["s1", "s2", "s3", "s4"]
CHANNELS = 32


def config(quick="mask_rcnn_regnet_small_fpn", norm="BN"):
    """Return a quick config on RegNetY-200MF, for the BGR images of detectron2's own RegNet."""
    cfg = default_config()
    cfg.merge_from_file(str(config_path(f"detectron2/quick/{quick}.yaml")))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.REGNET.NAME, cfg.MODEL.REGNET.NORM = NAME, norm
    cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM = CHANNELS, ""
    cfg.MODEL.RPN.CONV_DIMS = [CHANNELS]
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.FCOS.INFERENCE_TH_TEST = 0.0
    cfg.INPUT.FORMAT = "BGR"
    return cfg


def a_batch():
    """Return two images with an instance each."""
    batch = []
    for side in (96, 128):
        image = torch.randint(256, (3, side, 128), dtype=torch.uint8)
        instances = Instances((side, 128))
        instances.gt_boxes = Boxes(torch.tensor([[16.0, 20.0, 70.0, 80.0]]))
        instances.gt_classes = torch.tensor([1])
        mask = torch.zeros(1, side, 128, dtype=torch.bool)
        mask[0, 20:80, 16:70] = True
        instances.gt_masks = BitMasks(mask)
        batch.append({"image": image, "instances": instances})
    return batch


def losses(model, batch):
    """Return the losses of a batch, whose regions are drawn alike for every model."""
    with EventStorage():
        torch.manual_seed(0)
        return model.train()(batch)


def load(model, state, path):
    torch.save({"model": state}, path)
    DetectionCheckpointer(model).load(str(path))
    return model


@pytest.fixture
def their_regnet(detectron2s_own_regnet):
    """Return a function that builds detectron2's own RegNetY-200MF."""

    def build(norm="BN"):
        return detectron2s_own_regnet(zoo.get(NAME).design, norm=norm, out_features=STAGES)

    return build


# Detectors


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_a_mask_rcnn_is_the_one_on_detectron2s_own_regnet(norm, their_regnet, randomize, tmp_path):
    """Weights are copied; boxes, scores and masks to 1e-4, every loss to 1e-5."""
    cfg = config(norm=norm)
    cfg.MODEL.ROI_BOX_HEAD.CONV_DIM = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = CHANNELS
    theirs = build_model(cfg)
    theirs.backbone = FPN(their_regnet(norm), STAGES, CHANNELS, top_block=LastLevelMaxPool())
    randomize(theirs)
    # Random heads say nothing about a region: let them tell classes and boxes apart.
    torch.nn.init.normal_(theirs.roi_heads.box_predictor.cls_score.weight, std=0.2)
    torch.nn.init.normal_(theirs.proposal_generator.rpn_head.objectness_logits.weight, std=0.2)
    ours = load(build_model(cfg), theirs.state_dict(), tmp_path / "theirs.pth")
    batch = a_batch()

    with torch.no_grad():
        detections = [m.eval().inference(batch, do_postprocess=False) for m in (ours, theirs)]
    for mine, others in zip(*detections, strict=True):
        assert len(others) > 10
        assert torch.equal(mine.pred_classes, others.pred_classes)
        for field in ("scores", "pred_masks"):
            torch.testing.assert_close(mine.get(field), others.get(field), rtol=0, atol=1e-4)
        torch.testing.assert_close(
            mine.pred_boxes.tensor, others.pred_boxes.tensor, rtol=0, atol=1e-4
        )

    mine, others = losses(ours, batch), losses(theirs, batch)
    assert set(others) == {
        *("loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc")
    }
    torch.testing.assert_close(mine, others, rtol=1e-5, atol=1e-5)


def test_a_retinanet_is_the_one_on_detectron2s_own_regnet(their_regnet, randomize, tmp_path):
    cfg = config("retinanet_regnet_small_fpn")
    theirs = build_model(cfg)
    top = LastLevelP6P7(theirs.backbone.bottom_up.channels[5], CHANNELS, in_feature="s4")
    theirs.backbone = FPN(their_regnet(), STAGES[1:], CHANNELS, top_block=top)
    randomize(theirs)
    ours = load(build_model(cfg), theirs.state_dict(), tmp_path / "theirs.pth")
    batch = a_batch()
    torch.testing.assert_close(losses(ours, batch), losses(theirs, batch), rtol=1e-5, atol=1e-5)
    images = torch.rand(1, 3, 128, 96)
    with torch.no_grad():
        maps = [model.eval().backbone(images) for model in (ours, theirs)]
    assert list(maps[0]) == ["p3", "p4", "p5", "p6", "p7"]
    torch.testing.assert_close(*maps, rtol=1e-4, atol=1e-5)


def test_fcos_of_a_config_is_detectron2s(randomize):
    cfg = config("fcos_regnet_small_fpn")
    ours = randomize(build_model(cfg))
    levels = ["p2", "p3", "p4", "p5", "p6"]
    shapes = [ShapeSpec(channels=CHANNELS, stride=2**level) for level in range(2, 7)]
    theirs = FCOS(
        backbone=build_backbone(cfg),
        head=FCOSHead(
            input_shape=shapes, num_classes=5, conv_dims=[CHANNELS] * 2, norm="GN", prior_prob=0.01
        ),
        head_in_features=levels,
        num_classes=5,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        test_score_thresh=0.0,
    )
    theirs.load_state_dict(ours.state_dict())
    batch = a_batch()
    assert losses(ours, batch) == losses(theirs, batch)
    with torch.no_grad():
        mine, others = (m.eval()(batch)[1]["instances"] for m in (ours, theirs))
    assert len(others) > 50
    assert torch.equal(mine.scores, others.scores)
    assert torch.equal(mine.pred_boxes.tensor, others.pred_boxes.tensor)


def test_the_keys_of_fcos_reach_the_model():
    cfg = config("fcos_regnet_small_fpn")
    for key, value in {
        "NUM_CLASSES": 7,
        "NUM_CONVS": 3,
        "NORM": "",
        "POS_RADIUS": 2.5,
        "LOSS_ALPHA": 0.5,
        "LOSS_GAMMA": 1.5,
        "INFERENCE_TH_TEST": 0.3,
        "PRE_NMS_TOPK_TEST": 50,
        "NMS_TH": 0.4,
        "PRIOR_PROB": 0.5,
    }.items():
        cfg.MODEL.FCOS[key] = value
    cfg.TEST.DETECTIONS_PER_IMAGE = 9
    model = build_model(cfg)
    assert (model.num_classes, model.head.cls_score.out_channels) == (7, 7)
    assert [type(m).__name__ for m in model.head.cls_subnet] == ["Conv2d", "ReLU"] * 3
    assert (model.center_sampling_radius, model.focal_loss_alpha) == (2.5, 0.5)
    assert (model.focal_loss_gamma, model.test_score_thresh) == (1.5, 0.3)
    assert (model.test_topk_candidates, model.test_nms_thresh) == (50, 0.4)
    assert model.max_detections_per_image == 9
    assert torch.equal(model.head.cls_score.bias, torch.zeros(7))  # logit of 0.5


def test_fcos_on_levels_that_there_are_not_is_refused():
    cfg = config("fcos_regnet_small_fpn")
    cfg.MODEL.FCOS.TOP_LEVELS = 0
    with pytest.raises(ValueError, match="MODEL.FCOS.IN_FEATURES .* p2, p3, p4, p5, got .*p6"):
        build_model(cfg)


# Levels above P5


def fcos_fpn(top_levels, features=("res3", "res4", "res5")):
    cfg = config("fcos_regnet_small_fpn")
    cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FCOS.TOP_LEVELS = list(features), top_levels
    return build_backbone(cfg).eval()


@pytest.mark.parametrize("top_levels", [0, 1, 2])
def test_the_levels_of_fcos_come_from_p5(top_levels):
    fpn = fcos_fpn(top_levels)
    with torch.no_grad():
        maps = fpn(torch.rand(1, 3, 128, 96))
    assert list(maps) == ["p3", "p4", "p5", "p6", "p7"][: 3 + top_levels]
    assert {name: 2 ** int(name[1]) for name in maps} == {
        name: shape.stride for name, shape in fpn.output_shape().items()
    }
    state = fpn.state_dict()

    def conv(x, name):
        weight, bias = (state[f"top_block.{name}.{leaf}"] for leaf in ("weight", "bias"))
        return torch.nn.functional.conv2d(x, weight, bias, stride=2, padding=1)

    if top_levels:
        torch.testing.assert_close(maps["p6"], conv(maps["p5"], "p6"))
    if top_levels == 2:
        torch.testing.assert_close(maps["p7"], conv(maps["p6"].relu(), "p7"))


def test_p6_alone_is_the_first_of_two():
    one, two = (top(8, 16, in_feature="p5") for top in (LastLevelP6, LastLevelP6P7))
    for conv in (one.p6, two.p6):  # uniform, Caffe2's Xavier initialisation
        assert conv.weight.abs().max().item() == pytest.approx((3 / (8 * 9)) ** 0.5, rel=0.02)
        assert torch.equal(conv.bias, torch.zeros(16))
    one.load_state_dict({k: v for k, v in two.state_dict().items() if k.startswith("p6")})
    x = torch.rand(1, 8, 7, 9)
    assert torch.equal(one(x)[0], two(x)[0])
    assert (one.num_levels, one.in_feature) == (1, "p5")


@pytest.mark.parametrize("top_levels", [-1, 3])
def test_another_number_of_levels_is_refused(top_levels):
    with pytest.raises(ValueError, match=f"TOP_LEVELS must be 2 .* or 0, got {top_levels}"):
        fcos_fpn(top_levels)


@pytest.mark.parametrize("builder", ["", "retinanet_", "fcos_"])
def test_a_dilated_backbone_is_refused_by_every_fpn(builder):
    cfg = config()
    cfg.MODEL.BACKBONE.NAME = f"build_{builder}regnet_fpn_backbone"
    cfg.MODEL.REGNET.OUTPUT_STRIDE = 16
    with pytest.raises(ValueError, match="MODEL.FPN.IN_FEATURES .*MODEL.REGNET.OUTPUT_STRIDE"):
        build_backbone(cfg)


@pytest.mark.parametrize("features", [["res3", "res4", "res5"], ["s2", "s3", "s4"]])
def test_retinanets_levels_take_either_name_of_c5(features):
    cfg = config("retinanet_regnet_small_fpn")
    cfg.MODEL.FPN.IN_FEATURES = features
    fpn = build_backbone(cfg)
    assert fpn.top_block.p6.in_channels == fpn.bottom_up.channels[5]
    assert list(fpn(torch.rand(1, 3, 64, 64))) == ["p3", "p4", "p5", "p6", "p7"]


# C4


def c4_config(name=NAME):
    cfg = config("mask_rcnn_regnet_small_c4")
    cfg.MODEL.REGNET.NAME, cfg.INPUT.FORMAT = name, "RGB"
    return cfg


def test_the_last_stage_makes_c5_of_c4(randomize):
    network = randomize(RegNetFeatures(NAME, out_levels=(4, 5))).eval()
    stage = RegNetLastStage(NAME, norm="BN").eval()
    stage.load_state_dict({f"s4.{k}": v for k, v in network.s4.state_dict().items()})
    with torch.no_grad():
        c4, c5 = network(torch.rand(2, 3, 96, 128))
        assert torch.equal(stage(c4), c5)
    assert stage.out_channels == network.channels[5]


@pytest.mark.parametrize("by", ["DetectionCheckpointer", "weights.load"])
def test_classifiers_fill_backbone_and_stage_of_a_c4_detector(by, randomize, tmp_path):
    classifier = randomize(timm.create_model(NAME)).state_dict()
    model = build_model(c4_config())
    assert not hasattr(model.backbone, "s4")
    if by == "weights.load":
        report = weights.load(model, classifier)
        assert report.dropped == ("head.fc.weight", "head.fc.bias")
    else:
        load(model, classifier, tmp_path / "a.pth")
    for key, value in model.roi_heads.res5.state_dict().items():
        assert torch.equal(value, classifier[key]), key
    assert torch.equal(
        model.backbone.s3.b1.conv1.conv.weight, classifier["s3.b1.conv1.conv.weight"]
    )


def test_a_c4_detector_comes_back_as_it_was(randomize, tmp_path):
    model = randomize(build_model(c4_config()))
    again = load(build_model(c4_config()), model.state_dict(), tmp_path / "a.pth")
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_a_file_without_the_last_stage_is_refused(tmp_path):
    state = RegNetFeatures(NAME, out_levels=(2, 3, 4)).state_dict()
    with pytest.raises(ValueError, match=r"do not match the network.* missing: s4\.b1"):
        load(build_model(c4_config()), state, tmp_path / "a.pth")


def test_a_last_stage_that_is_not_finite_is_refused(tmp_path):
    state = RegNetFeatures(NAME).state_dict()
    state["s4.b1.conv1.conv.weight"][0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN .* in 1: s4\.b1\.conv1\.conv\."):
        load(build_model(c4_config()), state, tmp_path / "a.pth")


def test_a_last_stage_keeps_its_activations(randomize):
    model = randomize(build_model(c4_config()))
    stage = model.roi_heads.res5.eval()
    c4 = torch.randn(1, model.backbone.channels[4], 14, 14)
    with torch.no_grad():
        before = stage(c4)
        nn.SyncBatchNorm.convert_sync_batchnorm(model).eval()
        torch.testing.assert_close(stage(c4), before)
    model.roi_heads = FrozenBatchNorm2d.convert_frozen_batchnorm(build_model(c4_config()).roi_heads)
    with pytest.raises(ValueError, match="activations of the network are lost"):
        model.train()


def test_a_c4_head_is_trained_on_the_images(randomize):
    model = randomize(build_model(c4_config()))
    sum(losses(model, a_batch()).values()).backward()
    assert all(p.grad is not None for p in model.roi_heads.res5.parameters())


def test_networks_without_a_last_stage_are_refused():
    with pytest.raises(ValueError, match="regnetz_b16 .*MODEL.REGNET.OUTPUT_STRIDE"):
        RegNetLastStage("regnetz_b16")


def test_a_dilated_network_with_c4_heads_is_refused():
    cfg = c4_config()
    cfg.MODEL.REGNET.OUTPUT_STRIDE = 16
    with pytest.raises(ValueError, match="OUTPUT_STRIDE must be 32, got 16; for a dilated C5"):
        build_model(cfg)


def test_the_stage_of_a_design_is_that_of_its_numbers():
    design = RegNetDesign(48, 28.0, 1.8, 7, 16)
    assert RegNetLastStage(design).out_channels == design.stages[-1].width


# Projects


def keys(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_the_projects_keys_are_those_that_they_add_themselves():
    ours, theirs = default_config(), default_config()
    for add in (add_deeplab_config, add_pointrend_config, add_panoptic_deeplab_config):
        add(theirs)
    assert theirs.SOLVER.OPTIMIZER == "ADAM"
    theirs.SOLVER.OPTIMIZER = "SGD"
    assert dict(keys(ours)) == dict(keys(theirs))


def test_projects_are_imported_for_what_no_registry_has(monkeypatch):
    monkeypatch.setattr(SEM_SEG_HEADS_REGISTRY, "_obj_map", dict(SEM_SEG_HEADS_REGISTRY._obj_map))
    asked = []
    monkeypatch.setattr("regnet_backbones.adapters.detectron2.projects.import_module", asked.append)
    cfg = default_config()
    import_projects(cfg)
    assert asked == []
    cfg.MODEL.SEM_SEG_HEAD.NAME = "PointRendSemSegHead"
    SEM_SEG_HEADS_REGISTRY._obj_map.pop("PointRendSemSegHead", None)
    import_projects(cfg)
    assert "detectron2.projects.point_rend" in asked
    assert "regnet_backbones.adapters.detectron2.deeplab" in asked


@pytest.mark.parametrize("head", ["deeplab_v3", "deeplab_v3_plus"])
def test_deeplab_heads_take_images_of_any_size(head, randomize):
    """Detectron2's own would raise for sides that are no multiples of its crop."""
    cfg = config(f"{head}_regnet_small_shapes")
    cfg.INPUT.CROP.SIZE = [64, 64]
    model = randomize(build_model(cfg))
    image = torch.randint(256, (3, 70, 101), dtype=torch.uint8)
    batch = [{"image": image, "sem_seg": torch.randint(6, (70, 101))}] * 2
    assert torch.isfinite(losses(model, batch)["loss_sem_seg"])
    with torch.no_grad():
        assert model.eval()(batch)[0]["sem_seg"].shape == (6, 70, 101)
