"""Every config that is shipped loads and builds the model it names."""

import re
from functools import reduce
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer

from regnet_backbones import config_path, zoo
from regnet_backbones.adapters.detectron2.builders import RegNetBackbone
from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.detection.config import read_config

ROOT = config_path("detectron2")
CONFIGS = sorted(ROOT.rglob("*.yaml"))
# Bases name no network, recipes do.
RECIPES = [path for path in CONFIGS if not path.name.startswith("Base-")]
FILE_NAME = re.compile(
    r"[a-z0-9_]+?_(regnet[xyzv]_\d+|regnet_small)"
    r"(_(fpn|c4|dc5))?(_(1x|3x|ade20k_160k|cityscapes|cityscapes_90k|lvis_v1_1x|shapes))?\.yaml"
)

# The networks of the paper, from 200 MF to 32 GF.
SIZES = ("002", "004", "006", "008", "016", "032", "040", "064", "080", "120", "160", "320")
PAPER = tuple(f"regnet{family}_{size}" for family in "xy" for size in SIZES)
FOUR = ("regnetx_032", "regnety_032", "regnetx_040", "regnety_040")


def load(path):
    cfg = read_config(path)
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def build(cfg):
    """Build a model without memory for its weights."""
    import_projects(cfg)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def test_all_configs_are_seen():
    names = {str(path.relative_to(ROOT)) for path in CONFIGS}
    coco = {f"mask_rcnn_{name}_fpn_1x.yaml" for name in PAPER}
    coco |= {f"mask_rcnn_{n}_fpn_3x.yaml" for n in ("regnetx_032", "regnety_032", "regnety_040")}
    coco |= {
        f"{family}_{name}_fpn_1x.yaml"
        for family in ("faster_rcnn", "retinanet", "cascade_mask_rcnn")
        for name in FOUR
    }
    coco |= {f"panoptic_fpn_{name}_1x.yaml" for name in FOUR}
    coco |= {
        f"{family}_regnety_032_fpn_1x.yaml" for family in ("fcos", "keypoint_rcnn", "point_rend")
    }
    coco |= {f"mask_rcnn_regnety_032_{neck}_1x.yaml" for neck in ("c4", "dc5")}
    others = {f"mask_rcnn_regnety_032_fpn_{data}.yaml" for data in ("cityscapes", "lvis_v1_1x")}
    others.add("panoptic_deeplab_regnety_032_cityscapes_90k.yaml")
    ade20k = {
        f"{head}_{name}_ade20k_160k.yaml"
        for head in ("semantic_fpn", "deeplab_v3_plus")
        for name in ("regnety_032", "regnety_040")
    }
    ade20k |= {f"{head}_regnety_032_ade20k_160k.yaml" for head in ("deeplab_v3", "point_rend")}
    quick = {
        *("faster_rcnn_regnet_small_fpn", "mask_rcnn_regnet_small_fpn"),
        *("mask_rcnn_regnetx_002_fpn", "cascade_mask_rcnn_regnet_small_fpn"),
        *("keypoint_rcnn_regnet_small_fpn", "retinanet_regnet_small_fpn"),
        *("fcos_regnet_small_fpn", "mask_rcnn_regnet_small_c4", "mask_rcnn_regnet_small_dc5"),
        *("point_rend_regnet_small_fpn", "point_rend_semantic_regnet_small_shapes"),
        *("panoptic_fpn_regnet_small", "panoptic_deeplab_regnet_small_shapes"),
        *("semantic_fpn_regnet_small_shapes", "deeplab_v3_regnet_small_shapes"),
        *("deeplab_v3_plus_regnet_small_shapes", "Base-Shapes", "Base-Shapes-SemSeg"),
    }
    bases = {
        *("COCO", "FPN", "Cascade-FPN", "Panoptic-FPN", "RetinaNet", "FPN-Cityscapes"),
        *("FPN-LVIS", "SemSeg", "SemanticFPN", "DeepLabV3", "DeepLabV3Plus", "PointRend-SemSeg"),
        *("C4", "DC5", "FCOS", "Keypoint-FPN", "PointRend-FPN", "PanopticDeepLab"),
    }
    bases = {f"Base-RegNet-{kind}.yaml" for kind in bases}
    assert names == coco | others | ade20k | bases | {f"quick/{name}.yaml" for name in quick}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_recipe_builds_the_network_of_its_file_name(path):
    cfg = load(path)
    model = build(cfg)
    name = FILE_NAME.fullmatch(path.name)[1]
    bottom_up = next(m for m in model.modules() if isinstance(m, RegNetBackbone))
    if name == "regnet_small":
        channels = (48, 96, 160, 288)
        assert [stage.depth for stage in bottom_up.design.stages] == [1, 2, 3, 1]
    else:
        channels = zoo.get(name).channels[1:]
        assert bottom_up.name == name
    assert bottom_up.channels == {level: channels[level - 2] for level in bottom_up.channels}
    stride = cfg.MODEL.REGNET.OUTPUT_STRIDE
    assert bottom_up.strides == {level: min(2**level, stride) for level in bottom_up.channels}
    check_pixels(cfg)


def check_pixels(cfg):
    """Check that pixels are normalised as the weights expect them."""
    row = zoo.get(cfg.MODEL.REGNET.NAME or "regnetx_002")
    tag = cfg.MODEL.WEIGHTS.rpartition(".")[2] or row.default_tag
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.PIXEL_MEAN == pytest.approx([255 * v for v in row.weights[tag].mean])
    assert cfg.MODEL.PIXEL_STD == pytest.approx([255 * v for v in row.weights[tag].std])
    if cfg.MODEL.WEIGHTS:
        assert cfg.MODEL.WEIGHTS == f"timm://{row.name}.{tag}"
    else:
        assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
        assert cfg.MODEL.REGNET.NORM == "BN"


PARTS = {
    "faster_rcnn": ("GeneralizedRCNN", "StandardROIHeads"),
    "mask_rcnn": ("GeneralizedRCNN", "StandardROIHeads"),
    "cascade_mask_rcnn": ("GeneralizedRCNN", "CascadeROIHeads"),
    "panoptic_fpn": ("PanopticFPN", "StandardROIHeads"),
    "retinanet": ("RetinaNet", None),
    "fcos": ("FCOSDetector", None),
    "keypoint_rcnn": ("GeneralizedRCNN", "StandardROIHeads"),
    "point_rend": ("GeneralizedRCNN", "StandardROIHeads"),
}
SEGMENTERS = sorted(ROOT.glob("*_ade20k_160k.yaml"))
OTHERS = sorted(ROOT.glob("panoptic_deeplab_*.yaml"))
DETECTORS = [p for p in sorted(ROOT.glob("[a-z]*.yaml")) if p not in SEGMENTERS + OTHERS]


@pytest.mark.parametrize("family", PARTS)
def test_a_recipe_builds_the_detector_of_its_file_name(family):
    neck = "" if family == "panoptic_fpn" else "_fpn"
    path = ROOT / f"{family}_regnety_032{neck}_1x.yaml"
    model = build(load(path))
    heads = getattr(model, "roi_heads", None)
    assert (type(model).__name__, heads and type(heads).__name__) == PARTS[family]
    if heads is not None:
        assert heads.mask_on is (family not in ("faster_rcnn", "keypoint_rcnn"))
        assert heads.keypoint_on is (family == "keypoint_rcnn")
        assert (type(getattr(heads, "mask_head", None)).__name__ == "PointRendMaskHead") is (
            family == "point_rend"
        )
    # C3 to C5 under P3 to P7, or C2 to C5 under P2 to P6.
    coarsest, levels = (7, (3, 4, 5)) if heads is None else (6, (2, 3, 4, 5))
    assert model.backbone.bottom_up.out_levels == levels
    assert list(model.backbone.output_shape()) == [f"p{i}" for i in range(levels[0], coarsest + 1)]


HEADS = {
    "semantic_fpn": "SemSegFPNHead",
    "deeplab_v3": "AnySizeDeepLabV3Head",
    "deeplab_v3_plus": "AnySizeDeepLabV3PlusHead",
    "point_rend": "PointRendSemSegHead",
}


@pytest.mark.parametrize("path", SEGMENTERS, ids=lambda p: p.name)
def test_a_recipe_builds_the_segmenter_of_its_file_name(path):
    cfg = load(path)
    head = build(cfg).sem_seg_head
    family = path.name.partition("_regnet")[0]
    assert type(head).__name__ == HEADS[family]
    assert cfg.MODEL.REGNET.OUTPUT_STRIDE == (16 if "deeplab" in family else 32)
    classes = len(MetadataCatalog.get(cfg.DATASETS.TEST[0]).stuff_classes)
    head = head.coarse_sem_seg_head if family == "point_rend" else head
    assert head.predictor.out_channels == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == classes


def test_the_head_that_draws_boundaries_has_the_classes_of_the_other():
    node = load(ROOT / "point_rend_regnety_032_ade20k_160k.yaml").MODEL
    assert node.POINT_HEAD.NUM_CLASSES == node.SEM_SEG_HEAD.NUM_CLASSES


# What detectron2's configs of the same model say, of the keys that training depends on.
STEPS_1X = {"SOLVER.STEPS": (60000, 80000), "SOLVER.MAX_ITER": 90000}
COCO = {
    "DATASETS.TRAIN": ("coco_2017_train",),
    "DATASETS.TEST": ("coco_2017_val",),
    "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
    "INPUT.MIN_SIZE_TRAIN": (640, 672, 704, 736, 768, 800),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.WARMUP_ITERS": 1000,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.MOMENTUM": 0.9,
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "TEST.DETECTIONS_PER_IMAGE": 100,
}
RCNN = {
    **COCO,
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": False,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
}
C4 = {
    **(COCO | STEPS_1X),
    "SOLVER.BASE_LR": 0.02,
    "MODEL.MASK_ON": True,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
}
DETECTRON2S = {
    "faster_rcnn_*_1x": RCNN | STEPS_1X,
    "mask_rcnn_*_fpn_1x": RCNN | STEPS_1X,
    "mask_rcnn_*_fpn_3x": {
        **RCNN,
        "SOLVER.STEPS": (210000, 250000),
        "SOLVER.MAX_ITER": 270000,
    },
    "cascade_mask_rcnn_*_1x": {
        **(RCNN | STEPS_1X),
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    },
    "panoptic_fpn_*_1x": {
        **(RCNN | STEPS_1X),
        "DATASETS.TRAIN": ("coco_2017_train_panoptic_separated",),
        "DATASETS.TEST": ("coco_2017_val_panoptic_separated",),
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 54,
        "MODEL.SEM_SEG_HEAD.NORM": "GN",
        "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": 0.5,
    },
    "retinanet_*_1x": {
        **(COCO | STEPS_1X),
        "SOLVER.BASE_LR": 0.01,
        "MODEL.RETINANET.NUM_CLASSES": 80,
        "MODEL.RETINANET.IOU_THRESHOLDS": [0.4, 0.5],
        "MODEL.RETINANET.IOU_LABELS": [0, -1, 1],
        "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.0,
        "MODEL.RETINANET.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    },
    "fcos_*_1x": {
        **(COCO | STEPS_1X),
        "SOLVER.BASE_LR": 0.01,
        "MODEL.FCOS.NUM_CLASSES": 80,
        "MODEL.FCOS.NUM_CONVS": 4,
        "MODEL.FCOS.NORM": "GN",
        "MODEL.FCOS.INFERENCE_TH_TEST": 0.2,
        "MODEL.FCOS.NMS_TH": 0.6,
        "MODEL.FCOS.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    },
    "keypoint_rcnn_*_1x": {
        **(RCNN | STEPS_1X),
        "DATASETS.TRAIN": ("keypoints_coco_2017_train",),
        "DATASETS.TEST": ("keypoints_coco_2017_val",),
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1500,
        "MODEL.ROI_HEADS.NUM_CLASSES": 1,
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.5,
        "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 17,
    },
    "point_rend_*_1x": {
        **(RCNN | STEPS_1X),
        "INPUT.MASK_FORMAT": "bitmask",
        "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": True,
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "",
        "MODEL.ROI_MASK_HEAD.FC_DIM": 1024,
        "MODEL.ROI_MASK_HEAD.NUM_FC": 2,
        "MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION": 7,
        "MODEL.POINT_HEAD.NUM_CLASSES": 80,
        "MODEL.POINT_HEAD.FC_DIM": 256,
        "MODEL.POINT_HEAD.NUM_FC": 3,
    },
    "mask_rcnn_*_c4_1x": C4 | {"MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14},
    "mask_rcnn_*_dc5_1x": C4
    | {"MODEL.ROI_BOX_HEAD.NUM_FC": 2, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7},
    "mask_rcnn_*_cityscapes": {
        **RCNN,
        "DATASETS.TRAIN": ("cityscapes_fine_instance_seg_train",),
        "DATASETS.TEST": ("cityscapes_fine_instance_seg_val",),
        "INPUT.MIN_SIZE_TRAIN": (800, 832, 864, 896, 928, 960, 992, 1024),
        "INPUT.MAX_SIZE_TRAIN": 2048,
        "INPUT.MIN_SIZE_TEST": 1024,
        "INPUT.MAX_SIZE_TEST": 2048,
        "MODEL.ROI_HEADS.NUM_CLASSES": 8,
        "SOLVER.BASE_LR": 0.01,
        "SOLVER.IMS_PER_BATCH": 8,
        "SOLVER.STEPS": (18000,),
        "SOLVER.MAX_ITER": 24000,
        "TEST.EVAL_PERIOD": 8000,
    },
    "mask_rcnn_*_lvis_v1_1x": {
        **RCNN,
        "DATASETS.TRAIN": ("lvis_v1_train",),
        "DATASETS.TEST": ("lvis_v1_val",),
        "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
        "DATALOADER.REPEAT_THRESHOLD": 0.001,
        "MODEL.ROI_HEADS.NUM_CLASSES": 1203,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0001,
        "SOLVER.STEPS": (120000, 160000),
        "SOLVER.MAX_ITER": 180000,
        "TEST.DETECTIONS_PER_IMAGE": 300,
    },
}


@pytest.mark.parametrize("path", DETECTORS, ids=lambda p: p.stem)
def test_detectors_train_as_detectron2s_do(path):
    """But for weight decay, which is that of the RegNet paper, and the weights to start from."""
    (expected,) = [numbers for name, numbers in DETECTRON2S.items() if path.match(f"{name}.yaml")]
    cfg = load(path)
    given = {key: reduce(getattr, key.split("."), cfg) for key in expected}
    assert given == expected
    assert cfg.SOLVER.WEIGHT_DECAY == 5e-5
    assert cfg.MODEL.REGNET.NORM == "FrozenBN"
    # The weights of the paper, which every network of it has.
    assert cfg.MODEL.WEIGHTS == f"timm://{cfg.MODEL.REGNET.NAME}.pycls_in1k"


def test_panoptic_deeplab_trains_as_detectron2s_does():
    """`Cityscapes-PanopticSegmentation/panoptic_deeplab_R_52_os16_mg124_poly_90k_bs32_...`."""
    (path,) = OTHERS
    cfg = load(path)
    solver, semantic, embedding = cfg.SOLVER, cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.INS_EMBED_HEAD
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.WEIGHT_DECAY) == ("ADAM", 0.001, 0)
    assert (solver.MAX_ITER, solver.IMS_PER_BATCH) == (90000, 32)
    assert (solver.LR_SCHEDULER_NAME, solver.POLY_LR_CONSTANT_ENDING) == ("WarmupPolyLR", 0)
    assert cfg.INPUT.CROP.SIZE == [512, 1024]
    assert (cfg.INPUT.MIN_SIZE_TRAIN[0], cfg.INPUT.MIN_SIZE_TRAIN[-1]) == (512, 2048)
    for head in (semantic, embedding):
        assert head.IN_FEATURES == ["res2", "res3", "res5"]
        assert (head.PROJECT_FEATURES, head.PROJECT_CHANNELS) == (["res2", "res3"], [32, 64])
        assert (head.ASPP_CHANNELS, head.ASPP_DILATIONS) == (256, [6, 12, 18])
        assert (head.COMMON_STRIDE, head.NORM) == (4, "SyncBN")
    assert (semantic.CONVS_DIM, semantic.HEAD_CHANNELS, semantic.LOSS_TOP_K) == (256, 256, 0.2)
    assert (semantic.NUM_CLASSES, semantic.LOSS_TYPE) == (19, "hard_pixel_mining")
    assert (embedding.CONVS_DIM, embedding.HEAD_CHANNELS) == (128, 32)
    assert (embedding.CENTER_LOSS_WEIGHT, embedding.OFFSET_LOSS_WEIGHT) == (200, 0.01)
    post = cfg.MODEL.PANOPTIC_DEEPLAB
    assert (post.STUFF_AREA, post.CENTER_THRESHOLD, post.NMS_KERNEL) == (2048, 0.1, 7)
    assert type(build(cfg)).__name__ == "PanopticDeepLab"


RETINANETS = sorted(ROOT.glob("retinanet_*.yaml"))


def test_retinanets_gradients_are_clipped_as_mmdetection_clips_them():
    """A norm of all above 35 becomes 35: the first step of SGD is as long as lr times that."""
    model = torch.nn.Linear(1, 1)
    for weight, gradient in ((model.weight, 30.0), (model.bias, 40.0)):
        torch.nn.init.zeros_(weight)
        weight.grad = torch.full_like(weight, gradient)
    build_optimizer(load(RETINANETS[0]), model).step()
    for weight, expected in ((model.weight, -0.01 * 21), (model.bias, -0.01 * 28)):
        assert weight.item() == pytest.approx(expected, rel=1e-5)


def test_retinanets_anchors_are_three_in_an_octave():
    sizes = [[s, s * 2 ** (1 / 3), s * 2 ** (2 / 3)] for s in (32, 64, 128, 256, 512)]
    for given, expected in zip(
        load(RETINANETS[0]).MODEL.ANCHOR_GENERATOR.SIZES, sizes, strict=True
    ):
        assert given == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("path", SEGMENTERS, ids=lambda p: p.stem)
def test_the_schedule_of_ade20k_is_mmsegmentations(path):
    """Its `schedule_160k.py` and `ade20k.py`: what its published results were trained with."""
    cfg = load(path)
    solver, images, crop = cfg.SOLVER, cfg.INPUT, cfg.INPUT.CROP
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.MOMENTUM) == ("SGD", 0.01, 0.9)
    assert (solver.WEIGHT_DECAY, solver.IMS_PER_BATCH, solver.MAX_ITER) == (5e-4, 16, 160000)
    assert (solver.LR_SCHEDULER_NAME, solver.POLY_LR_POWER) == ("WarmupPolyLR", 0.9)
    assert solver.BASE_LR * solver.POLY_LR_CONSTANT_ENDING == pytest.approx(1e-4)
    assert (crop.ENABLED, crop.SIZE, crop.SINGLE_CATEGORY_MAX_AREA) == (True, [512, 512], 0.75)
    assert (images.MIN_SIZE_TRAIN_SAMPLING, images.MIN_SIZE_TRAIN) == ("range", (256, 1024))
    assert (images.MIN_SIZE_TEST, images.MAX_SIZE_TEST) == (512, 2048)
    assert cfg.MODEL.REGNET.NORM == cfg.MODEL.SEM_SEG_HEAD.NORM == "SyncBN"


def test_a_dilated_backbone_under_an_fpn_is_refused():
    cfg = load(ROOT / "semantic_fpn_regnety_032_ade20k_160k.yaml")
    cfg.MODEL.REGNET.OUTPUT_STRIDE = 16
    with pytest.raises(ValueError, match="set MODEL.BACKBONE.NAME to 'build_regnet_backbone'"):
        build_model(cfg)


def test_recipes_are_short():
    for path in DETECTORS + SEGMENTERS + OTHERS:
        assert len(path.read_text().splitlines()) <= 8
        assert yaml.safe_load(path.read_text().replace("_BASE_", "BASE"))["BASE"]


def test_an_unknown_config_is_answered_with_those_there_are():
    assert isinstance(config_path("detectron2/Base-RegNet-FPN.yaml"), Path)
    with pytest.raises(FileNotFoundError, match="mask_rcnn_regnety_032_fpn_1x.yaml"):
        config_path("detectron2/mask_rcnn_regnety_32.yaml")
