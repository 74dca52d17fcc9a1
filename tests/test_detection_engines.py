"""`evaluate` and `predict` with onnxruntime: what torch gives, and what it cannot run."""

import json

import onnx
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model

from regnet_backbones import config_path, shapes
from regnet_backbones.cli.main import main
from regnet_backbones.detection.config import read_config
from regnet_backbones.detection.data import read_coco_split
from regnet_backbones.detection.evaluation import evaluate
from regnet_backbones.detection.exporting import export_detector, images_for
from regnet_backbones.detection.prediction import DetectorPredictor, predict
from regnet_backbones.detection.trained import load_detector
from regnet_backbones.errors import UserError
from regnet_backbones.export.running import read_metadata
from regnet_backbones.runs.trained import find_trained
from regnet_backbones.runs.videos import ImageReader

QUICK = config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml")
SIDE = 96  # of the images; tests resize them to 64


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=1, num_val=3, image_size=SIDE)
    return shapes.write(tmp_path_factory.mktemp("data") / "shapes", spec)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return what a training of a detector on data of one's own would have left."""
    torch.manual_seed(0)
    run = tmp_path_factory.mktemp("detector")
    opts = ["INPUT.MIN_SIZE_TEST", "64", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    opts += ["MODEL.DEVICE", "cpu", "TEST.DETECTIONS_PER_IMAGE", "20"]
    cfg = read_config(QUICK, [*opts, "DATASETS.TEST", "('own_val',)"])
    model = build_model(cfg)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight.mul_(20)  # scores that are apart
    DetectionCheckpointer(model, save_dir=str(run)).save("model_final")
    (run / "config.yaml").write_text(cfg.dump())
    return find_trained(run)


@pytest.fixture(scope="module")
def val(trained, dataset, tmp_path_factory):
    """Return data whose truth is half of what the detector predicts: an AP above 0."""
    cfg = read_config(trained.config_file)
    cfg.MODEL.WEIGHTS = str(trained.checkpoint)
    cfg.DATASETS.TEST = ()
    predictor = DefaultPredictor(cfg)
    content = {"images": [], "annotations": []}
    for number, path in enumerate(sorted(dataset.images("val").iterdir()), 1):
        instances = predictor(read_image(str(path), "BGR"))["instances"].to("cpu")
        size = {"height": SIDE, "width": SIDE}
        content["images"].append({"id": number, "file_name": path.name, **size})
        for entry in instances_to_coco_json(instances[::2], number):
            entry |= {"category_id": entry["category_id"] + 1, "iscrowd": 0}
            entry |= {"id": len(content["annotations"]) + 1}
            entry |= {"area": entry["bbox"][2] * entry["bbox"][3]}
            content["annotations"].append(entry)
    content["categories"] = [
        {"id": index, "name": name} for index, name in enumerate(shapes.CATEGORIES, 1)
    ]
    path = tmp_path_factory.mktemp("own") / "val.json"
    path.write_text(json.dumps(content))
    return read_coco_split(path, dataset.images("val"))


@pytest.fixture(scope="module")
def in_torch(trained, val, tmp_path_factory):
    return evaluate(trained, tmp_path_factory.mktemp("torch"), val=val).results["own_val"]


@pytest.fixture(scope="module")
def exported(trained, dataset, tmp_path_factory):
    """Return files of the detector: one that takes resized images, and one that resizes."""
    folder = tmp_path_factory.mktemp("exported")
    cfg, model = load_detector(trained)
    paths = sorted(dataset.images("val").iterdir())
    for name, resize in (("resized", False), ("any size", True)):
        images = images_for(cfg, paths, resize=resize)
        export_detector(cfg, model, folder / f"{name}.onnx", images=images, resize=resize)
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("file", [None, "resized", "any size"])
def test_the_ap_is_that_of_torch(file, trained, val, in_torch, exported, tmp_path):
    path = file and exported[file]
    results = evaluate(trained, tmp_path, val=val, engine="onnxruntime", exported=path).results
    assert results["own_val"].keys() == in_torch.keys() == {"bbox", "segm"}
    for task, metrics in in_torch.items():
        assert 1 < metrics["AP"] < 99
        for metric in ("AP", "AP50"):
            assert results["own_val"][task][metric] == pytest.approx(metrics[metric], abs=0.05)
    settings = json.loads((tmp_path / "results.json").read_text())["settings"]
    assert settings["engine"] == "onnxruntime"
    assert settings["exported"] == (path and str(path))
    assert settings["min_size_test"] == 64


def entries_of(folder):
    entries = json.loads((folder / "predictions.json").read_text())
    return sorted(entries, key=lambda e: (e["image_id"], -e["score"]))


def failed_of(trained, images, output, **options):
    """Predict images; return those that could not be read."""
    read = ImageReader(images)
    predict(DetectorPredictor(trained, **options), read, output)
    return read.failed


def test_predictions_are_those_of_torch(trained, dataset, exported, tmp_path):
    """Of both ways to run it, above a score that is higher than the one in the file."""
    images = sorted(dataset.images("val").iterdir())
    (tmp_path / "broken.png").write_text("no image")
    options = {"min_score": 0.25}
    assert not failed_of(trained, images, tmp_path / "torch", **options)
    expected = entries_of(tmp_path / "torch")
    assert len(expected) > 5
    options |= {"engine": "onnxruntime"}
    broken = [tmp_path / "broken.png"]
    assert failed_of(trained, [*broken, *images], tmp_path / "a", **options) == broken
    higher = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.25"]
    for folder, more in (("b", {"exported": exported["resized"]}), ("c", {"opts": higher})):
        failed_of(trained, images, tmp_path / folder, **options, **more)
    options |= {"exported": exported["resized"], "opts": higher}
    failed_of(trained, images, tmp_path / "d", **options)
    for folder in "abcd":
        found = entries_of(tmp_path / folder)
        assert [e["category"] for e in found] == [e["category"] for e in expected]
        for one, other in zip(found, expected, strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)
            assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-2)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--engine openvino", "openvino"),
        ("--exported any", "--engine onnxruntime"),
        ("--engine onnxruntime --device cuda", "--device"),
        ("--engine onnxruntime --devices 2", "--devices"),
        ("--engine onnxruntime --optimize", "OPTIMIZE"),
        ("--engine onnxruntime --opts TEST.AUG.ENABLED True", "TEST.AUG"),
        ("--engine onnxruntime --exported gone.onnx", "gone.onnx"),
        ("--engine onnxruntime --exported net.ts", "net.ts"),
        ("--engine onnxruntime --exported other.onnx", "other.onnx"),
        ("--engine onnxruntime --exported broken.onnx", "broken.onnx"),
        (
            "--engine onnxruntime --exported any --opts INPUT.MIN_SIZE_TEST 48",
            "INPUT.MIN_SIZE_TEST",
        ),
        ("--engine onnxruntime --exported any --opts MODEL.RPN.NMS_THRESH 0.6", "MODEL.RPN.NMS_TH"),
    ],
)
def test_what_the_engine_would_ignore_is_refused(
    options, named, trained, val, exported, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    onnx.save(onnx.ModelProto(), tmp_path / "other.onnx")
    words = [str(exported["any size"]) if w == "any" else w for w in options.split()]
    own = ["--val-json", str(val.json_file), "--val-images", str(val.image_root)]
    arguments = ["evaluate", str(trained.run_folder), *own, "--output", "out", *words]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert named.lower() in error.lower()


def test_a_file_of_another_checkpoint_is_refused(trained, exported, val, tmp_path):
    state = torch.load(trained.checkpoint)
    state["model"]["backbone.fpn_output2.weight"] += 1
    torch.save(state, tmp_path / "model_final.pth")
    other = find_trained(tmp_path / "model_final.pth", config_file=trained.config_file)
    options = {"engine": "onnxruntime", "exported": exported["resized"]}
    with pytest.raises(UserError, match="not exported from"):
        evaluate(other, tmp_path / "out", val=val, **options)
    with pytest.raises(UserError, match="engine"):
        evaluate(trained, tmp_path / "out", val=val, engine="tensorrt")


def test_a_lower_threshold_than_that_of_the_file_is_refused(trained, dataset, tmp_path):
    cfg, model = load_detector(trained, opts=["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.1"])
    paths = sorted(dataset.images("val").iterdir())
    path = tmp_path / "net.onnx"
    export_detector(cfg, model, path, images=images_for(cfg, paths))
    with pytest.raises(UserError, match="SCORE_THRESH_TEST"):
        DetectorPredictor(trained, engine="onnxruntime", exported=path)


def test_a_file_of_8_bits_is_evaluated_before_and_after(trained, dataset, val, tmp_path, capsys):
    """Not with images that are evaluated; what is printed is what the file gives."""
    file = tmp_path / "int8.onnx"
    data = ["DATASETS.OWN.VAL_JSON", val.json_file, "DATASETS.OWN.VAL_IMAGES", val.image_root]
    arguments = ["export", trained.run_folder, "--output", file, "--int8", "--ranges", "minmax"]
    arguments += ["--opts", *data, "--calibration"]
    assert main([*map(str, arguments), str(val.image_root)]) == 2
    assert "--calibration" in capsys.readouterr().err
    assert not file.exists()
    assert main([*map(str, arguments), str(dataset.images("train")), "--max-loss", "100"]) == 0
    printed = capsys.readouterr().out
    found = evaluate(trained, tmp_path / "out", val=val, engine="onnxruntime", exported=file)
    for task in ("bbox", "segm"):
        assert f"{task} AP " in printed
        assert f", {found.results['own_val'][task]['AP']:.2f}% in int8" in printed
    assert read_metadata(file)["quantization"] == "int8"
