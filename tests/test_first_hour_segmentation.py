"""What a newcomer gets wrong with segmenters: one line that says what to do, and nothing lost."""

import resource
import runpy
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from troubleshooting import assert_documented

from regnet_backbones import config_path, shapes
from regnet_backbones.report.logs import read_events
from regnet_backbones.runs.trained import find_trained
from regnet_backbones.semseg.failures import reworded
from regnet_backbones.semseg.module import Segmenter

TOOLS = Path(__file__).parents[1] / "tools"
QUICK = config_path("semseg/quick/unet_regnet_small_shapes.yaml")
TINY = "regnetx_002"
RANDOM = ["--model.encoder_weights", "null", "--model.decoder_options", "null"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return the folder of a small dataset in the layout of ADE20K."""
    spec = shapes.ShapesSpec(num_train=8, num_val=2, image_size=64, seed=0)
    return shapes.write(tmp_path_factory.mktemp("shapes") / "shapes", spec).root / "semantic"


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Return the folder of a run of two steps."""
    output = tmp_path_factory.mktemp("run") / "run"
    assert run("train_semseg", *training(data, output, 2)) == 0
    return output


@pytest.fixture
def run_folder(trained, tmp_path):
    """Return a copy of that folder."""
    return shutil.copytree(trained, tmp_path / "run")


def run(tool, *arguments):
    """Run a tool in this process and return its exit status."""
    return runpy.run_path(str(TOOLS / f"{tool}.py"))["main"]([str(each) for each in arguments])


def training(data, output, steps, *more):
    """Return the command line of a short run."""
    return [
        *("--config", QUICK, "--output", output, "--data.root", data, "--data.crop_size", 32),
        *("--data.batch_size", 4, "--data.num_workers", 0, "--trainer.max_steps", steps),
        *("--trainer.val_check_interval", 2, "--trainer.enable_progress_bar", "false", *more),
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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data.batchsize", 4], "there is no option --data.batchsize; did you mean --data.batch"),
        (["--bogus"], "there is no option --bogus; --help lists all options"),
        (["stray"], "'stray' is no option, and no option before it takes it; --help lists"),
        (["--data.batch_size", "four"], "--data.batch_size must be a whole number, got four"),
        (["--model.loss", "focal"], "--model.loss must be ce, dice or ce+dice, got focal"),
        (["--model.output_stride", 4], "--model.output_stride must be 8, 16, 32 or null, got 4"),
        (["--data.mean", "[0.5]"], "--data.mean must be tuple with 3 elements, got [0.5]"),
        (["--save_every", 0], "--save_every: Not of type PositiveInt: 0 does not conform to"),
        (["--data.flip"], "--data.flip: expected one argument"),
        (["--model.num_classes", 4], "--model.num_classes is taken from the data; leave it out"),
        (["--model.mean", "[0, 0, 0]"], "--model.mean is taken from --data.mean; leave it out"),
        (["--model.short_side", 64], "--model.short_side is taken from --data.short_side; leave"),
        (["--config", "no.yaml"], "--config must be a YAML file, and there is none at '"),
        (["--model.encoder", "regnety_31", *RANDOM], "did you mean 'regnety_032'"),
        (["--model.encoder", "resnet5", *RANDOM], "unknown encoder 'resnet5'; did you mean 'res"),
        (["--model.encoder", "tu-regnety_33", *RANDOM], "unknown encoder 'tu-regnety_33'; did"),
        (["--model.encoder_weights", "imagenet"], "there are no published weights for"),
        (["--model.decoder", "Unett"], "decoder must be one of DPT, "),
        (["--model.decoder_options", '{"decoder_chanels": 1}'], "decoder_options of Unet must be"),
        (["--model.decoder_options", '{"decoder_channels": 5}'], "decoder_options of Unet cannot"),
        (["--model.decoder_options", '{"encoder_depth": 3}'], "Model depth is 3, but you provide"),
        (["--data.root", "nowhere"], "no dataset folder 'nowhere'; correct the path"),
        (["--data.root", "null"], "layout 'ade20k' needs root, the folder of the dataset"),
        (["--data.root", TOOLS], "no image folder '"),
        (["--trainer.accelerator", "gpu"], "torch sees no GPU here; take --trainer.accelerator c"),
        (["--trainer.accelerator", "cuda:0"], "--trainer.accelerator must be one of auto, "),
        (["--trainer.devices", 0], "--trainer.devices must be a number of devices from 1, or auto"),
        (["--trainer.devices", -1], "--trainer.devices must be a number of processes from 1, or"),
        (["--trainer.devices", "[0]"], "on a CPU; -1 and lists are for GPUs"),
        (["--trainer.num_nodes", 0], "--trainer.num_nodes must be 1 or more, got 0"),
        (["--trainer.accumulate_grad_batches", 0], "_grad_batches must be 1 or more, got 0"),
        (["--trainer.val_check_interval", 0], "--trainer.val_check_interval must be above 0, got"),
        (["--seed_everything", -1], "--seed_everything must be 0 to 4294967295, got -1"),
        (["--seed_everything", 2**32], "--seed_everything must be 0 to 4294967295, got 4294967296"),
        (["--trainer.barebones", "true"], "would leave out checkpoints, logs and metrics; l"),
        (["--trainer.strategy", "dpp"], "--trainer.strategy must be auto, ddp, fsdp or another"),
        (["--trainer.precision", 8], "--trainer.precision must be 64, 32, 16, transformer-engine"),
        (["--trainer.max_steps", 0], "total_steps must be at least 1, got 0; let max_steps"),
        (["--trainer.val_check_interval", 2.5], "--trainer.val_check_interval must be a number of"),
        (["--data.batch_size", 9], "batch_size 9 is more than the 8 training images"),
    ],
)
def test_an_option_is_mended_by_what_is_said_of_it(options, said, data, tmp_path, capfd):
    options = [*("--trainer.accelerator", "cpu"), *options]
    assert run("train_semseg", *training(data, tmp_path, 2, *options)) == 2
    assert said in assert_documented(capfd.readouterr().err)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model:\n  enconder: regnety_032\n", "no option --model.enconder; did you mean --model.e"),
        ("model: [unclosed\n", "is no YAML that can be read: "),
        ("model: {decoder: Unet}\n", "--data.layout is missing; give it, or a file that holds it"),
    ],
)
def test_a_config_is_mended_by_what_is_said_of_it(text, said, tmp_path, capfd):
    config = tmp_path / "my.yaml"
    config.write_text(text)
    assert run("train_semseg", "--config", config) == 2
    assert said in assert_documented(capfd.readouterr().err)


def test_an_interval_longer_than_an_epoch(data, tmp_path, capfd):
    options = ["--trainer.check_val_every_n_epoch", 1, "--trainer.val_check_interval", 3]
    assert run("train_semseg", *training(data, tmp_path, 8, *options)) == 2
    said = assert_documented(capfd.readouterr().err)
    assert said.startswith("one epoch has 2 steps, and --trainer.val_check_interval is 3; set ")


def test_one_pixel_is_no_batch(data, tmp_path, capfd):
    options = ["--data.batch_size", 1, "--data.short_side", "null", "--model.encoder", TINY]
    assert run("train_semseg", *training(data, tmp_path, 2, *options, *RANDOM)) == 2
    assert "take two images per process" in assert_documented(capfd.readouterr().err)


def test_a_crop_too_small_for_a_decoder(data, tmp_path, capfd):
    options = ["--model.decoder", "PAN", "--model.encoder", TINY, "--data.short_side", "null"]
    assert run("train_semseg", *training(data, tmp_path, 2, *options, *RANDOM)) == 2
    assert "take a larger --data.crop_size" in assert_documented(capfd.readouterr().err)


def test_folders_that_are_no_dataset(data, tmp_path, capfd):
    for options, said in (
        (folders(data), "layout 'folder' needs num_classes"),
        (folders(data, "--data.num_classes", 3), "has labels that the dataset does not define: "),
        (folders(data, "--data.label_map", "{1: a, x: b}"), "--data.label_map: 'x: b'"),
        (
            folders(data, "--data.label_map", "{1: a, 2: a, 3: b}"),
            "correct the mask, the number of classes, or",
        ),
        (folders(data, "--data.train_masks", tmp_path, "--data.num_classes", 7), "has no masks"),
        (folders(data, "--data.val_masks", "x", "--data.num_classes", 7), "no mask folder 'x'"),
    ):
        assert run("train_semseg", *training(data, tmp_path / "run", 2, *options)) == 2
        assert said in assert_documented(capfd.readouterr().err)


def test_images_that_do_not_pair_or_cannot_be_read(data, tmp_path, capfd):
    broken = shutil.copytree(data, tmp_path / "broken")
    mask, *_ = sorted((broken / "annotations" / "training").iterdir())
    mask.rename(mask.with_name("other.png"))
    assert run("train_semseg", *training(broken, tmp_path / "run", 2)) == 2
    assert f"has no mask: there is no '{mask}'" in assert_documented(capfd.readouterr().err)
    Image.fromarray(np.full((64, 64), 77, np.uint8)).save(mask)
    assert run("train_semseg", *training(broken, tmp_path / "run", 2)) == 2
    said = assert_documented(capfd.readouterr().err)
    assert "does not define: 77: 4,096 pixels; allowed are 1 to 6" in said
    shutil.copy(data / "annotations" / "training" / mask.name, mask)
    image = broken / "images" / "training" / mask.name
    start = image.read_bytes()[:20]
    image.unlink()  # a hard link of the dataset's own
    image.write_bytes(start)
    assert run("train_semseg", *training(broken, tmp_path / "run", 2)) == 2
    assert f"image '{image}' cannot be read (" in assert_documented(capfd.readouterr().err)


def test_an_output_that_cannot_be_is_found_before_the_data(tmp_path, capfd):
    file = tmp_path / "file"
    file.touch()
    assert run("train_semseg", *training("nowhere", file / "run", 2)) == 2
    assert "--output must be a folder" in assert_documented(capfd.readouterr().err)


def test_an_output_in_ones_home_is_one_folder(data, tmp_path, monkeypatch):
    """A shell leaves `~` alone in `--output=~/run`, and nobody replaces it in a YAML file."""
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    own = tmp_path / "own.yaml"
    own.write_text("output: ~/second\n")
    assert run("train_semseg", *training(data, "~/first", 1)) == 0
    assert run("train_semseg", *training(data, "elsewhere", 1, "--config", own)) == 0
    for name in ("first", "second"):
        checkpoints = home / name / "checkpoints"
        assert {file.name for file in checkpoints.iterdir()} == {"best.ckpt", "last.ckpt"}
        assert (home / name / "tensorboard" / "config.yaml").is_file()
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("steps", "options", "said"),
    [
        (4, ["--model.decoder", "FPN", *RANDOM], "--model.decoder was Unet and is FPN; "),
        (4, ["--model.encoder", TINY], "and is regnetx_002; restore the old value"),
        (4, ["--model.optimizer", "sgd"], "--model.optimizer was adamw and is sgd; restore"),
        (1, [], "has done 2 steps, more than --trainer.max_steps 1; raise it"),
    ],
)
def test_a_run_that_cannot_be_resumed(steps, options, said, data, run_folder, capfd):
    before = (run_folder / "checkpoints" / "last.ckpt").read_bytes()
    assert run("train_semseg", *training(data, run_folder, steps, *options, "--resume")) == 2
    assert said in assert_documented(capfd.readouterr().err)
    assert (run_folder / "checkpoints" / "last.ckpt").read_bytes() == before


def test_a_run_of_other_classes_cannot_be_resumed(data, run_folder, capfd):
    options = folders(data, "--data.num_classes", 9, "--resume")
    assert run("train_semseg", *training(data, run_folder, 4, *options)) == 2
    said = assert_documented(capfd.readouterr().err)
    assert "the number of classes of the data was 6 and is 9" in said


def test_a_checkpoint_that_is_cut_off_is_not_resumed(data, run_folder, capfd):
    last = run_folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:10_000])
    assert run("train_semseg", *training(data, run_folder, 4, "--resume")) == 2
    assert "is truncated or damaged (10000 bytes)" in assert_documented(capfd.readouterr().err)


def test_options_that_keep_a_resumed_run_from_being_exact_are_named(data, run_folder, caplog):
    options = ["--model.lr", 0.125, "--data.flip", 0.25, "--data.root", data.resolve()]
    options += ["--data.num_workers", 1, "--seed_everything", 7, "--resume"]
    assert run("train_semseg", *training(data, run_folder, 3, *options)) == 0
    (said,) = [r.getMessage() for r in caplog.records if "config that differs" in r.getMessage()]
    assert said.startswith(f"resuming with a config that differs from '{run_folder}")
    assert "--model.lr was 0.003 and is 0.125 (no effect" in said
    assert "--data.flip was 0.5 and is 0.25;" in said
    assert "--trainer.max_steps was 2 and is 3" in said
    assert "--seed_everything was 0 and is 7 (no effect" in said
    assert "num_workers" not in said
    assert "--data.root" not in said
    last = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.003


def test_a_run_with_nothing_to_resume_begins(data, tmp_path, caplog):
    assert run("train_semseg", *training(data, tmp_path, 1, "--resume")) == 0
    assert "last.ckpt' to resume from; the training starts" in caplog.text


def test_a_run_goes_on_in_a_renamed_folder_with_the_best_checkpoint_that_it_has(data, run_folder):
    checkpoints = run_folder / "checkpoints"
    last = torch.load(checkpoints / "last.ckpt", weights_only=True)
    (state,) = [s for s in last["callbacks"].values() if "best_k_models" in s]
    assert state["dirpath"] != str(checkpoints)  # of the run that this is a copy of
    state["best_k_models"] = {state["best_model_path"]: torch.tensor(1.0)}  # nothing is better
    torch.save(last, checkpoints / "last.ckpt")
    assert run("train_semseg", *training(data, run_folder, 4, "--resume")) == 0
    assert torch.load(checkpoints / "best.ckpt", weights_only=True)["global_step"] == 2


def test_a_new_run_in_the_folder_of_another_sets_its_files_aside(data, run_folder, caplog):
    """So that neither its best checkpoint nor its logs are taken for those of the new one."""
    before = {
        file.relative_to(run_folder): file.read_bytes()
        for folder in ("checkpoints", "tensorboard")
        for file in (run_folder / folder).rglob("*")
        if file.is_file()
    }
    assert run("train_semseg", *training(data, run_folder, 1)) == 0
    aside = run_folder / "earlier_run_1"
    assert f"its files are in '{aside}' now" in caplog.text
    assert {f.relative_to(aside): f.read_bytes() for f in aside.rglob("*") if f.is_file()} == before
    last = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 1
    logged = read_events(run_folder / "tensorboard")
    assert {event.step for events in logged.values() for event in events} == {0}
    assert find_trained(aside).checkpoint == aside / "checkpoints" / "best.ckpt"


@pytest.mark.parametrize(
    ("native", "precision", "warns"),
    [
        (False, "16-mixed", True),
        (False, "bf16-mixed", True),
        (True, "bf16-mixed", False),
        (False, "32-true", False),
    ],
)
def test_emulated_precision_is_warned_of(
    data, tmp_path, caplog, monkeypatch, native, precision, warns
):
    monkeypatch.setattr("regnet_backbones.semseg.run.has_native", lambda dtype: native)
    options = ["--trainer.precision", precision]
    assert run("train_semseg", *training(data, tmp_path, 1, *options)) == 0
    assert ("emulates --trainer.precision" in caplog.text) == warns


def fail_at(step, fail, monkeypatch):
    """Let a training fail at a step."""
    stock = Segmenter.training_step

    def training_step(self, *args):
        if self.global_step == step:
            fail()
        return stock(self, *args)

    monkeypatch.setattr(Segmenter, "training_step", training_step)


def assert_goes_on(data, run_folder, *, to):
    """Check that all checkpoints are whole, and that a resumed run gets to a step."""
    for file in (run_folder / "checkpoints").iterdir():
        assert torch.load(file, weights_only=True)["global_step"] < to
    assert run("train_semseg", *training(data, run_folder, to, "--resume")) == 0
    last = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == to


def test_a_run_goes_on_after_it_was_out_of_memory(data, run_folder, monkeypatch, capfd):
    with monkeypatch.context() as patch:
        fail_at(3, lambda: torch.empty(10**15), patch)
        assert run("train_semseg", *training(data, run_folder, 4, "--resume")) == 2
    said = assert_documented(capfd.readouterr().err)
    assert "lower --data.batch_size (now 4) or --data.crop_size (now 32)" in said
    assert_goes_on(data, run_folder, to=4)


def test_a_run_goes_on_after_the_disk_was_full(data, run_folder, capfd):
    before = (run_folder / "checkpoints" / "last.ckpt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        assert run("train_semseg", *training(data, run_folder, 4, "--resume")) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"make space for --output {run_folder}" in assert_documented(capfd.readouterr().err)
    assert (run_folder / "checkpoints" / "last.ckpt").read_bytes() == before
    assert_goes_on(data, run_folder, to=4)


def test_a_run_goes_on_after_ctrl_c(data, run_folder, monkeypatch, capfd):
    with monkeypatch.context() as patch:
        fail_at(2, lambda: signal.raise_signal(signal.SIGINT), patch)
        assert run("train_semseg", *training(data, run_folder, 4, "--resume")) == 130
    assert "stopped by SIGINT after step 3" in assert_documented(capfd.readouterr().err)
    assert_goes_on(data, run_folder, to=4)


def test_what_another_process_was_ended_by_is_said_there():
    text = "[/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:27568."
    with pytest.raises(ValueError, match="another process of this run has ended"), reworded():
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="a defect"), reworded():
        raise RuntimeError("a defect")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("regnety_32", "Wrong encoder name `regnety_32`: .* did you mean 'regnety_032'"),
        ("regnet_y_3_2gf", "SMP knows this network as 'regnety_032'"),
        ("RegNetY-3.2GF", "SMP knows this network as 'regnety_032'"),
        ("resnet5", "Wrong encoder name `resnet5`, supported encoders"),  # SMP's own words
    ],
)
def test_smp_says_what_a_name_of_ours_may_be(name, said):
    with pytest.raises(KeyError, match=said):
        smp.Unet(name, encoder_weights=None)
    with pytest.raises(KeyError, match=said if "regnet" in name.lower() else name):
        smp.encoders.get_preprocessing_params(name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--opts", "root", "/nowhere"], "no dataset folder '/nowhere'; correct the path"),
        (["--opts", "roott", "/x"], "data take no 'roott'; did you mean 'root'?"),
        (["--device", "cuda"], "no GPU can be used; run on the CPU, or install a driver"),
    ],
)
def test_evaluate_says_what_is_wrong_with_its_options(options, said, trained, capfd):
    assert run("evaluate", trained, *options) == 2
    assert said in assert_documented(capfd.readouterr().err)


def test_evaluate_and_predict_say_what_is_no_run(data, run_folder, tmp_path, capfd):
    images = data / "images" / "validation"
    for tool in (["evaluate", run_folder], ["predict", run_folder, images, "--output", tmp_path]):
        for best, said in (
            (b"<html>not found</html>", "is a web page, not the weights"),
            (b"PK\x03\x04 and no more", "is truncated or damaged"),
        ):
            (run_folder / "checkpoints" / "best.ckpt").write_bytes(best)
            assert run(*tool) == 2
            assert said in assert_documented(capfd.readouterr().err)


def test_predict_finds_an_output_that_cannot_be_before_it_predicts(data, trained, tmp_path, capfd):
    file = tmp_path / "file"
    file.touch()
    images = data / "images" / "validation"
    assert run("predict", trained, images, "--output", file) == 2
    said = assert_documented(capfd.readouterr().err)
    assert said.startswith("output must be a folder") or said.startswith("--output must be")
