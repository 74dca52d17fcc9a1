"""`tools/train_semseg.py`: a segmenter trained and resumed, and what a newcomer gets wrong."""

import csv
import re
import resource
import shutil
import signal

import pytest
import torch
from detectron2.modeling import build_model
from load_tool import load_tool
from test_loggers import PictureLogger

from regnet_backbones import config_path, shapes
from regnet_backbones.detection.config import read_config
from regnet_backbones.errors import UserError
from regnet_backbones.report.logs import read_events
from regnet_backbones.runs.trained import find_trained
from regnet_backbones.semseg.checkpoints import load_segmenter
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.semseg.run import launch_run

QUICK = config_path("semseg/quick/unet_regnet_small_shapes.yaml")
TINY = "regnetx_002"
RANDOM = ["--model.encoder_weights", "null", "--model.decoder_options", "null"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Draw a small dataset; `semantic` below its root is in the layout of ADE20K."""
    spec = shapes.ShapesSpec(num_train=8, num_val=2, image_size=64, seed=0)
    return shapes.write(tmp_path_factory.mktemp("shapes") / "shapes", spec)


@pytest.fixture(scope="module")
def data(dataset):
    return dataset.root / "semantic"


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Return the folder of a run of two steps."""
    output = tmp_path_factory.mktemp("run") / "run"
    assert main(*training(data, output, 2)) == 0
    return output


@pytest.fixture
def run_folder(trained, tmp_path):
    """Return a copy of that folder."""
    return shutil.copytree(trained, tmp_path / "run")


def main(*arguments, tool="train_semseg"):
    """Run a tool in this process and return its exit status."""
    return load_tool(tool).main([str(each) for each in arguments])


def training(data, output, steps, *more):
    """Return the command line of a short run."""
    return [
        *("--config", QUICK, "--output", output, "--data.root", data, "--data.crop_size", 32),
        *("--data.batch_size", 4, "--data.num_workers", 0, "--trainer.max_steps", steps),
        *("--trainer.val_check_interval", 2, "--trainer.enable_progress_bar", "false"),
        *("--trainer.log_every_n_steps", 1, "--trainer.accelerator", "cpu", *more),
    ]


def folders(data, *more):
    """Return the options of the layout of one's own folders."""
    names = {
        "train_images": "images/training",
        "train_masks": "annotations/training",
        "val_images": "images/validation",
        "val_masks": "annotations/validation",
    }
    options = [word for name, path in names.items() for word in (f"--data.{name}", data / path)]
    return ["--data.layout", "folder", "--data.root", "null", *options, *more]


def last_of(output):
    return torch.load(output / "checkpoints" / "last.ckpt", weights_only=True)


# Training and resuming


def test_a_segmenter_is_trained_and_resumed(data, tmp_path, capsys):
    assert main(*training(data, tmp_path, 4, "--trainer.enable_progress_bar", "true")) == 0
    said, log = capsys.readouterr()
    for name in ("mIoU", "pixel accuracy", "IoU circle", "IoU background"):
        assert name in said
    for step in (1, 2, 3, 4):
        assert re.search(rf"^step {step} of 4: loss \d.*, lr .* images/s, .* left$", said, re.M)
    assert re.search(r"^validation at step 4: mIoU \d+\.\d\d%$", said, re.M)
    assert "\r" not in said + log  # of a bar
    assert not re.search("Tip:|available: False|Trainable params", said + log)
    assert f"best checkpoint: {tmp_path / 'checkpoints' / 'best.ckpt'}" in said
    assert len(list((tmp_path / "tensorboard" / "pictures" / "4").iterdir())) == 2
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert last_of(tmp_path)["global_step"] == 4
    model = load_segmenter(tmp_path / "checkpoints" / "last.ckpt")
    assert model.class_names[:2] == ("circle", "square")

    assert main(*training(data, tmp_path, 6), "--resume") == 0
    second = last_of(tmp_path)
    assert second["global_step"] == 6
    steps = [state["step"] for state in second["optimizer_states"][0]["state"].values()]
    assert set(map(int, steps)) == {6}  # of the optimizer, whose state went on
    assert second["lr_schedulers"][0]["last_epoch"] == 6

    capsys.readouterr()
    assert main(*training(data, tmp_path, 6), "--resume") == 0  # it is at its end
    said = capsys.readouterr().out
    assert said.startswith(f"best checkpoint: {tmp_path / 'checkpoints' / 'best.ckpt'}")


def test_a_terminal_shows_the_time_left(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    options = ("--trainer.enable_progress_bar", "true", "--trainer.num_sanity_val_steps", "1")
    assert main(*training(data, tmp_path, 4, *options)) == 0
    assert re.search(r"left=\d:\d\d:\d\d", "".join(capsys.readouterr()))


def test_a_named_logger_is_added(data, tmp_path):
    options = ("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", tmp_path / "csv")
    assert main(*training(data, tmp_path, 2, *options)) == 0
    events = read_events(tmp_path / "tensorboard")
    (file,) = (tmp_path / "csv").rglob("metrics.csv")
    rows = list(csv.DictReader(file.open()))
    for name in ("train/loss", "val/miou"):
        written = [float(row[name]) for row in rows if row[name]]
        assert written == pytest.approx([event.value for event in events[name]])
    assert "Unet" in (file.parent / "hparams.yaml").read_text()
    assert (tmp_path / "tensorboard" / "config.yaml").is_file()
    assert list((tmp_path / "tensorboard" / "pictures").rglob("*.png"))


def test_pictures_reach_the_loggers_that_take_them(data, tmp_path, monkeypatch):
    monkeypatch.setattr(PictureLogger, "pictures", [])
    options = (
        "--trainer.logger",
        "test_loggers.PictureLogger",
        "--trainer.logger.save_dir",
        tmp_path,
    )
    assert main(*training(data, tmp_path / "run", 2, *options)) == 0
    assert [step for _, _, step in PictureLogger.pictures] == [2, 2]  # of two images


def test_a_logger_whose_package_is_missing_is_named(data, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    argv = training(data, tmp_path, 2, "--trainer.logger", "WandbLogger")
    with pytest.raises(UserError, match="WandbLogger"):
        launch_run([str(each) for each in argv])


def test_a_run_without_loggers(data, tmp_path):
    assert main(*training(data, tmp_path, 2, "--trainer.logger", "false")) == 0
    assert not (tmp_path / "tensorboard").exists()


def test_a_detector_gives_its_backbone(data, tmp_path):
    """The two of the demo have the same RegNet."""
    cfg = read_config(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    detector = build_model(cfg)
    torch.save({"model": detector.state_dict()}, tmp_path / "model_final.pth")
    options = ["--model.encoder_weights", tmp_path / "model_final.pth", "--model.lr", 1e-12]
    assert main(*training(data, tmp_path / "run", 1), *options) == 0
    trained = load_segmenter(tmp_path / "run" / "checkpoints" / "last.ckpt")
    theirs = dict(detector.backbone.bottom_up.named_parameters())
    ours = dict(trained.network.encoder.named_parameters())
    assert any(name.startswith("s2.b2.conv2") for name in ours)
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name])


@pytest.mark.parametrize(
    "classes",
    [
        ("--data.num_classes", 7),
        ("--data.label_map", "{1: round, 2: other, 3: other, 4: other, 5: other, 6: ignore}"),
    ],
)
def test_folders_of_ones_own_images_and_masks(classes, data, tmp_path):
    """The labels of the demo's masks, 1 to 6, as they are or as a map says."""
    assert main(*training(data, tmp_path, 1, *folders(data, *classes))) == 0


def test_an_output_in_ones_home_is_one_folder(data, tmp_path, monkeypatch):
    """A shell leaves `~` alone in `--output=~/run`, and nobody replaces it in a YAML file."""
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    own = tmp_path / "own.yaml"
    own.write_text("output: ~/run\n")
    assert main(*training(data, "elsewhere", 1, "--config", own)) == 0
    checkpoints = home / "run" / "checkpoints"
    assert {file.name for file in checkpoints.iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (home / "run" / "tensorboard" / "config.yaml").is_file()
    assert list(here.iterdir()) == []


# Mistakes


MISTAKES = [
    (["--data.batchsize", 4], "--data.batchsize"),
    (["--data.batch_size", "four"], "data.batch_size"),
    (["--data.layout", "yolo"], "data.layout"),
    (["--model.loss", "jaccard"], "loss must be one of"),
    (["--save_every", 0], "save_every"),
    (["--model.num_classes", 4], "model.num_classes"),
    (["--model.mean", "[0, 0, 0]"], "data.mean"),
    (["--config", "no.yaml"], "no.yaml"),
    (["--model.lr", "-1"], "Invalid learning rate: -1"),
    (["--model.encoder", "regnety_31", *RANDOM], "Wrong encoder name `regnety_31`"),
    (["--model.encoder", "tu-regnety_33", *RANDOM], "regnety_33"),
    (["--model.encoder_weights", "imagenet"], "encoder_weights of 'regnet("),
    (["--model.decoder", "Unett"], "decoder must be one of deeplabv3, "),
    (["--model.decoder_options", '{"decoder_chanels": 1}'], "Unet has no decoder_chanels"),
    (["--model.decoder_options", '{"decoder_channels": 5}'], "{'decoder_channels': 5}"),
    (["--model.decoder_options", '{"encoder_depth": 3}'], "Model depth is 3"),
    (["--data.root", "nowhere"], "no dataset folder 'nowhere'"),
    (["--data.root", "null"], "needs root"),
    (["--trainer.devices", 0], "--trainer options: `Trainer(devices="),
    (["--trainer.strategy", "dpp"], "--trainer options: "),
    (["--trainer.sync_batchnorm", "true"], "would delete the activations of a RegNet"),
    (["--trainer.max_steps", 0], "max_steps"),
    (["--data.batch_size", 9], "at most 8 (training images), got 9"),
]


@pytest.mark.parametrize(("options", "said"), MISTAKES)
def test_a_mistake_in_the_options_is_named(options, said, data, tmp_path):
    with pytest.raises(UserError) as caught:
        launch_run([str(each) for each in training(data, tmp_path, 2, *options)])
    assert said in str(caught.value)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model:\n  enconder: regnety_032\n", "enconder"),
        ("model: [unclosed\n", "config"),
        ("model: {decoder: Unet}\n", "data.layout"),
    ],
)
def test_a_mistake_in_a_config_is_named(text, said, tmp_path, capsys):
    config = tmp_path / "my.yaml"
    config.write_text(text)
    assert main("--config", config) == 2
    error = capsys.readouterr().err.partition("error: ")[2]
    assert said in error


def test_folders_that_are_no_dataset(data, tmp_path):
    for options, said in (
        (folders(data), "num_classes"),
        (folders(data, "--data.num_classes", 3), "undefined labels: "),
        (folders(data, "--data.label_map", "{1: a, x: b}"), "--data.label_map needs 'LABEL CLASS'"),
        (folders(data, "--data.train_masks", tmp_path, "--data.num_classes", 7), "must have masks"),
        (folders(data, "--data.val_masks", "x", "--data.num_classes", 7), "no mask folder 'x'"),
    ):
        with pytest.raises(UserError) as caught:
            launch_run([str(each) for each in training(data, tmp_path / "run", 2, *options)])
        assert said in str(caught.value)


def test_an_output_that_cannot_be_is_found_before_the_data(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(*training("nowhere", tmp_path / "file" / "run", 2)) == 2
    assert "--output" in capsys.readouterr().err


# Earlier runs


@pytest.mark.parametrize(
    ("steps", "options", "said"),
    [
        (4, ["--model.decoder", "FPN", *RANDOM], "--model.decoder was Unet and is FPN"),
        (4, ["--model.encoder", TINY], "and is regnetx_002"),
        (4, ["--model.optimizer", "sgd"], "--model.optimizer was adamw and is sgd"),
        (1, [], "--trainer.max_steps is 1"),
        (4, "folders", "--model.num_classes was 6 and is 9"),
    ],
)
def test_a_run_that_cannot_be_resumed(steps, options, said, data, run_folder):
    before = (run_folder / "checkpoints" / "last.ckpt").read_bytes()
    options = folders(data, "--data.num_classes", 9) if options == "folders" else options
    argv = training(data, run_folder, steps, *options, "--resume")
    with pytest.raises(UserError) as caught:
        launch_run([str(each) for each in argv])
    assert said in str(caught.value)
    assert (run_folder / "checkpoints" / "last.ckpt").read_bytes() == before


def test_a_checkpoint_that_is_cut_off_is_not_resumed(data, run_folder, capsys):
    last = run_folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:10_000])
    assert main(*training(data, run_folder, 4, "--resume")) == 2
    assert "last.ckpt (10000 bytes) is damaged" in capsys.readouterr().err


def test_options_that_keep_a_resumed_run_from_being_exact_are_named(data, run_folder, caplog):
    options = ["--model.lr", 0.125, "--data.flip", 0.25, "--data.root", data.resolve()]
    options += ["--data.num_workers", 1, "--seed_everything", 7, "--resume"]
    assert main(*training(data, run_folder, 3, *options)) == 0
    (said,) = [r.getMessage() for r in caplog.records if "config that differs" in r.getMessage()]
    assert "--model.lr was 0.003 and is 0.125 (no effect" in said
    assert "--data.flip was 0.5 and is 0.25;" in said
    assert "--trainer.max_steps was 2 and is 3" in said
    assert "--seed_everything was 0 and is 7 (no effect" in said
    assert "num_workers" not in said
    assert "--data.root" not in said
    assert last_of(run_folder)["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.003


def test_a_run_with_nothing_to_resume_begins(data, tmp_path, caplog):
    assert main(*training(data, tmp_path, 1, "--resume")) == 0
    assert "last.ckpt'; the training starts" in caplog.text
    checkpoints = tmp_path / "checkpoints"
    best = (checkpoints / "best.ckpt").read_bytes()
    (checkpoints / "last.ckpt").unlink()
    assert main(*training(data, tmp_path, 1, "--resume")) == 0
    assert (tmp_path / "earlier_run_1" / "checkpoints" / "best.ckpt").read_bytes() == best


def test_a_new_run_in_the_folder_of_another_sets_its_files_aside(data, run_folder, caplog):
    """So that neither its best checkpoint nor its logs are taken for those of the new one."""
    before = {
        file.relative_to(run_folder): file.read_bytes()
        for folder in ("checkpoints", "tensorboard")
        for file in (run_folder / folder).rglob("*")
        if file.is_file()
    }
    assert main(*training(data, run_folder, 1)) == 0
    aside = run_folder / "earlier_run_1"
    assert str(aside) in caplog.text
    assert {f.relative_to(aside): f.read_bytes() for f in aside.rglob("*") if f.is_file()} == before
    assert last_of(run_folder)["global_step"] == 1
    logged = read_events(run_folder / "tensorboard")
    assert {event.step for events in logged.values() for event in events} == {0}
    assert find_trained(aside).checkpoint == aside / "checkpoints" / "best.ckpt"


# Failures


def assert_goes_on(data, run_folder, *, to):
    """Check that all checkpoints are whole, and that a resumed run gets to a step."""
    for file in (run_folder / "checkpoints").iterdir():
        assert torch.load(file, weights_only=True)["global_step"] < to
    assert main(*training(data, run_folder, to, "--resume")) == 0
    assert last_of(run_folder)["global_step"] == to


def run_out_of_memory():
    raise torch.OutOfMemoryError("of a GPU")


@pytest.mark.parametrize(
    ("fail", "status", "said"),
    [
        (run_out_of_memory, 2, "memory"),
        (lambda: signal.raise_signal(signal.SIGINT), 130, "stopped by SIGINT after step 3"),
    ],
    ids=["out of memory", "ctrl-c"],
)
def test_a_run_goes_on_after_a_failure(fail, status, said, data, run_folder, monkeypatch, capsys):
    stock = Segmenter.training_step

    def training_step(self, *args):
        if self.global_step == 2:
            fail()
        return stock(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "training_step", training_step)
        assert main(*training(data, run_folder, 4, "--resume")) == status
    assert said in capsys.readouterr().err
    assert_goes_on(data, run_folder, to=4)


def test_a_run_goes_on_after_the_disk_was_full(data, run_folder, capsys):
    before = (run_folder / "checkpoints" / "last.ckpt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        assert main(*training(data, run_folder, 4, "--resume")) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "free some space" in capsys.readouterr().err
    assert (run_folder / "checkpoints" / "last.ckpt").read_bytes() == before
    assert_goes_on(data, run_folder, to=4)


# After the training


def test_evaluate_and_predict_say_what_cannot_be_used(data, run_folder, tmp_path, capsys):
    for options, said in (
        (["--opts", "root", "/nowhere"], "/nowhere"),
        (["--opts", "roott", "/x"], "roott"),
        (["--device", "cuda"], "cuda"),
    ):
        assert main(run_folder, *options, tool="evaluate") == 2
        assert said in capsys.readouterr().err.lower().replace("gpu", "cuda")
    best, images = run_folder / "checkpoints" / "best.ckpt", data / "images" / "validation"
    (tmp_path / "file").touch()
    assert main(run_folder, images, "--output", tmp_path / "file", tool="predict") == 2
    assert "output must be a folder" in capsys.readouterr().err
    best.write_bytes(b"<html>not found</html>")
    assert main(run_folder, tool="evaluate") == 2
    assert main(run_folder, images, "--output", tmp_path, tool="predict") == 2
    assert capsys.readouterr().err.count("is a web page") == 2
