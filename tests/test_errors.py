"""Errors of a user end in one line and a status, by type and errno; others keep a traceback."""

import errno
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import multiprocessing
from torch.utils.data import DataLoader, Dataset

from regnet_backbones.cli.run import run_command
from regnet_backbones.errors import (
    DivergedError,
    MissingFileError,
    MissingPackageError,
    UnknownNameError,
    UserError,
    as_user_error,
    from_traceback,
)
from regnet_backbones.runs.stopping import StoppedError

KINDS = (UserError, MissingFileError, MissingPackageError, UnknownNameError, DivergedError)
BUILT_IN = (ValueError, FileNotFoundError, ModuleNotFoundError, KeyError, FloatingPointError)
MESSAGE = "no 'a': give 'b'; it has a colon\n  and a second line"


class Raises(Dataset):
    """A dataset of errors, of which none can be read."""

    def __init__(self, errors):
        self.errors = errors

    def __len__(self):
        return len(self.errors)

    def __getitem__(self, index):
        raise self.errors[index]


def throw(error):
    raise error


def in_a_process(error):
    multiprocessing.start_processes(_throw, (error,), start_method="fork")


def _throw(rank, error):
    if error is None:
        os.kill(os.getpid(), signal.SIGKILL)
    raise error


@pytest.mark.parametrize("where", [throw, in_a_process])
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_a_user_ends_in_its_message(kind, where, capsys):
    assert run_command(lambda: where(kind(MESSAGE))) == kind.status
    assert capsys.readouterr().err.endswith(f"error: {MESSAGE}\n")


def test_an_error_of_a_data_worker_ends_in_its_message(capsys):
    errors = [*(kind(MESSAGE) for kind in KINDS), MemoryError("no MiB left")]
    samples = iter(DataLoader(Raises(errors), num_workers=1, batch_size=None))
    assert [run_command(lambda: next(samples)) for _ in errors] == [2, 2, 2, 2, 1, 2]
    *lines, last = capsys.readouterr().err.split("error: ")[1:]
    assert [line.rstrip() for line in lines] == [MESSAGE] * len(KINDS)
    assert last.startswith("out of memory (MemoryError: no MiB left); ")


@pytest.mark.parametrize(("kind", "built_in"), [*zip(KINDS, BUILT_IN, strict=True)])
def test_an_error_of_a_user_is_a_built_in_one_too(kind, built_in):
    with pytest.raises(built_in, match="give 'b'"):
        raise kind(MESSAGE)
    assert str(kind(MESSAGE)) == MESSAGE
    assert issubclass(kind, ValueError)
    again = pickle.loads(pickle.dumps(kind(MESSAGE)))
    assert (type(again), str(again)) == (kind, MESSAGE)


def test_a_missing_package_has_its_name():
    assert MissingPackageError("no tqdm", name="tqdm").name == "tqdm"


@pytest.mark.parametrize(
    "error",
    [KeyError("a key"), ValueError("of numpy"), RuntimeError("shapes"), OSError("no errno")],
)
def test_any_other_error_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run_command(lambda: throw(error))


def write_to_a_full_disk():
    with open("/dev/full", "w") as file:
        file.write("text")


def save_to_a_full_disk():
    with open("/dev/full", "wb", buffering=0) as file:  # torch raises an error of its own
        torch.save({"weight": torch.zeros(100_000)}, file)


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (lambda: os.stat("/nowhere/file"), ["No such file", "'/nowhere/file'"]),
        (lambda: os.stat("/dev/null/file"), ["Not a directory", "'/dev/null/file'"]),
        (write_to_a_full_disk, ["No space left", "free some space"]),
        (save_to_a_full_disk, ["No space left", "free some space"]),
        (lambda: throw(OSError(errno.EMFILE, "Too many open files")), ["ulimit -n"]),
        (lambda: throw(OSError(errno.ENOMEM, "Cannot allocate memory")), ["smaller batch"]),
        (lambda: np.zeros(10**15), ["out of memory", "PiB", "smaller batch"]),
        (lambda: throw(torch.OutOfMemoryError("CUDA out of memory.")), ["smaller batch"]),
        (lambda: in_a_process(None), ["SIGKILL", "ran out of memory", "fewer data workers"]),
        (
            lambda: throw(ModuleNotFoundError("No module named 'lightning'", name="lightning")),
            ["pip install 'regnet-backbones[train]'"],
        ),
    ],
)
def test_the_system_and_lack_of_memory_end_in_a_line_with_a_hint(command, parts, capsys):
    assert run_command(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert all(part in line for part in parts)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("at step 7"), 130, "interrupted at step 7"),
        (StoppedError("stopped by SIGTERM after step 3", 143), 143, "stopped by SIGTERM after"),
    ],
)
def test_a_command_that_was_stopped_has_the_status_of_its_signal(error, status, line, capsys):
    assert run_command(lambda: throw(error)) == status
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize("status", [0, 1])
def test_a_command_that_ends_has_its_own_status(status, capsys):
    assert run_command(lambda: status) == status
    assert capsys.readouterr().err == ""


def test_a_reader_that_has_ended_ends_a_command_without_a_word():
    command = [sys.executable, "-m", "regnet_backbones", "design", "show", "regnety_032"]
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as stdout:
        ended = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_a_broken_pipe_between_processes_is_no_reader_that_has_ended(capfd):
    assert run_command(lambda: throw(BrokenPipeError(errno.EPIPE, "Broken pipe"))) == 2
    assert capfd.readouterr().err == "error: Broken pipe\n"


def test_errors_of_another_library_become_those_of_a_user():
    said = "^--opts: no key A$"
    with pytest.raises(UserError, match=said), as_user_error(KeyError, prefix="--opts: "):
        raise KeyError("no key A")
    with pytest.raises(UnknownNameError, match="^ours$"), as_user_error(ValueError, prefix="a: "):
        raise UnknownNameError("ours")
    with pytest.raises(TypeError), as_user_error(KeyError):
        raise TypeError


def test_a_traceback_of_another_error_is_none_of_ours():
    assert from_traceback("Traceback (most recent call last):\nValueError: of numpy") is None
