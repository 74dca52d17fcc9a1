"""The contract of resuming that both trainers fulfil."""

import random

import numpy as np
import pytest
import torch

from regnet_backbones.errors import UserError
from regnet_backbones.runs.resume import (
    ResumeRules,
    check_changes,
    check_length,
    seed_of,
    seeded,
    set_earlier_run_aside,
)

RULES = ResumeRules(
    output="--output",
    fixed=("network",),
    kept=("lr",),
    free=("pictures", "TEST."),
    names={"classes": "the number of classes"},
)


def test_seeds_of_places_differ():
    assert len({seed_of(0, i, j) for i in range(30) for j in range(30)}) == 900


def test_random_numbers_follow_from_the_seed_and_leave_those_of_the_process_alone():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    found = []
    for _ in range(2):
        with seeded(5):
            found.append(draw())
    assert found[0] == found[1]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with seeded(5):
        draw()
    assert draw() == expected


def test_changed_values_are_listed_in_one_warning(caplog):
    before = {"lr": 1.0, "crop": (8, 8), "classes": 3, "name": "Unet", "gone": 1, "pictures": 1}
    now = {"lr": 2.0, "crop": [8, 9], "classes": 4, "name": "unet", "new": 1, "pictures": 2}
    check_changes(before | {"TEST.A": 1}, now | {"TEST.A": 2}, RULES, source="last.ckpt")
    (said,) = [record.getMessage() for record in caplog.records]
    for part in (
        *("last.ckpt", "--output", "lr was 1.0 and is 2.0 (no effect", "crop was (8, 8) and is"),
        "the number of classes was 3 and is 4",
    ):
        assert part in said
    for name in ("name", "gone", "new", "pictures", "TEST"):
        assert name not in said
    caplog.clear()
    check_changes(before, before, RULES, source="last.ckpt")
    assert not caplog.records


def test_what_no_run_can_resume_with_is_refused():
    with pytest.raises(UserError, match=r"last\.ckpt.*network was a and is b.*--output"):
        check_changes({"network": "a"}, {"network": "b"}, RULES, source="last.ckpt")
    check_length(3, 3, source="last.ckpt", option="--steps", output="--output")
    with pytest.raises(UserError, match=r"--steps is 3, .*last\.ckpt' has done 4 steps"):
        check_length(4, 3, source="last.ckpt", option="--steps", output="--output")


def test_files_of_an_earlier_run_are_moved_and_others_are_left(tmp_path, caplog):
    for name in ("logs/a/1.txt", "last.ckpt", "config.yaml", "mine.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "earlier_run_1").write_text("a file of another name")
    for _ in range(2):  # the second time there is nothing but what goes along
        patterns = ("logs/**/*", "*.ckpt")
        set_earlier_run_aside(tmp_path, patterns, output="--output", along=("config.yaml",))
        (tmp_path / "config.yaml").write_text("new")
    (said,) = [record.getMessage() for record in caplog.records]
    assert "earlier_run_2" in said
    assert "--output" in said
    files = {f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*") if f.is_file()}
    moved = {f"earlier_run_2/{name}" for name in ("logs/a/1.txt", "last.ckpt", "config.yaml")}
    assert files == moved | {"earlier_run_1", "config.yaml", "mine.txt"}
