"""Processes for runs that are killed, forked from one that has imported what they need."""

import multiprocessing

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
