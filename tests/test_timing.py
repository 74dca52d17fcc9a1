"""Calls take turns, and their seconds are counted by name."""

import itertools

import torch

from regnet_backbones.measure import timing
from regnet_backbones.measure.timing import interleaved_times


def test_calls_take_turns_after_the_warm_up(monkeypatch):
    clock = iter([0.0, 0.0, 1.0, 10.0, 12.0, 20.0, 24.0, 30.0, 38.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    order = []
    times = interleaved_times(
        {"one": lambda: order.append(1), "two": lambda: order.append(2)}, runs=2, warmup=1
    )
    assert order == [1, 2, 1, 2, 2, 1]
    assert times == {"one": (1.0, 8.0), "two": (2.0, 4.0)}


def test_after_three_rounds_and_the_limit_there_are_no_more(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    calls = {"one": lambda: None}
    assert len(interleaved_times(calls, runs=10, limit=1)["one"]) == 3
    assert len(interleaved_times(calls, runs=10, limit=9)["one"]) == 4
    assert len(interleaved_times(calls, runs=10)["one"]) == 10


def test_cuda_is_timed_by_events(monkeypatch):
    class Event:
        def __init__(self, *, enable_timing):
            assert enable_timing

        def record(self):
            """Stand on the device's stream."""

        synchronize = record

        def elapsed_time(self, end):
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    times = interleaved_times({"one": lambda: None}, runs=3, device="cuda:0")
    assert times == {"one": (0.25, 0.25, 0.25)}
