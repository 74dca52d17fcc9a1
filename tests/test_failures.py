"""What is said in a line, and what keeps its traceback."""

import errno
import os
import signal
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import multiprocessing
from torch.utils.data import DataLoader, Dataset
from yacs.config import CfgNode

from regnet_backbones import zoo
from regnet_backbones.cli.failure_lines import Cause, error_line
from regnet_backbones.cli.failures import reported

TOO_MANY_FLOATS = 10**15


class Calls(Dataset):
    """A dataset whose samples are what a function returns."""

    def __init__(self, call):
        self.call = call

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.call()


def unknown_name():
    zoo.get("regnetx_041")


def missing_file():
    with open("/nowhere/file"):
        pass


def defect():
    {}["a key with spaces"]


def no_memory():
    torch.zeros(TOO_MANY_FLOATS)


def no_array():
    np.zeros(TOO_MANY_FLOATS)


def below_a_file():
    with open("/dev/null/file", "w"):
        pass


def full_disk():
    with open("/dev/full", "w") as file:
        file.write("text")


def full_disk_for_torch():
    torch.save({"weight": torch.zeros(100_000)}, "/dev/full")


def full_disk_for_torch_and_an_open_file():
    with open("/dev/full", "wb", buffering=0) as file:
        torch.save({"weight": torch.zeros(100_000)}, file)


def misspelt_key():
    CfgNode({"A": 1}).merge_from_list(["A", "text"])


def non_finite():
    raise FloatingPointError("the loss is not finite")


def of_numpy():
    np.zeros(2) + np.zeros(3)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_worker(call):
    next(iter(DataLoader(Calls(call), num_workers=1)))


def in_a_process(rank, call):
    call()


def line_of(call, **options):
    with pytest.raises(Exception) as raised:
        call()
    return error_line(raised.value, **options)


UNKNOWN = "unknown RegNet 'regnetx_041'; did you mean "
NOT_THERE = "No such file or directory: '/nowhere/file'"
NO_MEMORY = "out of memory (4000000000000000 bytes more were asked for); take smaller images"


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (unknown_name, UNKNOWN),
        (missing_file, NOT_THERE),
        (no_memory, NO_MEMORY),
        (no_array, "out of memory (7.11 PiB more were asked for); take smaller images"),
        (below_a_file, "Not a directory: '/dev/null/file'; choose a folder"),
        (full_disk, "the disk is full (No space left on device); make space"),
        (full_disk_for_torch, "a checkpoint could not be written, as the disk is full"),
        (full_disk_for_torch_and_an_open_file, "the disk is full (No space left on device)"),
        (misspelt_key, "Type mismatch (<class 'int'> vs. <class 'str'>)"),
    ],
)
def test_what_a_user_can_mend_has_a_line(call, line):
    assert line_of(call).startswith(line)


@pytest.mark.parametrize("call", [defect, of_numpy, lambda: int("x"), lambda: None + 1])
def test_a_defect_has_none(call):
    assert line_of(call) is None


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (unknown_name, UNKNOWN),
        (missing_file, NOT_THERE),
        (defect, None),
        (of_numpy, None),
        (killed, "a data worker (pid"),
    ],
)
def test_what_a_data_worker_raised_is_read_from_its_text(call, line):
    found = line_of(lambda: in_a_worker(call))
    assert found is None if line is None else found.startswith(line)


def test_what_a_process_raised_is_read_from_its_text():
    for call, line in {
        unknown_name: UNKNOWN,
        no_memory: NO_MEMORY,
        defect: None,
        killed: "process 0 terminated",
    }.items():
        found = line_of(
            lambda call=call: multiprocessing.start_processes(
                in_a_process, (call,), start_method="fork"
            )
        )
        assert found is None if line is None else found.startswith(line)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.EROFS, "Read-only file system", "/x"), "Read-only file system: '/x'; cho"),
        (
            URLError(OSError(-2, "Name or service not known")),
            "a download failed (Name or service not known); download the file where there is",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "too many files are open; use fewer"),
        (RuntimeError("received 0 items of ancdata"), "too many files are open; use fewer"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory; take smaller images"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a"),
            "out of GPU memory (20.00 MiB more were asked for); take smaller images",
        ),
        (
            RuntimeError("unable to write to file </torch_7_1>: No space left on device (28)"),
            "shared memory is full; use fewer data workers",
        ),
        (
            RuntimeError(
                "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
                "dataloader's workers are out of shared memory."
            ),
            "shared memory is full; use fewer data workers",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "a data worker (pid 7) is killed by signal: Killed; it is mostly the lack of memory",
        ),
        (
            RuntimeError(
                "The server socket has failed to listen on any local network address. port: 29500, "
                "useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use"
            ),
            "port 29500 is in use; end the other run",
        ),
        (
            RuntimeError(
                "The client socket has timed out after 600000ms while trying to connect to "
                "(10.0.0.1, 29500)."
            ),
            "no connection to the first process at 10.0.0.1, 29500; check",
        ),
        (AssertionError("Torch not compiled with CUDA enabled"), "no GPU can be used; run on"),
        (ModuleNotFoundError("No module named 'lvis'"), "No module named 'lvis'; install it"),
        (KeyboardInterrupt("at iteration 7"), "interrupted at iteration 7"),
        (RuntimeError("shapes do not match"), None),
    ],
)
def test_what_torch_and_the_system_say(error, line):
    found = error_line(error)
    assert found is None if line is None else found.startswith(line)


def test_a_command_says_what_to_do_in_its_own_words():
    hints = {Cause.OUT_OF_MEMORY: "lower BATCH (now 8)"}
    assert line_of(no_memory, hints=hints).endswith("were asked for); lower BATCH (now 8)")
    assert line_of(full_disk, hints=hints).endswith("before are whole")


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("command", "status", "printed"),
    [
        (lambda: 0, 0, ""),
        (lambda: 1, 1, ""),
        (unknown_name, 2, f"error: {UNKNOWN}"),
        (interrupt, 130, "interrupted; go on with --resume\n"),
    ],
)
def test_a_command_ends_with_a_line_and_a_status(capsys, command, status, printed):
    hints = {Cause.INTERRUPTED: "go on with --resume"}
    assert reported(command, hints=hints) == status
    assert capsys.readouterr().err.startswith(printed)
    assert reported(command, hints=hints, quiet=True) == status
    assert capsys.readouterr().err == ""


def test_a_training_that_diverged_has_a_status_of_its_own(capsys, monkeypatch):
    monkeypatch.setattr("regnet_backbones.cli.failure_lines.OURS", __file__)
    assert reported(non_finite) == 1
    assert capsys.readouterr().err == "error: the loss is not finite\n"


def test_a_defect_of_a_command_keeps_its_traceback():
    with pytest.raises(KeyError):
        reported(defect)
