"""Checkpoints of segmenters: loaded, evaluated and used for predictions."""

import json
import logging
import math
import shutil
from dataclasses import asdict
from pathlib import Path

import cv2
import lightning
import numpy as np
import pytest
import torch
from PIL import Image

from regnet_backbones import config_path, shapes
from regnet_backbones.errors import UserError
from regnet_backbones.runs.colors import palette
from regnet_backbones.runs.results import read_evaluation
from regnet_backbones.runs.videos import ImageReader
from regnet_backbones.semseg import overlays
from regnet_backbones.semseg.checkpoints import load_data, load_segmenter
from regnet_backbones.semseg.datamodule import SegmentationData
from regnet_backbones.semseg.dataset import read_image
from regnet_backbones.semseg.evaluation import evaluate
from regnet_backbones.semseg.inference import Inference
from regnet_backbones.semseg.metrics import boundary_counts, boundary_results, results_table
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.semseg.prediction import SegmenterPredictor, predict
from regnet_backbones.semseg.run import launch_run

NAMES = ("circle", "square", "triangle", "star", "cross", "background")
SMALL = {"decoder_channels": [32, 16, 8, 8, 8]}
ROBUST = Inference(window=48, window_stride=32, flip=True, scales=(0.75, 1.5))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=8, num_val=3, image_size=64, seed=0)
    return shapes.write(tmp_path_factory.mktemp("data") / "shapes", spec)


def fit(model, folder, steps=1, **options):
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        limit_val_batches=0,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, **options)
    trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


def segmenter(**options):
    options = {"encoder": "regnetx_002", "decoder_options": SMALL, "lr": 3e-3, **options}
    return Segmenter(6, **{"class_names": NAMES, "encoder_weights": None, **options})


@pytest.fixture(scope="module")
def checkpoint(dataset, tmp_path_factory):
    """Return a checkpoint whose predictions have several classes, right and wrong."""
    torch.manual_seed(0)
    data = SegmentationData(
        *("ade20k", str(dataset.root / "semantic")),
        **{"crop_size": 64, "batch_size": 4, "num_workers": 0, "scale_range": (0.75, 1.5)},
    )
    return fit(segmenter(), tmp_path_factory.mktemp("run"), 30, datamodule=data)


def images_of(dataset):
    return sorted((dataset.root / "semantic" / "images" / "validation").iterdir())


def masks_of(dataset):
    return sorted((dataset.root / "semantic" / "annotations" / "validation").iterdir())


# Checkpoints


def test_a_checkpoint_holds_what_its_data_were(dataset, checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    assert content["datamodule_hyper_parameters"]["root"] == str(dataset.root / "semantic")
    data = load_data(checkpoint)
    assert data.class_names == NAMES
    assert dict(data.hparams) == content["datamodule_hyper_parameters"]


def test_a_segmenter_is_loaded_with_its_weights_and_none_are_fetched(checkpoint, monkeypatch):
    def fetch(*arguments, **options):
        raise AssertionError("weights are fetched")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    monkeypatch.setattr("timm.models._hub.load_state_dict_from_hf", fetch)
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["encoder_weights"] = "imagenet"
    other = checkpoint.with_name("imagenet.ckpt")
    torch.save(content, other)
    model = load_segmenter(other)
    assert model.hparams["encoder_weights"] == "imagenet"
    assert model.class_names == NAMES
    for name, value in model.state_dict().items():
        assert torch.equal(value, content["state_dict"][name])
        assert value.device.type == "cpu"


def test_an_inference_without_a_short_side_takes_the_segmenters(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["short_side"] = 40
    other = checkpoint.with_name("short.ckpt")
    torch.save(content, other)
    assert load_segmenter(other).inference == Inference(short_side=40)
    found = load_segmenter(other, inference=Inference(flip=True)).inference
    assert found == Inference(short_side=40, flip=True)
    assert load_segmenter(other, inference=Inference(short_side=50)).inference.short_side == 50


def test_checkpoints_of_the_command_line_are_loaded(dataset, tmp_path):
    arguments = [
        *("--config", config_path("semseg") / "quick" / "unet_regnet_small_shapes.yaml"),
        *("--output", tmp_path),
        *("--data.root", dataset.root / "semantic"),
        *("--data.crop_size", 32),
        *("--data.batch_size", 2),
        *("--data.num_workers", 0),
        *("--trainer.max_steps", 1),
        *("--trainer.val_check_interval", 1),
        *("--trainer.enable_progress_bar", "false"),
    ]
    assert launch_run([str(argument) for argument in arguments]) == 0
    file = tmp_path / "checkpoints" / "best.ckpt"
    torch.load(file, weights_only=True)
    data = load_data(file, {"batch_size": "3"})
    assert data.hparams["root"] == str(dataset.root / "semantic")
    assert data.hparams["batch_size"] == 3
    assert data.hparams["scale_range"] == (0.9, 1.1)
    assert load_segmenter(file).class_names == NAMES


def test_overrides_are_those_of_a_command_line(dataset, checkpoint, tmp_path):
    root = tmp_path / "2024"
    shutil.copytree(dataset.root / "semantic", root)
    overrides = {"short_side": "20", "scale_range": "[0.5, 1]", "skip_bad": "true"}
    data = load_data(checkpoint, {"root": str(root), **overrides})
    found = [data.hparams[name] for name in ("root", "short_side", "skip_bad")]
    assert found == [str(root), 20, True]
    assert data.hparams["scale_range"] == (0.5, 1.0)
    assert load_data(checkpoint, {"num_classes": "null"}).num_classes == 6
    assert load_data(checkpoint, {"num_workers": 3}).hparams["num_workers"] == 3


def test_overrides_that_are_wrong_are_named(checkpoint):
    for overrides, message in (
        ({"rot": "x"}, "rot"),
        ({"batch_size": "four"}, "batch_size"),
        ({"layout": "folder"}, "train_images"),
    ):
        with pytest.raises(UserError, match=message):
            load_data(checkpoint, overrides)


def without_state(content):
    return {"model": content["state_dict"]}


def of_another_size(content):
    return content | {"hyper_parameters": content["hyper_parameters"] | {"num_classes": 7}}


def of_another_version(content):
    return content | {"hyper_parameters": content["hyper_parameters"] | {"encoder": "regnet"}}


def test_other_files_are_refused(checkpoint, tmp_path):
    file = tmp_path / "other.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    for change in (without_state, lambda content: [1], of_another_size, of_another_version):
        torch.save(change(content), file)
        with pytest.raises(UserError, match="other.ckpt"):
            load_segmenter(file)


def test_files_that_are_damaged_or_not_there_are_named(checkpoint, tmp_path):
    file = tmp_path / "model.ckpt"
    for load in (load_segmenter, load_data):
        with pytest.raises(FileNotFoundError, match="model.ckpt does not exist"):
            load(file)
    data = checkpoint.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="model.ckpt.* damaged"):
        load_segmenter(file)
    file.write_text("no checkpoint")
    with pytest.raises(ValueError, match="model.ckpt"):
        load_segmenter(file)
    with pytest.raises(ValueError, match="is a folder"):
        load_segmenter(tmp_path)


def test_a_checkpoint_without_data_says_so(tmp_path):
    batch = {"image": torch.randn(3, 32, 32), "mask": torch.zeros(32, 32).long(), "name": "a"}
    loader = torch.utils.data.DataLoader([batch, batch], batch_size=2)
    file = fit(segmenter(), tmp_path, train_dataloaders=loader)
    with pytest.raises(ValueError, match="has no data settings"):
        load_data(file)


# Evaluation and prediction


def by_hand(masks, labels):
    """Return IoU of each class, their mean and the pixel accuracy, from files of labels."""
    truth = np.stack([np.asarray(Image.open(mask)).astype(int) - 1 for mask in masks])
    found = np.stack([np.asarray(Image.open(label)).astype(int) for label in labels])
    counts = truth >= 0  # label 0 is no class
    iou = []
    for index in range(len(NAMES)):
        there, predicted = counts & (truth == index), counts & (found == index)
        union = (there | predicted).sum()
        iou.append((there & predicted).sum() / union if union else math.nan)
    return iou, np.nanmean(iou), (truth == found)[counts].mean()


def eroded(mask, reach):
    """Return a mask without the pixels that are near to its borders or those of the image."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=reach)[1:-1, 1:-1].astype(bool)


@pytest.mark.parametrize(("size", "reach"), [((40, 60), 1), ((130, 201), 5)])
def test_boundary_iou_is_that_of_eroded_masks(size, reach):
    draws = np.random.default_rng(0)
    counts, both, either = 0, np.zeros(4), np.zeros(4)
    for _ in range(3):
        blocks = draws.choice([0, 1, 2, 255], (5, 6)).astype(np.uint8)
        truth = cv2.resize(blocks, size[::-1], interpolation=cv2.INTER_NEAREST)
        found = np.where(truth == 255, 1, np.roll(truth, 2, axis=1)).clip(0, 2)
        pair = (torch.from_numpy(each.astype(np.int64))[None] for each in (found, truth))
        counts += boundary_counts(*pair, 4)
        void = truth == 255
        for label in range(3):
            one, other = (
                (each == label) & ~void & ~eroded((each == label) | void, reach)
                for each in (truth, found)
            )
            both[label] += (one & other).sum()
            either[label] += (one | other).sum()
    assert counts.tolist() == [both.tolist(), either.tolist()]
    found = boundary_results(counts, "abcd")
    expected = both[:3] / either[:3]
    assert 0 < expected.min() < expected.max() < 1
    assert list(found["boundary_iou"].values()) == [*expected, None]  # the last is nowhere
    assert found["boundary_miou"] == pytest.approx(expected.mean())


@pytest.mark.parametrize("inference", [None, ROBUST])
def test_an_evaluation_is_what_the_predicted_labels_say(dataset, checkpoint, inference, tmp_path):
    found = evaluate(checkpoint, inference=inference, accelerator="cpu")
    labels = predicted(checkpoint, images_of(dataset), tmp_path, inference=inference)
    iou, miou, accuracy = by_hand(masks_of(dataset), labels)
    assert found["miou"] == pytest.approx(miou, abs=1e-6)
    assert found["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert 0.1 < found["accuracy"] < 1
    assert tuple(found["iou"]) == NAMES
    values = [math.nan if value is None else value for value in found["iou"].values()]
    assert values == pytest.approx(iou, abs=1e-6, nan_ok=True)
    dice = [2 * value / (1 + value) for value in values]
    scores = [math.nan if value is None else value for value in found["dice"].values()]
    assert scores == pytest.approx(dice, nan_ok=True)
    assert found["mdice"] == pytest.approx(np.nanmean(dice))
    boundary = [v for v in found["boundary_iou"].values() if v is not None]
    assert found["boundary_miou"] == pytest.approx(np.mean(boundary))
    assert 0 < found["boundary_miou"] < 1
    assert found["images"] == 3
    settings = asdict(inference or Inference())
    settings["scales"] = list(settings["scales"])
    settings |= {"precision": "32-true", "optimization": None, "engine": "torch", "exported": None}
    assert found["settings"] == settings
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_predicted_labels_are_masks_of_a_dataset(dataset, checkpoint, tmp_path):
    images = sorted((dataset.root / "semantic" / "images" / "training").iterdir())
    labels = predicted(checkpoint, images, tmp_path)
    folder = str(images[0].parent)
    overrides = {
        **{"layout": "folder", "root": str(tmp_path), "class_names_file": "classes.txt"},
        **dict.fromkeys(("train_images", "val_images"), folder),
        **dict.fromkeys(("train_masks", "val_masks"), "labels"),
    }
    found = evaluate(checkpoint, overrides=overrides, accelerator="cpu")
    assert (found["miou"], found["accuracy"], found["images"]) == (1, 1, 8)
    assert (found["mdice"], found["boundary_miou"]) == (1, 1)
    assert len(labels) == 8

    options = {"images": 2, "output": tmp_path / "some", "accelerator": "cpu"}
    assert evaluate(checkpoint, overrides=overrides, **options)["images"] == 2
    some = read_evaluation(tmp_path / "some").images
    assert [Path(image.file).stem for image in some.images] == [images[k].stem for k in (0, 4)]
    assert some.available == 8


def test_other_classes_are_refused_or_warned_of(dataset, checkpoint, tmp_path, caplog):
    root = tmp_path / "data"
    shutil.copytree(dataset.root / "semantic", root)
    names = root / "objectInfo.txt"
    lines = names.read_text().splitlines()
    names.write_text("\n".join([*lines, "7\tmoon"]))
    with pytest.raises(ValueError, match="6 classes as the model, got 7"):
        evaluate(checkpoint, overrides={"root": str(root)}, accelerator="cpu")
    names.write_text("\n".join(lines).replace("square", "box"))
    found = evaluate(checkpoint, overrides={"root": str(root)}, accelerator="cpu")
    assert "'box'" in caplog.text
    assert tuple(found["iou"]) == NAMES


def test_data_that_moved_are_named(checkpoint):
    with pytest.raises(FileNotFoundError, match="'elsewhere"):
        evaluate(checkpoint, overrides={"root": "elsewhere"}, accelerator="cpu")


def test_devices_that_are_not_there_are_named(dataset, checkpoint, tmp_path):
    with pytest.raises(UserError, match="gpu0"):
        evaluate(checkpoint, accelerator="gpu0")
    with pytest.raises(UserError, match="machine only has|not available|not currently|cuda"):
        evaluate(checkpoint, accelerator="cuda", devices=99)
    for device in ("gpu0", "cuda:99"):
        with pytest.raises(UserError, match=device):
            SegmenterPredictor(checkpoint, device=device)


def test_the_table_has_percent():
    evaluation = {
        "miou": 0.5,
        "accuracy": 0.98765,
        "iou": {"sky": 1.0, "sea": 0.0, "land": None},
        "images": 7,
        "settings": {},
    }
    lines = [line.split() for line in results_table(evaluation, "7 images").splitlines()]
    assert lines[0] == ["7", "images", "%"]
    assert lines[2:] == [
        ["mIoU", "50.00"],
        ["pixel", "accuracy", "98.77"],
        ["IoU", "sky", "100.00"],
        ["IoU", "sea", "0.00"],
        ["IoU", "land", "-"],
    ]


# Prediction


def predicted(checkpoint, images, output, *, failed=(), **options):
    """Predict images on the CPU, and return the files of the labels."""
    read = ImageReader(images)
    predict(SegmenterPredictor(checkpoint, device="cpu", **options), read, output)
    assert read.failed == list(failed)
    return sorted((output / "labels").rglob("*.png"))


def test_images_of_every_kind_are_predicted(dataset, checkpoint, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    image = Image.open(images_of(dataset)[0]).convert("RGB").resize((80, 50))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(folder / "turned.jpg", exif=exif, quality=100)
    for mode, name in (("RGB", "a.png"), ("RGBA", "b.png"), ("L", "c.png"), ("CMYK", "d.jpg")):
        image.convert(mode).save(folder / name)
    files = sorted(folder.iterdir())
    labels = predicted(checkpoint, files, tmp_path / "out")
    assert [path.name for path in labels] == [*("a.png", "b.png", "c.png", "d.png", "turned.png")]
    assert [Image.open(path).size for path in labels] == [(80, 50)] * 4 + [(50, 80)]
    assert (tmp_path / "out" / "classes.txt").read_text().splitlines() == list(NAMES)
    same = [np.asarray(Image.open(path)) for path in labels]
    assert (same[0] == same[1]).all()


def test_labels_and_overlays_have_the_colors_of_the_classes(dataset, checkpoint, tmp_path):
    source = images_of(dataset)[1]
    (file,) = predicted(checkpoint, [source], tmp_path)
    labels = Image.open(file)
    assert labels.mode == "P"
    assert file.read_bytes()[24] == 8  # bits of a pixel
    values = np.asarray(labels)
    colors = np.array([*palette(5), (0, 0, 0)])  # the last class is the background
    assert (np.asarray(labels.convert("RGB")) == colors[values]).all()
    overlay = Image.open(tmp_path / "overlays" / f"{file.stem}.jpg")
    image = read_image(source)
    height, width = image.shape[:2]
    factor = -(-overlays.MIN_WIDTH // width)  # a small image is enlarged
    assert overlay.width > factor * width  # there is a legend
    painted = np.asarray(overlay)[: factor * height : factor, : factor * width : factor].astype(int)
    expected = overlays.OPACITY * colors[values] + (1 - overlays.OPACITY) * image
    expected = np.where((values == 5)[..., None], image, expected)
    assert np.abs(painted - expected).mean() < 6  # JPEG


def test_images_of_one_name_do_not_overwrite_each_other(dataset, checkpoint, tmp_path):
    first, second, _ = images_of(dataset)
    files = [tmp_path / "in" / "a" / "x.png", tmp_path / "in" / "b" / "c" / "x.png"]
    for source, file in zip((first, second), files, strict=True):
        file.parent.mkdir(parents=True)
        Image.open(source).save(file)
    labels = predicted(checkpoint, files, tmp_path / "out")
    assert [path.relative_to(tmp_path / "out") for path in labels] == [
        Path("labels/a/x.png"),
        Path("labels/b/c/x.png"),
    ]
    for name in ("a/x.jpg", "b/c/x.jpg"):
        assert (tmp_path / "out" / "overlays" / name).is_file()
    (alone,) = predicted(checkpoint, files[1:], tmp_path / "alone")
    assert alone == tmp_path / "alone" / "labels" / "x.png"
    assert alone.read_bytes() == labels[1].read_bytes()


def test_files_that_cannot_be_read_are_named_and_the_others_go_on(
    dataset, checkpoint, tmp_path, caplog
):
    caplog.set_level(logging.WARNING)
    good = tmp_path / "good.png"
    shutil.copy(images_of(dataset)[0], good)
    text, deep = tmp_path / "text.png", tmp_path / "deep.png"
    text.write_text("no image")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(deep)
    gone = tmp_path / "gone.png"
    bad = [text, deep, gone]
    (label,) = predicted(checkpoint, [text, good, deep, gone], tmp_path / "out", failed=bad)
    assert label.name == "good.png"
    for name in ("text.png", "deep.png", "gone.png"):
        assert f"{name}'" in caplog.text
