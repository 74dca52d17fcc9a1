"""tools/predict.py: pictures, COCO results and label maps, and files that are no images."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from demo_datasets import names_of_all_classes_are_thing_classes
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from small_segmenter import train_segmenter

from regnet_backbones import config_path, shapes
from regnet_backbones.adapters.detectron2.projects import import_projects
from regnet_backbones.cli.main import main as run_main
from regnet_backbones.detection.classes import known_classes
from regnet_backbones.detection.config import read_config
from regnet_backbones.detection.data import register_split
from regnet_backbones.runs import drawing
from regnet_backbones.semseg.datamodule import SegmentationData

TOOL = Path(__file__).parent.parent / "tools" / "predict.py"
QUICK = config_path("detectron2/quick")
SIDE = 64


def main(*arguments):
    """Run the tool in this process and return its exit status."""
    return runpy.run_path(str(TOOL))["main"]([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=2, num_val=2, image_size=SIDE)
    return shapes.write(tmp_path_factory.mktemp("data") / "shapes", spec)


@pytest.fixture(scope="module")
def val_json(dataset, tmp_path_factory):
    """Return the json of the validation images with the category ids 2, 4, 6, 8, 10."""
    content = json.loads(dataset.instances_json("val").read_text())
    for category in content["categories"]:
        category["id"] *= 2
    for annotation in content["annotations"]:
        annotation["category_id"] *= 2
    path = tmp_path_factory.mktemp("json") / "val.json"
    path.write_text(json.dumps(content))
    return path


def save_run(folder, config, *opts):
    """Leave what a training would have left, of random weights; return the model and the folder."""
    torch.manual_seed(0)
    # As large as the images: what the model sees can be read without a resize.
    opts = ["INPUT.MIN_SIZE_TEST", str(SIDE), "MODEL.DEVICE", "cpu", *opts]
    cfg = read_config(QUICK / config, opts)
    import_projects(cfg)
    model = build_model(cfg).eval()
    DetectionCheckpointer(model, save_dir=str(folder)).save("model_final")
    (folder / "config.yaml").write_text(cfg.dump())
    return model, folder


@torch.no_grad()
def seen_by(model, image):
    """Return what a model of RGB images makes of a file, without detectron2's predictor."""
    pixels = np.asarray(Image.open(image).convert("RGB")).transpose(2, 0, 1)
    tensor = torch.from_numpy(np.ascontiguousarray(pixels)).float()
    (output,) = model([{"image": tensor, "height": SIDE, "width": SIDE}])
    return output


def enlarged(image):
    """Return an image as large as overlays of small images are."""
    pixels = Image.open(image).convert("RGB").resize((512, 512), Image.BILINEAR)
    return np.asarray(pixels).astype(int)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    opts = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "DATASETS.TEST", "('own_val',)"]
    return save_run(tmp_path_factory.mktemp("run"), "mask_rcnn_regnet_small_fpn.yaml", *opts)


# Instances


def test_instances_are_written_as_coco_results(detector, dataset, val_json, tmp_path):
    model, run = detector
    folder = dataset.images("val")
    files = ("000000.png", "000001.png")
    expected = [seen_by(model, folder / name)["instances"] for name in files]
    scores = torch.cat([instances.scores for instances in expected]).sort().values
    least = scores[len(scores) // 2 - 1 : len(scores) // 2 + 1].mean().item()
    options = ["--output", tmp_path, "--min-score", str(least), "--val-json", val_json]
    assert main(run, folder, *options) == 0
    text = (tmp_path / "predictions.json").read_text()
    entries = json.loads(text, parse_constant=pytest.fail)
    assert len(entries) == len(scores) - len(scores) // 2
    for number, name, instances in zip((1, 2), files, expected, strict=True):
        sure = instances[instances.scores >= least]
        of_image = [entry for entry in entries if entry["image_id"] == number]
        assert len(of_image) == len(sure)
        for index, entry in enumerate(of_image):
            left, top, right, bottom = sure.pred_boxes.tensor[index].tolist()
            assert entry["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=1e-3)
            assert entry["score"] == pytest.approx(sure.scores[index].item(), abs=1e-5)
            label = sure.pred_classes[index].item()
            assert entry["category_id"] == 2 * (label + 1)
            assert entry["category"] == shapes.CATEGORIES[label]
            assert entry["file_name"] == str(folder / name)
            mask = mask_util.decode(entry["segmentation"])
            assert (mask == sure.pred_masks[index].numpy()).mean() > 0.999
    truth = COCO(str(val_json))
    assert len(truth.loadRes(str(tmp_path / "predictions.json")).anns) == len(entries)


@pytest.mark.parametrize("trained_on", ["own_val", "shapes_val"])
def test_names_in_another_order_are_refused(
    trained_on, detector, dataset, val_json, tmp_path, capsys
):
    _, run = detector
    cfg = read_config(run / "config.yaml", ["DATASETS.TEST", f"('{trained_on}',)"])
    if trained_on == "own_val":
        cfg.DATASETS.OWN.CATEGORIES = [[n, name] for n, name in enumerate(shapes.CATEGORIES, 1)]
    (tmp_path / "model_final.pth").symlink_to(run / "model_final.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    content = json.loads(val_json.read_text())
    content["categories"][0]["name"], content["categories"][1]["name"] = shapes.CATEGORIES[1::-1]
    (tmp_path / "val.json").write_text(json.dumps(content))
    own = ["--val-json", tmp_path / "val.json"]
    assert main(tmp_path, dataset.images("val"), *own, "--output", tmp_path / "out") == 2
    assert "square, circle, triangle" in capsys.readouterr().err
    evaluated = ["evaluate", tmp_path, *own, "--val-images", dataset.images("val")]
    assert run_main([str(word) for word in evaluated]) == 2
    assert "square, circle, triangle" in capsys.readouterr().err


@pytest.mark.parametrize("known", [True, False])
def test_the_names_of_the_training_are_known(detector, dataset, val_json, tmp_path, caplog, known):
    """From its config alone: the data may be gone, and other data go by their name here."""
    register_split("own_val", val_json, dataset.images("val"))
    DatasetCatalog.get("own_val")
    _, run = detector
    cfg = read_config(run / "config.yaml")
    if known:
        names = {name: 3 * n for n, name in enumerate("abcde", 1)}
        cfg.DATASETS.OWN.CATEGORIES = [[number, name] for name, number in names.items()]
        cfg.DATASETS.OWN.VAL_JSON = "gone.json"
    else:
        names = {str(n): n for n in range(5)}
    (tmp_path / "model_final.pth").symlink_to(run / "model_final.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    options = ["--output", tmp_path, "--min-score", "0"]
    assert main(tmp_path, dataset.images("val"), *options) == 0
    entries = json.loads((tmp_path / "predictions.json").read_text())
    ids = {entry["category"]: entry["category_id"] for entry in entries}
    assert len(ids) > 1
    assert ids.items() <= names.items()
    assert ("class names are unknown" in caplog.text) == (not known)


def test_a_detector_of_grey_images_predicts(dataset, tmp_path):
    grey = ["INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", "[120.0]", "MODEL.PIXEL_STD", "[60.0]"]
    grey += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    model, run = save_run(tmp_path, "mask_rcnn_regnet_small_fpn.yaml", *grey)
    image = dataset.images("val") / "000000.png"
    pixels = torch.from_numpy(np.asarray(Image.open(image).convert("L")).copy())[None].float()
    with torch.no_grad():
        (expected,) = model([{"image": pixels, "height": SIDE, "width": SIDE}])
    assert main(run, image, "--output", tmp_path, "--min-score", "0") == 0
    entries = json.loads((tmp_path / "predictions.json").read_text())
    scores = [entry["score"] for entry in entries]
    assert scores == pytest.approx(expected["instances"].scores.tolist(), abs=1e-5)
    drawn = np.asarray(Image.open(tmp_path / "overlays" / "000000.jpg")).astype(int)
    assert np.ptp(drawn, axis=2).max() > 60  # in the colours of the file


def test_overlays_show_the_image_with_what_is_seen(detector, dataset, tmp_path):
    _, run = detector
    image = dataset.images("val") / "000000.png"
    for score in ("0", "1"):
        assert main(run, image, "--output", tmp_path / score, "--min-score", score) == 0
    plain = enlarged(image)
    drawn, nothing = (
        np.asarray(Image.open(tmp_path / score / "overlays" / "000000.jpg")).astype(int)
        for score in ("0", "1")
    )
    assert drawn.shape == nothing.shape == (512, 512, 3)
    # Without instances only JPEG's loss is left; red and blue exchanged would be far more.
    assert np.abs(nothing - plain).mean() < 6
    assert np.abs(drawn - plain).mean() > 20
    assert json.loads((tmp_path / "1" / "predictions.json").read_text()) == []
    assert not (tmp_path / "1" / "labels").exists()


def test_classes_without_names_are_numbered(detector, dataset, tmp_path, caplog):
    model, run = detector
    image = dataset.images("val") / "000000.png"
    assert main(run, image, "--output", tmp_path, "--min-score", "0") == 0
    assert "dataset 'own_val'" in caplog.text
    assert "--val-json" in caplog.text
    entries = json.loads((tmp_path / "predictions.json").read_text())
    expected = seen_by(model, image)["instances"].pred_classes.tolist()
    assert [entry["category_id"] for entry in entries] == expected
    assert [entry["category"] for entry in entries] == [str(label) for label in expected]


def test_names_and_ids_are_those_of_a_registered_dataset(
    detector, dataset, val_json, tmp_path, caplog, monkeypatch
):
    """Detectron2 knows the ids of a json when it has read it, which prediction does not."""
    model, run = detector
    image = dataset.images("val") / "000000.png"
    labels = seen_by(model, image)["instances"].pred_classes.tolist()
    fields = {"name": "mine", "thing_classes": list("abcde"), "json_file": str(val_json)}
    opts = ["--opts", "DATASETS.TEST", "('mine',)"]
    for known, ids in (
        ({}, (2, 4, 6, 8, 10)),
        ({"json_file": "gone.json"}, (0, 1, 2, 3, 4)),
        ({"thing_dataset_id_to_contiguous_id": {7: 4, 5: 3, 1: 0, 2: 1, 3: 2}}, (1, 2, 3, 5, 7)),
    ):
        monkeypatch.setitem(MetadataCatalog.data, "mine", Metadata(**fields | known))
        assert main(run, image, "--output", tmp_path, "--min-score", "0", *opts) == 0
        entries = json.loads((tmp_path / "predictions.json").read_text())
        assert [entry["category_id"] for entry in entries] == [ids[label] for label in labels]
        assert [entry["category"] for entry in entries] == ["abcde"[label] for label in labels]
    assert "numbering them" not in caplog.text


def test_test_time_augmentation_is_done(detector, dataset, tmp_path):
    _, run = detector
    image = dataset.images("val") / "000000.png"
    augmented = ["--opts", "TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64, 80)"]
    found = []
    for name, options in (("plain", []), ("augmented", augmented)):
        output = tmp_path / name
        assert main(run, image, "--output", output, "--min-score", "0", *options) == 0
        found.append(json.loads((output / "predictions.json").read_text()))
    assert found[1]
    assert found[0] != found[1]


# Files


def test_images_of_one_name_do_not_overwrite_each_other(detector, dataset, tmp_path):
    _, run = detector
    pattern = dataset.root / "images" / "*" / "000000.png"
    assert main(run, pattern, "--output", tmp_path) == 0
    written = {p.relative_to(tmp_path / "overlays") for p in tmp_path.rglob("*.jpg")}
    assert written == {Path("train/000000.jpg"), Path("val/000000.jpg")}


def test_image_ids_are_those_of_the_json(detector, dataset, val_json, tmp_path, caplog):
    """By names relative to a folder above the images; others are counted on."""
    content = json.loads(val_json.read_text())
    first = content["images"][0]
    content["images"] = [
        {**first, "id": 40, "file_name": "other/000000.png"},
        {**first, "id": 7, "file_name": "val\\000000.png"},
        {**first, "id": 41, "file_name": "000000.png"},
    ]
    content["annotations"] = [{**entry, "image_id": 7} for entry in content["annotations"]]
    (tmp_path / "val.json").write_text(json.dumps(content))
    options = ["--val-json", tmp_path / "val.json", "--output", tmp_path, "--min-score", "0"]
    assert main(detector[1], dataset.images("val"), *options) == 0
    entries = json.loads((tmp_path / "predictions.json").read_text())
    ids = {Path(entry["file_name"]).name: entry["image_id"] for entry in entries}
    assert ids == {"000000.png": 7, "000001.png": 42}
    (said,) = [r.getMessage() for r in caplog.records if "image_id" in r.getMessage()]
    assert said.startswith("1 of 2 images are not in ")
    assert "000001.png" in said


def test_what_training_refuses_is_not_predicted(detector, dataset, tmp_path, caplog):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("b..png", "a b\n.png"):
        (folder / name).write_bytes((dataset.images("val") / "000000.png").read_bytes())
    Image.fromarray(np.full((SIDE, SIDE), 4096, np.uint16)).save(folder / "deep.png")
    assert main(detector[1], folder, "--output", tmp_path / "out", "--min-score", "0") == 1
    assert "deep.png' has more than 8 bits per channel" in caplog.text
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {Path(entry["file_name"]).name for entry in entries} == {"b..png", "a b\n.png"}


@pytest.fixture
def photos(dataset, tmp_path):
    """Return a folder with one image, one that breaks off, and one that is a text."""
    folder = tmp_path / "photos"
    folder.mkdir()
    whole = (dataset.images("val") / "000000.png").read_bytes()
    (folder / "whole.png").write_bytes(whole)
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no image")
    return folder


def test_files_that_cannot_be_read_are_left_out_and_counted(
    detector, photos, tmp_path, capsys, caplog
):
    _, run = detector
    output = tmp_path / "out"
    assert main(run, photos, "--output", output, "--min-score", "0") == 1
    printed = capsys.readouterr()
    assert f"1 of 3 images predicted: {output}" in printed.out
    assert "2 could not be read" in printed.err
    for name in ("broken.png", "text.jpg"):
        assert f"image '{photos / name}' cannot be read (" in caplog.text
    assert [p.name for p in (output / "overlays").iterdir()] == ["whole.jpg"]
    entries = json.loads((output / "predictions.json").read_text())
    # Broken, text, whole: numbers are of the files, so that they stay when one is mended.
    assert {entry["image_id"] for entry in entries} == {3}


def test_wrong_command_lines_are_refused(detector, dataset, tmp_path, capsys, monkeypatch):
    from regnet_backbones.detection import prediction

    monkeypatch.setattr(prediction, "build_model", None)  # a call would be a TypeError
    jsons = {
        "broken": "{",
        "nameless": '{"categories": [{"id": 1}]}',
        "other": '{"categories": [{"id": 1, "name": "a"}]}',
    }
    for name, content in jsons.items():
        (tmp_path / name).write_text(content)
    output = ["--output", tmp_path / "out"]
    for options, named in (
        (["--min-score", "2"], "min_score must be from 0 to 1"),
        (["--val-json", "gone.json"], "'gone.json'"),
        (["--val-json", tmp_path / "broken"], "is not a JSON file"),
        (["--val-json", tmp_path / "nameless"], "name"),
        (["--val-json", tmp_path / "other"], "5 classes"),
        (["--opts", "OUTPUT_DIR", "x"], "--output"),
        (["--window", "8", "--window-stride", "9"], "window_stride"),
        (["--window-stride", "9"], "window_stride"),
        (["--every", "2"], "--every"),
        (["--batch-size", "0"], "batch_size"),
        (["gone.png"], "'gone.png'"),
    ):
        assert main(detector[1], dataset.images("val"), *options, *output) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert named in error
        assert not (tmp_path / "out").exists()


# Pictures and batches


@pytest.fixture
def several(dataset, tmp_path):
    """Return a folder of eight images: three, one and four of a size, and one that is a text."""
    folder = tmp_path / "several"
    folder.mkdir()
    images = [Image.open(dataset.images("val") / f"00000{n}.png").convert("RGB") for n in (0, 1)]
    for number, size in enumerate([(64, 64)] * 3 + [(48, 64)] + [(64, 80)] * 4):
        # Squeezed, and so all different.
        picture = images[number % 2].resize((40 + number, 50)).resize(size)
        picture.save(folder / f"{number}.png")
    (folder / "5.5.png").write_text("no image")
    return folder


def files_in(folder):
    """Return the content of files by their name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


FEW_INSTANCES = ["--min-score", "0", "--opts", "TEST.DETECTIONS_PER_IMAGE", "3"]


def test_processes_draw_what_is_drawn_here(detector, several, tmp_path, monkeypatch):
    _, run = detector
    for name, count in (("here", 0), ("there", 1)):
        monkeypatch.setattr(drawing, "process_count", lambda _, count=count: count)
        assert main(run, several, "--output", tmp_path / name, *FEW_INSTANCES) == 1
    here, there = files_in(tmp_path / "here"), files_in(tmp_path / "there")
    assert sum(name.startswith("overlays") for name in here) == 8
    assert here == there


def test_without_pictures_all_else_is_the_same(detector, several, tmp_path, monkeypatch):
    _, run = detector
    monkeypatch.setattr(drawing, "FEW", 100)
    assert main(run, several, "--output", tmp_path / "a", *FEW_INSTANCES) == 1
    monkeypatch.setattr(drawing, "FEW", 0)
    monkeypatch.setattr(drawing.Drawing, "add", None)  # a call would be a TypeError
    assert main(run, several, "--output", tmp_path / "b", "--no-pictures", *FEW_INSTANCES) == 1
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["predictions.json"]
    assert files_in(tmp_path / "b").items() <= files_in(tmp_path / "a").items()


def batch_sizes_of(monkeypatch, model_type, batch_of):
    """Return a list that grows by the number of images of each call of a type of model."""
    sizes, forward = [], model_type.forward

    def counted(self, batch, *args, **options):
        sizes.append(batch_of(batch))
        return forward(self, batch, *args, **options)

    monkeypatch.setattr(model_type, "forward", counted)
    return sizes


def test_a_detector_predicts_in_batches(detector, several, tmp_path, monkeypatch):
    model, run = detector
    sizes = batch_sizes_of(monkeypatch, type(model), len)
    monkeypatch.setattr(drawing, "FEW", 100)
    found = []
    for batch_size, expected in (("1", [1] * 8), ("3", [3, 1, 3, 1])):
        sizes.clear()
        # Of 72 pixels, images of 64 x 64 and 48 x 64 differ.
        options = [*FEW_INSTANCES, "INPUT.MIN_SIZE_TEST", "72", "--batch-size", batch_size]
        output = tmp_path / batch_size
        assert main(run, several, "--output", output, *options) == 1
        assert sizes == expected
        found.append(json.loads((output / "predictions.json").read_text()))
        assert len(list((output / "overlays").iterdir())) == 8
    one_by_one, in_batches = found
    assert len({entry["image_id"] for entry in one_by_one}) > 1
    for one, other in zip(one_by_one, in_batches, strict=True):
        for key in ("image_id", "file_name", "category_id"):
            assert one[key] == other[key]
        assert other["bbox"] == pytest.approx(one["bbox"], abs=1e-2)
        assert other["score"] == pytest.approx(one["score"], abs=1e-4)


# Classes of pixels, in detectron2


def test_classes_of_pixels_are_written_as_label_maps(dataset, tmp_path, capsys):
    opts = ["DATASETS.TEST", "('shapes_sem_seg_val',)"]
    model, run = save_run(tmp_path, "semantic_fpn_regnet_small_shapes.yaml", *opts)
    folder, output = dataset.images("val"), tmp_path / "out"
    assert main(run, folder, "--output", output) == 0
    for name in ("000000.png", "000001.png"):
        labels = Image.open(output / "labels" / name)
        assert labels.mode == "L"
        expected = seen_by(model, folder / name)["sem_seg"].argmax(0).numpy()
        assert len(np.unique(expected)) > 1
        assert (np.asarray(labels) == expected).mean() > 0.999
        assert Image.open(output / "overlays" / name.replace("png", "jpg")).size == (512, 512)
    names = (output / "classes.txt").read_text().splitlines()
    assert names == MetadataCatalog.get("shapes_sem_seg_val").stuff_classes
    assert not (output / "predictions.json").exists()

    capsys.readouterr()
    assert main(run, folder, "--output", output, "--val-json", "a.json") == 2
    assert "--val-json cannot name the classes of a SemanticSegmentor" in capsys.readouterr().err


def test_classes_of_pixels_without_names_are_numbered(dataset, tmp_path, caplog):
    opts = ["DATASETS.TEST", "('gone',)"]
    _, run = save_run(tmp_path, "semantic_fpn_regnet_small_shapes.yaml", *opts)
    assert main(run, dataset.images("val"), "--output", tmp_path / "out") == 0
    assert "'gone'" in caplog.text
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"labels", "overlays"}


# Keypoints and segments


def test_keypoints_are_written_as_coco_has_them(dataset, tmp_path):
    opts = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.WEIGHTS", ""]
    opts += ["DATASETS.TEST", "('shapes_keypoints_val',)"]
    model, run = save_run(tmp_path, "keypoint_rcnn_regnet_small_fpn.yaml", *opts)
    image, output = dataset.images("val") / "000000.png", tmp_path / "out"
    assert main(run, image, "--output", output, "--min-score", "0") == 0
    entries = json.loads((output / "predictions.json").read_text())
    points = seen_by(model, image)["instances"].pred_keypoints
    assert len(entries) == len(points) > 0
    for entry, expected in zip(entries, points.numpy(), strict=True):
        # COCO counts from the middle of the first pixel.
        assert entry["keypoints"] == pytest.approx((expected - (0.5, 0.5, 0)).ravel(), abs=0.01)
        assert entry["category"] in shapes.CATEGORIES
    assert np.abs(enlarged(image) - read(output / "overlays" / "000000.jpg")).mean() > 5


def read(path):
    return np.asarray(Image.open(path)).astype(int)


def panoptic_of(output):
    """Return the map of ids of the first image, its segments by id, and names by category."""
    content = json.loads((output / "panoptic.json").read_text())
    (annotation,) = content["annotations"]
    assert annotation["image_id"] == 1
    red, green, blue = np.moveaxis(read(output / "panoptic" / annotation["file_name"]), 2, 0)
    segments = {segment["id"]: segment for segment in annotation["segments_info"]}
    names = {segment["category_id"]: segment["category"] for segment in segments.values()}
    ids = red + 256 * green + 65536 * blue
    assert set(np.unique(ids)) - {0} == segments.keys()
    return ids, segments, names


PANOPTIC = [
    *("MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", "1"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
    *("MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", "0.0"),
]


def test_panoptic_fpn_gives_instances_classes_and_segments(dataset, tmp_path):
    model, run = save_run(tmp_path, "panoptic_fpn_regnet_small.yaml", *PANOPTIC)
    image, output = dataset.images("val") / "000000.png", tmp_path / "out"
    assert main(run, image, "--output", output, "--min-score", "0") == 0
    assert json.loads((output / "predictions.json").read_text())
    assert (output / "classes.txt").read_text().split() == ["things", "background"]
    assert set(np.unique(read(output / "labels" / "000000.png"))) <= {0, 1}
    assert np.abs(read(output / "overlays" / "000000.jpg") - enlarged(image)).mean() > 10

    ids, segments, names = panoptic_of(output)
    assert names.items() <= {**dict(enumerate(shapes.CATEGORIES, 1)), 6: "background"}.items()
    expected, info = seen_by(model, image)["panoptic_seg"]
    assert (ids == expected.numpy()).mean() > 0.99
    assert any(segment["isthing"] for segment in info)
    for segment in info:
        if segment["id"] in segments:
            # Things 0 to 4 are 1 to 5, and stuff 1 is 6.
            found = segments[segment["id"]]
            assert found["category_id"] == segment["category_id"] + (1 if found["isthing"] else 5)
            assert found["isthing"] == segment["isthing"]


def test_segments_of_unknown_classes_are_numbered(dataset, tmp_path, val_json):
    """Things have their ids from a json; those of stuff follow."""
    opts = [*PANOPTIC, "DATASETS.TEST", "('gone',)", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"]
    _, run = save_run(tmp_path, "panoptic_fpn_regnet_small.yaml", *opts)
    image, output = dataset.images("val") / "000000.png", tmp_path / "out"
    assert main(run, image, "--output", output, "--min-score", "0", "--val-json", val_json) == 0
    _, _, names = panoptic_of(output)
    things = {2 * number: name for number, name in enumerate(shapes.CATEGORIES, 1)}
    assert names.items() <= {**things, 12: "1", 13: "2"}.items()


@pytest.fixture
def panoptic_deeplab(tmp_path):
    # Random weights find centres and things, if they are not asked to be sure.
    opts = ["MODEL.PANOPTIC_DEEPLAB.CENTER_THRESHOLD", "-100.0"]
    opts += ["MODEL.PANOPTIC_DEEPLAB.STUFF_AREA", "1"]
    return save_run(tmp_path, "panoptic_deeplab_regnet_small_shapes.yaml", *opts)


def test_panoptic_deeplab_gives_classes_and_segments(dataset, tmp_path, panoptic_deeplab):
    model, run = panoptic_deeplab
    image, output = dataset.images("val") / "000000.png", tmp_path / "out"
    assert main(run, image, "--output", output, "--min-score", "0") == 0
    assert (output / "classes.txt").read_text().split() == [*shapes.CATEGORIES, "background"]
    ids, segments, names = panoptic_of(output)
    assert names.items() <= {**dict(enumerate(shapes.CATEGORIES, 1)), 6: "background"}.items()
    expected = seen_by(model, image)["panoptic_seg"][0].numpy()
    assert (ids == expected + 1).mean() > 0.99
    assert len(segments) > 1
    for id_, segment in segments.items():
        assert segment["category_id"] == (id_ - 1) // 1000 + 1
        assert segment["isthing"] == (segment["category_id"] < 6)


def test_panoptic_deeplab_needs_what_it_was_trained_on(
    dataset, tmp_path, panoptic_deeplab, capsys, val_json
):
    arguments = [panoptic_deeplab[1], dataset.images("val"), "--output", tmp_path / "out"]
    assert main(*arguments, "--opts", "DATASETS.TRAIN", "('gone',)") == 2
    assert "got 'gone'; set a registered one with --opts DATASETS.TRAIN" in capsys.readouterr().err
    assert main(*arguments, "--val-json", val_json) == 2
    assert "--val-json cannot name the classes of a PanopticDeepLab" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "counted_by"),
    [
        ("retinanet_regnet_small_fpn.yaml", "MODEL.RETINANET.NUM_CLASSES"),
        ("fcos_regnet_small_fpn.yaml", "MODEL.FCOS.NUM_CLASSES"),
        ("mask_rcnn_regnet_small_fpn.yaml", "MODEL.ROI_HEADS.NUM_CLASSES"),
    ],
)
def test_classes_are_known_where_their_number_is_the_datasets(config, counted_by, caplog):
    classes = known_classes(read_config(QUICK / config))
    assert classes.metadata.thing_classes == list(shapes.CATEGORIES)
    assert classes.ids == (1, 2, 3, 4, 5)
    assert not caplog.text
    classes = known_classes(read_config(QUICK / config, [counted_by, "3"]))
    assert classes.metadata.thing_classes == ["0", "1", "2"]
    assert "numbering them from 0" in caplog.text


def test_category_ids_may_be_text():
    cfg = read_config(
        QUICK / "faster_rcnn_regnet_small_fpn.yaml", ["DATASETS.TEST", "('own_val',)"]
    )
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.DATASETS.OWN.CATEGORIES = [["10", "nut"], ["2", "screw"]]
    classes = known_classes(cfg)
    assert (classes.ids, classes.metadata.thing_classes) == (("10", "2"), ["nut", "screw"])


@pytest.mark.parametrize("form", ["ours", "COCO's"])
def test_classes_of_things_and_stuff_in_one_numbering_are_known(form, caplog):
    if form == "COCO's":
        names_of_all_classes_are_thing_classes("shapes_panoptic_train")
    classes = known_classes(read_config(QUICK / "panoptic_deeplab_regnet_small_shapes.yaml"))
    assert classes.metadata.thing_classes == [*shapes.CATEGORIES, "background"]
    assert classes.ids == classes.stuff_ids == (1, 2, 3, 4, 5, 6)
    assert not caplog.text


# Segmenters


@pytest.fixture(scope="module")
def segmentation(dataset):
    return SegmentationData(
        "ade20k", str(dataset.root / "semantic"), crop_size=64, batch_size=2, num_workers=0
    )


@pytest.fixture(scope="module")
def segmenter(segmentation, tmp_path_factory):
    """Return the folder of a trained segmenter."""
    run = tmp_path_factory.mktemp("segmenter")
    train_segmenter(segmentation).save_checkpoint(run / "checkpoints" / "last.ckpt")
    return run


def test_a_segmenter_predicts_in_batches_and_draws_in_processes(
    segmenter, several, tmp_path, monkeypatch
):
    from regnet_backbones.semseg.module import Segmenter

    sizes = batch_sizes_of(monkeypatch, Segmenter, len)
    monkeypatch.setattr(drawing, "FEW", 100)
    assert main(segmenter, several, "--output", tmp_path / "a", "--device", "cpu") == 1
    assert sizes == [1] * 8
    monkeypatch.setattr(drawing, "process_count", lambda pictures: int(pictures > 0))
    sizes.clear()
    options = ["--device", "cpu", "--batch-size", "4"]
    assert main(segmenter, several, "--output", tmp_path / "b", *options) == 1
    assert sizes == [3, 1, 4]
    assert main(segmenter, several, "--output", tmp_path / "c", *options, "--no-pictures") == 1
    one_by_one, in_batches, no_pictures = (files_in(tmp_path / name) for name in "abc")
    assert one_by_one.keys() == in_batches.keys()
    labels = [name for name in one_by_one if name.startswith("labels")]
    assert len(labels) == 8
    for name in labels:
        one, other = (np.asarray(Image.open(tmp_path / folder / name)) for folder in "ab")
        assert (one == other).mean() > 0.99
    assert no_pictures == {k: v for k, v in in_batches.items() if not k.startswith("overlays")}


@pytest.fixture
def clip(dataset, tmp_path):
    """Return a video of two images in turn, a folder of its frames, and how many these are."""
    cv2, count = pytest.importorskip("cv2"), 7
    images = [cv2.imread(str(dataset.images("val") / f"00000{n}.png")) for n in (0, 1)]
    (tmp_path / "in").mkdir()
    file, frames = tmp_path / "in" / "clip.avi", tmp_path / "frames"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10, (SIDE, SIDE))
    for number in range(count):
        writer.write(images[number % 2])
    writer.release()
    frames.mkdir()
    video = cv2.VideoCapture(str(file))
    for number in range(count):
        cv2.imwrite(str(frames / f"clip_{number:06d}.png"), video.read()[1])
    return file, frames, count


def length_of(video):
    import cv2

    opened = cv2.VideoCapture(str(video))
    return sum(iter(opened.grab, False)), opened.get(cv2.CAP_PROP_FPS)


def test_a_video_is_predicted_as_its_frames_are(detector, clip, tmp_path):
    file, frames, count = clip
    found = []
    for inputs in (file, frames):
        options = ["--output", tmp_path / inputs.name, "--min-score", "0", "--device", "cpu"]
        assert main(detector[1], inputs, *options) == 0
        entries = json.loads((tmp_path / inputs.name / "predictions.json").read_text())
        assert {entry["image_id"] for entry in entries} == set(range(1, count + 1))
        found.append([(e["image_id"], e["bbox"], e["score"], e["segmentation"]) for e in entries])
        if inputs == file:
            assert {(e["file_name"], e["frame"]) for e in entries} == {
                (str(file), number) for number in range(count)
            }
    assert found[0] == found[1]
    overlays = tmp_path / file.name / "overlays"
    assert [path.name for path in overlays.iterdir()] == ["clip.mp4"]
    assert length_of(overlays / "clip.mp4") == (count, 10)


def test_a_segmenter_predicts_each_nth_frame_and_images(segmenter, clip, dataset, tmp_path, capsys):
    """Of which the second one's overlay is wider, for its legend."""
    file, frames, _ = clip
    image = dataset.images("val") / "000000.png"
    folders = [tmp_path / name for name in "ab"]
    options = ["--device", "cpu", "--batch-size", "3", "--output"]
    assert main(segmenter, file, image, "--every", "3", *options, folders[0]) == 0
    assert main(segmenter, frames, *options, folders[1]) == 0
    labels = [{p.name: p for p in (f / "labels").rglob("*.png")} for f in folders]
    assert labels[0].keys() == {"000000.png", *(f"clip_00000{n}.png" for n in (0, 3, 6))}
    for name in labels[0].keys() & labels[1].keys():
        one, other = (np.asarray(Image.open(each[name])) for each in labels)
        assert (one == other).mean() > 0.99
    drawn = {path.name: path for path in (folders[0] / "overlays").rglob("*.*")}
    assert drawn.keys() == {"000000.jpg", "clip.mp4"}
    frames, rate = length_of(drawn["clip.mp4"])
    assert frames == 3
    assert rate == pytest.approx(10 / 3, abs=0.01)
    main(segmenter, file, "--no-pictures", *options, tmp_path / "c")
    assert not (tmp_path / "c" / "overlays").exists()


def test_a_video_and_its_frames_are_both_predicted(segmenter, clip, tmp_path):
    file, frames, count = clip
    options = ["--device", "cpu", "--output", tmp_path / "out"]
    assert main(segmenter, file, frames, *options) == 0
    labels = list((tmp_path / "out" / "labels").rglob("*.png"))
    assert len(labels) == 2 * count
    overlays = [path.suffix for path in (tmp_path / "out" / "overlays").rglob("*.*")]
    assert sorted(overlays) == [*[".jpg"] * count, ".mp4"]


def test_outputs_of_an_earlier_run_are_not_predicted(segmenter, dataset, tmp_path, capsys):
    image = shutil.copy(dataset.images("val") / "000000.png", tmp_path)
    options = ["--device", "cpu", "--output", tmp_path / "out"]
    for _ in range(2):
        assert main(segmenter, tmp_path / "**", *options) == 0
        printed = capsys.readouterr()
        assert "1 of 1 images predicted" in printed.out
    assert "2 images left out" in printed.err
    assert main(segmenter, tmp_path / "out" / "overlays", *options) == 2
    assert "--output" in capsys.readouterr().err
    assert Path(image).is_file()


def test_broken_videos(segmenter, clip, tmp_path, capsys, caplog):
    file, _, _ = clip
    content, half = file.read_bytes(), tmp_path / "half.avi"
    half.write_bytes(content[: len(content) * 2 // 3])
    options = ["--device", "cpu", "--output", tmp_path / "out"]
    assert main(segmenter, half, *options) == 1
    assert "1 could not be read" in capsys.readouterr().err
    assert str(half) in caplog.text
    assert 0 < len(list((tmp_path / "out" / "labels").iterdir())) < 7
    for name, text in (("empty.mp4", b""), ("text.webm", b"no video"), ("head.avi", content[:99])):
        (tmp_path / name).write_bytes(text)
        assert main(segmenter, tmp_path / name, *options) == 2
        assert f"'{tmp_path / name}'" in capsys.readouterr().err
    assert main(segmenter, file, "--every", "0", *options) == 2
    assert "every" in capsys.readouterr().err


def test_opencv_is_named_if_it_is_missing(segmenter, clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert main(segmenter, clip[0], "--device", "cpu", "--output", tmp_path / "out") == 2
    assert "regnet-backbones[video]" in capsys.readouterr().err


def test_a_segmenter_predicts_through_the_same_command(
    segmentation, segmenter, photos, tmp_path, capsys
):
    data, run = segmentation, segmenter
    output = tmp_path / "out"
    assert main(run, photos, "--output", output, "--window", "32", "--device", "cpu") == 1
    printed = capsys.readouterr()
    assert f"1 of 3 images predicted: {output}" in printed.out
    assert "2 could not be read" in printed.err
    assert Image.open(output / "labels" / "whole.png").size == (SIDE, SIDE)
    assert (output / "classes.txt").read_text().splitlines() == list(data.class_names)
    # Windows of a fourth of the image do not see what the whole does.
    assert main(run, photos / "whole.png", "--output", tmp_path / "whole", "--device", "cpu") == 0
    labels = [
        Image.open(folder / "labels" / "whole.png") for folder in (output, tmp_path / "whole")
    ]
    assert (np.asarray(labels[0]) != np.asarray(labels[1])).any()

    assert main(run, photos, "--output", output, "--min-score", "0.5") == 2
    assert "--min-score" in capsys.readouterr().err
