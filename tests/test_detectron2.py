"""The detectron2 adapter: registration, configs of several origins, backbone and FPN."""

import importlib.util

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultTrainer
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from fresh_processes import run_in_fresh_processes

from regnet_backbones import RegNetDesign, RegNetFeatures, add_regnet_config
from regnet_backbones.adapters.detectron2 import installing
from regnet_backbones.adapters.detectron2.builders import RegNetBackbone
from regnet_backbones.adapters.detectron2.config import REGNET_DEFAULTS
from regnet_backbones.adapters.detectron2.heads import RegNetLastStage
from regnet_backbones.detection.training.trainer import logged_group

# As detectron2's stock R-50-FPN configs say it, ResNet's own keys and all.
STOCK_MASK_RCNN_R50_FPN = """
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  WEIGHTS: ""
  MASK_ON: True
  BACKBONE:
    NAME: "build_resnet_fpn_backbone"
  RESNETS:
    DEPTH: 50
    OUT_FEATURES: ["res2", "res3", "res4", "res5"]
  FPN:
    IN_FEATURES: ["res2", "res3", "res4", "res5"]
  ANCHOR_GENERATOR:
    SIZES: [[32], [64], [128], [256], [512]]
  RPN:
    IN_FEATURES: ["p2", "p3", "p4", "p5", "p6"]
  ROI_HEADS:
    NAME: "StandardROIHeads"
    IN_FEATURES: ["p2", "p3", "p4", "p5"]
  ROI_BOX_HEAD:
    NAME: "FastRCNNConvFCHead"
    NUM_FC: 2
    POOLER_RESOLUTION: 7
  ROI_MASK_HEAD:
    NAME: "MaskRCNNConvUpsampleHead"
    NUM_CONV: 4
    POOLER_RESOLUTION: 14
VERSION: 2
"""

# As the published self-supervised RegNet detectors say it, over a stock base; the numbers are
# RegNetY-128GF's.
PUBLISHED_REGNET_FPN = """
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  WEIGHTS: ""
  MASK_ON: True
  BACKBONE:
    NAME: "build_regnet_fpn_backbone"
    FREEZE_AT: 0
  REGNET:
    OUT_FEATURES: ["s1", "s2", "s3", "s4"]
    DEPTH: 27
    W0: 456
    WA: 160.83
    WM: 2.52
    GROUP_W: 264
    SE_R: 0.25
    NORM: "SyncBN"
  FPN:
    IN_FEATURES: ["s1", "s2", "s3", "s4"]
    NORM: "SyncBN"
VERSION: 2
"""

# As the published C4 detector says it, with small numbers; its head was never published.
PUBLISHED_REGNET_C4 = """
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  WEIGHTS: ""
  MASK_ON: True
  PIXEL_STD: [57.375, 57.120, 58.395]
  REGNET: {DEPTH: 13, W0: 24, WA: 36.44, WM: 2.49, GROUP_W: 8, SE_R: 0.0, NORM: "SyncBN"}
  BACKBONE: {NAME: "build_regnet_backbone", FREEZE_AT: 0}
  RPN: {PRE_NMS_TOPK_TEST: 6000, POST_NMS_TOPK_TEST: 1000}
  ROI_HEADS: {NAME: "Res5ROIHeadsExtraNorm"}
TEST: {PRECISE_BN: {ENABLED: True}}
VERSION: 2
"""
WITH_OUR_HEAD = 'MODEL: {ROI_HEADS: {NAME: "RegNetRes5ROIHeads"}, REGNET: {OUT_FEATURES: ["res4"]}}'


def config(*texts, **node):
    """Return a CPU config: detectron2's defaults, YAML texts, and keys of MODEL.REGNET."""
    cfg = get_cfg()
    for text in texts:
        cfg.merge_from_other_cfg(CfgNode.load_cfg(text))
    cfg.MODEL.DEVICE = "cpu"
    for key, value in node.items():
        cfg.merge_from_list([f"MODEL.REGNET.{key}", value])
    return cfg


def fpn_config(**node):
    cfg = config(**node)
    cfg.MODEL.BACKBONE.NAME = "build_regnet_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    return cfg


def one_training_step(model):
    """Train on one image with one instance; return the losses before and after the step."""
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[10.0, 10.0, 50.0, 50.0]]))
    instances.gt_classes = torch.tensor([1])
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 10:50, 10:50] = True
    instances.gt_masks = BitMasks(mask)
    batch = [{"image": torch.randint(0, 255, (3, 64, 64)), "instances": instances}]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    losses = []
    with EventStorage():
        for _ in range(2):
            torch.manual_seed(0)  # the heads sample their training boxes
            loss = sum(model.train()(batch).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


# Registration: each in a fresh process

IS_REGISTERED = """
from detectron2.config import get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
cfg = get_cfg()
cfg.MODEL.REGNET.NAME = "regnetx_002"
for name in ("build_regnet_backbone", "build_regnet_fpn_backbone"):
    assert BACKBONE_REGISTRY.get(name).__module__ == "regnet_backbones.adapters.detectron2.builders"
assert "FCOSDetector" in META_ARCH_REGISTRY
"""

BY_ENVIRONMENT = """
import os
os.environ["DETECTRON2_ENV_MODULE"] = "regnet_backbones"
"""

THEIR_COPY = """
from detectron2.modeling import BACKBONE_REGISTRY
@BACKBONE_REGISTRY.register()
def build_regnet_fpn_backbone(cfg, input_shape):
    return "theirs"
"""

# As Python starts where `install-detectron2` installed it, and nowhere else.
WITH_HOOK = """
import site, sys
sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "WithDetectron2"]
sys.modules.pop("regnet_backbones_with_detectron2", None)
sys.path.insert(0, "site")
site.addsitedir("site")
assert "regnet_backbones_with_detectron2" in sys.modules
"""

REGISTRATIONS = {
    "ours_first": "import regnet_backbones" + IS_REGISTERED,
    "theirs_first": "import detectron2, regnet_backbones" + IS_REGISTERED,
    "their_defaults_first": ("import detectron2.config.defaults, regnet_backbones" + IS_REGISTERED),
    "ours_around_theirs": (
        "import regnet_backbones, detectron2.modeling, regnet_backbones" + IS_REGISTERED
    ),
    "by_the_environment": BY_ENVIRONMENT
    + IS_REGISTERED
    + """
from regnet_backbones import add_regnet_config
cfg = get_cfg()
add_regnet_config(cfg)
assert cfg == get_cfg()
assert cfg.MODEL.FCOS.TOP_LEVELS == 2 and cfg.SOLVER.OPTIMIZER == "SGD"
assert cfg.MODEL.POINT_HEAD and cfg.OPTIMIZE
# As detectron2's default_setup does; it sees no stand-in.
import runpy
runpy.run_module("detectron2.utils.collect_env", run_name="__main__")
""",
    "a_copy_later": "import regnet_backbones"
    + THEIR_COPY
    + "print(BACKBONE_REGISTRY.get('build_regnet_fpn_backbone')(None, None))",
    # As on a detectron2 that imports without our help: register, then import us.
    "a_copy_earlier": "import regnet_backbones, detectron2.modeling.backbone.build as build\n"
    "del build.BACKBONE_REGISTRY._obj_map['build_regnet_fpn_backbone']"
    + THEIR_COPY
    + """
from regnet_backbones.adapters.detectron2 import builders
builders.register_builders()
assert BACKBONE_REGISTRY.get("build_regnet_fpn_backbone") is build_regnet_fpn_backbone
assert BACKBONE_REGISTRY.get("build_regnet_backbone") is builders.build_regnet_backbone
builders.register_builders(replace=True)
assert BACKBONE_REGISTRY.get("build_regnet_fpn_backbone") is builders.build_regnet_fpn_backbone
builders.register_builders()
""",
    # Only our own names give way.
    "another_name_twice": """
        import regnet_backbones
        from detectron2.modeling import BACKBONE_REGISTRY
        try:
            BACKBONE_REGISTRY._do_register("build_resnet_backbone", print)
        except AssertionError as error:
            print("refused:", error)
    """,
    # The import adds one node, which is dumped when it is used.
    "one_node": """
        import sys
        sys.modules["regnet_backbones"] = None  # as if it were not installed
        from detectron2.config import CfgNode, get_cfg
        stock, dumped = get_cfg(), get_cfg().dump()
        del sys.modules["regnet_backbones"]
        import regnet_backbones
        ours = get_cfg()
        assert ours.dump() == dumped
        assert "REGNET" in ours.MODEL  # which is left out of what is dumped, and nowhere else
        added = ours.MODEL.pop("REGNET")
        assert ours == stock
        ours.MODEL.REGNET = added
        ours.MODEL.BACKBONE.FREEZE_AT = 1
        stock.merge_from_other_cfg(CfgNode.load_cfg(ours.dump()))
        assert stock.MODEL.BACKBONE.FREEZE_AT == 1
        ours.MODEL.REGNET.NAME = "regnetx_002"
        again = get_cfg()
        again.merge_from_other_cfg(CfgNode.load_cfg(ours.dump()))
        assert again.MODEL.REGNET == ours.MODEL.REGNET
    """,
    # Fixes reach what was imported before us.
    "fixes_of_what_is_imported": """
        import detectron2.checkpoint
        import regnet_backbones
        from regnet_backbones.adapters.detectron2 import compat
        modules = [row.module for row in compat.applied()]
        assert "detectron2.checkpoint.detection_checkpoint" in modules
        import detectron2.modeling
    """,
    # In the environment of `make install`.
    "detectron2_first": WITH_HOOK
    + """
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer
import regnet_backbones
assert hasattr(get_cfg().MODEL, "REGNET")
""",
    "hook_without_detectron2": WITH_HOOK
    + """
import json, email
assert not {"regnet_backbones", "wrapt"} & set(sys.modules)
""",
    "hook_without_this_package": WITH_HOOK
    + """
sys.modules["regnet_backbones"] = None  # as if it were not installed
from detectron2.config import get_cfg
assert not hasattr(get_cfg().MODEL, "REGNET")
""",
    # Upstream's demo imports its neighbour from a package of the authors' own.
    "demo": BY_ENVIRONMENT
    + """
import runpy
runpy.run_path("demo.py", run_name="__main__")
""",
}
DEMO = """
from detectron2.data.detection_utils import read_image
from vision.fair.detectron2.demo.predictor import answer
print(answer)
"""


def test_importing_the_package_registers_it_in_either_order(tmp_path):
    (tmp_path / "site").mkdir()
    installing.write_startup(tmp_path / "site")
    (tmp_path / "demo.py").write_text(DEMO)
    (tmp_path / "predictor.py").write_text("answer = 42\n")
    printed = run_in_fresh_processes(REGISTRATIONS, tmp_path)
    assert printed["demo"] == "42\n"
    assert "theirs" in printed["a_copy_later"]
    assert "build_regnet_fpn_backbone of __main__ is used" in printed["a_copy_later"]
    assert printed["a_copy_earlier"].count("of __main__ is used") == 1
    assert "refused" in printed["another_name_twice"]
    compiled = importlib.util.find_spec("detectron2._C") is not None
    assert compiled or "No module named 'detectron2._C'" in printed["by_the_environment"]


# Configs


def test_fcos_needs_none_of_its_keys():
    cfg = fpn_config(NAME="regnetx_002")
    cfg.MODEL.BACKBONE.NAME = "build_fcos_regnet_fpn_backbone"
    cfg.MODEL.META_ARCHITECTURE = "FCOSDetector"
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    assert "FCOS" not in cfg.MODEL
    assert list(build_model(cfg).backbone.output_shape()) == ["p3", "p4", "p5", "p6", "p7"]
    cfg.MODEL.FCOS = CfgNode({"TOP_LEVELS": 1, "THRESH_WITH_CTR": True})  # another project's
    assert list(build_backbone(cfg).output_shape()) == ["p3", "p4", "p5", "p6"]
    assert cfg.MODEL.FCOS == {"TOP_LEVELS": 1, "THRESH_WITH_CTR": True}


def test_a_config_made_by_hand_gets_the_node_and_keeps_its_own_keys():
    cfg = CfgNode({"MODEL": {"REGNET": {"W0": 48}}})
    add_regnet_config(cfg)
    add_regnet_config(cfg)
    assert set(cfg.MODEL.REGNET) == set(REGNET_DEFAULTS)
    assert cfg.SOLVER.OPTIMIZER == "SGD"
    assert cfg.MODEL.REGNET.W0 == 48


@pytest.mark.parametrize("weights", ["regnetx_002", "RegNetX-200MF"])
def test_a_stock_config_in_which_two_keys_change_builds_and_trains(weights):
    cfg = config(STOCK_MASK_RCNN_R50_FPN, NAME=weights)
    cfg.MODEL.BACKBONE.NAME = "build_regnet_fpn_backbone"
    model = build_model(cfg)
    assert isinstance(model.backbone.bottom_up, RegNetBackbone)
    before, after = one_training_step(model)
    assert after < before


def test_a_published_config_runs_unchanged():
    """The whole network, RegNetY-128GF, on the meta device; then a small one is trained."""
    with torch.device("meta"):
        backbone = build_backbone(
            config(STOCK_MASK_RCNN_R50_FPN, PUBLISHED_REGNET_FPN), ShapeSpec(channels=3)
        )
    shapes = backbone.bottom_up.output_shape()
    # Widths and strides as published for RegNetY-128GF.
    assert {k: (s.channels, s.stride) for k, s in shapes.items()} == {
        "s1": (528, 4),
        "s2": (1056, 8),
        "s3": (2904, 16),
        "s4": (7392, 32),
    }
    small = PUBLISHED_REGNET_FPN.replace("456", "24").replace("160.83", "36.44")
    small = small.replace("2.52", "2.49").replace("27", "13").replace("264", "8")
    model = build_model(config(STOCK_MASK_RCNN_R50_FPN, small))
    assert model.backbone.bottom_up.channels == {2: 24, 3: 56, 4: 152, 5: 368}
    before, after = one_training_step(model)
    assert after < before


def test_a_published_c4_config_runs_with_the_documented_lines():
    with pytest.raises(KeyError, match="Res5ROIHeadsExtraNorm"):
        build_model(config(PUBLISHED_REGNET_C4))
    model = build_model(config(PUBLISHED_REGNET_C4, WITH_OUR_HEAD))
    assert model.roi_heads.res5.out_channels == 368
    before, after = one_training_step(model)
    assert after < before
    # Of several processes each asks for a gradient of every parameter.
    assert all(p.grad is not None for p in model.backbone.parameters())


def test_whole_numbers_are_taken_where_floats_are_meant():
    cfg = config()
    numbers = {"W0": 24, "WA": 24, "WM": 2, "DEPTH": 8, "GROUP_W": 8, "SE_R": 0}
    cfg.merge_from_other_cfg(CfgNode({"MODEL": {"REGNET": numbers}}))
    cfg.MODEL.BACKBONE.NAME = "build_regnet_backbone"
    assert build_backbone(cfg).design == RegNetDesign(24, 24.0, 2.0, 8, 8)


def test_a_node_of_somebody_elses_making_needs_only_its_own_keys():
    cfg = fpn_config()
    cfg.MODEL.REGNET = CfgNode(
        {"DEPTH": 8, "W0": 24, "WA": 24.0, "WM": 2.0, "GROUP_W": 8, "SE_R": 0.25, "NORM": "BN"}
    )
    assert build_backbone(cfg).bottom_up.design.se_ratio == 0.25


@pytest.mark.parametrize(
    ("node", "features", "message"),
    [
        ({}, None, "set MODEL.REGNET.NAME, such as 'regnety_032', or the numbers W0"),
        ({"W0": 24, "WA": 24.0}, None, "missing: WM, DEPTH, GROUP_W"),
        ({"NAME": "regnety_33"}, None, "did you mean 'regnety_032'"),
        ({"NAME": "regnetx_002", "NORM": "LN"}, None, "norm must be one of"),
        ({"NAME": "regnetx_002", "OUTPUT_STRIDE": 16}, None, "set MODEL.BACKBONE.NAME to 'build_r"),
        ({"NAME": "regnetx_002"}, ["res2", "c3"], r"got \['res2', 'c3'\]; set MODEL.REGNET.OUT_F"),
        ({"NAME": "regnetx_002"}, ["res2", "res4"], "strides of MODEL.FPN.IN_FEATURES"),
    ],
)
def test_configs_that_cannot_be_built_say_what_to_change(node, features, message):
    cfg = fpn_config(**node)
    if features:
        cfg.MODEL.FPN.IN_FEATURES = features
    with pytest.raises(ValueError, match=message):
        build_backbone(cfg)


def test_numbers_beside_a_name_are_ignored_with_a_warning(caplog):
    backbone = build_backbone(fpn_config(NAME="regnetx_002", W0=48))
    assert backbone.bottom_up.name == "regnetx_002"
    assert "MODEL.REGNET.W0 are ignored" in caplog.text


def test_frozen_random_weights_are_warned_of(caplog):
    cfg = fpn_config(NAME="regnetx_002")
    build_backbone(cfg)
    assert "MODEL.WEIGHTS is empty" in caplog.text
    caplog.clear()
    cfg.MODEL.WEIGHTS = "path/to/weights.pth"
    build_backbone(cfg)
    assert "MODEL.WEIGHTS" not in caplog.text


# The optimizer


@pytest.mark.parametrize("build", ["solver", "trainer"])
def test_the_optimizer_is_the_one_named(build, caplog):
    """In detectron2's own function and in its own trainer."""
    build = {"solver": build_optimizer, "trainer": DefaultTrainer.build_optimizer}[build]
    cfg = get_cfg()
    add_regnet_config(cfg)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.BatchNorm2d(8))
    cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.BASE_LR = 0.1, 0.01
    assert isinstance(build(cfg, model), torch.optim.SGD)
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    optimizer = build(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decay[id(model[0].weight)] == 0.1
    assert decay[id(model[1].weight)] == 0.0  # SOLVER.WEIGHT_DECAY_NORM
    assert {group["lr"] for group in optimizer.param_groups} == {0.01}
    cfg.SOLVER.OPTIMIZER = "ADAM"
    assert type(build(cfg, model)) is torch.optim.Adam
    cfg.SOLVER.OPTIMIZER = "LION"  # of another project: detectron2 builds what it always does
    assert type(build(cfg, model)) is torch.optim.SGD
    assert "SOLVER.OPTIMIZER 'LION'" in caplog.text


@pytest.mark.parametrize("name", ["SGD", "ADAMW"])
def test_learning_rates_fall_from_stage_to_stage(name):
    """Of an FPN's RegNet, whose stem is frozen, and of the last stage in a C4 head."""
    cfg = get_cfg()
    add_regnet_config(cfg)
    solver, base = cfg.SOLVER, 0.02
    solver.OPTIMIZER, solver.BASE_LR, solver.WEIGHT_DECAY_NORM = name, base, 0.01
    features = RegNetFeatures("regnety_002", freeze_at=1)
    parts = {"features": features, "fpn": torch.nn.Conv2d(8, 8, 1)}
    model = torch.nn.ModuleDict({**parts, "head": RegNetLastStage("regnety_002", norm="BN")})
    plain = build_optimizer(cfg, model)
    solver.BACKBONE_LR_FACTOR, solver.LAYER_DECAY = 0.5, 0.8
    found = build_optimizer(cfg, model)
    before, after = (
        {weight: group for group in each.param_groups for weight in group["params"]}
        for each in (plain, found)
    )
    assert before.keys() == after.keys()
    powers = {"features.s1.": 4, "features.s2.": 3, "features.s3.": 2, "features.s4.": 1}
    powers |= {"head.s4.": 1}
    for key, weight in model.named_parameters():
        if not weight.requires_grad:
            assert key.startswith("features.stem")
            assert weight not in after
            continue
        power = next((n for start, n in powers.items() if key.startswith(start)), None)
        rate = base if power is None else base * 0.5 * 0.8**power
        assert after[weight]["lr"] == pytest.approx(rate)
        assert after[weight]["weight_decay"] == before[weight]["weight_decay"]
    assert len({group["weight_decay"] for group in after.values()}) == 2
    # The schedule scales them all, and what is logged is that of the head.
    build_lr_scheduler(cfg, found)
    for group in found.param_groups:
        rate = base * group["lr_factor"] * solver.WARMUP_FACTOR
        assert group["lr"] == pytest.approx(rate)
    group = found.param_groups[logged_group(found)]
    assert group["lr"] == max(each["lr"] for each in found.param_groups)
    with pytest.raises(ValueError, match=r"SOLVER\.LAYER_DECAY"):
        build_optimizer(cfg, parts["fpn"])


def test_a_cosine_ends_at_the_rate_that_is_told():
    cfg = get_cfg()
    add_regnet_config(cfg)
    solver = cfg.SOLVER
    solver.LR_SCHEDULER_NAME, solver.MAX_ITER, solver.WARMUP_ITERS = "WarmupCosineLR", 100, 10
    for end in (0.0, 0.004):
        solver.BASE_LR, solver.BASE_LR_END = 0.02, end
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
        scheduler, rates = build_lr_scheduler(cfg, optimizer), []
        for _ in range(100):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert rates[0] == pytest.approx(0.02 * solver.WARMUP_FACTOR)
        theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 100, eta_min=end)
        for iteration in range(100):
            if iteration >= 10:
                assert rates[iteration] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-6)
            theirs.step()
            cosine.step()


# The backbone


def test_both_families_of_names_give_the_maps_of_the_extractor(randomize):
    features = randomize(RegNetFeatures("regnety_002", out_levels=(1, 2, 3, 4, 5))).eval()
    names = ["stem", "s1", "res2", "s2", "res3", "s3", "res4", "s4", "res5"]
    backbone = RegNetBackbone("regnety_002", norm="BN", out_features=names).eval()
    backbone.load_state_dict(features.state_dict())
    image = torch.randn(1, 3, 75, 98)
    with torch.no_grad():
        maps, (c1, c2, c3, c4, c5) = backbone(image), features(image)
    assert list(maps) == names
    for name, expected in zip(names, (c1, c2, c2, c3, c3, c4, c4, c5, c5), strict=True):
        torch.testing.assert_close(maps[name], expected, rtol=0, atol=0)
        spec = backbone.output_shape()[name]
        height, width = -(-75 // spec.stride), -(-98 // spec.stride)
        assert maps[name].shape == (1, spec.channels, height, width)


def test_the_config_reaches_the_backbone():
    cfg = config(
        NAME="regnetx_002", NORM="BN", OUTPUT_STRIDE=16, DROP_PATH_RATE=0.1, GRAD_CHECKPOINT=True
    )
    cfg.MODEL.BACKBONE.NAME = "build_regnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 1
    cfg.MODEL.REGNET.OUT_FEATURES = ["s3", "s4"]
    backbone = build_backbone(cfg, ShapeSpec(channels=4))
    assert backbone.stem.conv.in_channels == 4
    assert {k: s.stride for k, s in backbone.output_shape().items()} == {"s3": 16, "s4": 16}
    assert backbone.s4.grad_checkpointing
    assert backbone.s4.b7.drop_path.drop_prob == pytest.approx(0.1)
    assert not backbone.stem.conv.weight.requires_grad
    assert backbone.s1.b1.conv1.conv.weight.requires_grad
    assert isinstance(backbone.s1.b1.conv1.bn, torch.nn.BatchNorm2d)


def test_an_fpn_of_either_names_is_the_same(randomize):
    cfg = fpn_config(NAME="regnetx_002")
    fpn = randomize(build_backbone(cfg)).eval()
    cfg.MODEL.FPN.IN_FEATURES = ["s1", "s2", "s3", "s4"]
    other = build_backbone(cfg).eval()
    other.load_state_dict(fpn.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps, other_maps = fpn(image), other(image)
    assert {k: tuple(m.shape) for k, m in maps.items()} == {
        "p2": (1, 256, 16, 24),
        "p3": (1, 256, 8, 12),
        "p4": (1, 256, 4, 6),
        "p5": (1, 256, 2, 3),
        "p6": (1, 256, 1, 2),
    }
    for name, feature_map in maps.items():
        torch.testing.assert_close(other_maps[name], feature_map, rtol=0, atol=0)


def test_an_fpn_of_some_levels_builds_no_more():
    cfg = fpn_config(NAME="regnetx_002")
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    assert list(build_backbone(cfg).output_shape()) == ["p3", "p4", "p5", "p6"]
