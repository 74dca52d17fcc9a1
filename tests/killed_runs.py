"""Processes for runs that are killed or distributed, forked from one that has done the imports."""

import functools
import multiprocessing

import torch.multiprocessing

# Of all such tests: there is one process to fork from, and it imports when it starts.
IMPORTED = (
    "regnet_backbones.detection.run",
    "pycocotools.cocoeval",
    "regnet_backbones.semseg.run",
)


def forking_context():
    """Return the context of multiprocessing whose processes start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    return context


def fork_what_launch_starts(monkeypatch):
    """Let detectron2's `launch` fork its processes, which it spawns, from that one, too."""
    forking_context()
    fork = functools.partial(torch.multiprocessing.start_processes, start_method="forkserver")
    monkeypatch.setattr(torch.multiprocessing, "spawn", fork)
