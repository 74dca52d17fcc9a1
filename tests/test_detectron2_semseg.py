"""Semantic segmentation in detectron2: masks, augmentation, heads, and tools/train_net.py."""

import json
import re

import numpy as np
import pytest
import torch
from demo_datasets import looked_for_in, own_data
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.projects.deeplab import DeepLabV3PlusHead, build_lr_scheduler
from detectron2.structures import Boxes, BoxMode, Instances
from load_tool import load_tool
from matplotlib.colors import rgb_to_hsv
from PIL import Image

from regnet_backbones import config_path, shapes, zoo
from regnet_backbones.adapters.detectron2.deeplab import build_poly_lr
from regnet_backbones.detection.ade20k import convert_masks
from regnet_backbones.detection.config import default_config, read_config
from regnet_backbones.detection.config_checks import check_semantic_datasets
from regnet_backbones.detection.pictures import Canvas, PredictionPictures
from regnet_backbones.detection.training.loader import segmenter_train_mapper
from regnet_backbones.detection.training.trainer import Trainer

QUICK = {
    name: config_path(f"detectron2/quick/{name}_regnet_small_shapes.yaml")
    for name in ("semantic_fpn", "deeplab_v3_plus")
}
TINY = [
    *("SOLVER.IMS_PER_BATCH", "2", "INPUT.CROP.SIZE", "[64, 64]", "INPUT.MIN_SIZE_TRAIN", "(64,)"),
    *("INPUT.MIN_SIZE_TEST", "64"),
    *("TEST.PICTURES", "2", "SOLVER.WARMUP_ITERS", "0", "SOLVER.CHECKPOINT_PERIOD", "1000"),
]


def tool(name):
    return load_tool(name).main


@pytest.fixture
def datasets(tmp_path):
    """Let detectron2 look for its datasets in an empty folder."""
    with looked_for_in(tmp_path) as folder:
        yield folder


@pytest.fixture
def dataset(datasets):
    spec = shapes.ShapesSpec(num_train=4, num_val=3, image_size=64)
    return shapes.write(datasets / "shapes", spec)


def tiny_config(head="semantic_fpn", *overrides):
    cfg = read_config(QUICK[head], [*TINY, *overrides])
    cfg.MODEL.DEVICE = "cpu"
    return cfg


# Masks for detectron2


def ade20k(root, mask):
    """Write a dataset of two masks in ADE20K's layout."""
    for split in ("training", "validation"):
        folder = root / "annotations" / split
        folder.mkdir(parents=True)
        Image.fromarray(np.array(mask, np.uint8)).save(folder / "a.png")
    return root


def test_masks_are_converted_once(tmp_path, capsys):
    root = ade20k(tmp_path, [[0, 1, 2], [6, 149, 150]])
    assert tool("prepare_ade20k")([str(root)]) == 0
    written = root / "annotations_detectron2" / "training" / "a.png"
    assert np.asarray(Image.open(written)).tolist() == [[255, 0, 1], [5, 148, 149]]
    assert (root / "annotations_detectron2" / "validation" / "a.png").is_file()
    assert "training: 1 masks, written" in capsys.readouterr().out

    before = written.stat().st_mtime_ns
    tool("prepare_ade20k")([str(root)])
    assert "training: 1 masks, already there, left as they are" in capsys.readouterr().out
    assert written.stat().st_mtime_ns == before
    tool("prepare_ade20k")([str(root), "--overwrite"])
    assert written.stat().st_mtime_ns > before
    assert sorted(p.name for p in written.parent.parent.iterdir()) == ["training", "validation"]


def test_the_masks_of_the_demo_are_those_that_it_is_drawn_with(dataset, capsys):
    drawn = dataset.semantic_masks_from_zero("val")
    before = {path.name: np.asarray(Image.open(path)) for path in drawn.iterdir()}
    assert tool("prepare_ade20k")([str(dataset.root / "semantic")]) == 0
    assert "validation: 3 masks, already there" in capsys.readouterr().out
    assert tool("prepare_ade20k")([str(dataset.root / "semantic"), "--overwrite"]) == 0
    for path in drawn.iterdir():
        np.testing.assert_array_equal(Image.open(path), before[path.name])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:50]), "cannot be read"),
        (lambda file: Image.new("L", (2, 2), 151).save(file), "labels 0 to 150"),
        (lambda file: Image.new("RGB", (2, 2)).save(file), "one 8-bit channel"),
        (lambda file: Image.new("I;16", (2, 2)).save(file), "one 8-bit channel"),
    ],
)
def test_a_mask_that_cannot_be_used_leaves_nothing_half_done(tmp_path, spoil, message):
    root = ade20k(tmp_path, np.arange(144).reshape(12, 12))
    spoiled = root / "annotations" / "training" / "b.png"
    spoiled.write_bytes((spoiled.parent / "a.png").read_bytes())
    spoil(spoiled)
    with pytest.raises(ValueError, match=f"b.png' .*{message}"):
        convert_masks(root)
    assert not (root / "annotations_detectron2" / "training").exists()


def test_a_folder_without_masks_is_refused(tmp_path, capsys):
    assert tool("prepare_ade20k")([str(tmp_path)]) == 2
    assert f"(*.png) in '{tmp_path}/annotations" in capsys.readouterr().err


def test_ade20k_without_masks_for_detectron2_says_how_to_make_them(tmp_path, capsys):
    root = tmp_path / "ADEChallengeData2016"
    name = f"ade20k_sem_seg_probe_{tmp_path.name}"  # metadata cannot be changed once it is set
    MetadataCatalog.get(name).sem_seg_root = str(root / "annotations_detectron2" / "training")
    config = config_path("detectron2/semantic_fpn_regnety_032_ade20k_160k.yaml")
    command = ["--config-file", str(config), "DATASETS.TRAIN", f"('{name}',)"]

    assert tool("train_net")(command) == 2
    assert f"unpack ADEChallengeData2016.zip to '{root}'" in capsys.readouterr().err
    ade20k(root, [[1]])
    assert tool("train_net")(command) == 2
    assert f"regnet-backbones prepare-ade20k {root}`" in capsys.readouterr().err
    convert_masks(root)
    check_semantic_datasets([name])


def test_the_demo_says_how_to_draw_it(datasets, capsys):
    command = ["--config-file", str(QUICK["semantic_fpn"])]
    assert tool("train_net")(command) == 2
    assert f"shapes --output {datasets}/shapes (" in capsys.readouterr().err


def test_json_files_are_refused_for_a_segmenter(dataset, capsys):
    assert tool("train_net")(["--config-file", str(QUICK["semantic_fpn"]), *own_data(dataset)]) == 2
    assert "the SemanticSegmentor of the config needs more" in capsys.readouterr().err


# Augmentation and schedule


def test_images_and_their_masks_are_cropped_alike(dataset):
    cfg = tiny_config("semantic_fpn", "INPUT.RANDOM_FLIP", "none", "INPUT.CROP.SIZE", "[80, 48]")
    record = DatasetCatalog.get("shapes_sem_seg_train")[0]
    sample = segmenter_train_mapper(cfg)(record)
    image = np.asarray(Image.open(record["file_name"])).transpose(2, 0, 1)
    mask = np.asarray(Image.open(record["sem_seg_file_name"]))
    assert sample["image"].shape == (3, 64, 48)  # no higher than the image
    pixels, labels = sample["image"].numpy(), sample["sem_seg"].numpy()
    lefts = [x for x in range(17) if (pixels == image[..., x : x + 48]).all()]
    assert len(lefts) == 1
    assert (labels == mask[:, lefts[0] : lefts[0] + 48]).all()


def test_colours_are_changed_and_labels_are_not(dataset):
    record = DatasetCatalog.get("shapes_sem_seg_train")[0]
    options = ["INPUT.RANDOM_FLIP", "none", "INPUT.COLOR_AUG_SSD", "True"]
    mapper = segmenter_train_mapper(tiny_config("semantic_fpn", *options))
    samples = [mapper(record) for _ in range(12)]
    assert all(torch.equal(s["sem_seg"], samples[0]["sem_seg"]) for s in samples)
    assert len({s["image"].numpy().tobytes() for s in samples}) > 3


def schedule(max_iter, build):
    """Return a schedule of a base rate of 1, and its optimizer."""
    cfg = default_config()
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = max_iter, 3
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.25
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return build(cfg, optimizer), optimizer


def rates(scheduler, optimizer, steps):
    for _ in range(steps):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()


def test_the_schedule_is_deeplabs_and_can_be_extended():
    ours, theirs = (list(rates(*schedule(10, b), 10)) for b in (build_poly_lr, build_lr_scheduler))
    assert ours == theirs
    assert ours[5] == pytest.approx(0.5**0.9)
    assert ours[9] == 0.25

    begun, optimizer = schedule(10, build_poly_lr)
    list(rates(begun, optimizer, 10))
    extended, optimizer = schedule(40, build_poly_lr)
    extended.load_state_dict(begun.state_dict())
    assert list(rates(extended, optimizer, 11))[-1] == pytest.approx(0.5**0.9)


# Heads and models


def random_batch(sizes, classes=6):
    for height, width in sizes:
        yield {
            "image": torch.randint(256, (3, height, width)).float(),
            "sem_seg": torch.randint(classes, (height, width)),
        }


def test_the_head_is_deeplabs_where_that_works(randomize):
    cfg = tiny_config("deeplab_v3_plus", "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT", "0.0")
    ours = randomize(build_model(cfg))
    cfg.MODEL.SEM_SEG_HEAD.NAME = "DeepLabV3PlusHead"
    theirs = build_model(cfg)
    assert type(theirs.sem_seg_head) is DeepLabV3PlusHead
    theirs.load_state_dict(ours.state_dict())

    batch = list(random_batch([(64, 64)] * 2))  # of the size of a crop
    torch.testing.assert_close(ours(batch), theirs(batch))
    theirs.load_state_dict(ours.state_dict())
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(batch)[1]["sem_seg"], theirs(batch)[1]["sem_seg"])

    odd = list(random_batch([(50, 75)]))
    with pytest.raises(ValueError, match="pool_kernel_size"):
        theirs(odd)
    assert ours(odd)[0]["sem_seg"].shape == (6, 50, 75)
    ours.train()
    assert ours([*odd, *odd])["loss_sem_seg"].isfinite()


@pytest.mark.parametrize("head", list(QUICK))
def test_synchronised_norms_are_plain_ones_in_one_process(head, randomize):
    cfg = tiny_config(head, "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT", "0.0")
    plain = randomize(build_model(cfg))
    cfg.MODEL.REGNET.NORM = cfg.MODEL.SEM_SEG_HEAD.NORM = cfg.MODEL.FPN.NORM = "SyncBN"
    synchronised = build_model(cfg)
    assert any(isinstance(m, torch.nn.SyncBatchNorm) for m in synchronised.modules())
    synchronised.load_state_dict(plain.state_dict())
    batch = list(random_batch([(64, 64)] * 2))
    torch.testing.assert_close(synchronised(batch), plain(batch))


def test_the_loss_counts_the_pixels_of_the_image_and_no_others():
    head = build_model(tiny_config("deeplab_v3_plus")).sem_seg_head
    logits = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]).view(1, 6, 1, 1).expand(1, 6, 4, 4)
    targets = torch.zeros(1, 15, 14, dtype=torch.long)
    targets[:, 0] = 255
    # Minus the logarithm of e / (e + 5).
    assert head.losses(logits, targets)["loss_sem_seg"].item() == pytest.approx(1.0436, abs=1e-4)


def test_a_segmenter_on_detectron2s_own_regnet_predicts_the_same(
    randomize, detectron2s_own_regnet, tmp_path
):
    """Its checkpoint is loaded into ours; its images were BGR."""
    cfg = tiny_config("semantic_fpn", "MODEL.REGNET.NAME", "regnetx_002", "INPUT.FORMAT", "BGR")
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = (
        values[::-1] for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    )
    ours, theirs = build_model(cfg), build_model(cfg)
    bottom_up = detectron2s_own_regnet(zoo.get("regnetx_002").design)
    stages = ["s1", "s2", "s3", "s4"]
    theirs.backbone = FPN(bottom_up, stages, 64, norm="BN", top_block=LastLevelMaxPool())
    randomize(theirs)
    torch.save({"model": theirs.state_dict()}, tmp_path / "model_final.pth")
    DetectionCheckpointer(ours).load(str(tmp_path / "model_final.pth"))
    batch = list(random_batch([(64, 80), (50, 70)]))
    for mine, other in zip(ours.eval()(batch), theirs.eval()(batch), strict=True):
        torch.testing.assert_close(mine["sem_seg"], other["sem_seg"], rtol=1e-4, atol=1e-4)


# tools/train_net.py


def metrics(output):
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def mean_iou(pairs, classes):
    """Return the mean IoU of (prediction, truth) pairs, where 255 is not counted."""
    predicted, true = (np.concatenate([p[i].ravel() for p in pairs]) for i in (0, 1))
    predicted, true = predicted[true != 255], true[true != 255]
    found = [
        ((predicted == k) & (true == k)).sum() / ((predicted == k) | (true == k)).sum()
        for k in range(classes)
        if k in predicted or k in true
    ]
    return 100 * np.mean(found)


def test_a_segmenter_is_trained_resumed_evaluated_and_predicts(dataset, tmp_path, capsys):
    output = tmp_path / "out"
    common = ["--config-file", str(QUICK["deeplab_v3_plus"])]
    options = [*TINY, "OUTPUT_DIR", str(output), "SOLVER.MAX_ITER"]
    assert tool("train_net")([*common, *options, "10"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^sem_seg +\d+\.\d ", printed, re.MULTILINE)
    sheet = output / "pictures" / "shapes_sem_seg_val.png"
    assert str(sheet) in printed
    assert Image.open(sheet).width == 2 * 644 + 4

    assert tool("train_net")([*common, "--resume", *options, "20"]) == 0
    assert "Starting training from iteration 10" in (output / "log.txt").read_text()
    last = metrics(output)[-1]
    # Iteration 19 of 20, at the base rate of the config.
    assert next(m["lr"] for m in metrics(output) if m["iteration"] == 19) == pytest.approx(
        0.004 * 0.05**0.9
    )
    printed = capsys.readouterr().out
    assert re.search(rf"^sem_seg +{last['sem_seg/mIoU']:.1f} ", printed, re.MULTILINE)

    cfg = default_config()
    cfg.merge_from_file(str(output / "config.yaml"))
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = str(output / "model_final.pth"), "cpu"
    predictor = DefaultPredictor(cfg)
    pairs = []
    for image in sorted(dataset.semantic_images("val").iterdir()):
        prediction = predictor(read_image(str(image), "BGR"))["sem_seg"].argmax(0).numpy()
        truth = np.asarray(Image.open(dataset.semantic_masks("val") / image.name)).astype(int)
        pairs.append((prediction, np.where(truth == 0, 255, truth - 1)))
    assert last["sem_seg/mIoU"] == pytest.approx(mean_iou(pairs, 6))


def test_a_detectors_training_keeps_detectron2s_augmentation_and_schedule(dataset):
    cfg = read_config(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml"))
    sample = next(iter(Trainer.build_train_loader(cfg)))[0]
    assert "instances" in sample
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    assert type(Trainer.build_lr_scheduler(cfg, optimizer)).__name__ == "LRMultiplier"


# Pictures


def test_classes_without_colours_get_the_same_in_truth_and_prediction(dataset, tmp_path):
    name = f"colourless_{tmp_path.name}"
    records = DatasetCatalog.get("shapes_sem_seg_val")
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).stuff_classes = [f"class {k}" for k in range(150)]
    pictures = PredictionPictures(name, "sem_seg", tmp_path / "sheet.png", count=2)
    pictures.reset()
    for record in records:
        truth = torch.as_tensor(np.asarray(Image.open(record["sem_seg_file_name"])).astype(int))
        scores = torch.nn.functional.one_hot(truth, 150).permute(2, 0, 1)
        pictures.process([record], [{"sem_seg": scores}])
    middle = records[len(records) // 2]
    assert list(pictures._seen) == [records[0]["file_name"], middle["file_name"]]
    pictures.evaluate()
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    left, right = sheet[4:322, 4:322], sheet[4:322, 326:644]
    plain = np.asarray(Image.open(records[0]["file_name"]).resize((318, 318), Image.BILINEAR))
    # A perfect prediction is drawn as the truth is, and both are painted over.
    assert np.abs(left - right).mean() < 1
    assert np.abs(left - plain).mean() > 5
    DatasetCatalog.remove(name)


def test_objects_have_shades_of_the_colour_of_their_class():
    names = {"thing_classes": ["a", "b"], "stuff_classes": ["sky", "ground", "background"]}
    canvas = Canvas(np.zeros((60, 80, 3), np.uint8), Metadata(**names), 1.0)
    of_a, again, of_b = (rgb_to_hsv(color) for color in canvas.instance_colors([0, 0, 1]))
    assert of_a[0] == pytest.approx(again[0])
    assert abs(of_a[0] - of_b[0]) > 0.1
    assert len(set(canvas.metadata.thing_colors + canvas.metadata.stuff_colors[:2])) == 4
    labels = np.full((60, 80), 2)
    assert canvas.draw_sem_seg(labels).get_image().max() == 0  # the background is not painted
    assert canvas.draw_sem_seg(labels - 1).get_image().max() > 0


def test_annotated_and_predicted_objects_are_equally_opaque():
    corners = [[10, 10, 70, 50]]
    annotation = {"bbox": corners[0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    annotation["segmentation"] = [[10, 10, 70, 10, 70, 50, 10, 50]]
    found = Instances((60, 80), pred_boxes=Boxes(corners), pred_classes=torch.tensor([0]))
    found.pred_masks = torch.zeros(1, 60, 80, dtype=torch.bool)
    found.pred_masks[:, 10:50, 10:70] = True
    gray = np.full((60, 80, 3), 128, np.uint8)
    ours, theirs = (Canvas(gray, Metadata(thing_classes=["a"]), 1.0) for _ in range(2))
    truth = ours.draw_dataset_dict({"annotations": [annotation]}).get_image()[45, 60]
    np.testing.assert_allclose(truth, theirs.draw_instance_predictions(found).get_image()[45, 60])
    assert np.abs(truth.astype(int) - 128).max() > 30


@pytest.mark.parametrize("corner", [(0, 0), (0, 59), (79, 0), (79, 59)])
def test_texts_are_not_cut_off(corner):
    def white(position):
        canvas = Canvas(np.zeros((60, 80, 3), np.uint8), Metadata(), 4.0)
        return int((canvas.draw_text("label", position).get_image() > 128).sum())

    assert white(corner) == pytest.approx(white((40, 20)), rel=0.15)
