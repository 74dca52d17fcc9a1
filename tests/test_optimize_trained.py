"""tools/evaluate.py and tools/predict.py with --optimize, --dtype and --compile."""

import json
import shutil
from itertools import product

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from load_tool import load_tool
from PIL import Image
from small_segmenter import train_segmenter
from torch._inductor import config as inductor_config

from regnet_backbones import config_path, shapes
from regnet_backbones.detection.config import read_config
from regnet_backbones.optimize import passes
from regnet_backbones.semseg.datamodule import SegmentationData

QUICK = config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml")
# Random weights are sure of nothing.
SMALL = ["INPUT.MIN_SIZE_TEST", "64", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]


def main(tool, *arguments):
    return load_tool(tool).main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=4, num_val=2, image_size=64)
    return shapes.write(tmp_path_factory.mktemp("data") / "shapes", spec)


@torch.no_grad()
def with_statistics(model):
    """Give batch norms statistics other than 0 and 1, whose folding changes nothing."""
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return model


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """Return the folder that a training of a detector would have left."""
    torch.manual_seed(0)
    run = tmp_path_factory.mktemp("detector")
    cfg = read_config(QUICK, [*SMALL, "MODEL.DEVICE", "cpu", "TEST.PICTURES", "0"])
    model = with_statistics(build_model(cfg))
    DetectionCheckpointer(model, save_dir=str(run)).save("model_final")
    (run / "config.yaml").write_text(cfg.dump())
    return run


@pytest.fixture(scope="module")
def detected(detector, dataset, tmp_path_factory):
    """Return what the detector predicts without being optimized, and own data of that truth."""
    folder = tmp_path_factory.mktemp("plain")
    entries = predicted(detector, dataset, folder)
    content = json.loads(dataset.instances_json("val").read_text())
    content["images"].sort(key=lambda image: image["file_name"])
    numbers = {number: image["id"] for number, image in enumerate(content["images"], 1)}
    content["annotations"] = [
        {**entry, "id": number, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
        | {"image_id": numbers[entry["image_id"]]}
        for number, entry in enumerate(entries, 1)
    ]
    (folder / "truth.json").write_text(json.dumps(content))
    own = ["--val-json", folder / "truth.json", "--val-images", dataset.images("val")]
    return entries, own


def predicted(detector, dataset, output, *options):
    names = ["--val-json", dataset.instances_json("val"), "--min-score", "0"]
    assert (
        main("predict", detector, dataset.images("val"), "--output", output, *names, *options) == 0
    )
    return json.loads((output / "predictions.json").read_text())


@pytest.fixture
def reports(caplog):
    """Return a function that says how often a report was logged, and all that was logged."""
    return lambda: (caplog.text.count("optimized for inference"), caplog.text)


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


# Detectors


def test_a_detector_sees_the_same(detector, dataset, detected, tmp_path, reports):
    entries = predicted(detector, dataset, tmp_path, "--optimize")
    assert reports()[0] == 1
    # Of 7 blocks each 3, 4 shortcuts, the stem, 8 of the FPN, 2 of the mask head.
    assert "36 folded into convolutions, 0 left" in reports()[1]
    expected, _ = detected
    assert len(entries) == len(expected) > 20
    for found, plain in zip(entries, expected, strict=True):
        assert found["bbox"] == pytest.approx(plain["bbox"], abs=1e-3)
        assert found["score"] == pytest.approx(plain["score"], abs=1e-5)
        assert found["category"] == plain["category"]


def test_a_detector_is_as_good(detector, detected, tmp_path):
    _, own = detected
    assert main("evaluate", detector, *own, "--output", tmp_path, "--optimize") == 0
    found = results_of(tmp_path)
    assert found["results"]["own_val"]["bbox"]["AP"] == pytest.approx(100, abs=1e-3)
    assert found["settings"]["optimization"] == {
        "dtype": "float32",
        "compile": False,
        "fold": "auto",
        "memory_format": "auto",
    }
    assert (tmp_path / "log.txt").read_text().count("optimized for inference") == 1


def test_reduced_precision_of_a_detector(detector, dataset, detected, tmp_path, reports):
    entries = predicted(detector, dataset, tmp_path, "--dtype", "bfloat16")
    assert "bfloat16 (weights)" in reports()[1]
    expected = sorted(entry["score"] for entry in detected[0])
    found = sorted(entry["score"] for entry in entries)
    # Of its 8 bits, about the first ones are right.
    assert found[-1] == pytest.approx(expected[-1], rel=0.05)
    assert found != expected


def test_the_config_of_the_training_says_it_too(detector, dataset, detected, tmp_path, reports):
    """And `--eval-only`, with the same weights in the same format."""
    options = ["OPTIMIZE.ENABLED", "True", "OPTIMIZE.DTYPE", "bfloat16"]
    run = shutil.copytree(detector, tmp_path / "run")
    text = read_config(run / "config.yaml", options).dump()
    (run / "config.yaml").write_text(text)
    entries = predicted(run, dataset, tmp_path / "by_config")
    assert "bfloat16" in reports()[1]
    flags = predicted(detector, dataset, tmp_path / "by_flags", "--dtype", "bfloat16")
    assert len(entries) == len(flags)

    _, own = detected
    command = ["--config-file", detector / "config.yaml", "--eval-only", "--optimize"]
    data = ["--train-json", own[1], "--train-images", own[3], *own]
    weights = ["MODEL.WEIGHTS", detector / "model_final.pth", "OUTPUT_DIR", tmp_path / "eval"]
    assert main("train_net", *command, *data, *weights) == 0
    log = (tmp_path / "eval" / "log.txt").read_text()
    assert log.count("optimized for inference") == 1
    assert "optimized for training" not in log


def test_compilation_of_a_detector_is_asked_for(detector, dataset, detected, tmp_path, compiled):
    predicted(detector, dataset, tmp_path, "--compile")
    assert main("evaluate", detector, *detected[1], "--output", tmp_path, "--compile") == 0
    assert compiled == 2 * [True]
    assert results_of(tmp_path)["settings"]["optimization"]["compile"] is True


def test_test_time_augmentation_is_optimized(detector, detected, tmp_path):
    aug = ["--opts", "TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64, 80)"]
    arguments = ["evaluate", detector, *detected[1]]
    assert main(*arguments, "--output", tmp_path / "plain", *aug) == 0
    assert main(*arguments, "--output", tmp_path / "fast", "--optimize", *aug) == 0
    assert "optimized for inference" in (tmp_path / "fast" / "log.txt").read_text()
    plain, fast = (results_of(tmp_path / name)["results"]["own_val"] for name in ("plain", "fast"))
    assert fast["bbox"]["AP"] == pytest.approx(plain["bbox"]["AP"], abs=1e-3)


def test_a_config_with_an_unknown_type_is_refused(detector, dataset, tmp_path, capsys):
    opts = ["--opts", "OPTIMIZE.ENABLED", "True", "OPTIMIZE.DTYPE", "int8"]
    assert main("predict", detector, dataset.images("val"), "--output", tmp_path, *opts) == 2
    assert "OPTIMIZE.DTYPE must be one of" in capsys.readouterr().err


# Segmenters


@pytest.fixture(scope="module")
def segmenter(dataset, tmp_path_factory):
    """Return the folder that a training of a segmenter leaves."""
    run = tmp_path_factory.mktemp("segmenter")
    root = str(dataset.root / "semantic")
    data = SegmentationData("ade20k", root, crop_size=64, batch_size=4, num_workers=0)
    trainer = train_segmenter(data)
    with_statistics(trainer.lightning_module)
    trainer.save_checkpoint(run / "checkpoints" / "best.ckpt")
    return run


def labels_of(segmenter, dataset, output, *options):
    images = dataset.semantic_images("val")
    arguments = ["--output", output, "--device", "cpu", *options]
    assert main("predict", segmenter, images, *arguments) == 0
    files = sorted((output / "labels").iterdir())
    return np.stack([np.asarray(Image.open(file)) for file in files])


def test_a_segmenter_sees_the_same(segmenter, dataset, tmp_path, reports):
    plain = labels_of(segmenter, dataset, tmp_path / "plain")
    assert len(np.unique(plain)) > 1
    assert reports()[0] == 0
    fast = labels_of(segmenter, dataset, tmp_path / "fast", "--optimize")
    assert reports()[0] == 1
    assert "0 left" in reports()[1]
    assert (fast == plain).mean() > 0.999
    reduced = labels_of(segmenter, dataset, tmp_path / "reduced", "--dtype", "bfloat16")
    assert "bfloat16 (weights)" in reports()[1]
    assert (reduced == plain).mean() > 0.8


def test_a_segmenter_is_as_good(segmenter, dataset, tmp_path, reports):
    root = ["--opts", "root", dataset.root / "semantic"]
    arguments = ["evaluate", segmenter, "--device", "cpu"]
    assert main(*arguments, "--output", tmp_path / "plain", *root) == 0
    assert main(*arguments, "--output", tmp_path / "fast", "--optimize", *root) == 0
    assert reports()[0] == 1
    plain, fast = (results_of(tmp_path / name) for name in ("plain", "fast"))
    assert plain["settings"]["optimization"] is None
    assert fast["settings"]["optimization"]["dtype"] == "float32"
    assert fast["results"]["miou"] == pytest.approx(plain["results"]["miou"], abs=1e-3)
    assert fast["results"]["accuracy"] == pytest.approx(plain["results"]["accuracy"], abs=1e-3)


def test_compilation_of_a_segmenter_is_asked_for(segmenter, dataset, tmp_path, compiled):
    labels_of(segmenter, dataset, tmp_path, "--compile")
    assert main("evaluate", segmenter, "--output", tmp_path, "--compile", "--device", "cpu") == 0
    assert compiled == 2 * [True]


@pytest.mark.parametrize(
    ("options", "side"), [([], 64), (["--window", "96"], 96), (["--window", "70"], 96)]
)
def test_what_is_measured_is_typical_of_a_segmenter(
    segmenter, dataset, tmp_path, monkeypatch, options, side
):
    """The crop size of its training, or a window, up to multiples of 32."""
    sizes = []

    def measure(networks, formats, images, **_):
        sizes.append(tuple(images.shape))
        return dict.fromkeys(product(networks, formats), 1.0)

    monkeypatch.setattr(passes, "measure_steps", measure)
    labels_of(segmenter, dataset, tmp_path, "--optimize", *options)
    assert sizes == [(1, 3, side, side)]


def test_a_compiler_that_is_not_there_is_named(segmenter, dataset, tmp_path, capsys):
    with inductor_config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        arguments = ["--output", tmp_path, "--device", "cpu", "--compile"]
        assert main("predict", segmenter, dataset.semantic_images("val"), *arguments) == 2
    assert "CXX" in capsys.readouterr().err
