"""Signals that a training is stopped with."""

import multiprocessing
import os
import pickle
import signal
import threading
import time

import pytest

from regnet_backbones.runs import stopping
from regnet_backbones.runs.stopping import (
    STATUSES,
    StoppedError,
    StopSignals,
    heed_parent_only,
    held_signals,
)


@pytest.mark.parametrize("number", STATUSES)
def test_a_signal_is_noted_and_handlers_are_put_back(number):
    before = {each: signal.getsignal(each) for each in STATUSES}
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        assert signals.received is number
    assert {each: signal.getsignal(each) for each in STATUSES} == before


def test_a_second_signal_has_its_usual_effect():
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        assert signals.received is signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_signal_that_is_sent_twice_at_once_is_one(monkeypatch):
    """As `timeout` does: to the command, and to its group."""
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert signals.received is signal.SIGINT
        monkeypatch.setattr(stopping, "REPEATED", 0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_of_a_framework_give_way_and_come_back_no_more():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        signal.signal(signal.SIGTERM, lambda *_: pytest.fail("of a framework"))
        signals.install()
        signal.raise_signal(signal.SIGTERM)
        assert signals.received is signal.SIGTERM
        signal.signal(signal.SIGTERM, lambda *_: pytest.fail("of a framework"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_is_ignored_stays_ignored():
    """As SIGHUP is in a training that `nohup` has started."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert signals.received is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "status"), STATUSES.items())
def test_where_nothing_is_to_be_saved_a_signal_stops_at_once(number, status):
    with pytest.raises(StoppedError, match=number.name) as stopped, StopSignals(wait=False):
        signal.raise_signal(number)
    assert stopped.value.status == status


def test_processes_that_are_started_while_signals_are_held_do_not_get_them():
    with held_signals():
        child = os.fork()
        if not child:
            for number in STATUSES:
                signal.raise_signal(number)
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with StopSignals() as signals, held_signals():
        signal.raise_signal(signal.SIGTERM)
        assert signals.received is None
    assert signals.received is signal.SIGTERM


def test_a_data_worker_ends_with_its_training_only():
    """With the signal of its parent, not with that of another process."""
    began, begin = os.pipe()
    with held_signals():
        worker = os.fork()
        if not worker:
            heed_parent_only(0)
            os.write(begin, b"1")
            time.sleep(60)
            os._exit(1)
    assert os.read(began, 1)
    other = os.fork()
    if not other:
        for number in STATUSES:
            os.kill(worker, number)
        os._exit(0)
    os.waitpid(other, 0)
    time.sleep(0.2)
    assert os.waitpid(worker, os.WNOHANG) == (0, 0)
    os.kill(worker, signal.SIGTERM)
    assert os.waitpid(worker, 0) == (worker, 0)


def test_a_stopped_run_ends_its_workers_though_a_signal_of_others_is_pending():
    def work():
        time.sleep(0.5)  # as long as it has not begun to heed, all SIGTERM that come are one
        heed_parent_only(0)
        time.sleep(60)

    with StopSignals() as signals, held_signals():
        worker = multiprocessing.get_context("fork").Process(target=work, daemon=True)
        worker.start()
        other = os.fork()
        if not other:
            os.kill(worker.pid, signal.SIGTERM)
            os._exit(0)
        os.waitpid(other, 0)
        signals.note(signal.SIGTERM, None)
    assert worker.exitcode == 0


def test_outside_of_the_main_thread_nothing_is_caught():
    found = []

    def enter():
        with StopSignals() as signals:
            found.append((signals.received, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [(None, before)]


def test_a_data_worker_ends_when_its_training_was_killed(monkeypatch):
    monkeypatch.setattr(stopping, "PARENT_CHECKED", 0.05)
    worker_alive, says = os.pipe()
    training = os.fork()
    if not training:
        if not os.fork():
            os.close(worker_alive)
            heed_parent_only(0)
            os.write(says, b"1")
            time.sleep(60)
        time.sleep(60)
        os._exit(1)
    os.close(says)
    assert os.read(worker_alive, 1)
    os.kill(training, signal.SIGKILL)
    os.waitpid(training, 0)
    assert os.read(worker_alive, 1) == b""  # closed by the end of the worker


def test_an_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(StoppedError("stopped by SIGTERM at step 3", 143)))
    assert (str(error), error.status) == ("stopped by SIGTERM at step 3", 143)
