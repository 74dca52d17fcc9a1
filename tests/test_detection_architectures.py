"""The table of architectures: what its rows name exists, and every shipped config has a row."""

from pkgutil import resolve_name

import pytest
import torch
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads, build_model

from regnet_backbones import config_path
from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.detection.architectures import (
    ARCHITECTURES,
    OTHER,
    architecture_of,
    number_of_classes,
    outputs_of,
    raise_score_threshold,
    title_of,
)
from regnet_backbones.detection.config import default_config, read_config, values_by_key
from regnet_backbones.detection.pictures import seen_in

ROI_SCORE = "MODEL.ROI_HEADS.SCORE_THRESH_TEST"
COMBINED_SCORE = "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_row_names_keys_and_a_mapper_that_exist(name):
    row, keys = ARCHITECTURES[name], values_by_key(default_config())
    for key in (row.classes, row.min_score, row.combined_score):
        assert not key or key in keys
    for node in row.nodes:
        assert any(key.startswith(f"MODEL.{node}") for key in keys)
    assert not row.mapper or callable(resolve_name(row.mapper))


def test_every_shipped_config_has_a_row():
    paths = sorted(config_path("detectron2/quick").glob("[a-z]*.yaml"))
    found = {path.stem: read_config(path) for path in paths}
    assert {cfg.MODEL.META_ARCHITECTURE for cfg in found.values()} <= ARCHITECTURES.keys()
    assert title_of(found["cascade_mask_rcnn_regnet_small_fpn"]) == "Cascade Mask R-CNN"
    assert title_of(found["keypoint_rcnn_regnet_small_fpn"]) == "Keypoint R-CNN"
    assert outputs_of(found["semantic_fpn_regnet_small_shapes"]) == ("sem_seg",)
    assert number_of_classes(found["fcos_regnet_small_fpn"]) == 5


def test_panoptic_deeplab_gives_instances_if_its_config_says_so():
    cfg = default_config()
    cfg.MODEL.META_ARCHITECTURE = "PanopticDeepLab"
    assert "instances" in outputs_of(cfg)
    cfg.MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES = False
    assert outputs_of(cfg) == ("sem_seg", "panoptic_seg")
    cfg.MODEL.META_ARCHITECTURE = "SomebodysOwn"
    assert architecture_of(cfg) is OTHER


# Scores


def small_detector(config, opts):
    """Return a config and its model, of random weights and sure of some things."""
    cfg = read_config(config_path("detectron2/quick") / f"{config}.yaml", ["MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(opts)
    import_projects(cfg)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if name.endswith("cls_score.weight"):
                weights.normal_(std=0.2)
    return cfg, model


@torch.no_grad()
def outputs_with(cfg, model):
    """Return what a model of other settings gives with the weights of a model."""
    other = build_model(cfg).eval()
    other.load_state_dict(model.state_dict())
    image = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(1)) * 255
    (outputs,) = other([{"image": image, "height": 90, "width": 120}])
    return outputs


def assert_same(found, expected):
    """Compare instances: their order is by score."""
    assert found.get_fields().keys() == expected.get_fields().keys()
    assert len(found) == len(expected)
    for name, values in expected.get_fields().items():
        other = found.get(name)
        values, other = (getattr(each, "tensor", each).float() for each in (values, other))
        if name == "pred_masks":
            assert (values != other).float().mean() < 1e-3 if len(values) else True
        else:
            assert torch.allclose(other, values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        *("faster_rcnn_regnet_small_fpn", "mask_rcnn_regnet_small_fpn"),
        *("mask_rcnn_regnet_small_c4", "cascade_mask_rcnn_regnet_small_fpn"),
        *("keypoint_rcnn_regnet_small_fpn", "point_rend_regnet_small_fpn"),
        *("retinanet_regnet_small_fpn", "fcos_regnet_small_fpn"),
    ],
)
def test_a_threshold_in_the_model_gives_what_is_left_afterwards(config):
    key = architecture_of(read_config(config_path("detectron2/quick") / f"{config}.yaml")).min_score
    cfg, model = small_detector(config, [key, "0.0"])
    plain = outputs_with(cfg, model)
    scores = plain["instances"].scores.sort().values
    assert len(scores) > 20
    for min_score in (scores[0].item(), scores[len(scores) // 2].item(), scores[-1].item(), 1.0):
        raised = cfg.clone()
        raise_score_threshold(raised, min_score)
        found = outputs_with(raised, model)
        assert_same(seen_in(found, min_score)["instances"], seen_in(plain, min_score)["instances"])
        if min_score > 1.1 * scores[0]:
            assert len(found["instances"]) < len(scores)


@pytest.mark.parametrize(("combined", "least"), [(0.3, 0.6), (0.6, 0.3)])
def test_a_threshold_in_the_model_leaves_segments_as_they_are(combined, least):
    opts = [ROI_SCORE, "0.0", "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", "1"]
    cfg, model = small_detector("panoptic_fpn_regnet_small", opts)
    scores = outputs_with(cfg, model)["instances"].scores.sort().values
    combined, least = (scores[int(part * len(scores))].item() for part in (combined, least))
    cfg.merge_from_list([COMBINED_SCORE, combined])
    plain = outputs_with(cfg, model)
    raise_score_threshold(cfg, least)
    found = outputs_with(cfg, model)
    assert len(found["instances"]) < len(plain["instances"])
    assert_same(seen_in(found, least)["instances"], seen_in(plain, least)["instances"])
    (segments, info), (expected, expected_info) = found["panoptic_seg"], plain["panoptic_seg"]
    assert (segments == expected).float().mean() > 0.999
    assert any(segment["isthing"] for segment in info)
    assert [s["category_id"] for s in info] == [s["category_id"] for s in expected_info]


def test_thresholds_stay_where_scores_are_not_final():
    """As with test-time augmentation, in heads of others, and where the config asks for more."""

    class OtherHeads(StandardROIHeads):
        pass

    ROI_HEADS_REGISTRY._obj_map["OtherHeads"] = OtherHeads
    try:
        for opts in (
            ["TEST.AUG.ENABLED", True],
            ["MODEL.ROI_HEADS.NAME", "OtherHeads"],
            ["MODEL.META_ARCHITECTURE", "SomebodysOwn"],
            ["MODEL.META_ARCHITECTURE", "ProposalNetwork"],
            [ROI_SCORE, 0.6],
        ):
            cfg = default_config()
            cfg.merge_from_list(opts)
            before = cfg.dump()
            raise_score_threshold(cfg, 0.5)
            assert cfg.dump() == before
    finally:
        del ROI_HEADS_REGISTRY._obj_map["OtherHeads"]
    cfg = default_config()
    raise_score_threshold(cfg, 0.5)
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == pytest.approx(0.495)
