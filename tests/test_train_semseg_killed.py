"""A run of `tools/train_semseg.py` that is stopped and killed ends as one that was not."""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from killed_runs import forking_context
from torch import nn

from regnet_backbones import config_path, shapes
from regnet_backbones.cli.run import run_command
from regnet_backbones.report.logs import read_events
from regnet_backbones.runs.stopping import STATUSES
from regnet_backbones.semseg import run as semseg_run
from regnet_backbones.semseg.checkpoints import load_segmenter
from regnet_backbones.semseg.module import Segmenter
from regnet_backbones.semseg.resume import AtomicCheckpointIO

ROOT = Path(__file__).parent.parent
QUICK = config_path("semseg/quick/unet_regnet_small_shapes.yaml")
DROPOUT = {
    "decoder_pyramid_channels": 16,
    "decoder_segmentation_channels": 32,
    "decoder_dropout": 0.5,
}
AVERAGED = (
    *("--model.ema_decay", 0.9, "--model.schedule", "cosine", "--model.freeze_stages", 1),
    *("--model.loss", "ce+lovasz", "--model.class_weights", "balanced", "--model.layer_decay", 0.8),
)
# No mIoU is better by 1 than another: the second validation ends the run.
EARLY = ("--early_stopping.patience", 1, "--early_stopping.min_delta", 1)
ACCUMULATE = ("--trainer.accumulate_grad_batches", 2)
BY_EPOCH = ("--trainer.check_val_every_n_epoch", 1, "--trainer.val_check_interval", 3)


def launch_run(options):
    """Train as the tool does, and return its exit status."""
    return run_command(lambda: semseg_run.launch_run(options))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=12, num_val=3, image_size=64, seed=0)
    return shapes.write(tmp_path_factory.mktemp("shapes") / "shapes", spec)


def command_line(dataset, output, *more):
    """Return the options of a run in epochs of six batches, with all that draws random numbers."""
    options = [
        *("--config", QUICK, "--output", output, "--resume", "--save_every", 3),
        *("--data.root", dataset.root / "semantic", "--data.batch_size", 2),
        *("--data.num_workers", 0, "--data.photometric", "true"),
        *("--model.decoder", "FPN", "--model.decoder_options", DROPOUT),
        *("--model.pictures", 0, "--model.warmup_steps", 2, "--model.channels_last", "false"),
        *("--trainer.accelerator", "cpu", "--trainer.max_steps", 14),
        *("--trainer.val_check_interval", 5, "--trainer.log_every_n_steps", 1),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
        *more,
    ]
    return [str(option) for option in options]


def load(output, name="last.ckpt"):
    """Return a checkpoint without the paths of its run, and the state of the best one."""
    checkpoint = torch.load(output / "checkpoints" / name, weights_only=True)
    callbacks = checkpoint.pop("callbacks")
    (best,) = [state for state in callbacks.values() if "best_model_score" in state]
    return checkpoint, best["best_model_score"]


def assert_same(found, expected, path=""):
    """Check that two trees of plain values and tensors are the same, bit by bit."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key, value in expected.items():
            assert_same(found[key], value, f"{path}/{key}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), path
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), path
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{path}/{index}")
    else:
        assert found == expected, path


def assert_same_runs(found, expected, *, killed=False):
    """Check that two runs have the same weights, state, best checkpoint, logs, and no other file.

    What the options say of workers aside. A killed run lacks the row of the step of its last
    checkpoint, which is logged after that is written.
    """
    (last, score), (expected_last, expected_score) = load(found), load(expected)
    for checkpoint in (last, expected_last):
        checkpoint["datamodule_hyper_parameters"].pop("num_workers")
    assert_same(last, expected_last)
    assert score == expected_score
    best, expected_best = (load(run, "best.ckpt")[0] for run in (found, expected))
    for key in ("global_step", "epoch", "state_dict"):
        assert_same(best[key], expected_best[key], key)
    rows, expected_rows = logged(found), logged(expected)
    lost = {tag for tag, _ in expected_rows.keys() - rows.keys()}
    assert lost <= ({"train/loss", "train/lr"} if killed else set())
    assert rows.items() <= expected_rows.items()
    assert {path.name for path in (found / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert not list(found.rglob(".*.part"))


def logged(output):
    """Return what a run has logged by name and step; what was logged twice must be the same."""
    found = {}
    for tag, events in read_events(output / "tensorboard").items():
        for event in events:
            assert found.setdefault((tag, event.step), event.value) == event.value
    return found


@pytest.fixture(scope="module")
def unbroken(dataset, tmp_path_factory):
    """Return a function that trains without a break, once for the same options."""
    runs = {}

    def run(*more):
        if more not in runs:
            runs[more] = tmp_path_factory.mktemp("unbroken")
            assert launch_run(command_line(dataset, runs[more], *more)) == 0
        return runs[more]

    return run


def signal_in(method, step, number, patch):
    """Send this process a signal at a step, in a method of the segmenter."""
    stock, left = getattr(Segmenter, method), [number]

    def patched(self, *arguments):
        if self.trainer.global_step == step and not self.trainer.sanity_checking and left:
            signal.raise_signal(left.pop())
        return stock(self, *arguments)

    patch.setattr(Segmenter, method, patched)


@pytest.mark.parametrize(
    ("stops", "more"),
    [
        # After step 5 validation is due, 6 is the last of an epoch, and 14 of the run.
        ([("t", 4), ("v", 5), ("v", 5), ("t", 5), ("t", 13)], ()),
        ([("v", 3), ("t", 5), ("v", 12)], BY_EPOCH),
        ([("t", 2), ("v", 5), ("t", 8)], ACCUMULATE),
        ([("t", 2), ("v", 5), ("v", 10)], AVERAGED),
        ([("t", 7), ("v", 10)], EARLY),
    ],
    ids=["by step", "by epoch", "accumulated gradients", "averaged weights", "early stopping"],
)
def test_a_run_stopped_by_a_signal_resumes_exactly(
    stops, more, dataset, unbroken, tmp_path, monkeypatch, capfd
):
    options = command_line(dataset, tmp_path, *more)
    for number, (kind, step) in zip(itertools.cycle(STATUSES), stops, strict=False):
        with monkeypatch.context() as patch:
            method = "training_step" if kind == "t" else "validation_step"
            signal_in(method, step, number, patch)
            status = launch_run(options)
        done = load(tmp_path)[0]["global_step"]
        if done == 14 and status == 0:
            break  # at its end anyway
        assert status == STATUSES[number]
        line = capfd.readouterr().err.splitlines()[-1]
        assert f"stopped by {number.name} after step {done}" in line
        assert f"{tmp_path / 'checkpoints' / 'last.ckpt'}" in line
        assert "--resume" in line
    assert launch_run(options) == 0
    assert_same_runs(tmp_path, unbroken(*more))


def test_a_run_that_was_stopped_early_is_not_resumed(dataset, unbroken, tmp_path):
    run = shutil.copytree(unbroken(*EARLY), tmp_path / "run")
    assert launch_run(command_line(dataset, run, *EARLY)) == 0
    assert load(run)[0]["global_step"] == 10
    assert_same_runs(run, unbroken(*EARLY))


def test_what_is_saved_is_the_average_of_the_weights(unbroken):
    """And what trains on is next to it; the frozen stem is the same in both."""
    last = load(unbroken(*AVERAGED))[0]
    assert last["averaging_state"]["n_averaged"] == 14
    found = load_segmenter(unbroken(*AVERAGED) / "checkpoints" / "last.ckpt").state_dict()
    for name, value in last["state_dict"].items():
        assert torch.equal(found[name], value)
    trained = last["current_model_state"]
    frozen = [name for name in found if torch.equal(trained[name], found[name])]
    assert {name for name in frozen if name.endswith("weight")} == {
        name
        for name in found
        if name.startswith("network.encoder.stem.") and name.endswith("weight")
    }


def test_a_signal_before_the_first_step_stops_at_once(dataset, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(
        Segmenter, "configure_optimizers", lambda self: signal.raise_signal(signal.SIGTERM)
    )
    assert launch_run(command_line(dataset, tmp_path)) == 143
    assert "stopped by SIGTERM before the first step" in capfd.readouterr().err
    assert not (tmp_path / "checkpoints").exists()


def test_a_second_ctrl_c_ends_a_run_at_once(dataset, tmp_path, monkeypatch, capfd):
    def training_step(self, *_):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Segmenter, "training_step", training_step)
    assert launch_run(command_line(dataset, tmp_path)) == 130
    assert "interrupted at step 0" in capfd.readouterr().err


def train(options, *, killed_at=None, environment=()):
    """Train in a process of its own, and exit with its status.

    Args:
        options: the command line.
        killed_at: the step in whose validation the process kills itself.
        environment: variables to set.
    """
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # of workers, which would import again
    os.environ.update(environment)
    if killed_at is not None:
        with pytest.MonkeyPatch.context() as patch:
            signal_in("validation_step", killed_at, signal.SIGKILL, patch)
            launch_run(options)
    sys.exit(launch_run(options))


def written_at(output):
    """Return when the last checkpoint was written, 0 where there is none."""
    file = output / "checkpoints" / "last.ckpt"
    return file.stat().st_mtime_ns if file.exists() else 0


def kill_again_and_again(options, output, *, kills, stops, seed=0):
    """Kill a run, or stop it with a signal to its process group, at random moments.

    All files of the run must be readable each time.

    Returns:
        The exit statuses in their order.
    """
    moments = random.Random(seed)
    numbers = [signal.SIGKILL] * kills + [signal.SIGTERM] * stops
    moments.shuffle(numbers)
    statuses = []
    for number in numbers:
        run = forking_context().Process(target=train, args=(options,))
        run.start()
        before = written_at(output)
        while written_at(output) == before and run.is_alive():
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.4))
        if run.is_alive():
            os.killpg(run.pid, number)
        run.join()
        statuses.append(run.exitcode)
        for file in (output / "checkpoints").glob("*.ckpt"):
            torch.load(file, weights_only=True)
        assert (output / "tensorboard" / "config.yaml").read_text().endswith("\n")
    return statuses


def test_a_run_that_is_killed_at_random_and_at_its_end_is_as_one_that_was_not(
    dataset, unbroken, tmp_path
):
    """With workers, which get the signals of the process group, too."""
    more = ("--trainer.max_steps", 30, "--save_every", 1)
    options = command_line(dataset, tmp_path, *more, "--data.num_workers", 2)
    statuses = kill_again_and_again(options, tmp_path, kills=1, stops=1)
    assert set(statuses) <= {-signal.SIGKILL, 143}
    run = forking_context().Process(target=train, args=(options,), kwargs={"killed_at": 30})
    run.start()
    run.join()
    assert run.exitcode == -signal.SIGKILL
    assert load(tmp_path)[0]["global_step"] == 30
    (tmp_path / "checkpoints" / ".best.ckpt.part").write_bytes(b"of a killed write")
    assert launch_run(command_line(dataset, tmp_path, *more)) == 0
    assert_same_runs(tmp_path, unbroken(*more), killed=True)


def train_in_two_processes(options):
    """Train in two processes that share batches of two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    address |= {"NODE_RANK": "0", "WORLD_SIZE": "2"}
    runs = [
        forking_context().Process(
            target=train,
            args=(options,),
            kwargs={"environment": {**address, "LOCAL_RANK": str(rank)}},
        )
        for rank in range(2)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]


def test_two_processes_stop_and_resume_as_one(dataset, tmp_path):
    """The first of them gets the signal alone, as from `docker stop`."""
    more = (
        *("--trainer.devices", 2, "--trainer.strategy", "ddp", "--trainer.max_steps", 12),
        *("--trainer.val_check_interval", 6, "--data.batch_size", 4, "--save_every", 1),
    )
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    run = subprocess.Popen(
        [
            sys.executable,
            ROOT / "tools" / "train_semseg.py",
            *command_line(dataset, stopped, *more),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    while not written_at(stopped) and run.poll() is None:
        time.sleep(0.01)
    run.terminate()
    _, said = run.communicate()
    assert run.returncode == 143, said
    assert said.count("stopped by SIGTERM after step") == 1
    assert load(stopped)[0]["global_step"] < 12
    train_in_two_processes(command_line(dataset, stopped, *more))
    train_in_two_processes(command_line(dataset, whole, *more))
    assert_same_runs(stopped, whole)


def test_a_write_that_fails_leaves_the_checkpoint_that_was_there(tmp_path):
    path = tmp_path / "run" / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"state_dict": {}, "step": 1}, path)

    class Unwritable(nn.Module):
        def __reduce__(self):
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        io.save_checkpoint({"step": torch.ones(1000), "module": Unwritable()}, path)
    assert torch.load(path, weights_only=True)["step"] == 1
    io.save_checkpoint({"state_dict": {}, "step": 2}, path)
    assert io.load_checkpoint(path)["step"] == 2
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
