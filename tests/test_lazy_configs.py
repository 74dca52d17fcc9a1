"""LazyConfigs: what they build, and that they are the YAML recipes of the same name."""

import math

import numpy as np
import pytest
import timm
import torch
from demo_datasets import looked_for_in
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf

from regnet_backbones import config_path, shapes, zoo
from regnet_backbones.detection.config import default_config

ROOT = config_path("detectron2/lazy")
COMMON = ("coco", "mask_rcnn_fpn", "mask_rcnn_fpn_100ep_lsj", "optim", "train")
ONE_X = ROOT / "mask_rcnn_regnety_032_fpn_1x.py"
QUICK = ROOT / "quick" / "mask_rcnn_regnet_small_fpn.py"
LSJ = {
    "regnetx_040": ROOT / "mask_rcnn_regnetx_040_fpn_100ep_lsj.py",
    "regnety_040": ROOT / "mask_rcnn_regnety_040_fpn_100ep_lsj.py",
}
RECIPES = [ONE_X, QUICK, *LSJ.values()]


def load(path, *overrides):
    return LazyConfig.apply_overrides(LazyConfig.load(str(path)), list(overrides))


def yaml_config(name):
    cfg = default_config()
    cfg.merge_from_file(str(config_path(f"detectron2/{name}")))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def on_meta(build, *arguments):
    with torch.device("meta"):
        return build(*arguments)


def shapes_of(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def batch():
    """Return one image with two instances."""
    instances = Instances((96, 96))
    instances.gt_boxes = Boxes(torch.tensor([[10.0, 10, 50, 50], [40, 30, 90, 80]]))
    instances.gt_classes = torch.tensor([1, 4])
    masks = torch.zeros(2, 96, 96, dtype=torch.bool)
    masks[0, 10:50, 10:50] = masks[1, 30:80, 40:90] = True
    instances.gt_masks = BitMasks(masks)
    image = torch.randint(0, 255, (3, 96, 96), generator=torch.Generator().manual_seed(1))
    return [{"image": image, "instances": instances}]


def losses_of(model):
    torch.manual_seed(0)  # the heads sample their training boxes
    with EventStorage():
        return {name: loss.item() for name, loss in model.train()(batch()).items()}


def test_all_lazy_configs_are_seen():
    common = {ROOT / "common" / f"{name}.py" for name in COMMON}
    assert set(ROOT.rglob("*.py")) == common | set(RECIPES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_has_what_the_tool_reads_and_makes_rgb_images(path, tmp_path):
    cfg = load(path)
    assert set(cfg) == {"model", "dataloader", "optimizer", "lr_multiplier", "train"}
    # As the tool writes it beside its checkpoints; what it cannot write it pickles.
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]
    cfg = LazyConfig.load(str(tmp_path / "config.yaml"))
    model = on_meta(instantiate, cfg.model)
    mappers = [instantiate(cfg.dataloader[split].mapper) for split in ("train", "test")]
    assert model.input_format == mappers[0].image_format == mappers[1].image_format == "RGB"
    row = zoo.get(model.backbone.bottom_up.name or "regnetx_002").weights["pycls_in1k"]
    assert list(cfg.model.pixel_mean) == pytest.approx([255 * v for v in row.mean])
    assert list(cfg.model.pixel_std) == pytest.approx([255 * v for v in row.std])
    cfg.optimizer.params.model = model
    assert instantiate(cfg.optimizer).defaults["lr"] == cfg.optimizer.lr


def test_one_x_is_the_yaml_recipe():
    lazy, cfg = load(ONE_X), yaml_config("mask_rcnn_regnety_032_fpn_1x.yaml")
    assert (lazy.train.init_checkpoint, lazy.train.max_iter) == (
        cfg.MODEL.WEIGHTS,
        cfg.SOLVER.MAX_ITER,
    )
    assert lazy.dataloader.train.total_batch_size == cfg.SOLVER.IMS_PER_BATCH
    assert (lazy.optimizer.lr, lazy.optimizer.weight_decay, lazy.optimizer.momentum) == (
        cfg.SOLVER.BASE_LR,
        cfg.SOLVER.WEIGHT_DECAY,
        cfg.SOLVER.MOMENTUM,
    )
    model = on_meta(instantiate, lazy.model)
    cfg.MODEL.DEVICE = "meta"
    other = on_meta(build_model, cfg)
    assert shapes_of(model) == shapes_of(other)
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name, weight in other.named_parameters() if not weight.requires_grad}
    assert any(name.startswith("backbone.bottom_up.s1") for name in frozen)


def test_the_schedule_of_one_x():
    multiplier = instantiate(load(ONE_X).lr_multiplier)
    given = [multiplier(i / 90000) for i in (0, 500, 1000, 59999, 60001, 79999, 80001, 89999)]
    assert given == pytest.approx([0.001, 0.5005, 1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("name", LSJ)
def test_large_scale_jitter_is_detectron2s(name):
    """The numbers of its `new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py`."""
    cfg = load(LSJ[name])
    train, data = cfg.train, cfg.dataloader.train
    assert (train.init_checkpoint, train.max_iter, train.amp.enabled) == ("", 184375, True)
    assert train.ddp.fp16_compression
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.optimizer.momentum) == (
        0.1,
        4e-5,
        0.9,
    )
    assert (data.total_batch_size, data.mapper.recompute_boxes) == (64, True)
    resize, crop, flip = (instantiate(a) for a in data.mapper.augmentations)
    assert (resize.min_scale, resize.max_scale) == (0.1, 2.0)
    assert (resize.target_height, resize.target_width) == (1024, 1024)
    assert tuple(crop.crop_size) == (1024, 1024)
    assert flip.horizontal
    multiplier = instantiate(cfg.lr_multiplier)
    points = (0, 250, 500, 163888, 163890, 177545, 177547)
    assert [multiplier(i / 184375) for i in points] == pytest.approx(
        [0.067, 0.5335, 1, 1, 0.1, 0.1, 0.01]
    )


@pytest.mark.parametrize("name", LSJ)
def test_the_model_of_large_scale_jitter(name):
    model = on_meta(instantiate, load(LSJ[name]).model)
    bottom_up, heads = model.backbone.bottom_up, model.roi_heads
    assert (bottom_up.name, bottom_up.freeze_at) == (name, 0)
    assert all(weight.requires_grad for weight in model.parameters())
    for part in (bottom_up, model.backbone.fpn_output2):
        assert any(isinstance(m, torch.nn.SyncBatchNorm) for m in part.modules())
    # Two convolutions in RPN; four and a linear layer for boxes.
    assert [tuple(c.weight.shape) for c in model.proposal_generator.rpn_head.conv] == [
        (256, 256, 3, 3),
        (256, 256, 3, 3),
    ]
    assert [c.out_channels for c in heads.box_head.conv_norm_relus] == [256] * 4
    assert [fc.out_features for fc in heads.box_head.fcs] == [1024]
    for head in (heads.box_head.conv_norm_relus, heads.mask_head.conv_norm_relus):
        norms = [conv.norm for conv in head]
        assert len(norms) == 4
        assert all(isinstance(n, NaiveSyncBatchNorm) and n._stats_mode == "N" for n in norms)


def test_quick_is_the_yaml_recipe():
    lazy, cfg = load(QUICK), yaml_config("quick/mask_rcnn_regnet_small_fpn.yaml")
    model, other = instantiate(lazy.model), build_model(cfg)
    assert shapes_of(model) == shapes_of(other)
    model.load_state_dict(other.state_dict())
    assert losses_of(model) == losses_of(other)
    with torch.no_grad():
        given, expected = (m.eval()(batch())[0]["instances"] for m in (model, other))
    assert torch.equal(given.scores, expected.scores)
    assert torch.equal(given.pred_boxes.tensor, expected.pred_boxes.tensor)


def test_quick_trains_as_the_yaml_recipe_does():
    lazy, cfg = load(QUICK), yaml_config("quick/mask_rcnn_regnet_small_fpn.yaml")
    solver, train = cfg.SOLVER, lazy.train
    assert (train.max_iter, train.eval_period, train.checkpointer.period, train.seed) == (
        solver.MAX_ITER,
        cfg.TEST.EVAL_PERIOD,
        solver.CHECKPOINT_PERIOD,
        cfg.SEED,
    )
    assert lazy.dataloader.train.total_batch_size == solver.IMS_PER_BATCH
    model = build_model(cfg)
    lazy.optimizer.params.model = model
    ours, theirs = instantiate(lazy.optimizer), build_optimizer(cfg, model)
    assert type(ours) is type(theirs)
    # A group holds each weight's: other groups may hold the same.
    decay = [
        {
            id(p): (g["lr"], g["weight_decay"], g["betas"])
            for g in o.param_groups
            for p in g["params"]
        }
        for o in (ours, theirs)
    ]
    assert decay[0] == decay[1]
    scheduler, multiplier = build_lr_scheduler(cfg, theirs), instantiate(lazy.lr_multiplier)
    for i in range(solver.MAX_ITER):
        assert scheduler.get_last_lr()[0] == pytest.approx(
            solver.BASE_LR * multiplier(i / solver.MAX_ITER), rel=1e-6
        )
        theirs.step()
        scheduler.step()
    assert multiplier(0.5) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)


@pytest.fixture
def drawn(tmp_path):
    """Draw a small demo dataset, and let detectron2 find it."""
    spec = shapes.ShapesSpec(num_train=2, num_val=1, image_size=96)
    shapes.write(tmp_path / "shapes", spec)
    with looked_for_in(tmp_path):
        yield


@pytest.mark.parametrize("split", ["train", "test"])
def test_quick_sees_the_images_of_the_yaml_recipe(drawn, split):
    lazy, cfg = load(QUICK), yaml_config("quick/mask_rcnn_regnet_small_fpn.yaml")
    (name,) = cfg.DATASETS[split.upper()]
    dataset = instantiate(lazy.dataloader[split].dataset)
    assert dataset == DatasetCatalog.get(name)
    mappers = instantiate(lazy.dataloader[split].mapper), DatasetMapper(cfg, split == "train")
    for record in dataset:
        seen = []
        for mapper in mappers:
            np.random.seed(3)
            seen.append(mapper(record))
        given, expected = seen
        assert torch.equal(given["image"], expected["image"])
        if split == "train":
            boxes = [s["instances"].gt_boxes.tensor for s in seen]
            assert torch.equal(*boxes)
            assert type(given["instances"].gt_masks) is type(expected["instances"].gt_masks)


def test_overrides_of_the_command_line():
    model = on_meta(
        instantiate,
        load(ONE_X, "model.backbone.bottom_up.norm=BN", "model.backbone.out_channels=64").model,
    )
    assert isinstance(model.backbone.bottom_up.s2.b1.conv1.bn, torch.nn.BatchNorm2d)
    # The heads take their channels from the backbone.
    assert model.proposal_generator.rpn_head.conv.in_channels == 64
    assert model.roi_heads.box_head.fcs[0].in_features == 64 * 7 * 7


def test_synchronised_norms_run_in_one_process_without_a_gpu():
    parts = ("backbone.bottom_up.norm=SyncBN", "backbone.norm=SyncBN")
    naive = ("roi_heads.box_head.conv_norm", "roi_heads.mask_head.conv_norm")
    names = [*parts, *(f"{part}=naiveSyncBN_N" for part in naive)]
    synchronised = instantiate(load(QUICK, *(f"model.{name}" for name in names)).model)
    plain = instantiate(
        load(QUICK, *(f"model.{name.partition('=')[0]}=BN" for name in names)).model
    )
    plain.load_state_dict(synchronised.state_dict())
    assert losses_of(synchronised) == pytest.approx(losses_of(plain), rel=1e-5)


def test_a_classifier_is_loaded_and_the_images_it_saw_are_checked(tmp_path, randomize):
    classifier = randomize(timm.create_model("regnetx_002"))
    file = str(tmp_path / "classifier.pth")
    torch.save(classifier.state_dict(), file)
    small = "model.backbone.bottom_up.name_or_design=regnetx_002"
    model = instantiate(load(ONE_X, small).model)
    DetectionCheckpointer(model).load(file)
    given = model.backbone.bottom_up.eval().state_dict()
    assert torch.equal(given["s4.b1.conv1.conv.weight"], classifier.s4.b1.conv1.conv.weight)
    bgr = instantiate(load(ONE_X, small, "model.input_format=BGR").model)
    with pytest.raises(ValueError, match="INPUT.FORMAT"):
        DetectionCheckpointer(bgr).load(file)


def test_a_recipe_without_a_network_says_what_is_missing():
    cfg = LazyConfig.load(str(ROOT / "common" / "mask_rcnn_fpn.py"))
    assert OmegaConf.missing_keys(cfg) == {"model.backbone.bottom_up.name_or_design"}
