"""Several processes and machines: the ways to start them, and that they train alike."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from operator import itemgetter
from pathlib import Path

import pytest
import torch
from demo_datasets import own_data
from killed_runs import fork_what_launch_starts
from load_tool import load_tool

from regnet_backbones import config_path, shapes
from regnet_backbones.detection.processes import check_processes, run_in_processes
from regnet_backbones.errors import UserError

TOOL = Path(__file__).parent.parent / "tools" / "train_net.py"
QUICK = str(config_path("detectron2/quick/faster_rcnn_regnet_small_fpn.yaml"))
STEPS = 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    spec = shapes.ShapesSpec(num_train=8, num_val=3, image_size=64)
    return shapes.write(tmp_path_factory.mktemp("data") / "shapes", spec)


def options(dataset, output):
    return [
        *("--config-file", QUICK),
        *own_data(dataset),
        *("OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", str(STEPS), "MODEL.DEVICE", "cpu"),
        *(
            "SOLVER.IMS_PER_BATCH",
            "4",
            "INPUT.MIN_SIZE_TRAIN",
            "(64,)",
            "INPUT.MIN_SIZE_TEST",
            "64",
        ),
    ]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_all(*commands):
    """Run commands at the same time, and return what they print when all have ended well."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for command in commands
    ]
    printed = [process.communicate(timeout=300)[0] for process in running]
    for process, text in zip(running, printed, strict=True):
        assert process.returncode == 0, text
    return printed


def result(output):
    """Return the weights and the last line of metrics of a run."""
    state = torch.load(output / "model_final.pth", weights_only=True)["model"]
    return state, json.loads((output / "metrics.json").read_text().splitlines()[-1])


def test_two_machines_of_one_process_train_as_one_machine_of_two(dataset, tmp_path):
    """By torchrun and by detectron2's options: the same batches, weights and metrics."""
    one, by_torchrun = (tmp_path / name for name in ("one", "torchrun"))
    (printed,) = run_all([TOOL, "--num-gpus", "2", "--dist-url", "auto", *options(dataset, one)])
    assert len(re.findall(r"^bbox +\d", printed, re.MULTILINE)) == 1
    assert "World size: 2" in (one / "log.txt").read_text()
    assert (one / "log.txt.rank1").is_file()
    assert (one / "pictures" / "own_val.png").is_file()
    weights, metrics = result(one)
    # Each process has batch-norm statistics of its own; those that are saved are evaluated.
    command = [one, "--output", tmp_path / "again", "--device", "cpu"]
    arguments = map(str, [*command, *options(dataset, one)[6:10]])
    assert load_tool("evaluate").main(list(arguments)) == 0
    before, after = (
        next(folder.rglob("coco_instances_results.json")) for folder in (one, tmp_path / "again")
    )
    found, saved = (json.loads(file.read_text()) for file in (before, after))
    assert len(found) == len(saved) > 3
    key = itemgetter("image_id", "category_id", "score")
    for ours, theirs in zip(sorted(found, key=key), sorted(saved, key=key), strict=True):
        assert theirs["score"] == pytest.approx(ours["score"], rel=1e-4)
        assert theirs["bbox"] == pytest.approx(ours["bbox"], rel=1e-3, abs=1e-2)

    place = ["--nnodes", 2, "--nproc-per-node", 1, "--master-addr", "127.0.0.1"]
    launcher = ["-m", "torch.distributed.run", *place, "--master-port", free_port()]
    printed = run_all(
        *(
            [*launcher, "--node-rank", rank, TOOL, *options(dataset, by_torchrun)]
            for rank in range(2)
        )
    )
    assert sum(text.count(f"checkpoints: {by_torchrun}") for text in printed) == 1

    same_weights, same_metrics = result(by_torchrun)
    torch.testing.assert_close(same_weights, weights, rtol=1e-5, atol=1e-6)
    for key in ("bbox/AP", "iteration"):
        assert same_metrics[key] == pytest.approx(metrics[key], rel=1e-5), key


def test_a_signal_to_the_first_process_stops_all_after_the_same_step(dataset, tmp_path):
    """Only the process that starts the others gets it, as from `docker stop`.

    The model is optimized: DDP refuses one that has another memory format in the other process.
    """
    settings = ["SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_PERIOD", "100000"]
    command = [TOOL, "--num-gpus", "2", "--optimize", *options(dataset, tmp_path), *settings]
    running = subprocess.Popen(
        [sys.executable, "-W", "ignore", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    log = tmp_path / "log.txt"
    while running.poll() is None and not (log.is_file() and " iter: " in log.read_text()):
        time.sleep(0.1)
    running.terminate()
    assert running.wait(timeout=120) == 143
    printed = running.stderr.read()
    assert "Traceback" not in printed
    (line,) = [line for line in printed.splitlines() if "SIGTERM" in line]
    assert log.read_text().count("optimized for training") == 1
    name = (tmp_path / "last_checkpoint").read_text()
    assert f"'{tmp_path / name}'" in line
    assert name == f"model_{torch.load(tmp_path / name)['iteration']:07}.pth"


def refuse(value):
    raise UserError(f"{value} is refused")


def test_what_a_user_can_fix_comes_from_another_process_as_it_was(tmp_path, monkeypatch):
    fork_what_launch_starts(monkeypatch)
    place = (2, 1, 0, "auto")
    with pytest.raises(UserError, match="^7 is refused$"):
        run_in_processes(refuse, (7,), place, output=str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((1, 2, 2, "tcp://a:1"), "--machine-rank from 0 to 1, got .* 2"),
        ((1, 2, 0, "auto"), "--dist-url"),
        ((0, 1, 0, "auto"), "must be 1 to .* got 0"),
    ],
)
def test_places_that_cannot_be_are_refused(place, message):
    with pytest.raises(ValueError, match=message):
        check_processes(*place)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_processes(2, 1, 0, "auto")
    with pytest.raises(ValueError, match="--num-gpus .*2.* got 3"):
        check_processes(3, 1, 0, "auto")


def test_both_ways_at_once_are_refused(monkeypatch):
    for key, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    check_processes(1, 1, 0, "auto")
    with pytest.raises(ValueError, match="--num-gpus and --num-machines"):
        check_processes(2, 1, 0, "auto")
