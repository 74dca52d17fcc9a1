"""Signals that a training is stopped with."""

import os
import pickle
import signal
import threading

import pytest

from regnet_backbones.failures import reported
from regnet_backbones.stopping import STATUSES, StoppedError, StopSignals


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


def test_a_stopped_command_prints_its_line_and_returns_its_status(capsys):
    def command():
        raise pickle.loads(pickle.dumps(StoppedError("stopped by SIGTERM at step 3", 143)))

    assert reported(command) == 143
    assert capsys.readouterr().err == "stopped by SIGTERM at step 3\n"
