"""Runs of `tools/train_net.py` that are killed again and again, at any moment and at the end."""

import itertools
import json
import os
import random
import signal
import sys
import time

import pytest
import torch
from demo_datasets import own_data
from killed_runs import forking_context
from small_training import rows

from regnet_backbones import config_path, shapes
from regnet_backbones.cli.run import run_command
from regnet_backbones.cli.train import train_detector
from regnet_backbones.detection import run
from regnet_backbones.detection.config import read_config
from regnet_backbones.detection.training import checkpoint
from regnet_backbones.detection.training.trainer import StopEvaluation, Trainer
from regnet_backbones.files import write_whole
from regnet_backbones.runs.trained import find_trained

QUICK = config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml")
STOPS = 6
PERIOD = 2


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=6, num_val=1, image_size=64)
    return shapes.write(tmp_path_factory.mktemp("data") / "shapes", spec)


def command_line(dataset, output, max_iter):
    """Return the options of a run that writes a checkpoint after every second iteration."""
    return [
        *("--config-file", str(QUICK)),
        *own_data(dataset),
        "--resume",
        *("MODEL.DEVICE", "cpu"),
        *("MODEL.MASK_ON", "False"),
        *("INPUT.MIN_SIZE_TRAIN", "(32,)"),
        *("INPUT.MIN_SIZE_TEST", "32"),
        *("SOLVER.IMS_PER_BATCH", "2"),
        *("SOLVER.CHECKPOINT_PERIOD", str(PERIOD)),
        *("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR"),  # the same for any MAX_ITER
        *("SOLVER.WARMUP_ITERS", "0"),
        *("SOLVER.STEPS", "()"),
        *("SOLVER.MAX_ITER", str(max_iter)),
        *("TEST.PICTURES", "0"),
        *("TEST.EVAL_PERIOD", "0"),
        *("OUTPUT_DIR", str(output)),
    ]


def run_and_note_losses(options, notes, killed=None):
    """Run, append the losses of every iteration to a file, and exit with the run's status.

    Args:
        options: the command line.
        notes: the file.
        killed: name of a file and whether the run is killed "before", "within" or "after" it is
            written, or "evaluation".
    """

    def after_step(self):
        latest = self.storage.latest()
        losses = {name: value for name, (value, _) in latest.items() if "loss" in name}
        with notes.open("a") as file:
            file.write(json.dumps([self.iter, losses]) + "\n")
        stock(self)

    def write_and_die(path, write):
        moment = killed[1] if path.name == killed[0] else None
        if moment == "before":
            die()
        if moment == "within":
            write_whole(path, lambda file: (file.write(b"half"), file.flush(), die()))
        write_whole(path, write)
        if moment == "after":
            die()

    stock = Trainer.after_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "after_step", after_step)
        # It starts a compiler, and takes longer than the iterations.
        patch.setattr(run, "collect_env_info", str)
        if killed == "evaluation":
            patch.setattr(StopEvaluation, "evaluate", die)
        elif killed is not None:
            patch.setattr(checkpoint, "write_whole", write_and_die)
        args = train_detector.parser("").parse_args(options)
        sys.exit(run_command(lambda: run.launch_run(args)))


def die(*_):
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def status_of(process):
    """Return the exit status of a process that is started and ends."""
    process.start()
    process.join()
    return process.exitcode


def losses_of(notes):
    """Return the losses by iteration; where it was done twice, both must be the same."""
    found = {}
    for line in notes.read_text().splitlines():
        iteration, losses = json.loads(line)
        assert found.setdefault(iteration, losses) == losses
    return found


def last_iteration(output):
    """Return the iteration of the last checkpoint, -1 where there is none."""
    last = output / "last_checkpoint"
    return torch.load(output / last.read_text())["iteration"] if last.exists() else -1


def written_at(output):
    """Return when the last checkpoint was written, 0 where there is none."""
    file = output / "last_checkpoint"
    return file.stat().st_mtime_ns if file.exists() else 0


def assert_whole(output):
    """Check that all checkpoints of a run can be read."""
    for file in output.glob("*.pth"):
        checkpoint = torch.load(file)
        assert file.stem in (f"model_{checkpoint['iteration']:07}", "model_final")
        assert checkpoint["trainer"]["iteration"] == checkpoint["iteration"]


def assert_same_runs(output, whole):
    """Check that a run has ended as another one: weights, evaluation, and nothing left over."""
    ours, theirs = (torch.load(folder / "model_final.pth") for folder in (output, whole))
    assert all(torch.equal(ours["model"][name], value) for name, value in theirs["model"].items())
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    ours, theirs = (rows(folder) for folder in (output, whole))
    assert ours[-1] == theirs[-1]
    assert not list(output.glob(".*.part"))
    assert find_trained(output).checkpoint.name == "model_final.pth"
    read_config(output / "config.yaml")


def test_a_run_that_is_killed_again_and_again_ends_as_an_unbroken_one(
    dataset, tmp_path, monkeypatch
):
    """By SIGKILL, and every third time by SIGTERM.

    Processes are forked from one that has imported everything, and computed nothing.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = forking_context()
    moments = random.Random(0)
    output, notes = tmp_path / "killed", tmp_path / "killed.txt"
    options = command_line(dataset, output, 5000)
    reached = [-1]
    for number in range(STOPS):
        process = context.Process(target=run_and_note_losses, args=(options, notes))
        process.start()
        before = written_at(output)
        while written_at(output) == before and process.is_alive():  # until it goes on
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.5))
        assert process.is_alive()
        is_killed = number % 3 != 2
        process.kill() if is_killed else process.terminate()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if is_killed else 143)
        assert_whole(output)
        reached.append(last_iteration(output))
        done = json.loads(notes.read_text().splitlines()[-1])[0]
        # The last iteration that was noted may be the one whose checkpoint was being written.
        assert done - reached[-1] <= (PERIOD if is_killed else 0)
    assert all(earlier < later for earlier, later in itertools.pairwise(reached))

    end = reached[-1] + 3
    whole, whole_notes = tmp_path / "whole", tmp_path / "whole.txt"
    for folder, file in ((output, notes), (whole, whole_notes)):
        arguments = (command_line(dataset, folder, end), file)
        assert status_of(context.Process(target=run_and_note_losses, args=arguments)) == 0
    assert losses_of(notes) == losses_of(whole_notes)
    assert list(losses_of(notes)) == list(range(end))
    assert_same_runs(output, whole)


def test_what_is_done_at_the_end_is_done_whenever_it_is_missing(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = forking_context()
    output, whole = tmp_path / "killed", tmp_path / "whole"
    moments = [
        ("config.yaml", "within"),
        ("model_final.pth", "before"),
        ("model_final.pth", "within"),
        ("model_final.pth", "after"),
        "evaluation",
        None,
    ]
    for killed in moments:
        arguments = (command_line(dataset, output, PERIOD), tmp_path / "notes", killed)
        status = status_of(context.Process(target=run_and_note_losses, args=arguments))
        assert status == (-signal.SIGKILL if killed else 0)
        assert_whole(output)
    assert list(losses_of(tmp_path / "notes")) == list(range(PERIOD))
    arguments = (command_line(dataset, whole, PERIOD), tmp_path / "whole_notes")
    assert status_of(context.Process(target=run_and_note_losses, args=arguments)) == 0
    assert_same_runs(output, whole)
    assert rows(output)[-1].keys() >= {"bbox/AP"}
