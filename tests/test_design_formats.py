"""A design said for Detectron2, SMP and timm is the same design there."""

from dataclasses import replace

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from regnet_backbones import RegNetFeatures, config_path, zoo
from regnet_backbones.adapters.detectron2.network import network_of
from regnet_backbones.design import RegNetDesign, to_format
from regnet_backbones.design.formats import python_code, timm_arguments
from regnet_backbones.errors import UserError

SMALL = RegNetDesign(8, 8.0, 2.0, 8, 8)
PLAIN = {
    "plain": SMALL,
    "everything MODEL.REGNET has": replace(
        SMALL, bottleneck_multiplier=0.5, se_ratio=0.25, stem_width=16, rounding="torchvision"
    ),
    "from numpy's floats": replace(SMALL, w_a=0.1 * 80),
}
UNUSUAL = {
    "silu, pooled shortcut, head": replace(
        SMALL, activation="silu", shortcut="avg", head_width=24, linear_out=True
    ),
    "preact, no shortcut": replace(SMALL, preact=True, shortcut="none"),
    "group norm": replace(SMALL, norm_group_width=8),
}
ALL = PLAIN | UNUSUAL


def run(code):
    names = {}
    exec(code, names)
    return names


def stage_shapes(network):
    return {
        name: tensor.shape
        for name, tensor in network.state_dict().items()
        if name.split(".")[0] in ("stem", "s1", "s2", "s3", "s4")
    }


@pytest.mark.parametrize("design", ALL.values(), ids=ALL)
def test_the_python_code_is_the_design(design):
    assert eval(python_code(design), {"RegNetDesign": RegNetDesign}) == design


@pytest.mark.parametrize("design", PLAIN.values(), ids=PLAIN)
def test_detectron2_reads_the_design(design):
    cfg = get_cfg()
    cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(to_format("detectron2", design))))
    assert network_of(cfg.MODEL.REGNET) == design
    # Nothing that is random stays so.
    assert (cfg.MODEL.REGNET.NORM, cfg.MODEL.BACKBONE.FREEZE_AT) == ("BN", 0)


def test_on_a_base_that_names_another_network_the_design_wins(tmp_path):
    base = config_path("detectron2/retinanet_regnety_032_fpn_1x.yaml")
    path = tmp_path / "mine.yaml"
    path.write_text(to_format("detectron2", SMALL, base=str(base)))
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    assert network_of(cfg.MODEL.REGNET) == SMALL
    assert cfg.MODEL.WEIGHTS == ""
    # The rest is the base's.
    assert cfg.MODEL.BACKBONE.NAME == "build_retinanet_regnet_fpn_backbone"
    assert cfg.MODEL.FPN.IN_FEATURES == ["res3", "res4", "res5"]
    with pytest.raises(UserError, match="base .*detectron2"):
        to_format("timm", SMALL, base=str(base))


@pytest.mark.parametrize("design", UNUSUAL.values(), ids=UNUSUAL)
def test_what_model_regnet_has_no_key_for_is_refused(design):
    changed = [
        n
        for n in ("activation", "preact", "norm_group_width")
        if getattr(design, n) != getattr(SMALL, n)
    ]
    with pytest.raises(UserError, match=f"no key for .*{changed[0]}.*MODEL.REGNET.NAME"):
        to_format("detectron2", design)


@pytest.mark.parametrize("design", ALL.values(), ids=ALL)
def test_smp_gets_the_design(design):
    try:
        model = run(to_format("smp", design, title="regnet_of_this_test"))["model"]
    finally:
        smp.encoders.encoders.pop("regnet_of_this_test", None)
    assert isinstance(model, smp.Unet)
    shapes = {name: tensor.shape for name, tensor in RegNetFeatures(design).state_dict().items()}
    assert {name: t.shape for name, t in model.encoder.state_dict().items()} == shapes


@pytest.mark.parametrize("design", ALL.values(), ids=ALL)
def test_timm_builds_the_design(design):
    model = run(to_format("timm", design))["model"]
    assert isinstance(model, timm.models.regnet.RegNet)
    assert stage_shapes(model) == stage_shapes(RegNetFeatures(design))
    images = torch.randn(1, 3, 32, 32)
    ours = RegNetFeatures(design).eval()
    ours.load_state_dict({name: model.state_dict()[name] for name in ours.state_dict()})
    theirs = model.eval().forward_intermediates(images, intermediates_only=True)
    torch.testing.assert_close(list(ours(images)), theirs[1:])


@pytest.mark.parametrize("name", [n for n in zoo.names() if zoo.get(n).design])
def test_timms_arguments_are_those_of_its_own_table(name):
    config = timm.models.regnet.model_cfgs[name]
    found = timm_arguments(zoo.get(name).design)
    assert found == {argument: getattr(config, argument) for argument in found}


def test_an_unknown_format_is_refused():
    with pytest.raises(UserError, match="one of detectron2, smp, timm, got 'keras'"):
        to_format("keras", SMALL)
