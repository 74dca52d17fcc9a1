"""A compiled network gives the same maps, for images of any size from one or two compilations."""

import copy
import os
import shutil

import pytest
import torch
import torch._dynamo
import torch._inductor.compile_fx
from detectron2.modeling import build_model
from functorch.compile import min_cut_rematerialization_partition, nop
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.utils import counters

from benchmarks.steps import saved_bytes
from regnet_backbones import config_path
from regnet_backbones.backbone import RegNetFeatures
from regnet_backbones.design import RegNetDesign
from regnet_backbones.detection.config import default_config
from regnet_backbones.optimize import optimize
from regnet_backbones.optimize.passes import MAX_COMPILATIONS

# One block a stage.
TINY = RegNetDesign(w_0=8, w_a=8.0, w_m=1.6, depth=4, group_width=8, stem_width=8)


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    counters.clear()


def instead_of_inductor(monkeypatch, backend):
    def compile_fx(graph, inputs, **_):
        return backend(graph, inputs)

    monkeypatch.setattr(torch._inductor.compile_fx, "compile_fx", compile_fx)


def assert_close(found, expected, relative=1e-5):
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= relative * other.abs().max()


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="inductor needs a C++ compiler, g++"
)
@torch.no_grad()
def test_inductor_packs_the_weights_of_a_compiled_network(randomize):
    network = randomize(RegNetFeatures(TINY)).eval()
    fast, report = optimize(network, compile=True, memory_format="channels_last")
    assert report.compiled == "all sizes"
    for size in ((416, 448), (447, 417)):
        images = torch.randn(1, 3, *size)
        assert_close(fast(images), network(images))
    # Stem, three convolutions a block, and four shortcuts.
    assert counters["inductor"]["mkldnn_conv_weight_pack_matcher_count"] == 1 + 4 * 3 + 4
    assert counters["inductor"]["mkldnn_unary_fusion_matcher_count"] > 0
    assert not torch._inductor.config.freezing
    assert list(fast.state_dict()) == list(copy.deepcopy(fast).state_dict())


def test_a_compiled_training_has_the_same_gradients(monkeypatch, randomize):
    instead_of_inductor(monkeypatch, aot_eager)  # no C++, for time
    plain = randomize(RegNetFeatures(TINY, norm="FrozenBN")).train()
    fast, _ = optimize(
        copy.deepcopy(plain),
        mode="training",
        compile=True,
        fold=True,
        memory_format="channels_last",
        image_size=(64, 64),
    )
    images = torch.randn(2, 3, 64, 96)
    for network in (plain, fast):
        sum(features.square().mean() for features in network(images)).backward()
    named = dict(plain.named_parameters())
    for name, parameter in fast.named_parameters():
        expected = named[name].grad
        assert (parameter.grad - expected).abs().max() <= 1e-4 * expected.abs().max() + 1e-7, name


def test_a_compiled_training_keeps_no_scaled_weights(monkeypatch):
    """Inductor's choice of what to keep, with graphs that are run as they are."""
    compile_nothing = aot_autograd(
        fw_compiler=nop, bw_compiler=nop, partition_fn=min_cut_rematerialization_partition
    )
    instead_of_inductor(monkeypatch, compile_nothing)
    network = RegNetFeatures(TINY, norm="FrozenBN").train()
    images = torch.randn(2, 3, 64, 64)

    def forward():
        return sum(features.square().mean() for features in network(images))

    besides = [*network.parameters(), *network.buffers()]
    plain = saved_bytes(forward, besides=besides)
    options = {"compile": True, "memory_format": "contiguous", "image_size": (64, 64)}
    optimize(network, mode="training", fold=True, **options)
    assert 0 < saved_bytes(forward, besides=besides) <= plain


@torch.no_grad()
def test_a_detector_is_compiled_at_most_twice_for_ten_sizes(traced_graphs, randomize):
    cfg = default_config()
    cfg.merge_from_file(str(config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml")))
    cfg.MODEL.DEVICE = "cpu"
    detector = randomize(build_model(cfg)).eval()
    fast, _ = optimize(detector, compile=True, image_size=(64, 64), memory_format="contiguous")
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        height, width = torch.randint(40, 300, (2,), generator=generator).tolist()
        images = fast.preprocess_image([{"image": torch.rand(3, height, width) * 255}]).tensor
        assert_close(fast.backbone(images).values(), detector.backbone(images).values())
    assert 1 <= len(traced_graphs) <= MAX_COMPILATIONS == 2


@torch.no_grad()
def test_the_typical_size_is_compiled_for_itself(traced_graphs, randomize):
    network = randomize(RegNetFeatures(TINY)).eval()
    fast, _ = optimize(network, compile=True, image_size=(288, 320), memory_format="contiguous")

    def run(*shape):
        images = torch.randn(shape[0], 3, *shape[1:])
        assert_close(fast(images), network(images))
        return len(traced_graphs)

    def is_static(graph):
        inputs = (
            node.meta.get("example_value") for node in graph.graph.find_nodes(op="placeholder")
        )
        return not any(isinstance(value, torch.SymInt) for value in inputs)

    # Whatever comes first, and however sizes take turns.
    assert run(1, 352, 384) == 1
    assert run(1, 288, 320) == 2
    for _ in range(2):
        assert run(1, 352, 320) == 2
        assert run(1, 288, 320) == 2
    assert [is_static(graph) for graph in traced_graphs] == [False, True]
    # In another number it is one of the other sizes.
    assert run(2, 288, 320) == run(2, 320, 352) == 3
    assert not is_static(traced_graphs[2])


@torch.no_grad()
def test_compiled_for_each_size(traced_graphs, randomize):
    network = randomize(RegNetFeatures(TINY)).eval()
    fast, report = optimize(network, compile=True, dynamic=False, image_size=(64, 64))
    assert report.compiled == "each size"
    for count, size in enumerate(((64, 64), (64, 96), (96, 96), (128, 96)), start=1):
        images = torch.randn(1, 3, *size)
        for _ in range(2):
            assert_close(fast(images), network(images))
        assert len(traced_graphs) == count
