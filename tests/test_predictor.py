"""`regnet_backbones.load`: what `predict` writes, as arrays, of files and of images in memory."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_masks
from small_detector import SIDE, save_detector
from small_segmenter import train_segmenter

import regnet_backbones
from regnet_backbones import shapes
from regnet_backbones.adapters.detectron2 import rgb2id
from regnet_backbones.cli.main import main
from regnet_backbones.errors import MissingPackageError, UserError
from regnet_backbones.semseg.datamodule import SegmentationData

CATEGORIES = [[3 * n, name] for n, name in enumerate(shapes.CATEGORIES, 1)]
OWN = ["DATASETS.TEST", "('own_val',)", "DATASETS.OWN.CATEGORIES", str(CATEGORIES)]
ALL_SCORES = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return three images, the last turned by its EXIF data, and the dataset they are of."""
    spec = shapes.ShapesSpec(num_train=2, num_val=3, image_size=SIDE)
    dataset = shapes.write(tmp_path_factory.mktemp("data") / "shapes", spec)
    files, folder = sorted(dataset.images("val").iterdir()), tmp_path_factory.mktemp("images")
    found = [folder / f"{number}.png" for number in range(3)]
    for number, (source, file) in enumerate(zip(files, found, strict=True)):
        with Image.open(source) as image:
            exif = image.getexif()
            if number == 2:
                exif[0x0112] = 6
            image.crop((0, 0, SIDE, 48)).save(file, exif=exif)
    return found, dataset


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    config = "mask_rcnn_regnet_small_fpn.yaml"
    return save_detector(tmp_path_factory.mktemp("detector"), config, *ALL_SCORES, *OWN)


@pytest.fixture(scope="module")
def segmenter(images, tmp_path_factory):
    root = str(images[1].root / "semantic")
    data = SegmentationData("ade20k", root, crop_size=SIDE, batch_size=2, num_workers=0)
    small = {"w_0": 8, "w_a": 13.0, "w_m": 2.0, "depth": 4, "group_width": 8}
    options = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}
    folder = tmp_path_factory.mktemp("segmenter")
    trainer = train_segmenter(data, encoder=small, decoder_options=options)
    trainer.save_checkpoint(folder / "checkpoints" / "best.ckpt")
    return folder


def predicted(run, images, output, *options):
    """Return the folder that the command writes to."""
    assert main(["predict", *map(str, (run, *images, "--output", output, *options))]) == 0
    return output


def assert_drawn(result, overlay, **options):
    """Check that a picture is the one that was saved with some options of JPEG."""
    file = io.BytesIO()
    result.draw().save(file, format="JPEG", quality=90, **options)
    assert file.getvalue() == overlay.read_bytes()


def assert_equal(found, expected):
    names = ("image", "boxes", "scores", "classes", "masks", "labels", "keypoints", "segments")
    for name in names:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_detector_gives_what_predict_writes(detector, images, tmp_path):
    files, _ = images
    folder = predicted(detector, files, tmp_path, "--min-score", "0")
    entries = json.loads((folder / "predictions.json").read_text())
    model = regnet_backbones.load(detector, min_score=0)
    assert (model.kind, model.class_names) == ("detector", shapes.CATEGORIES)
    for file, result in zip(files, model.predict(files), strict=True):
        of_image = [entry for entry in entries if entry["file_name"] == str(file)]
        assert len(of_image) == len(result.boxes) > 0
        corners = np.array([entry["bbox"] for entry in of_image])
        corners[:, 2:] += corners[:, :2]
        np.testing.assert_allclose(result.boxes, corners, atol=1e-3)
        np.testing.assert_allclose(result.scores, [e["score"] for e in of_image], atol=1e-5)
        assert [result.class_names[k] for k in result.classes] == [e["category"] for e in of_image]
        masks = np.array([coco_masks.decode(entry["segmentation"]) for entry in of_image])
        np.testing.assert_array_equal(result.masks, masks)
        assert (result.boxes.dtype, result.scores.dtype) == (np.float32, np.float32)
        assert (result.classes.dtype, result.masks.dtype) == (np.int64, np.bool_)
        assert (result.labels, result.segments) == (None, None)
        assert_drawn(result, folder / "overlays" / f"{file.stem}.jpg")
    assert result.image.shape == (SIDE, 48, 3)  # turned
    assert result.masks.shape[1:] == (SIDE, 48)


def test_a_segmenter_gives_what_predict_writes(segmenter, images, tmp_path):
    files, _ = images
    folder = predicted(segmenter, files, tmp_path, "--window", "40")
    model = regnet_backbones.load(segmenter, window=40)
    names = (folder / "classes.txt").read_text().splitlines()
    assert (model.kind, list(model.class_names)) == ("segmenter", names)
    for file, result in zip(files, model.predict(files), strict=True):
        labels = np.asarray(Image.open(folder / "labels" / f"{file.stem}.png"))
        np.testing.assert_array_equal(result.labels, labels)
        assert result.labels.dtype == np.uint8
        assert result.scores is None
        assert result.label_names == result.class_names
        assert result.classes.tolist() == sorted(set(labels.ravel().tolist()))
        assert len(result.classes) > 1
        for label, mask, box in zip(result.classes, result.masks, result.boxes, strict=True):
            np.testing.assert_array_equal(mask, labels == label)
            with Image.fromarray(mask) as picture:
                assert picture.getbbox() == tuple(box)
        assert_drawn(result, folder / "overlays" / f"{file.stem}.jpg", subsampling="4:4:4")


@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_images_in_memory_are_those_of_files(kind, images, request):
    files, _ = images
    model = regnet_backbones.load(request.getfixturevalue(kind), **kind_options(kind))
    for file in files:
        expected = model.predict(file)
        assert_equal(model.predict(str(file)), expected)
        with Image.open(file) as image:
            assert_equal(model.predict(image), expected)
            assert_equal(model.predict(image.convert("RGBA")), expected)
        assert_equal(model.predict(expected.image), expected)
        assert_equal(model.predict(expected.image[:, ::-1][:, ::-1]), expected)
    with Image.open(files[0]) as image:
        grey = image.convert("L")
    expected = model.predict(grey.convert("RGB"))
    assert_equal(model.predict(grey), expected)
    assert_equal(model.predict(np.asarray(grey)), expected)
    one_by_one = [model.predict(file) for file in files]
    for found, expected in zip(model.predict(tuple(files), batch_size=2), one_by_one, strict=True):
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)
        np.testing.assert_array_equal(found.classes, expected.classes)
    assert model.predict([]) == []


@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_a_default_of_float64_changes_nothing(kind, images, request):
    run, options = request.getfixturevalue(kind), kind_options(kind)
    expected = regnet_backbones.load(run, **options).predict(images[0][0])
    torch.set_default_dtype(torch.float64)
    try:
        found = regnet_backbones.load(run, **options).predict(images[0][0])
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert_equal(found, expected)


def kind_options(kind):
    return {"min_score": 0} if kind == "detector" else {}


@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_supervision_takes_a_result(kind, images, request, monkeypatch):
    model = regnet_backbones.load(request.getfixturevalue(kind), **kind_options(kind))
    result = model.predict(images[0][0])
    found = result.to_supervision()
    assert len(found) == len(result.boxes) > 0
    np.testing.assert_array_equal(found.xyxy, result.boxes)
    np.testing.assert_array_equal(found.mask, result.masks)
    assert found.data["class_name"].tolist() == [result.class_names[k] for k in result.classes]
    assert (found.confidence is None) == (kind == "segmenter")
    if kind == "detector":
        model = regnet_backbones.load(request.getfixturevalue(kind), min_score=1)
        result = model.predict(images[0][0])
        assert (result.boxes.shape, result.masks.shape) == ((0, 4), (0, 48, SIDE))
        assert len(result.to_supervision()) == 0
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingPackageError, match="pip install supervision"):
        result.to_supervision()


def test_a_panoptic_model_gives_all_that_is_written(images, tmp_path):
    combine = "MODEL.PANOPTIC_FPN.COMBINE"
    opts = [f"{combine}.STUFF_AREA_LIMIT", "1", f"{combine}.INSTANCES_CONFIDENCE_THRESH", "0.0"]
    run = save_detector(tmp_path, "panoptic_fpn_regnet_small.yaml", *ALL_SCORES, *opts)
    file = images[0][0]
    folder = predicted(run, [file], tmp_path / "out", "--min-score", "0")
    result = regnet_backbones.load(run, min_score=0).predict(file)
    written = json.loads((folder / "panoptic.json").read_text())["annotations"][0]
    assert result.segments_info == written["segments_info"]
    colours = np.asarray(Image.open(folder / "panoptic" / written["file_name"]))
    np.testing.assert_array_equal(result.segments, rgb2id(colours))
    labels = np.asarray(Image.open(folder / "labels" / f"{file.stem}.png"))
    np.testing.assert_array_equal(result.labels, labels)
    assert result.label_names == ("things", "background")
    assert (len(result.class_names), len(result.boxes)) == (5, 5)


def test_a_semantic_model_of_detectron2_gives_classes(images, tmp_path):
    opts = ["DATASETS.TEST", "('shapes_sem_seg_val',)"]
    run = save_detector(tmp_path, "semantic_fpn_regnet_small_shapes.yaml", *opts)
    file = images[0][0]
    folder = predicted(run, [file], tmp_path / "out")
    model = regnet_backbones.load(run)
    result = model.predict(file)
    assert model.class_names == result.class_names == result.label_names
    assert list(result.class_names) == (folder / "classes.txt").read_text().splitlines()
    labels = np.asarray(Image.open(folder / "labels" / f"{file.stem}.png"))
    np.testing.assert_array_equal(result.labels, labels)
    np.testing.assert_array_equal(result.masks.any(0), True)
    assert_drawn(result, folder / "overlays" / f"{file.stem}.jpg")


def test_engines_and_precisions_are_near_torch(segmenter, detector, images):
    file = images[0][0]
    expected = regnet_backbones.load(segmenter).predict(file).labels
    for options in ({"engine": "onnxruntime"}, {"precision": "bfloat16", "device": "cpu"}):
        found = regnet_backbones.load(segmenter, **options).predict(file).labels
        assert (found == expected).mean() > 0.97
    model = regnet_backbones.load(detector, min_score=0, precision="bfloat16")
    assert next(model._model._model.parameters()).dtype == torch.bfloat16
    assert len(model.predict(file).boxes)
    exact = {"opts": ["OPTIMIZE.ENABLED", "True", "OPTIMIZE.DTYPE", "float32"]}
    model = regnet_backbones.load(detector, min_score=0, precision="float32", **exact)
    assert next(model._model._model.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("segmenter", {"min_score": 0.3}, "min_score"),
        ("segmenter", {"opts": ["A", "1"]}, "opts"),
        ("segmenter", {"val_json": "a.json"}, "val_json"),
        ("segmenter", {"config_file": "a.yaml"}, "--config-file"),
        ("segmenter", {"engine": "onnxruntime", "precision": "float16"}, "onnxruntime"),
        ("segmenter", {"window_stride": 8}, "window_stride"),
        ("segmenter", {"exported": "a.onnx"}, "--exported needs --engine"),
        ("detector", {"engine": "onnxruntime", "precision": "float16"}, "OPTIMIZE"),
        ("detector", {"engine": "openvino"}, "onnxruntime or torch"),
        ("detector", {"engine": "onnx"}, "openvino"),
        ("detector", {"min_score": 50}, "min_score"),
        ("detector", {"precision": "int8"}, "bfloat16"),
        ("detector", {"device": "gpu"}, "'gpu'"),
    ],
)
def test_arguments_that_cannot_be_combined_are_refused(kind, options, named, request):
    with pytest.raises(UserError, match=named):
        regnet_backbones.load(request.getfixturevalue(kind), **options)


def test_images_of_other_kinds_are_refused(detector, images, tmp_path):
    model = regnet_backbones.load(detector)
    array = np.zeros((48, SIDE, 3), np.uint8)
    for wrong, named in (
        (array / 255, "float64"),
        (array.transpose(2, 0, 1), r"\(3, 48, 64\)"),
        (array[None], "H, W, 3"),
        (array[:0], r"\(0, 64, 3\)"),
        (torch.zeros(3, 8, 8), "torch.Tensor"),
        (None, "NoneType"),
        (Image.fromarray(array[..., 0].astype(np.uint16)), "8 bits"),
        (tmp_path / "gone.png", "gone.png"),
        ([images[0][0], __file__], "test_predictor.py"),
    ):
        with pytest.raises(UserError, match=named):
            model.predict(wrong)
    with pytest.raises(UserError, match="batch_size"):
        model.predict(array, batch_size=0)


def test_what_a_segmenter_needs_is_named(segmenter):
    code = f"""
import sys
sys.modules["lightning"] = None  # as if it were not installed
import regnet_backbones
assert "torch" not in sys.modules
try:
    regnet_backbones.load({str(segmenter)!r})
except regnet_backbones.errors.MissingPackageError as error:
    print(error)
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "regnet-backbones[train]" in result.stdout
