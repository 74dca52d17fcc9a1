"""`tools/train_semseg.py`: a segmenter trained and resumed, and what a newcomer gets wrong."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from regnet_backbones import config_path, shapes
from regnet_backbones.detection.config import read_config
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.semseg.run import summarize

TOOL = Path(__file__).parent.parent / "tools" / "train_semseg.py"
QUICK = config_path("semseg/quick/unet_regnet_small_shapes.yaml")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=8, num_val=3, image_size=64, seed=0)
    return shapes.write(tmp_path_factory.mktemp("shapes") / "shapes", spec)


def main(*arguments):
    """Run the tool in this process and return its exit status."""
    try:
        return runpy.run_path(str(TOOL))["main"]([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code


def small(dataset, output, steps):
    """Return the command line of a short run on a small dataset."""
    return [
        *("--config", QUICK),
        *("--output", output),
        *("--data.root", dataset.root / "semantic"),
        *("--data.crop_size", 64),
        *("--data.batch_size", 4),
        *("--data.num_workers", 0),
        *("--trainer.max_steps", steps),
        *("--trainer.val_check_interval", 2),
        *("--trainer.log_every_n_steps", 1),
        *("--trainer.enable_progress_bar", "false"),
    ]


def test_a_segmenter_is_trained_and_resumed(dataset, tmp_path, capsys):
    assert main(*small(dataset, tmp_path, 4)) == 0
    said = capsys.readouterr().out
    for name in ("miou", "accuracy", "iou/circle", "iou/background"):
        assert name in said
    assert f"best checkpoint: {tmp_path / 'checkpoints' / 'best.ckpt'}" in said
    assert len(list((tmp_path / "tensorboard" / "pictures" / "4").iterdir())) == 3
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    last = tmp_path / "checkpoints" / "last.ckpt"
    first = torch.load(last, weights_only=True)
    assert first["global_step"] == 4
    model = Segmenter.load_from_checkpoint(last)
    assert model.class_names[:2] == ("circle", "square")

    assert main(*small(dataset, tmp_path, 6), "--resume") == 0
    second = torch.load(last, weights_only=True)
    assert second["global_step"] == 6
    steps = [state["step"] for state in second["optimizer_states"][0]["state"].values()]
    assert set(map(int, steps)) == {6}  # of the optimizer, whose state went on
    assert second["lr_schedulers"][0]["last_epoch"] == 6

    capsys.readouterr()
    assert main(*small(dataset, tmp_path, 6), "--resume") == 0  # it is at its end
    said = capsys.readouterr().out
    assert said.startswith(f"best checkpoint: {tmp_path / 'checkpoints' / 'best.ckpt'}")


def test_a_class_that_is_not_there_has_no_iou():
    """Lightning's `callback_metrics` keep that of a validation before."""
    trainer = SimpleNamespace(
        callback_metrics={"val/iou/circle": torch.tensor(0.25)},
        checkpoint_callback=SimpleNamespace(best_model_path=""),
    )
    segmenter = SimpleNamespace(
        last_validation={"val/miou": 0.5, "val/iou/circle": float("nan"), "val/iou/square": 0.5}
    )
    _, _, *rows, best, _, _ = summarize(trainer, segmenter, "out").splitlines()
    assert [row.split() for row in rows] == [
        ["miou", "0.5000"],
        ["iou/circle", "-"],
        ["iou/square", "0.5000"],
    ]
    assert best == "best checkpoint: none"


def test_a_detector_gives_its_backbone(dataset, tmp_path):
    """The two of the demo have the same RegNet."""
    cfg = read_config(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    detector = build_model(cfg)
    torch.save({"model": detector.state_dict()}, tmp_path / "model_final.pth")
    options = ["--model.encoder_weights", tmp_path / "model_final.pth", "--model.lr", 1e-12]
    assert main(*small(dataset, tmp_path / "run", 1), *options) == 0
    trained = Segmenter.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    theirs = dict(detector.backbone.bottom_up.named_parameters())
    ours = dict(trained.network.encoder.named_parameters())
    assert any(name.startswith("s2.b2.conv2") for name in ours)
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name])


def test_without_resume_a_run_starts_anew(dataset, tmp_path):
    for _ in range(2):
        assert main(*small(dataset, tmp_path, 2)) == 0
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 2


@pytest.mark.parametrize(
    "classes",
    [
        ("--data.num_classes", 7),
        ("--data.label_map", "{1: round, 2: other, 3: other, 4: other, 5: other, 6: ignore}"),
    ],
)
def test_folders_of_ones_own_images_and_masks(classes, dataset, tmp_path):
    """The labels of the demo's masks, 1 to 6, as they are or as a map says."""
    folders = {
        f"--data.{split}_{kind}": folder(split)
        for split in ("train", "val")
        for kind, folder in (
            ("images", dataset.semantic_images),
            ("masks", dataset.semantic_masks),
        )
    }
    own = tmp_path / "own.yaml"
    own.write_text(QUICK.read_text().replace("layout: ade20k", "layout: folder"))
    arguments = small(dataset, tmp_path / "out", 2)
    arguments[1] = own
    paths = [item for pair in folders.items() for item in pair]
    assert main(*arguments, *paths, *classes) == 0


def test_a_mask_that_is_not_there_stops_it_with_its_name(dataset, tmp_path, capsys):
    copy = shapes.write(tmp_path / "shapes", shapes.ShapesSpec(num_train=4, num_val=2, seed=1))
    mask = sorted(copy.semantic_masks("train").iterdir())[1]
    mask.unlink()
    assert main(*small(copy, tmp_path / "out", 2)) == 2
    assert mask.stem in capsys.readouterr().err
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_mask_of_another_size_stops_it_with_its_name(tmp_path, capsys):
    copy = shapes.write(tmp_path / "shapes", shapes.ShapesSpec(num_train=4, num_val=2, seed=1))
    mask = sorted(copy.semantic_masks("train").iterdir())[1]
    Image.new("L", (9, 9)).save(mask)
    assert main(*small(copy, tmp_path / "out", 2)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert mask.name in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.decoder", "Vnet"], "decoder must be one of DPT, DeepLabV3"),
        (["--data.layout", "coco"], "layout"),
        (["--data.root", "nowhere"], "nowhere"),
        (["--model.lr", "0"], "lr must be above 0, got 0"),
        (["--trainer.sync_batchnorm", "true"], "would delete the activations of a RegNet"),
        (["--model.lrr", "1"], "lrr"),
        (["--model.encoder", "regnetx_2"], "error: Wrong encoder name `regnetx_2`"),
    ],
)
def test_mistakes_are_said(arguments, message, dataset, tmp_path, capsys):
    assert main(*small(dataset, tmp_path, 2), *arguments) == 2
    assert message in capsys.readouterr().err
