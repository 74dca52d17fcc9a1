"""Trained models that travel: `push`, `hf-hub:` names, and designs in files of SMP."""

import json
import shutil
import subprocess
import sys

import huggingface_hub
import pytest
import segmentation_models_pytorch as smp
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from hub_stub import hub
from malicious_files import bombs
from small_segmenter import train_segmenter

import regnet_backbones
from regnet_backbones import RegNetDesign, RegNetFeatures, config_path, shapes, weights
from regnet_backbones.cli.main import main
from regnet_backbones.detection.config import read_config
from regnet_backbones.detection.data import read_coco_split, use_coco_splits
from regnet_backbones.detection.trained import load_detector
from regnet_backbones.errors import UserError
from regnet_backbones.runs.trained import find_trained
from regnet_backbones.semseg.checkpoints import load_segmenter
from regnet_backbones.semseg.datamodule import SegmentationData

DESIGN = RegNetDesign(24, 36.44, 2.49, 13, 8, se_ratio=0.25, stem_width=16, activation="silu")
REPO = "someone/model"
SECRET = "a_folder_of_this_machine"
LICENCES = {"detector": "apache-2.0", "segmenter": None}
FILES = {"detector": {"config.yaml"}, "segmenter": {"config.json", "regnet_backbones.json"}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=3, num_val=2, image_size=64)
    return shapes.write(tmp_path_factory.mktemp(SECRET) / "shapes", spec)


@pytest.fixture(scope="module")
def detector(data, tmp_path_factory):
    """Return the folder of a detector of own data, whose training began from timm's weights."""
    folder = tmp_path_factory.mktemp(SECRET)
    torch.manual_seed(0)
    cfg = read_config(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml"))
    splits = [
        read_coco_split(data.instances_json(split), data.images(split))
        for split in ("train", "val")
    ]
    use_coco_splits(cfg, *splits)
    cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = "cpu", str(folder)
    cfg.INPUT.AUGMENTATION = f"{SECRET}:build"
    DetectionCheckpointer(build_model(cfg), save_dir=str(folder)).save("model_final")
    cfg.MODEL.WEIGHTS = "timm://regnety_032.ra_in1k"
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


@pytest.fixture(scope="module")
def segmenter(data, tmp_path_factory):
    """Return the folder of a segmenter on a design by numbers, of grey images."""
    folder = tmp_path_factory.mktemp(SECRET)
    grey = {"mean": (0.5,), "std": (0.25,)}
    read = SegmentationData(
        "ade20k", str(data.root / "semantic"), crop_size=64, batch_size=2, num_workers=0, **grey
    )
    design = {"w_0": 24, "w_a": 36.44, "w_m": 2.49, "depth": 13, "group_width": 8}
    train_segmenter(read, encoder=design, **grey).save_checkpoint(folder / "checkpoints/best.ckpt")
    return folder


@pytest.fixture
def server(tmp_path):
    with hub(tmp_path / "cache") as server:
        yield server


def predicted(path):
    """Return what a model makes of random pixels, every tensor of it."""
    trained, pixels = find_trained(path), torch.rand(3, 64, 96)
    with torch.no_grad():
        if trained.kind == "segmenter":
            model = load_segmenter(trained.checkpoint).eval()
            return [model(pixels[None, :1])]
        _, model = load_detector(trained, opts=["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"])
        found = model([{"image": pixels * 255}])[0]["instances"].get_fields()
        return [getattr(value, "tensor", value) for value in found.values()]


def results_in(folder):
    return json.loads((folder / "results.json").read_text())["results"]["own_val"]


@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_a_pushed_model_predicts_as_its_run(kind, server, tmp_path, request):
    run = request.getfixturevalue(kind)
    assert main(["push", str(run), REPO, "--private", "--revision", "v2"]) == 0
    files = server.repos[REPO]
    # No pickle, no program, and nothing of this machine.
    assert files.keys() == FILES[kind] | {"model.safetensors", "README.md"}
    assert server.private[REPO]
    assert not [name for name in files if SECRET.encode() in files[name]]
    torch.manual_seed(1)
    found = predicted(run)
    assert len(found[0]) > 0
    torch.manual_seed(1)
    torch.testing.assert_close(predicted(f"hf-hub:{REPO}@v2"), found, rtol=0, atol=0)
    assert set(server.fetched) == {*files}
    card = huggingface_hub.ModelCard(files["README.md"].decode())
    assert card.data.library_name == "regnet_backbones"
    assert card.data.license == LICENCES[kind]
    assert "3 train" in card.text
    assert "triangle" in card.text


def test_smp_and_ours_agree_on_a_pushed_segmenter(segmenter, tmp_path):
    folder = tmp_path / "shared"
    assert main(["push", str(segmenter), REPO, "--dry-run", str(folder)]) == 0
    image = torch.rand(1, 1, 64, 64)
    theirs = smp.from_pretrained(folder).eval()
    ours = load_segmenter(find_trained(folder).checkpoint).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(image), ours(image), rtol=0, atol=0)
    assert main(["push", str(segmenter), REPO, "--dry-run", str(folder)]) == 2  # not empty


def test_a_shared_model_is_evaluated_predicted_and_exported(detector, data, tmp_path):
    folder, images = tmp_path / "shared", str(data.images("val"))
    assert main(["evaluate", str(detector)]) == 0
    assert main(["push", str(detector), REPO, "--dry-run", str(folder)]) == 0
    results = results_in(detector / "evaluation")
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    metrics = {each.metric_name: each.metric_value for each in card.data.eval_results}
    assert metrics["bbox AP"] == round(results["bbox"]["AP"], 2)
    assert "Evaluated with" not in card.text
    own = ["--val-json", str(data.instances_json("val")), "--val-images", images]
    again = tmp_path / "evaluation"
    assert main(["evaluate", str(folder), "--output", str(again)]) == 2  # the data are elsewhere
    assert main(["evaluate", str(folder), "--output", str(again), *own]) == 0
    assert results_in(again) == results
    assert main(["predict", str(folder), images, "--output", str(tmp_path), "--no-pictures"]) == 0
    file = tmp_path / "backbone.onnx"
    assert main(["export", str(folder), "--backbone", "--output", str(file)]) == 0


def test_a_card_has_numbers_of_the_model_alone(segmenter, tmp_path):
    """Not those of an exported file; how they were found is on it."""
    results = segmenter / "evaluation" / "results.json"
    for name, options in (("windows", ["--window", "32"]), ("plain", [])):
        assert main(["evaluate", str(segmenter), "--device", "cpu", *options]) == 0
        assert main(["push", str(segmenter), REPO, "--dry-run", str(tmp_path / name)]) == 0
        text = (tmp_path / name / "README.md").read_text()
        assert "mIoU" in text
        assert ("window 32" in text) == (name == "windows")
    content = json.loads(results.read_text())
    content["settings"] |= {"engine": "onnxruntime", "exported": "int8.onnx"}
    results.write_text(json.dumps(content))
    assert main(["push", str(segmenter), REPO, "--dry-run", str(tmp_path / "int8")]) == 0
    assert "mIoU" not in (tmp_path / "int8" / "README.md").read_text()
    shutil.rmtree(results.parent)


def test_a_shared_segmenter_knows_what_labels_mean(data, tmp_path):
    """Its masks have labels of their own, which a file maps to classes."""
    table = tmp_path / "labels.txt"
    names = [*shapes.CATEGORIES, "ignore"]  # the last is the background
    table.write_text("\n".join(f"{label} {name}" for label, name in enumerate(names, 1)))
    folders = {
        f"{part}_{kind}": str(find(split))
        for part, split in (("train", "train"), ("val", "val"))
        for kind, find in (("images", data.semantic_images), ("masks", data.semantic_masks))
    }
    options = {"crop_size": 64, "batch_size": 2, "num_workers": 0, "label_map": str(table)}
    run, shared = tmp_path / "run", tmp_path / "shared"
    trainer = train_segmenter(SegmentationData("folder", **folders, **options))
    trainer.save_checkpoint(run / "checkpoints" / "best.ckpt")
    assert main(["push", str(run), REPO, "--dry-run", str(shared)]) == 0
    table.unlink()
    opts = ["--opts", *(word for pair in folders.items() for word in pair)]
    for folder in (run, shared):
        assert main(["evaluate", str(folder), *opts, "--output", f"{folder}_found"]) == 0
    found, expected = (
        json.loads((tmp_path / name / "results.json").read_text())["results"]
        for name in ("shared_found", "run_found")
    )
    assert found == expected
    assert list(found["iou"]) == list(shapes.CATEGORIES)


def test_weights_of_the_hub_are_a_source(server, tmp_path):
    network = RegNetFeatures("regnetx_002")
    weights.write_checkpoint(tmp_path / "model.safetensors", network.state_dict())
    files = server.repos["someone/backbone"] = {}
    files["below/model.safetensors"] = (tmp_path / "model.safetensors").read_bytes()
    name = "hf-hub:someone/backbone/below@main"
    for model in (
        RegNetFeatures("regnetx_002", pretrained=name),
        smp.Unet("regnetx_002", encoder_weights=name).encoder,
    ):
        for key, value in network.state_dict().items():
            assert torch.equal(model.state_dict()[key], value)
    with pytest.raises(UserError, match="someone/backbone/other"):
        RegNetFeatures("regnetx_002", pretrained="hf-hub:someone/backbone/other")
    with pytest.raises(UserError, match="hf-hub:none/at_all"):
        find_trained("hf-hub:none/at_all")


def test_the_names_of_hub_sources():
    known = weights.find_source("hf-hub:timm/regnety_032.ra_in1k@abc")
    named = weights.find_source("timm://regnety_032.ra_in1k")
    assert (known.licence, known.mean, known.variant) == (named.licence, named.mean, named.variant)
    assert (known.revision, known.hub_id) == ("abc", named.hub_id)
    for wrong in ("hf-hub:", "hf-hub:name", "hf-hub:a/../b", "hf-hub:a/b@", "hf-hub:a//b"):
        with pytest.raises(UserError, match="owner/name"):
            weights.find_source(wrong)


def test_designs_travel_in_files_of_smp(tmp_path):
    """In a process that knows nothing of the registration."""
    regnet_backbones.register_encoder("of_this_process", DESIGN)
    model = smp.Unet("of_this_process", encoder_weights=None, classes=2).eval()
    model.save_pretrained(tmp_path)
    name = json.loads((tmp_path / "config.json").read_text())["encoder_name"]
    assert smp.Unet(name, encoder_weights=None).encoder.design == DESIGN
    image = torch.rand(1, 3, 64, 64)
    torch.save(image, tmp_path / "image.pt")
    program = (
        "import sys, torch, regnet_backbones, segmentation_models_pytorch as smp\n"
        "model = smp.from_pretrained(sys.argv[1]).eval()\n"
        "print(model(torch.load(sys.argv[1] + '/image.pt')).double().sum().item())"
    )
    run = [sys.executable, "-c", program, str(tmp_path)]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert float(printed.split()[-1]) == pytest.approx(model(image).double().sum().item(), rel=1e-5)


@pytest.mark.parametrize("name", ["regnet(w_0=24)", "regnet(layers=3)", "regnet(w_0=print(1))"])
def test_a_wrong_name_of_a_design_is_an_error(name):
    with pytest.raises(UserError, match=r"regnet\("):
        smp.Unet(name, encoder_weights=None)


@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_what_a_stranger_shares_is_data(kind, tmp_path, request):
    folder, marker = tmp_path / "shared", tmp_path / "marker"
    assert main(["push", str(request.getfixturevalue(kind)), REPO, "--dry-run", str(folder)]) == 0
    bomb = bombs(marker)["REDUCE"]
    (folder / "model.safetensors").write_bytes(b"\x80\x02" + bomb + b".")
    with pytest.raises(UserError):
        predicted(folder)
    assert not marker.exists()
    if kind == "segmenter":
        for wrong in ("[]", "{}", '{"model": {"num_classes": "many"}}'):
            (folder / "regnet_backbones.json").write_text(wrong)
            with pytest.raises(UserError):
                load_segmenter(folder / "model.safetensors")
