"""Progress on a terminal and in a log."""

import re

from lightning.pytorch import LightningModule, Trainer

from regnet_backbones.runs import progress
from regnet_backbones.semseg.screen import Lines


def take(count, monkeypatch, seconds):
    monkeypatch.setattr(progress, "SECONDS", seconds)
    return list(progress.progress(range(count), desc="drawn", unit=" images"))


def test_a_log_has_whole_lines(capsys, monkeypatch):
    assert take(3, monkeypatch, 0) == [0, 1, 2]
    *_, last = lines = capsys.readouterr().err.splitlines(keepends=True)
    assert all(re.fullmatch(r"drawn: \d of 3, .* images/s, .* left\n", line) for line in lines)
    assert last.startswith("drawn: 3 of 3")


def test_short_work_leaves_no_lines(capsys, monkeypatch):
    take(3, monkeypatch, 60)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    take(3, monkeypatch, 60)
    assert "\r" in capsys.readouterr().err


def test_a_model_prints_next_to_lines(capsys):
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    model = LightningModule()
    model.trainer = Trainer(callbacks=[Lines()], **options)
    model.print("time left")
    assert capsys.readouterr().out.endswith("time left\n")
