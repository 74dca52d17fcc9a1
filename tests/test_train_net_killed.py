"""A run of `tools/train_net.py` that is killed again and again."""

import itertools
import json
import random
import time

import pytest
import torch
from detectron2.engine import defaults
from killed_runs import forking_context

from regnet_backbones import config_path, shapes
from regnet_backbones.detection.run import argument_parser, launch_run
from regnet_backbones.detection.training.trainer import Trainer

QUICK = config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml")
KILLS = 10
PERIOD = 2


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=6, num_val=1, image_size=64)
    return shapes.write(tmp_path_factory.mktemp("data") / "shapes", spec)


def command_line(dataset, output, max_iter):
    """Return the options of a run that writes a checkpoint after every second iteration."""
    return [
        *("--config-file", str(QUICK)),
        *("--train-json", str(dataset.instances_json("train"))),
        *("--train-images", str(dataset.images("train"))),
        *("--val-json", str(dataset.instances_json("val"))),
        *("--val-images", str(dataset.images("val"))),
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


def run_and_note_losses(options, notes):
    """Run, and append the losses of every iteration to a file."""
    stock, collect = Trainer.after_step, defaults.collect_env_info

    def after_step(self):
        latest = self.storage.latest()
        losses = {name: value for name, (value, _) in latest.items() if "loss" in name}
        with notes.open("a") as file:
            file.write(json.dumps([self.iter, losses]) + "\n")
        stock(self)

    Trainer.after_step = after_step
    defaults.collect_env_info = str  # starts a compiler, and takes longer than the iterations
    try:
        return launch_run(argument_parser("").parse_args(options))
    finally:
        Trainer.after_step, defaults.collect_env_info = stock, collect


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


def test_a_run_that_is_killed_ten_times_is_as_one_that_was_not(dataset, tmp_path, monkeypatch):
    """Processes are forked from one that has imported everything, and computed nothing."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = forking_context()
    moments = random.Random(0)
    output, notes = tmp_path / "killed", tmp_path / "killed.txt"
    options = command_line(dataset, output, 5000)
    reached = [-1]
    for _ in range(KILLS):
        run = context.Process(target=run_and_note_losses, args=(options, notes))
        run.start()
        before = written_at(output)
        while written_at(output) == before and run.is_alive():  # until it goes on
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.5))
        assert run.is_alive()
        run.kill()
        run.join()
        for file in output.glob("*.pth"):
            checkpoint = torch.load(file)
            assert f"model_{checkpoint['iteration']:07}" == file.stem
            assert checkpoint["trainer"]["iteration"] == checkpoint["iteration"]
        reached.append(last_iteration(output))
        done = json.loads(notes.read_text().splitlines()[-1])[0]
        # The last iteration that was noted may be the one whose checkpoint was being written.
        assert done - reached[-1] <= PERIOD
    assert all(earlier < later for earlier, later in itertools.pairwise(reached))

    end = reached[-1] + 3
    assert run_and_note_losses(command_line(dataset, output, end), notes) == 0
    whole, whole_notes = tmp_path / "whole", tmp_path / "whole.txt"
    assert run_and_note_losses(command_line(dataset, whole, end), whole_notes) == 0
    assert losses_of(notes) == losses_of(whole_notes)
    assert list(losses_of(notes)) == list(range(end))
    ours, theirs = (torch.load(run / "model_final.pth")["model"] for run in (output, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not [file for file in output.iterdir() if file.name.endswith(".part")]
