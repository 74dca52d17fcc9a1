"""A run of `tools/train_semseg.py` that is killed again and again, and one of two processes."""

import itertools
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from killed_runs import forking_context
from torch import nn

from regnet_backbones import config_path, shapes
from regnet_backbones.semseg.checkpoint_io import AtomicCheckpointIO
from regnet_backbones.semseg.run import launch_run

ROOT = Path(__file__).parent.parent
QUICK = config_path("semseg/quick/unet_regnet_small_shapes.yaml")
KILLS = 10
IMAGES, BATCH = 12, 2
MAX_STEPS, LR, WARMUP = 2000, 0.01, 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=IMAGES, num_val=2, image_size=64, seed=0)
    return shapes.write(tmp_path_factory.mktemp("shapes") / "shapes", spec)


def command_line(dataset, output, max_steps, batch_size=BATCH):
    """Return the options of a run that writes a checkpoint after every step."""
    return [
        *("--config", str(QUICK)),
        *("--output", str(output)),
        *("--save_every", "1"),
        *("--data.root", str(dataset.root / "semantic")),
        *("--data.short_side", "32"),
        *("--data.crop_size", "32"),
        *("--data.batch_size", str(batch_size)),
        *("--data.num_workers", "0"),
        *("--model.lr", str(LR)),
        *("--model.warmup_steps", str(WARMUP)),
        *("--trainer.max_steps", str(max_steps)),
        *("--trainer.val_check_interval", "5"),
        *("--trainer.log_every_n_steps", "1"),
        *("--trainer.enable_progress_bar", "false"),
        *("--trainer.enable_model_summary", "false"),
    ]


def check_state(checkpoint):
    """Check that optimizer, schedule and epoch are those of the step that the checkpoint is of."""
    step = checkpoint["global_step"]
    steps = {int(s["step"]) for s in checkpoint["optimizer_states"][0]["state"].values()}
    assert steps == {step}
    assert checkpoint["lr_schedulers"][0]["last_epoch"] == step
    if step >= WARMUP:
        lr = LR * (1 - (step - WARMUP) / (MAX_STEPS - WARMUP)) ** 0.9
        assert checkpoint["optimizer_states"][0]["param_groups"][-1]["lr"] == pytest.approx(lr)
    # The last step of an epoch is saved before the epoch is counted.
    per_epoch = IMAGES // BATCH
    assert checkpoint["epoch"] in ({step // per_epoch, (step - 1) // per_epoch})


def test_a_run_that_is_killed_ten_times_goes_on_each_time(dataset, tmp_path, monkeypatch):
    """Processes are forked from one that has imported everything, and computed nothing."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = forking_context()
    moments = random.Random(0)
    folder = tmp_path / "checkpoints"
    options = command_line(dataset, tmp_path, MAX_STEPS)
    reached = [0]
    for _ in range(KILLS):
        run = context.Process(target=launch_run, args=([*options, "--resume"],))
        run.start()
        before = written_at(folder)
        while written_at(folder) == before and run.is_alive():  # until it goes on
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 1.5))
        assert run.is_alive()
        run.kill()
        run.join()
        for file in folder.glob("*.ckpt"):
            checkpoint = torch.load(file, weights_only=True)
            check_state(checkpoint)
            if file.name == "last.ckpt":
                reached.append(checkpoint["global_step"])
    assert all(earlier < later for earlier, later in itertools.pairwise(reached))

    end = reached[-1] + 3
    assert launch_run([*command_line(dataset, tmp_path, end), "--resume"]) == 0
    last = torch.load(folder / "last.ckpt", weights_only=True)
    assert last["global_step"] == end
    assert {int(s["step"]) for s in last["optimizer_states"][0]["state"].values()} == {end}
    assert {file.name for file in folder.glob("*.ckpt")} == {"last.ckpt", "best.ckpt"}


def written_at(folder):
    """Return when the last checkpoint was written, 0 where there is none."""
    file = folder / "last.ckpt"
    return file.stat().st_mtime_ns if file.exists() else 0


def test_a_write_that_fails_leaves_the_checkpoint_that_was_there(tmp_path):
    path = tmp_path / "run" / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"step": 1}, path)

    class Unwritable(nn.Module):
        def __reduce__(self):
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        io.save_checkpoint({"step": torch.ones(1000), "module": Unwritable()}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    io.save_checkpoint({"step": 2}, path)
    assert io.load_checkpoint(path) == {"step": 2}
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_two_processes_train_as_one(dataset, tmp_path):
    """Two gloo processes that share batches of four: images, metrics and files of one run."""
    command = [sys.executable, str(ROOT / "tools" / "train_semseg.py")]
    options = [*("--trainer.devices", "2"), *("--trainer.strategy", "ddp")]
    result = subprocess.run(
        [*command, *command_line(dataset, tmp_path, 5, batch_size=4), *options],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("best checkpoint: ") == 1
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 5
    assert last["epoch"] == 1  # 12 images in steps of 4
