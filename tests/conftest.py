"""What all tests share: few threads, fixed seeds, random weights that hide nothing."""

import gc
import logging
import os
import signal
import socket

import pytest
import torch
from process_state import process_state_kept
from torch import nn

# Before any test module imports detectron2, which needs it.
from regnet_backbones import config_path

# What the tests say of a CPU they say on a machine with a GPU, too.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

THIS_MACHINE = (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", socket.gethostname())


gc.disable()  # while the frameworks and all tests are imported


def pytest_collection_finish():
    """Spare the garbage collector what was imported, which it would search again and again."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _process_of_a_module():
    with process_state_kept():
        yield


@pytest.fixture(autouse=True)
def _process_of_a_test(_process_of_a_module):
    with process_state_kept():
        yield


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Find no other machine: tests end alike with a network and without."""
    look_up = socket.getaddrinfo

    def look_up_here(host, *args, **options):
        name = host.decode() if isinstance(host, bytes) else host
        if name not in THIS_MACHINE:
            raise socket.gaierror(socket.EAI_NONAME, "the tests have no network")
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk():
    """Leave to the kernel when files are written: tests kill processes, not the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _signals():
    """Heed Ctrl-C, and SIGHUP: a shell starts what is in the background, or `nohup`, without."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _loggers():
    """Let our messages reach pytest: a run in this process logs where detectron2 does.

    What earlier tests captured is closed by now, and detectron2 would go on writing to it.
    """
    ours = logging.getLogger("regnet_backbones")
    ours.handlers.clear()
    ours.propagate = True
    ours.setLevel(logging.NOTSET)
    for name in ("detectron2", "fvcore"):
        handlers = logging.getLogger(name).handlers
        handlers[:] = [each for each in handlers if not is_closed(each)]


def is_closed(handler):
    """Whether a handler has a stream that cannot be written to any more."""
    return getattr(getattr(handler, "stream", None), "closed", False)


@pytest.fixture
def randomize():
    """Return a function that gives a network random weights and random batch-norm statistics.

    timm zeroes the last norm of each block: with fresh weights a residual branch would add nothing,
    and a test of equality would not see it.
    """

    @torch.no_grad()
    def randomize_network(network: nn.Module) -> nn.Module:
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("running_mean") or name.endswith("bias"):
                tensor.uniform_(-0.2, 0.2)
            elif tensor.ndim == 1 and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.0)
        return network

    return randomize_network


@pytest.fixture
def compiled(monkeypatch):
    """Return of the compilations asked for, which are not done, whether they are for inference."""
    from regnet_backbones.optimize import passes

    asked = []
    monkeypatch.setattr(
        passes, "compile_network", lambda _, *, inference, **__: asked.append(inference)
    )
    return asked


@pytest.fixture
def traced_graphs(monkeypatch):
    """Return the graphs that inductor is given; it takes them as they are, traced and guarded."""
    import torch._inductor.compile_fx

    graphs = []

    def take(graph, inputs, **_):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch._inductor.compile_fx, "compile_fx", take)
    return graphs


@pytest.fixture
def detectron2s_own_regnet():
    """Return a function that builds detectron2's own RegNet of a design."""

    from benchmarks.extractors import detectron2s_regnet

    return detectron2s_regnet


@pytest.fixture(scope="session")
def segmenter_parser():
    """Return the parser of `tools/train_semseg.py`, which takes config files without their data."""
    from regnet_backbones.semseg.datamodule import SegmentationData
    from regnet_backbones.semseg.module import Segmenter
    from regnet_backbones.semseg.run import SegmentationCLI

    class ParserOnly(SegmentationCLI):
        def instantiate_classes(self):
            """Leave model, data and trainer unbuilt."""

    config = config_path("semseg/quick/unet_regnet_small_shapes.yaml")
    options = {"run": False, "auto_configure_optimizers": False}
    with process_state_kept():  # of all modules, and set up before the state of the first is noted
        cli = ParserOnly(Segmenter, SegmentationData, args=["--config", str(config)], **options)
    return cli.parser
